"""When the next request of a lane may go: evenly spaced slots, owned by one place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from service.domain.clock import Clock
from service.domain.effects import Lane
from service.domain.ports import Reserved

# Requests that leave a window apart must still arrive a second apart: what the network may
# shift between two of them. It costs 4 % of a limit of one second.
JITTER_S: Final = 0.04


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit as a window: at most `capacity` requests in any `window_s` seconds."""

    capacity: int
    window_s: float

    @property
    def interval_s(self) -> float:
        """Seconds from one evenly spaced request to the next."""
        return self.window_s / self.capacity


def rate_of(limit: float) -> Rate:
    """
    The window that keeps `limit` requests a second.

    A limit that is not a whole number has a longer one: 2.5 is 2 in 0.8 s, 0.5 is 1 in 2 s.
    """
    capacity = max(1, math.floor(limit))
    return Rate(capacity, capacity / limit + JITTER_S)


class Schedule(Protocol):
    """
    Hands out the slots of the lanes that have a limit, each once.

    Whoever shares a client address shares one schedule: within a process it is in memory, for
    several replicas it is a row per lane, and per reserved part, in their database.

    `is_shared`: others write by it too, so a request is written in its own slot or in a later
    one; this process' count of what it wrote says nothing of theirs.
    """

    @property
    def is_shared(self) -> bool: ...

    def answers_in_s(self) -> float:
        """How long `reserve` may take now."""
        ...

    async def reserve(
        self, lane: Lane, *, count: int = 1, stretch: float = 1.0, ahead_s: float = math.inf
    ) -> Reserved:
        """
        Take the next `count` slots of `lane`; they are `stretch` times as far apart as they need
        to be. Takes none, and says when they are, where that is more than `ahead_s` from now.
        """
        ...

    async def right_of_way(self, lane: Lane, *, interval_s: float, saved_s: float) -> Reserved:
        """
        When the next request of the lane's reserved part may go before the others: an
        `interval_s` after the one before, what was not used for up to `saved_s` being saved up.
        It is no slot: that is reserved from then on, as by the others.
        """
        ...

    async def hold(self, lane: Lane, *, seconds: float) -> None:
        """Give out no slot of `lane` for the next `seconds`."""
        ...


class MemorySchedule:
    """A schedule within one process (`Schedule`). An unused slot is not saved up for a burst."""

    is_shared = False

    def __init__(self, rates: Mapping[Lane, Rate], clock: Clock) -> None:
        self._intervals = {lane: rate.interval_s for lane, rate in rates.items()}
        self._next = dict.fromkeys(rates, 0.0)
        self._rights = dict.fromkeys(rates, 0.0)
        self._clock = clock

    def answers_in_s(self) -> float:
        return 0.0

    async def reserve(
        self, lane: Lane, *, count: int = 1, stretch: float = 1.0, ahead_s: float = math.inf
    ) -> Reserved:
        now = self._clock.monotonic_s()
        first_s = max(self._next[lane], now)
        if first_s > now + ahead_s:
            return Reserved(first_s, is_taken=False)
        self._next[lane] = first_s + count * stretch * self._intervals[lane]
        return Reserved(first_s)

    async def right_of_way(self, lane: Lane, *, interval_s: float, saved_s: float) -> Reserved:
        first_s = max(self._rights[lane], self._clock.monotonic_s() - saved_s)
        self._rights[lane] = first_s + interval_s
        return Reserved(first_s)

    async def hold(self, lane: Lane, *, seconds: float) -> None:
        self._next[lane] = max(self._next[lane], self._clock.monotonic_s() + seconds)
