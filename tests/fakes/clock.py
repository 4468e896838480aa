"""A clock that stands still until a test moves it."""

import asyncio
import heapq
import math
from itertools import count
from typing import Final

START_MS: Final = 1_800_000_000_000  # some moment of 2027


class FakeClock:
    """
    Implements `Clock`. `advance` moves both sides and releases who slept so long.

    Sleepers are released in the order of their deadlines; they run when the test next awaits.
    """

    def __init__(self, now_ms: int = START_MS) -> None:
        self._start_ms = now_ms
        self._elapsed_ns = 0
        self._order = count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._start_ms + self._elapsed_ns // 1_000_000

    def monotonic_s(self) -> float:
        return self._elapsed_ns / 1e9

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        # At least a tick: who looks again at what is closer than that would never sleep.
        until_ns = self._elapsed_ns + max(1, round(seconds * 1e9))
        released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (until_ns, next(self._order), released))
        await released

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        assert seconds >= 0, "time goes forward"
        self._elapsed_ns += round(seconds * 1e9)
        while self._sleepers and self._sleepers[0][0] <= self._elapsed_ns:
            _, _, released = heapq.heappop(self._sleepers)
            if not released.done():
                released.set_result(None)

    def next_in_s(self) -> float:
        """When the next sleeper wakes up; infinite without one."""
        if not self._sleepers:
            return math.inf
        return (self._sleepers[0][0] - self._elapsed_ns) / 1e9

    @property
    def sleeping(self) -> int:
        """How many tasks sleep now."""
        return sum(not released.done() for _, _, released in self._sleepers)
