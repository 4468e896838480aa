"""Splio's budget shared by all processes on a ledger: one row a lane says when the next may go."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

import psycopg

from service.domain.clock import Clock
from service.domain.effects import Lane
from service.ledger.postgres_connection import LimitedConnection, PostgresConnection

_RETRY_S: Final = 0.5
_NOW: Final = "extract(epoch FROM clock_timestamp())::double precision"
# Guarantees: each slot is given out once, as the row is locked while it moves; an unused slot is
# not saved up. Not waited for on disk: after a crash of the server the slots of its last half
# second may be given out again, which the margin of the limiter and a 429 both bear.
_RESERVE: Final = (
    f"INSERT INTO schedule (lane, next_at) VALUES (?1, {_NOW} + ?2) ON CONFLICT (lane) DO UPDATE "
    f"SET next_at = greatest(schedule.next_at, {_NOW}) + ?2 RETURNING next_at - ?2 - {_NOW}"
)
_HOLD: Final = (
    f"INSERT INTO schedule (lane, next_at) VALUES (?1, {_NOW} + ?2) ON CONFLICT (lane) DO UPDATE "
    f"SET next_at = greatest(schedule.next_at, {_NOW} + ?2)"
)

logger = logging.getLogger("relay.schedule")


class PostgresSchedule:
    """
    A schedule (`service.splio.schedule.Schedule`) of all processes on one database.

    Args:
        intervals: seconds from one slot to the next, by lane.
    """

    is_shared = True

    def __init__(self, address: str, intervals: Mapping[Lane, float], clock: Clock) -> None:
        self._connection = PostgresConnection(address, name="loyalty-relay schedule")
        self._prepared: LimitedConnection | None = None
        self._intervals = intervals
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="schedule")

    async def reserve(self, lane: Lane, *, room_s: float = 0.0) -> float:
        """The next slot, however long the database is away: without it nothing may be sent."""
        found = await self._run(_RESERVE, lane.value, self._intervals[lane] + room_s)
        return max(0.0, found)

    async def hold(self, lane: Lane, *, seconds: float) -> None:
        await self._run(_HOLD, lane.value, seconds)

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def _run(self, text: str, lane: str, seconds: float) -> float:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(self._thread, self._execute, text, lane, seconds)
            except psycopg.Error as error:
                logger.warning("slot.not_reserved", extra={"reason": str(error).partition("\n")[0]})
                await self._clock.sleep(_RETRY_S)

    def _execute(self, text: str, lane: str, seconds: float) -> float:
        raw = self._connection.open()
        if raw is not self._prepared:
            raw.execute("SET synchronous_commit = off")
            self._prepared = raw
        cursor = self._connection.execute(text, (lane, float(seconds)))
        return float(cursor.fetchone()[0]) if cursor.description else 0.0


@asynccontextmanager
async def open_postgres_schedule(
    address: str, intervals: Mapping[Lane, float], clock: Clock
) -> AsyncIterator[PostgresSchedule]:
    """Closed at the end; connects when it is first used."""
    schedule = PostgresSchedule(address, intervals, clock)
    try:
        yield schedule
    finally:
        await schedule.close()
