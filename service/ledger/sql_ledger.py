"""The ledger's port, carried out by one committing thread and two readers of an SQL database."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from service.domain.checkout import (
    Call,
    KnownBalance,
    PlannedCapture,
    PlannedRefund,
    Reading,
    Recording,
)
from service.domain.clock import Clock
from service.domain.effects import EffectKey, Kind, Lane, Outcome, State
from service.domain.errors import LedgerUnavailableError
from service.domain.ledger import (
    Brake,
    Chore,
    Claim,
    DeadLetter,
    Doubt,
    LookUp,
    Page,
    PlannedRecord,
    PlanResult,
    PurgeReport,
    ReadyEffect,
    Recovery,
    Settlement,
    SettleResult,
    Tally,
)
from service.domain.notices import OutboxEntry
from service.domain.planning import OrderFacts, Plan, PlannedEffect, PointsFrom
from service.domain.ports import Step
from service.domain.records import Advance, Stream
from service.group_commit import GroupCommitter, QueueFullError, StorageError
from service.ledger import (
    brakes,
    checkout,
    chores,
    claims,
    dead_letters,
    doubts,
    duties,
    holds,
    meta,
    operators,
    outbox,
    reads,
    recovery,
    replays,
    shapes,
)
from service.ledger.balance_reads import BalanceReads, Reader
from service.ledger.claims import ClaimRequest, SettleRequest
from service.ledger.config import LedgerConfig
from service.ledger.transaction import Tx
from service.ledger.writer import Operation, PlansRequest, Work

R = TypeVar("R")


class SqlLedger:
    """The `Ledger` port on a database of SQL; see the port for what each method promises."""

    def __init__(
        self,
        *,
        config: LedgerConfig,
        clock: Clock,
        committer: GroupCommitter[Operation, Any],
        hot_reads: Reader,
        slow_reads: Reader,
    ) -> None:
        self._config = config
        self._clock = clock
        self._committer = committer
        self._hot_reads = hot_reads
        self._slow_reads = slow_reads
        self._balance_reads = BalanceReads(hot_reads)
        self._purge = chores.Purge()

    # -- planning

    async def positions(self, streams: Sequence[Stream]) -> Mapping[Stream, int]:
        known = await self._hot_reads.run(reads.read_positions)
        return {stream: known[stream] for stream in streams if stream in known}

    async def horizon(self, streams: Sequence[Stream]) -> Mapping[Stream, int]:
        known = await self._hot_reads.run(reads.read_horizon)
        return {stream: known[stream] for stream in streams if stream in known}

    async def order_facts(self, order_keys: Sequence[str]) -> Mapping[str, OrderFacts]:
        return await self._hot_reads.run(partial(reads.read_order_facts, order_keys=order_keys))

    async def record_plans(
        self, planned: Sequence[PlannedRecord], advances: Sequence[Advance]
    ) -> Sequence[PlanResult]:
        results: Sequence[PlanResult] = await self._submit(PlansRequest(planned, advances))
        return results

    # -- dispatching

    async def ready(
        self,
        lane: Lane,
        *,
        limit: int,
        due_before_ms: int,
        excluding: Collection[EffectKey] = frozenset(),
    ) -> Sequence[ReadyEffect]:
        return await self._hot_reads.run(
            partial(
                reads.read_ready,
                lane=lane,
                limit=limit,
                due_before_ms=due_before_ms,
                excluding=excluding,
            )
        )

    async def claim(self, effect: ReadyEffect, *, lease_s: float) -> Claim | None:
        claim: Claim | None = await self._submit(ClaimRequest(effect, round(lease_s * 1000)))
        return claim

    async def settle(self, claim: Claim, settlement: Settlement) -> SettleResult:
        if settlement.outcome is Outcome.RETRY and settlement.due_at_ms is None:
            raise ValueError("a retry needs due_at_ms")
        result: SettleResult = await self._submit(SettleRequest(claim, settlement))
        return result

    async def make_due(self, key: EffectKey, attempt: int) -> bool:
        return await self.work(lambda tx: claims.make_due(tx, key, attempt))

    # -- looking up

    async def expire_leases(self) -> int:
        return await self.work(doubts.expire_leases)

    async def doubts(self, *, limit: int) -> Sequence[Doubt]:
        return await self._hot_reads.run(
            partial(doubts.read_due_doubts, now_ms=self._clock.now_ms(), limit=limit)
        )

    async def doubt(self, key: EffectKey) -> Doubt | None:
        return await self._hot_reads.run(partial(doubts.read_doubt, key=key))

    async def record_look_up(self, doubt: Doubt, look_up: LookUp) -> State | None:
        return await self.work(lambda tx: doubts.write_look_up(tx, doubt, look_up))

    async def credits_cursor(self) -> str | None:
        return await self._hot_reads.run(doubts.read_cursor)

    async def mark_seen(self, keys: Sequence[str], cursor: str | None) -> int:
        return await self.work(lambda tx: doubts.mark_seen(tx, keys, cursor))

    # -- brakes

    async def brakes(self) -> Sequence[Brake]:
        return await self._hot_reads.run(brakes.read_brakes)

    async def set_brake(self, lane: str, reason: str) -> None:
        await self.work(lambda tx: brakes.set_brake(tx, lane, reason))

    async def release_brake(self, lane: str, *, by: str) -> bool:
        return await self.work(lambda tx: brakes.release_brake(tx, lane, by=by))

    # -- chores

    async def tally(self) -> Tally:
        return await self._slow_reads.run(partial(chores.read_tally, now_ms=self._clock.now_ms()))

    async def purge(self, *, limit: int) -> PurgeReport:
        return await self.work(
            lambda tx: self._purge.bite(tx, limit), after_commit=Step.LEDGER_PURGED
        )

    def free_bytes(self) -> int | None:
        return None

    async def ping(self) -> None:
        await self.work(lambda tx: None)

    # -- notices

    async def outbox(self, *, limit: int) -> Sequence[OutboxEntry]:
        return await self._hot_reads.run(partial(outbox.read_outbox, limit=limit))

    async def remove_published(self, ids: Sequence[int]) -> None:
        await self.work(lambda tx: outbox.remove_published(tx, ids))

    # -- operators

    async def list_effects(
        self,
        *,
        states: Sequence[State] = (),
        kind: Kind | None = None,
        order_id: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        return await self._slow_reads.run(
            partial(
                operators.list_effects,
                tenant=self._config.tenant,
                states=states,
                kind=kind,
                order_id=order_id,
                limit=limit,
                after=after,
            )
        )

    async def show_effect(self, key: EffectKey) -> Mapping[str, Any]:
        return await self._slow_reads.run(partial(operators.show_effect, key=key))

    async def show_order(self, order_id: str) -> Mapping[str, Any]:
        return await self._slow_reads.run(
            partial(operators.show_order, tenant=self._config.tenant, order_id=order_id)
        )

    async def release(self, key: EffectKey, *, by: str) -> None:
        await self.work(lambda tx: operators.release(tx, key, by=by))

    async def reject(self, key: EffectKey, *, by: str) -> None:
        await self.work(lambda tx: operators.reject(tx, key, by=by))

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
        return await self._slow_reads.run(
            partial(
                dead_letters.list_dead_letters,
                reason=reason,
                since_ms=since_ms,
                until_ms=until_ms,
                only_open=only_open,
                limit=limit,
                after=after,
            )
        )

    async def dead_letter(self, dead_letter_id: int) -> DeadLetter:
        return await self._slow_reads.run(
            partial(dead_letters.read_dead_letter, dead_letter_id=dead_letter_id)
        )

    async def replay(self, dead_letter_id: int, planned: PlannedRecord, *, by: str) -> PlanResult:
        return await self.work(lambda tx: replays.write_replay(tx, dead_letter_id, planned, by=by))

    async def dismiss(self, dead_letter_id: int, *, by: str) -> None:
        await self.work(lambda tx: dead_letters.mark_dismissed(tx, dead_letter_id, by=by))

    # -- the checkout's calls

    async def record_capture(self, capture: PlannedCapture) -> Recording:
        return await self._plan_alone(lambda tx: checkout.write_capture(tx, capture))

    async def record_refund(self, refund: PlannedRefund) -> Recording:
        return await self._plan_alone(lambda tx: checkout.write_refund(tx, refund))

    async def record_call(self, call: Call, plan: Plan) -> PlanResult:
        return await self._plan_alone(lambda tx: checkout.write_call(tx, call, plan))

    async def register_again(self, call: Call, effect: PlannedEffect) -> ReadyEffect | None:
        return await self._plan_alone(lambda tx: checkout.register_again(tx, call, effect))

    async def known_balance(self, card: str) -> KnownBalance:
        return await self._balance_reads.read(card)

    async def record_balance(self, reading: Reading) -> KnownBalance | None:
        return await self.work(lambda tx: holds.write_balance(tx, reading))

    async def unsettled_cards(self, *, limit: int, after: str | None) -> Sequence[str]:
        return await self._slow_reads.run(
            partial(holds.read_unsettled_cards, limit=limit, after=after)
        )

    async def expire_waiting_refunds(self, *, older_than_ms: int) -> int:
        return await self.work(lambda tx: checkout.expire_waiting(tx, older_than_ms))

    async def hmac_key(self) -> bytes:
        return await self.work(meta.hmac_key)

    async def list_holds(self, *, only_open: bool, limit: int, after: str | None) -> Page:
        return await self._slow_reads.run(
            partial(holds.list_holds, only_open=only_open, limit=limit, after=after)
        )

    async def show_hold(self, key: EffectKey) -> Mapping[str, Any]:
        return await self._slow_reads.run(partial(holds.show_hold, key=key))

    async def end_hold(self, key: EffectKey, *, by: str) -> None:
        await self.work(lambda tx: holds.end_hold(tx, key, by=by))

    async def record_shapes(self, seen: Sequence[tuple[str, str, int]]) -> None:
        await self.work(lambda tx: shapes.write_shapes(tx, seen))

    async def shapes(self) -> Sequence[str]:
        return await self._slow_reads.run(shapes.read_shapes)

    # -- duties

    async def hold_duty(self, chore: Chore, *, lease_s: float) -> bool:
        return await self.work(lambda tx: duties.hold(tx, chore, lease_ms=round(lease_s * 1000)))

    async def release_duties(self) -> None:
        await self.work(duties.release_all)

    # -- recovering

    async def recover(self, since: Mapping[Stream, int], ends: Mapping[Stream, int]) -> Recovery:
        return await self.work(lambda tx: recovery.recover(tx, since, ends))

    # -- beyond the port

    async def change_points_from(self, points_from: PointsFrom) -> None:
        """
        Write another way of booking points; for the offline command, with no `points_from` set
        in the configuration.

        Raises: WrongStateError while a booking is open: two ways would book it twice.
        """
        await self.work(lambda tx: meta.change_points_from(tx, points_from))

    async def work(self, run: Callable[[Tx], R], *, after_commit: Step | None = None) -> R:
        """Carry out `run` in the writer's next transaction. Raises: LedgerUnavailableError."""
        return cast(R, await self._submit(Work(run, after_commit)))

    async def _plan_alone(self, run: Callable[[Tx], R]) -> R:
        """As `work`, for what asks that no other process plans."""
        return cast(R, await self._submit(Work(run, plans_alone=True)))

    async def _submit(self, operation: Operation) -> Any:
        try:
            return await self._committer.submit(operation)
        except (StorageError, QueueFullError) as error:
            raise LedgerUnavailableError(error.reason, error.detail) from error
