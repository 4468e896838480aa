"""Time: one clock for the whole process, which a jump of the machine's clock cannot move."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol


class Clock(Protocol):
    """
    Wall time for what is stored and compared, monotonic time for durations.

    Within one process `now_ms` never jumps or runs backwards: leases and look-ups depend on it.
    """

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds on a clock that only goes forward."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` of this clock."""
        ...


class SteadyClock:
    """
    The wall clock read once at start and carried on by the monotonic one.

    A jump of the machine's clock (NTP step, an operator's hand) would otherwise end leases while
    their requests are under way. `drift_s` tells how far the machine's clock has moved away; a
    restart takes it over. Where several processes share a ledger, the wall clock is that of the
    ledger's server: `now_ms` is its time now.
    """

    def __init__(self, *, now_ms: int | None = None) -> None:
        now_ns = time.time_ns() if now_ms is None else now_ms * 1_000_000
        self._offset_ns = now_ns - time.monotonic_ns()

    def now_ms(self) -> int:
        return (time.monotonic_ns() + self._offset_ns) // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def drift_s(self) -> float:
        """The machine's clock less this one, in seconds."""
        return (time.time_ns() - time.monotonic_ns() - self._offset_ns) / 1e9


@asynccontextmanager
async def time_limit(clock: Clock, seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`, by `clock`. Raises: TimeoutError."""
    async with asyncio.timeout(None) as limit:
        at_s = clock.monotonic_s() + seconds
        expiry = asyncio.create_task(_expire(limit, clock, at_s), name="time-limit")
        try:
            yield
        finally:
            expiry.cancel()


async def _expire(limit: asyncio.Timeout, clock: Clock, at_s: float) -> None:
    await clock.sleep(at_s - clock.monotonic_s())
    limit.reschedule(asyncio.get_running_loop().time())
