"""A ledger in memory that keeps to the contract where the consumers can see it."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.domain.effects import EffectKey, Kind, Lane, Outcome, State
from service.domain.errors import (
    LedgerUnavailableError,
    NotFoundError,
    PermanentError,
    WrongStateError,
)
from service.domain.ledger import (
    Brake,
    Claim,
    DeadLetter,
    Disposition,
    Doubt,
    LookUp,
    LookUpVerdict,
    Page,
    PlannedRecord,
    PlanResult,
    PurgeReport,
    ReadyEffect,
    Settlement,
    SettleResult,
    Tally,
)
from service.domain.planning import OrderFacts
from service.domain.records import Advance, Stream
from tests.fakes.clock import FakeClock


@dataclass
class Row:
    """One effect as the ledger holds it."""

    effect: ReadyEffect
    due_at_ms: int
    state: State = State.DUE
    attempt: int = 0
    lease_until_ms: int = 0
    first_attempt_at_ms: int = 0
    absence_counts_from_ms: int = 0
    look_up_at_ms: int = 0
    was_in_doubt: bool = False
    rounds: int = 0
    resends: int = 0
    applied_attempt: int | None = None  # also None when a look-up found it
    settlements: list[Settlement] = field(default_factory=list)


class FakeLedger:
    """
    Implements `Ledger` for one process; illegal use is an AssertionError.

    `not_storable` are offsets of records whose content it never takes.
    `fails_at[offset]` is how often a record that is written alone is not.
    `unavailable[name]` is how often the method of that name still raises
    LedgerUnavailableError, `called[name]` how often it was called.
    """

    def __init__(self, clock: FakeClock, *, visible_after_s: float = 60.0) -> None:
        self.clock = clock
        self.visible_after_ms = int(visible_after_s * 1000)
        self.rows: dict[EffectKey, Row] = {}
        self.unavailable: Counter[str] = Counter()
        self.not_storable: set[int] = set()
        self.fails_at: Counter[int] = Counter()
        self.called: Counter[str] = Counter()
        self.at: dict[Stream, int] = {}
        self.recover_until: dict[Stream, int] = {}
        self.planned: list[PlannedRecord] = []
        self.results: dict[str, PlanResult] = {}  # by event id, else planned
        self.braked: dict[str, Brake] = {}
        self.seen: set[str] = set()
        self.cursor: str | None = None
        self.dead: dict[int, DeadLetter] = {}
        self.closed_by: dict[int, str] = {}
        self.free: int | None = None
        self.tallied = Tally({}, {}, 0, 0, None)
        self.purges: list[PurgeReport] = []
        self.claims_go = asyncio.Event()
        self.claims_go.set()

    def add(self, effect: ReadyEffect, **changes: Any) -> Row:
        """Put an effect in, due now."""
        now_ms = self.clock.now_ms()
        row = Row(effect=effect, due_at_ms=now_ms)
        for name, value in changes.items():
            setattr(row, name, value)
        self.rows[effect.key] = row
        return row

    def states(self) -> Counter[State]:
        return Counter(row.state for row in self.rows.values())

    def _enter(self, name: str) -> None:
        self.called[name] += 1
        if self.unavailable[name]:
            self.unavailable[name] -= 1
            raise LedgerUnavailableError("not_writable")

    # What intake needs.

    async def positions(self, streams: Sequence[Stream]) -> Mapping[Stream, int]:
        self._enter("positions")
        return {stream: self.at[stream] for stream in streams if stream in self.at}

    async def horizon(self, streams: Sequence[Stream]) -> Mapping[Stream, int]:
        return {
            stream: max(self.at.get(stream, 0), self.recover_until.get(stream, 0))
            for stream in streams
        }

    async def order_facts(self, order_keys: Sequence[str]) -> Mapping[str, OrderFacts]:
        self._enter("order_facts")
        facts = [each.plan.facts for each in self.planned if each.plan.facts is not None]
        return {each.order_key: each for each in facts if each.order_key in order_keys}

    async def record_plans(
        self, planned: Sequence[PlannedRecord], advances: Sequence[Advance]
    ) -> Sequence[PlanResult]:
        await asyncio.sleep(0)
        self._enter("record_plans")
        for item in planned:
            if item.record.offset in self.not_storable and item.record.key is not None:
                raise PermanentError("not_storable")
        if len(planned) == 1 and self.fails_at[planned[0].record.offset]:
            self.fails_at[planned[0].record.offset] -= 1
            raise LedgerUnavailableError("not_committed")
        for advance in advances:
            if self.at.get(advance.stream, advance.from_position) != advance.from_position:
                raise WrongStateError("position_moved")
        for item in planned:
            (advance,) = [each for each in advances if each.stream == item.record.stream]
            assert advance.from_position <= item.record.offset < advance.to_position
        self.at.update({each.stream: each.to_position for each in advances})
        self.planned.extend(planned)
        return [self._disposition(item) for item in planned]

    def _disposition(self, item: PlannedRecord) -> PlanResult:
        if item.event_id in self.results:
            return self.results[item.event_id]
        if item.plan.ignored is not None:
            return PlanResult(Disposition.IGNORED)
        if item.plan.dead_letter is not None:
            return PlanResult(Disposition.DEAD_LETTER)
        return PlanResult(Disposition.PLANNED)

    # What the dispatcher needs.

    async def ready(
        self,
        lane: Lane,
        *,
        limit: int,
        due_before_ms: int,
        excluding: Collection[EffectKey] = frozenset(),
    ) -> Sequence[ReadyEffect]:
        await asyncio.sleep(0)
        self._enter("ready")
        due = [
            row
            for row in self.rows.values()
            if row.state is State.DUE
            and row.effect.lane is lane
            and row.due_at_ms <= due_before_ms
            and row.effect.key not in excluding
        ]
        return [row.effect for row in sorted(due, key=lambda row: row.due_at_ms)[:limit]]

    async def claim(self, effect: ReadyEffect, *, lease_s: float) -> Claim | None:
        await self.claims_go.wait()
        self._enter("claim")
        row, now_ms = self.rows.get(effect.key), self.clock.now_ms()
        if (
            row is None
            or row.state is not State.DUE
            or row.due_at_ms > now_ms
            or row.effect.request_id != effect.request_id
        ):
            return None
        row.state = State.ATTEMPTING
        row.attempt += 1
        row.lease_until_ms = now_ms + int(lease_s * 1000)
        row.first_attempt_at_ms = row.first_attempt_at_ms or now_ms
        return Claim(
            effect=effect,
            attempt=row.attempt,
            lease_until_ms=row.lease_until_ms,
            started_at_ms=now_ms,
            first_attempt_at_ms=row.first_attempt_at_ms,
            was_in_doubt=row.was_in_doubt,
            rounds=row.rounds,
        )

    async def settle(self, claim: Claim, settlement: Settlement) -> SettleResult:
        await asyncio.sleep(0)
        self._enter("settle")
        row = self.rows[claim.effect.key]
        assert 1 <= claim.attempt <= row.attempt, "an attempt that never was"
        row.settlements.append(settlement)
        if row.state is not State.ATTEMPTING or row.attempt != claim.attempt:
            is_success = settlement.outcome in (Outcome.APPLIED, Outcome.DUPLICATE)
            if not is_success:
                return SettleResult.STALE
            if row.state is State.APPLIED and row.applied_attempt is not None:
                return SettleResult.SUSPECTED_DOUBLE
            was_found, row.applied_attempt = row.state is State.APPLIED, claim.attempt
            row.state = State(settlement.outcome.value)
            return SettleResult.STALE if was_found else SettleResult.LATE
        match settlement.outcome:
            case Outcome.RETRY:
                assert settlement.due_at_ms is not None and settlement.reason
                row.state, row.due_at_ms = State.DUE, settlement.due_at_ms
            case Outcome.IN_DOUBT:
                self._doubt(row, from_ms=max(row.lease_until_ms, self.clock.now_ms()))
            case Outcome.APPLIED | Outcome.DUPLICATE | Outcome.REJECTED:
                assert settlement.outcome is not Outcome.REJECTED or settlement.reason
                row.state = State(settlement.outcome.value)
                row.applied_attempt = claim.attempt
        return SettleResult.SETTLED

    async def make_due(self, key: EffectKey, attempt: int) -> bool:
        self._enter("make_due")
        row = self.rows[key]
        if row.state is not State.DUE or row.attempt != attempt:
            return False
        row.due_at_ms = self.clock.now_ms()
        row.rounds += 1
        return True

    # What looking up needs.

    def _doubt(self, row: Row, *, from_ms: int) -> None:
        row.state = State.IN_DOUBT
        row.was_in_doubt = True
        row.look_up_at_ms = self.clock.now_ms()
        row.absence_counts_from_ms = from_ms + self.visible_after_ms

    async def expire_leases(self) -> int:
        self._enter("expire_leases")
        now_ms = self.clock.now_ms()
        expired = [
            row
            for row in self.rows.values()
            if row.state is State.ATTEMPTING and row.lease_until_ms <= now_ms
        ]
        for row in expired:
            self._doubt(row, from_ms=row.lease_until_ms)
        return len(expired)

    async def doubts(self, *, limit: int) -> Sequence[Doubt]:
        self._enter("doubts")
        now_ms = self.clock.now_ms()
        rows = [
            row
            for row in self.rows.values()
            if row.state is State.IN_DOUBT and row.look_up_at_ms <= now_ms
        ]
        rows.sort(key=lambda row: row.look_up_at_ms)
        return [self._as_doubt(row) for row in rows[:limit]]

    async def doubt(self, key: EffectKey) -> Doubt | None:
        self._enter("doubt")
        row = self.rows.get(key)
        return self._as_doubt(row) if row and row.state is State.IN_DOUBT else None

    def _as_doubt(self, row: Row) -> Doubt:
        return Doubt(
            effect=row.effect,
            attempt=row.attempt,
            absence_counts_from_ms=row.absence_counts_from_ms,
            first_attempt_at_ms=row.first_attempt_at_ms,
            resends=row.resends,
        )

    async def record_look_up(self, doubt: Doubt, look_up: LookUp) -> State | None:
        await asyncio.sleep(0)
        self._enter("record_look_up")
        row, now_ms = self.rows[doubt.effect.key], self.clock.now_ms()
        if row.state is not State.IN_DOUBT or row.attempt != doubt.attempt:
            return None
        match look_up.verdict:
            case LookUpVerdict.FOUND:
                row.state = State.APPLIED
            case LookUpVerdict.DIFFERENT:
                row.state = State.REJECTED
            case LookUpVerdict.ABSENT:
                if now_ms < row.absence_counts_from_ms:
                    raise WrongStateError("too_early")
                row.state, row.due_at_ms = State.DUE, now_ms
                row.resends += 1
            case LookUpVerdict.HOLD:
                row.state = State.HELD
            case LookUpVerdict.UNKNOWN:
                assert look_up.again_at_ms is not None
                row.look_up_at_ms = look_up.again_at_ms
        return row.state

    async def credits_cursor(self) -> str | None:
        self._enter("credits_cursor")
        return self.cursor

    async def mark_seen(self, keys: Sequence[str], cursor: str | None) -> int:
        self._enter("mark_seen")
        fresh = set(keys) - self.seen
        self.seen |= fresh
        self.cursor = cursor
        return len(fresh)

    # Brakes and chores.

    async def brakes(self) -> Sequence[Brake]:
        self._enter("brakes")
        return list(self.braked.values())

    async def set_brake(self, lane: str, reason: str) -> None:
        self._enter("set_brake")
        self.braked[lane] = Brake(lane, reason, self.clock.now_ms())

    async def release_brake(self, lane: str, *, by: str) -> bool:
        self._enter("release_brake")
        return self.braked.pop(lane, None) is not None

    async def tally(self) -> Tally:
        self._enter("tally")
        return self.tallied

    async def purge(self, *, limit: int) -> PurgeReport:
        self._enter("purge")
        return self.purges.pop(0) if self.purges else PurgeReport()

    def free_bytes(self) -> int | None:
        return self.free

    async def ping(self) -> None:
        self._enter("ping")

    # What an operator looks at and changes.

    async def list_effects(
        self,
        *,
        states: Sequence[State] = (),
        kind: Kind | None = None,
        order_id: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        keys = sorted(
            key
            for key, row in self.rows.items()
            if (not states or row.state in states)
            and kind in (None, row.effect.kind)
            and order_id in (None, row.effect.order_key)
            and (after is None or key > after)
        )
        items = [await self.show_effect(key) for key in keys[:limit]]
        return Page(items, keys[limit - 1] if len(keys) > limit else None)

    async def show_effect(self, key: EffectKey) -> Mapping[str, Any]:
        row = self.rows.get(key)
        if row is None:
            raise NotFoundError("unknown_effect", key)
        return {"effect_key": key, "state": row.state.value, "attempt": row.attempt}

    async def show_order(self, order_id: str) -> Mapping[str, Any]:
        page = await self.list_effects(order_id=order_id)
        if not page.items:
            raise NotFoundError("unknown_order", order_id)
        return {"order_id": order_id, "effects": page.items}

    async def release(self, key: EffectKey, *, by: str) -> None:
        await self._change(key, (State.HELD,), State.DUE)

    async def reject(self, key: EffectKey, *, by: str) -> None:
        await self._change(key, (State.HELD, State.IN_DOUBT), State.REJECTED)

    async def _change(self, key: EffectKey, states: Sequence[State], to: State) -> None:
        await self.show_effect(key)
        if self.rows[key].state not in states:
            raise WrongStateError("wrong_state", f"{key} is {self.rows[key].state}")
        self.rows[key].state = to

    async def list_dead_letters(
        self,
        *,
        reason: str | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        only_open: bool = False,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        matching = [
            letter
            for letter in self.dead.values()
            if reason in (None, letter.reason)
            and (since_ms is None or letter.at_ms >= since_ms)
            and (until_ms is None or letter.at_ms < until_ms)
            and not (only_open and letter.id in self.closed_by)
            and (after is None or letter.id > int(after))
        ]
        items = [{"id": letter.id, "reason": letter.reason} for letter in matching[:limit]]
        return Page(items, str(items[-1]["id"]) if len(matching) > limit else None)

    async def dead_letter(self, dead_letter_id: int) -> DeadLetter:
        try:
            return self.dead[dead_letter_id]
        except KeyError:
            raise NotFoundError("unknown_dead_letter", str(dead_letter_id)) from None

    async def replay(self, dead_letter_id: int, planned: PlannedRecord, *, by: str) -> PlanResult:
        await self._close(dead_letter_id, by)
        self.planned.append(planned)
        return PlanResult(Disposition.PLANNED)

    async def dismiss(self, dead_letter_id: int, *, by: str) -> None:
        await self._close(dead_letter_id, by)

    async def _close(self, dead_letter_id: int, by: str) -> None:
        await self.dead_letter(dead_letter_id)
        if dead_letter_id in self.closed_by:
            raise WrongStateError("closed_before", str(dead_letter_id))
        self.closed_by[dead_letter_id] = by
