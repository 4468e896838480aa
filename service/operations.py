"""Use cases of an operator: what the API, the console and `--offline` all call."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from consumers.intake import BRAKE_NAME
from service.domain.checkout import HoldsLedger
from service.domain.effects import EffectKey, Kind, Lane, State
from service.domain.errors import NotFoundError, RelayError, WrongStateError
from service.domain.ledger import (
    BrakeLedger,
    DeadLetter,
    LookUpVerdict,
    OperatorLedger,
    Page,
    PlannedRecord,
)

# What a pause or the brake can stop: the lanes, and intake when planning fails again and again.
BRAKED_NAMES: Final = (*(lane.value for lane in Lane), BRAKE_NAME)

_PAGE: Final = 200  # dead letters read at once while a selection is walked

logger = logging.getLogger("relay.operations")


class Planner(Protocol):
    """Plans a dead letter's record again."""

    def plan_again(self, dead_letter: DeadLetter) -> PlannedRecord: ...


class LookUps(Protocol):
    """Looks an effect in doubt up at once."""

    async def look_up_now(self, key: EffectKey) -> LookUpVerdict: ...


class Lanes(Protocol):
    """The lanes of the running dispatcher."""

    def describe(self) -> Sequence[Mapping[str, Any]]:
        """One row a lane: its queue, what is in flight, limiter, breaker, pause and brake."""
        ...

    def release(self, lane: str) -> None:
        """Forget pause and brake of `lane` in this process."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """
    Which dead letters are meant: by id, by reason, by time (half open, ms since the epoch), all.

    `ids` names them one by one; the others select among those still open and combine.
    """

    ids: tuple[int, ...] = ()
    reason: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    everything: bool = False

    def is_empty(self) -> bool:
        """Whether nothing is selected, which is a mistake of the caller."""
        return not (
            self.ids
            or self.everything
            or self.reason is not None
            or self.since_ms is not None
            or self.until_ms is not None
        )


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of one selected dead letter: `problem` is empty when it was done."""

    id: int
    problem: str = ""


class Operations:
    """
    What an operator can see and do. Every change names who made it.

    `look_ups` and `lanes` are None where no dispatcher runs (`--offline`): what needs them is
    refused with WrongStateError `not_running`.
    """

    def __init__(
        self,
        ledger: OperatorLedger,
        brakes: BrakeLedger,
        planner: Planner,
        *,
        holds: HoldsLedger,
        look_ups: LookUps | None = None,
        lanes: Lanes | None = None,
    ) -> None:
        self._ledger = ledger
        self._brakes = brakes
        self._planner = planner
        self._holds = holds
        self._look_ups = look_ups
        self._lanes = lanes

    async def list_effects(
        self,
        *,
        states: Sequence[State] = (),
        kind: Kind | None = None,
        order_id: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        """A page of effects by key order."""
        return await self._ledger.list_effects(
            states=states, kind=kind, order_id=order_id, limit=limit, after=after
        )

    async def show_effect(self, key: EffectKey) -> Mapping[str, Any]:
        """One effect with its attempts. Raises: NotFoundError."""
        return await self._ledger.show_effect(key)

    async def show_order(self, order_id: str) -> Mapping[str, Any]:
        """An order's timeline. Raises: NotFoundError."""
        return await self._ledger.show_order(order_id)

    async def look_up(self, key: EffectKey, *, by: str) -> LookUpVerdict:
        """Look an effect in doubt up now. Raises: NotFoundError, WrongStateError."""
        if self._look_ups is None:
            raise WrongStateError("not_running", "a look-up needs the running service")
        verdict = await self._look_ups.look_up_now(key)
        _log_change("effect.looked_up", by, effect=key, outcome=verdict.value)
        return verdict

    async def release(self, key: EffectKey, *, by: str) -> None:
        """Let a held effect be attempted. Raises: NotFoundError, WrongStateError."""
        await self._ledger.release(key, by=by)
        _log_change("effect.released", by, effect=key)

    async def reject(self, key: EffectKey, *, by: str) -> None:
        """Give a held or in-doubt effect up. Raises: NotFoundError, WrongStateError."""
        await self._ledger.reject(key, by=by)
        _log_change("effect.rejected", by, effect=key)

    async def list_holds(
        self, *, only_open: bool, limit: int = 50, after: str | None = None
    ) -> Page:
        """A page of holds by key, their cards masked."""
        return await self._holds.list_holds(only_open=only_open, limit=limit, after=after)

    async def show_hold(self, key: EffectKey) -> Mapping[str, Any]:
        """One hold with its card, debits and refunds. Raises: NotFoundError."""
        return await self._holds.show_hold(key)

    async def end_hold(self, key: EffectKey, *, by: str) -> None:
        """End a hold. Raises: NotFoundError, WrongStateError."""
        await self._holds.end_hold(key, by=by)
        _log_change("hold.ended", by, effect=key)

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
        """A page of dead letters without their bytes, by id."""
        return await self._ledger.list_dead_letters(
            reason=reason,
            since_ms=since_ms,
            until_ms=until_ms,
            only_open=only_open,
            limit=limit,
            after=after,
        )

    async def show_dead_letter(self, dead_letter_id: int) -> DeadLetter:
        """One dead letter with the bytes of its record. Raises: NotFoundError."""
        return await self._ledger.dead_letter(dead_letter_id)

    async def replay(self, selection: Selection, *, by: str) -> list[Changed]:
        """Plan the selected dead letters again; each that cannot be says why."""
        changed = []
        for dead_letter_id in await self._select(selection):
            problem = ""
            try:
                dead_letter = await self._ledger.dead_letter(dead_letter_id)
                await self._ledger.replay(
                    dead_letter_id, self._planner.plan_again(dead_letter), by=by
                )
            except (NotFoundError, WrongStateError) as error:
                problem = str(error)
            changed.append(Changed(dead_letter_id, problem))
            _log_change("dead_letter.replayed", by, dead_letter=dead_letter_id, reason=problem)
        return changed

    async def dismiss(self, selection: Selection, *, by: str) -> list[Changed]:
        """Mark the selected dead letters as dealt with elsewhere."""
        changed = []
        for dead_letter_id in await self._select(selection):
            problem = ""
            try:
                await self._ledger.dismiss(dead_letter_id, by=by)
            except (NotFoundError, WrongStateError) as error:
                problem = str(error)
            changed.append(Changed(dead_letter_id, problem))
            _log_change("dead_letter.dismissed", by, dead_letter=dead_letter_id, reason=problem)
        return changed

    async def lanes(self) -> list[dict[str, Any]]:
        """One row a lane; offline only the brakes are known."""
        if self._lanes is not None:
            return [dict(row) for row in self._lanes.describe()]
        return [
            {"lane": brake.lane, "braked": brake.reason, "braked_since": brake.since_ms}
            for brake in await self._brakes.brakes()
        ]

    async def release_lane(self, lane: str, *, by: str) -> None:
        """
        Let a lane go on that the dead-letter brake or a pause stopped.

        Raises: NotFoundError for an unknown lane, WrongStateError when nothing held it.
        """
        was_braked = await self._brakes.release_brake(lane, by=by)
        if self._lanes is not None:
            self._lanes.release(lane)
        elif not was_braked:
            raise WrongStateError("not_braked", f"lane {lane} is not braked")
        _log_change("lane.released", by, lane=lane)

    async def _select(self, selection: Selection) -> list[int]:
        if selection.is_empty():
            raise RelayError("nothing_selected", "name ids, a reason, a time or all")
        if selection.ids:
            return list(selection.ids)
        ids: list[int] = []
        after: str | None = None
        while True:
            page = await self._ledger.list_dead_letters(
                reason=selection.reason,
                since_ms=selection.since_ms,
                until_ms=selection.until_ms,
                only_open=True,
                limit=_PAGE,
                after=after,
            )
            ids.extend(item["id"] for item in page.items)
            after = page.next
            if after is None:
                return ids


def _log_change(event: str, by: str, **fields: Any) -> None:
    logger.info(event, extra={"by": by, **{name: value for name, value in fields.items() if value}})
