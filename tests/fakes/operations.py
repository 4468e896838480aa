"""An operator's use cases over rows in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from service.domain.checkout import mask
from service.domain.effects import EffectKey, Kind, Lane, State
from service.domain.errors import LedgerUnavailableError, NotFoundError, WrongStateError
from service.domain.ledger import DeadLetter, LookUpVerdict, Page
from service.operations import Changed, Operations, Selection

AT_MS = 1_789_970_672_250
RECORD = b'{"type": "order-confirmed", "payload": {"customer": {"email": "ilse@example.org"}}}'


def effect_row(key: str, state: State) -> dict[str, Any]:
    """A row as the ledger lists it."""
    _, kind, order_id = key.split(":")
    return {
        "effect_key": key,
        "kind": kind,
        "lane": (Lane.SALES if kind == "order" else Lane.OTHER).value,
        "order_key": order_id,
        "state": state.value,
        "attempt": 1,
        "reason": None,
        "received_at": AT_MS,
    }


def dead_letter(number: int, reason: str, record: bytes = RECORD) -> DeadLetter:
    """An open dead letter of an unreadable body."""
    return DeadLetter(
        id=number,
        kind="event",
        effect_key=None,
        order_id=None,
        event_id="01998a2f-7c1d-7000-8f3a-0d5b2c9e4a61",
        event_type="order-confirmed",
        reason=reason,
        detail="payload.cost missing",
        topic="scayle.unreadable.v1",
        partition=0,
        offset=number,
        headers={},
        record=record,
        at_ms=AT_MS + number,
        times_seen=1,
        replayed_at_ms=None,
        dismissed_at_ms=None,
    )


HOLDS = ("main:capture:club:68ff99b4", "main:capture:club:8ff99b46")


def hold_row(key: str, order: int) -> dict[str, Any]:
    """An open hold."""
    return {
        "effect_key": key,
        "program": "club",
        "transaction_key": key.rpartition(":")[2],
        "order_id": str(order),
        "card": "2171707962088",
        "currency": "EUR",
        "points": 1000,
        "given_back": 0,
        "shrunk": 0,
        "shown": 0,
        "held": 1000,
        "received_at": AT_MS,
        "ended_at": None,
        "ended_by": None,
    }


@dataclass
class FakeOperations(Operations):
    """
    Behaves as `Operations` does. `changes` are what was changed, and by whom; `failure` is raised
    by every use case.
    """

    effects: dict[str, State] = field(default_factory=dict)
    dead_letters: dict[int, DeadLetter] = field(default_factory=dict)
    braked: set[str] = field(default_factory=set)
    holds: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: list[tuple[str, str, str]] = field(default_factory=list)
    failure: Exception | None = None

    @classmethod
    def with_rows(cls) -> "FakeOperations":
        """One effect in each state and three dead letters."""
        keys = (
            f"main:{kind.value}:{number}" for number in range(9) for kind in (Kind.ORDER, Kind.EARN)
        )
        return cls(
            effects=dict(zip(keys, State, strict=False)),
            dead_letters={
                1: dead_letter(1, "unreadable"),
                2: dead_letter(2, "conflict"),
                3: dead_letter(3, "unreadable", b"\xff\xfe"),
            },
            braked={Lane.SALES.value},
            holds={key: hold_row(key, order) for order, key in enumerate(HOLDS, start=70)},
        )

    def __hash__(self) -> int:
        return id(self)

    async def list_effects(
        self,
        *,
        states: Sequence[State] = (),
        kind: Kind | None = None,
        order_id: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        self._may_fail()
        rows = [
            effect_row(key, state)
            for key, state in sorted(self.effects.items())
            if (not states or state in states)
            and (kind is None or key.split(":")[1] == kind)
            and (order_id is None or key.split(":")[2] == order_id)
            and (after is None or key > after)
        ]
        more = len(rows) > limit
        return Page(rows[:limit], rows[limit - 1]["effect_key"] if more else None)

    async def show_effect(self, key: EffectKey) -> Mapping[str, Any]:
        self._may_fail()
        return effect_row(key, self._state(key)) | {"attempts": [{"attempt": 1}]}

    async def show_order(self, order_id: str) -> Mapping[str, Any]:
        page = await self.list_effects(order_id=order_id)
        if not page.items:
            raise NotFoundError("no_such_order", order_id)
        effects = [{**row, "attempts": []} for row in page.items]
        return {"order_id": order_id, "facts": None, "effects": effects, "dead_letters": []}

    async def look_up(self, key: EffectKey, *, by: str) -> LookUpVerdict:
        self._change("look_up", key, by, {State.IN_DOUBT}, State.APPLIED)
        return LookUpVerdict.FOUND

    async def release(self, key: EffectKey, *, by: str) -> None:
        self._change("release", key, by, {State.HELD}, State.DUE)

    async def reject(self, key: EffectKey, *, by: str) -> None:
        self._change("reject", key, by, {State.HELD, State.IN_DOUBT}, State.REJECTED)

    async def list_holds(
        self, *, only_open: bool, limit: int = 50, after: str | None = None
    ) -> Page:
        self._may_fail()
        rows = [
            {**row, "card": mask(row["card"])}
            for key, row in sorted(self.holds.items())
            if (not only_open or row["ended_at"] is None) and (after is None or key > after)
        ]
        more = len(rows) > limit
        return Page(rows[:limit], rows[limit - 1]["effect_key"] if more else None)

    async def show_hold(self, key: EffectKey) -> Mapping[str, Any]:
        self._may_fail()
        if key not in self.holds:
            raise NotFoundError("no_such_hold", key)
        return {**self.holds[key], "debits": [], "refunds": []}

    async def end_hold(self, key: EffectKey, *, by: str) -> None:
        hold = dict(await self.show_hold(key))
        if hold["ended_at"] is not None:
            raise WrongStateError("hold_ended", key)
        self.holds[key] = {**self.holds[key], "ended_at": AT_MS, "ended_by": by}
        self.changes.append(("end", key, by))

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
        self._may_fail()
        found = [
            letter
            for letter in self.dead_letters.values()
            if (reason is None or letter.reason == reason)
            and (since_ms is None or letter.at_ms >= since_ms)
            and (until_ms is None or letter.at_ms < until_ms)
            and (not only_open or not (letter.replayed_at_ms or letter.dismissed_at_ms))
            and (after is None or letter.id > int(after))
        ]
        more = len(found) > limit
        rows = [
            {
                "id": letter.id,
                "reason": letter.reason,
                "kind": letter.kind,
                "order_id": letter.order_id,
                "at": letter.at_ms,
                "replayed_at": letter.replayed_at_ms,
                "dismissed_at": letter.dismissed_at_ms,
            }
            for letter in found[:limit]
        ]
        return Page(rows, str(rows[-1]["id"]) if more else None)

    async def show_dead_letter(self, dead_letter_id: int) -> DeadLetter:
        self._may_fail()
        try:
            return self.dead_letters[dead_letter_id]
        except KeyError:
            raise NotFoundError("no_such_dead_letter", str(dead_letter_id)) from None

    async def replay(self, selection: Selection, *, by: str) -> list[Changed]:
        return self._close("replay", selection, by)

    async def dismiss(self, selection: Selection, *, by: str) -> list[Changed]:
        return self._close("dismiss", selection, by)

    async def lanes(self) -> list[dict[str, Any]]:
        self._may_fail()
        return [{"lane": lane.value, "braked": lane.value in self.braked} for lane in Lane]

    async def release_lane(self, lane: str, *, by: str) -> None:
        self._may_fail()
        if lane not in self.braked:
            raise WrongStateError("not_braked", f"lane {lane} is not braked")
        self.braked.discard(lane)
        self.changes.append(("release_lane", lane, by))

    def _may_fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _state(self, key: str) -> State:
        try:
            return self.effects[key]
        except KeyError:
            raise NotFoundError("no_such_effect", key) from None

    def _change(self, what: str, key: str, by: str, allowed: set[State], state: State) -> None:
        self._may_fail()
        if self._state(key) not in allowed:
            raise WrongStateError("wrong_state", f"{key} is {self._state(key)}")
        self.effects[key] = state
        self.changes.append((what, key, by))

    def _close(self, what: str, selection: Selection, by: str) -> list[Changed]:
        self._may_fail()
        ids = selection.ids or [
            letter.id
            for letter in self.dead_letters.values()
            if (selection.reason is None or letter.reason == selection.reason)
            and (selection.since_ms is None or letter.at_ms >= selection.since_ms)
            and (selection.until_ms is None or letter.at_ms < selection.until_ms)
            and letter.replayed_at_ms is None
        ]
        changed = []
        for number in ids:
            letter = self.dead_letters.get(number)
            if letter is None:
                changed.append(Changed(number, f"no_such_dead_letter: {number}"))
            elif letter.replayed_at_ms is not None:
                changed.append(Changed(number, "already_closed"))
            else:
                self.dead_letters[number] = replace(letter, replayed_at_ms=AT_MS)
                self.changes.append((what, str(number), by))
                changed.append(Changed(number))
        return changed


LEDGER_AWAY = LedgerUnavailableError("not_committed", "disk full")
