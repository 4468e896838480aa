"""The ledger on PostgreSQL, for many processes; in each one connection commits, two read."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

import psycopg

from service.domain.clock import Clock, SteadyClock
from service.domain.errors import NotFoundError
from service.domain.ports import StepHook, no_step
from service.group_commit import GroupCommitter
from service.ledger import postgres_schema
from service.ledger.config import LedgerConfig
from service.ledger.database import Connection
from service.ledger.meta import check_meta
from service.ledger.postgres_connection import (
    AWAY,
    NOT_STORABLE,
    PostgresConnection,
    PostgresWriterConnection,
    connect,
    unavailable,
)
from service.ledger.sql_ledger import SqlLedger
from service.ledger.writer import Operation, Writer
from service.telemetry.metrics import Metrics

R = TypeVar("R")

_MAX_BATCH: Final = 512  # operations in one commit
_MAX_QUEUE: Final = 20_000  # operations that may wait
_READ_TIME: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"


class PostgresReader:
    """A connection that only reads, with the thread that uses it (`Reader`)."""

    def __init__(self, address: str, *, name: str) -> None:
        self._connection = PostgresConnection(address, name=f"loyalty-relay {name}")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, read: Callable[[Connection], R]) -> R:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._read, read)
        except NOT_STORABLE as error:
            raise NotFoundError("not_storable", type(error).__name__) from error
        except psycopg.Error as error:
            raise unavailable(error) from error

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    def _read(self, read: Callable[[Connection], R]) -> R:
        raw = self._connection.open()
        raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            return read(self._connection)
        finally:
            if not raw.closed:
                raw.execute("ROLLBACK")


@asynccontextmanager
async def open_postgres_ledger(
    address: str,
    *,
    config: LedgerConfig,
    clock: Clock,
    metrics: Metrics,
    step: StepHook = no_step,
) -> AsyncIterator[SqlLedger]:
    """
    The ledger at `address` (a `postgresql://` URL), beside other processes.

    `clock` is one that goes by the server's (`server_clock`). What another process was attempting
    stays with it until its lease runs out.
    Raises: StartupError: not reachable, a migration pending, a newer schema, another tenant,
    universe or way of booking points.
    """
    async with AsyncExitStack() as stack:
        connection = PostgresWriterConnection(address, name="loyalty-relay writer")
        stack.push_async_callback(asyncio.to_thread, connection.close)
        await asyncio.to_thread(_check, connection, config)
        writer = Writer(connection, config=config, step=step)

        def on_batch(size: int, waiting: int) -> None:
            metrics.ledger_commit_operations.observe(size)
            metrics.ledger_queue.set(waiting)

        committer: GroupCommitter[Operation, Any] = GroupCommitter(
            writer.commit,
            name="ledger-writer",
            max_batch=_MAX_BATCH,
            max_queue=_MAX_QUEUE,
            on_batch=on_batch,
            storage_error=psycopg.Error,
        )
        stack.push_async_callback(committer.close)
        readers = []
        for name in ("ledger-hot-reads", "ledger-slow-reads"):
            reader = PostgresReader(address, name=name)
            stack.push_async_callback(reader.close)
            readers.append(reader)
        yield SqlLedger(
            config=config,
            clock=clock,
            committer=committer,
            hot_reads=readers[0],
            slow_reads=readers[1],
        )


async def server_clock(address: str) -> SteadyClock:
    """
    A clock that goes by the server's from now on, which all processes share.

    Raises: StartupError `ledger_not_reachable`.
    """
    now_ms, at_s = await asyncio.to_thread(_read_time, address)
    return SteadyClock(now_ms=now_ms + round((time.monotonic() - at_s) * 1000))


def _read_time(address: str) -> tuple[int, float]:
    try:
        with connect(address, name="loyalty-relay clock") as raw:
            asked_s = time.monotonic()
            row = raw.execute(_READ_TIME).fetchone()
            assert row is not None
            return row[0], (asked_s + time.monotonic()) / 2
    except AWAY as error:
        raise postgres_schema.not_reachable(error) from error


def _check(connection: PostgresWriterConnection, config: LedgerConfig) -> None:
    try:
        postgres_schema.check(connection.open())
        check_meta(connection, config)
    except psycopg.Error as error:
        raise postgres_schema.not_reachable(error) from error
