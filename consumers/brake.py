"""The dead-letter brake: a long run of rejections is usually a fault of ours, so stop and ask."""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from consumers.stopping import set_within
from service.domain.clock import Clock
from service.domain.errors import LedgerUnavailableError
from service.domain.ledger import BrakeLedger

_LOOK_S: Final = 2.0  # until a brake set or released elsewhere holds here
_WINDOW: Final = 200  # the share of rejections is judged over this many outcomes

logger = logging.getLogger("relay.brakes")


@dataclass(frozen=True, slots=True)
class BrakeRule:
    """More than `run` rejections in a row, or more than `share` of the last 200."""

    run: int
    share: float


class DeadLetterBrake:
    """Judges the stream of outcomes of one lane (or of planning)."""

    def __init__(self, rule: BrakeRule | None) -> None:
        self._rule = rule
        self._run = 0
        self._window: deque[bool] = deque(maxlen=_WINDOW)
        self._rejected = 0

    def note(self, *, rejected: bool) -> str | None:
        """Take one outcome; returns why to brake when it is one too many, else None."""
        if self._rule is None:
            return None
        if len(self._window) == _WINDOW:
            self._rejected -= self._window[0]
        self._window.append(rejected)
        self._rejected += rejected
        self._run = self._run + 1 if rejected else 0
        if self._run > self._rule.run:
            return f"{self._run} rejections in a row"
        if len(self._window) == _WINDOW and self._rejected > self._rule.share * _WINDOW:
            return f"{self._rejected} of the last {_WINDOW} were rejected"
        return None

    def reset(self) -> None:
        """Begin anew, after a person released the brake."""
        self._run = 0
        self._rejected = 0
        self._window.clear()


class Braked(Protocol):
    """What a brake can stop in this process."""

    def follow_brakes(self, brakes: Mapping[str, str], *, asked_at_s: float) -> None:
        """Take the ledger's word of `asked_at_s` (monotonic): reasons by what is braked."""
        ...


class BrakeWatch:
    """
    The worker that looks at the brakes in the ledger: one that another process set holds here
    too, and one that was released through another process is released here.
    """

    name = "brakes"

    def __init__(self, ledger: BrakeLedger, braked: Sequence[Braked], *, clock: Clock) -> None:
        self._ledger = ledger
        self._braked = braked
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            asked_at_s = self._clock.monotonic_s()
            try:
                brakes = {brake.lane: brake.reason for brake in await self._ledger.brakes()}
            except LedgerUnavailableError as error:
                logger.warning("brakes.not_read", extra={"reason": error.reason})
            else:
                for each in self._braked:
                    each.follow_brakes(brakes, asked_at_s=asked_at_s)
            await set_within(stop, self._clock, _LOOK_S)
