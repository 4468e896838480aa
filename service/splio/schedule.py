"""When the next request of a lane may go: evenly spaced slots, owned by one place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from service.domain.clock import Clock
from service.domain.effects import Lane

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
    several replicas it is a row per lane in their database. Times are seconds from now, so that
    no two clocks need to agree.

    `is_shared`: others write by it too, so a request is written in its own slot or in a later
    one; this process' count of what it wrote says nothing of theirs.
    """

    @property
    def is_shared(self) -> bool: ...

    async def reserve(self, lane: Lane, *, room_s: float = 0.0) -> float:
        """
        Take the next slot of `lane`: seconds until it, 0 when it is now. The slot after it is
        `room_s` later than it would be.
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
        self._clock = clock

    async def reserve(self, lane: Lane, *, room_s: float = 0.0) -> float:
        now = self._clock.monotonic_s()
        at = max(self._next[lane], now)
        self._next[lane] = at + self._intervals[lane] + room_s
        return at - now

    async def hold(self, lane: Lane, *, seconds: float) -> None:
        self._next[lane] = max(self._next[lane], self._clock.monotonic_s() + seconds)
