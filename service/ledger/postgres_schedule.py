"""Splio's budget shared by all processes on a ledger: one row a lane says when the next may go."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import psycopg

from service.domain.clock import Clock
from service.domain.effects import Lane
from service.domain.ports import Reserved
from service.ledger.postgres_connection import LimitedConnection, PostgresConnection

_RETRY_S: Final = 0.5
_LATE_S: Final = 0.25  # an answer may take so much longer than those before it
_SAMPLES: Final = 64  # answers by which the two clocks are compared
_FURTHEST_S: Final = 600.0  # a slot further away was set by a clock that was ahead
_NOW: Final = "extract(epoch FROM clock_timestamp())::double precision"
# A row's time, unless it makes no sense.
_NEXT: Final = (
    f"CASE WHEN schedule.next_at > {_NOW} + {_FURTHEST_S} THEN 0 ELSE schedule.next_at END"
)
# Guarantees: each slot is given out once, as the row is locked while it moves; an unused slot is
# not saved up, other than by a lead (?3) below 0. One that is further ahead than ?4 is not taken,
# and its time is as of when the statement began: it is no earlier now. Not waited for on disk:
# after a crash of the server the slots of its last half second may be given out again, which the
# margin of the limiter and a 429 both bear.
_RESERVE: Final = (
    f"WITH taken AS (INSERT INTO schedule (lane, next_at) VALUES (?1, {_NOW} + ?2 + ?3) "
    f"ON CONFLICT (lane) DO UPDATE SET next_at = greatest({_NEXT}, {_NOW} + ?3) + ?2 "
    f"WHERE {_NEXT} <= {_NOW} + ?4 RETURNING next_at - ?2 AS first_at) "
    f"SELECT first_at, {_NOW}, true FROM taken UNION ALL SELECT next_at, {_NOW}, false "
    "FROM schedule WHERE lane = ?1 AND NOT EXISTS (SELECT FROM taken)"
)
_HOLD: Final = (
    f"INSERT INTO schedule (lane, next_at) VALUES (?1, {_NOW} + ?2) ON CONFLICT (lane) DO UPDATE "
    f"SET next_at = greatest(schedule.next_at, {_NOW} + ?2)"
)

logger = logging.getLogger("relay.schedule")


class ServerTime:
    """
    The server's clock beside this process' monotonic one.

    Each answer says what the server's clock was some time between question and answer. The
    quickest of the last ones says it best, and its half way is how far off it may be.
    """

    def __init__(self) -> None:
        self._answers: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)
        self.slowest_s = 0.0  # of the last ones; an outlier is forgotten by and by

    def note(self, server_s: float, *, asked_s: float, answered_s: float) -> None:
        """An answer that named the server's time."""
        took_s = answered_s - asked_s
        self.slowest_s = max(took_s, 0.9 * self.slowest_s)
        self._answers.append((took_s / 2, (asked_s + answered_s) / 2 - server_s))

    def here(self, server_s: float) -> Reserved:
        """That moment on the monotonic clock."""
        margin_s, offset_s = min(self._answers)
        return Reserved(server_s + offset_s, margin_s)

    def forget(self) -> None:
        """Another server may have another clock."""
        self._answers.clear()


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
        self._time = ServerTime()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="schedule")

    def answers_in_s(self) -> float:
        return self._time.slowest_s

    async def reserve(
        self, lane: Lane, *, count: int = 1, stretch: float = 1.0, ahead_s: float = math.inf
    ) -> Reserved:
        """The next slots, however long the database is away: without one nothing may be sent."""
        taken_s = count * stretch * self._intervals[lane]
        while True:
            # What begins before the answer is here would be lost.
            lead_s = min(1.25 * self._time.slowest_s, _LATE_S)
            reserved = await self._move(lane.value, taken_s, lead_s, ahead_s)
            if not reserved.is_taken or reserved.first_s + taken_s > self._clock.monotonic_s():
                return reserved

    async def right_of_way(self, lane: Lane, *, interval_s: float, saved_s: float) -> Reserved:
        return await self._move(f"{lane.value}.checkout", interval_s, -saved_s, math.inf)

    async def hold(self, lane: Lane, *, seconds: float) -> None:
        await self._run(_HOLD, lane.value, float(seconds))

    async def _move(self, row: str, taken_s: float, lead_s: float, ahead_s: float) -> Reserved:
        while True:
            answer = await self._run(_RESERVE, row, taken_s, lead_s, ahead_s)
            if answer is not None:  # else the row was made while the statement ran
                first_s, is_taken = answer
                return replace(self._time.here(first_s), is_taken=is_taken)

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def _run(self, text: str, *parameters: str | float) -> tuple[float, bool] | None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(self._thread, self._execute, text, parameters)
            except psycopg.Error as error:
                logger.warning("slot.not_reserved", extra={"reason": str(error).partition("\n")[0]})
                await self._clock.sleep(_RETRY_S)

    def _execute(self, text: str, parameters: Sequence[str | float]) -> tuple[float, bool] | None:
        raw = self._connection.open()
        if raw is not self._prepared:
            raw.execute("SET synchronous_commit = off")
            self._prepared = raw
            self._time.forget()
        asked_s = self._clock.monotonic_s()
        cursor = self._connection.execute(text, parameters)
        row = cursor.fetchone() if cursor.description else None
        if row is None:
            return None
        first_s, server_s, is_taken = row
        self._time.note(server_s, asked_s=asked_s, answered_s=self._clock.monotonic_s())
        return first_s, is_taken


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
