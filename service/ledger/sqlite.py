"""The embedded ledger: one SQLite file, one writer thread that commits in groups, two readers."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from service.domain.clock import Clock
from service.domain.errors import LedgerUnavailableError, StartupError
from service.domain.ledger import Chore
from service.domain.ports import StepHook, no_step
from service.group_commit import GroupCommitter
from service.ledger import claims, doubts, sqlite_schema
from service.ledger.config import LedgerConfig
from service.ledger.database import Connection
from service.ledger.meta import check_meta
from service.ledger.migrations.load import load_migrations
from service.ledger.sql_ledger import SqlLedger
from service.ledger.sqlite_schema import WHAT
from service.ledger.transaction import WriterMemory
from service.ledger.writer import Operation, Writer
from service.sqlite import FileLock, connect, free_bytes
from service.telemetry.metrics import Metrics

R = TypeVar("R")

_MAX_BATCH: Final = 512  # operations in one commit
_MAX_QUEUE: Final = 20_000  # operations that may wait
_WRITER_CACHE_KIB: Final = 16_384  # pages of the open work and of the keys' growing end
_CHECKPOINT_PAGES: Final = 4_000  # 16 MiB of WAL; written back by the writer after a commit
_WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024  # a WAL that grew beyond is cut back when it is reset


_LAST_ID: Final = (
    "SELECT max(coalesce((SELECT max(id) FROM records), 0), "
    "coalesce((SELECT max(id) FROM bodies), 0), coalesce((SELECT max(id) FROM attempts), 0), "
    "coalesce((SELECT max(id) FROM orders), 0))"
)
_HAS_FOLLOWERS: Final = (
    "SELECT EXISTS (SELECT 1 FROM effects WHERE state = 'blocked' AND after > '')"
)


class SqliteLedger(SqlLedger):
    """The `Ledger` port on one SQLite file."""

    def __init__(self, path: Path, **parts: Any) -> None:
        super().__init__(**parts)
        self._path = path

    def free_bytes(self) -> int | None:
        return free_bytes(self._path)

    async def hold_duty(self, chore: Chore, *, lease_s: float) -> bool:
        return True  # the file belongs to one process

    async def release_duties(self) -> None:
        """Nobody waits for them."""


class SqliteConnection:
    """A `Connection` to the file."""

    takes_arrays = False

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw
        self.execute = raw.execute


class SqliteWriterConnection(SqliteConnection):
    """The `WriterConnection` of the file; it is alone."""

    def __init__(self, raw: sqlite3.Connection, clock: Clock) -> None:
        super().__init__(raw)
        self._clock = clock
        self.memory = WriterMemory(
            last_id=raw.execute(_LAST_ID).fetchone()[0],
            has_followers=bool(raw.execute(_HAS_FOLLOWERS).fetchone()[0]),
        )

    def begin(self) -> int:
        if self.raw.in_transaction:
            # Its rollback failed with the disk; nobody was told that it had been committed.
            self.execute("ROLLBACK")
        self.execute("BEGIN IMMEDIATE")
        return self._clock.now_ms()

    def commit(self) -> None:
        self.execute("COMMIT")

    def roll_back(self) -> None:
        # SQLite rolls back by itself after some errors.
        if self.raw.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self.execute("ROLLBACK")

    def is_not_storable(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.DataError | OverflowError | UnicodeEncodeError)

    def is_concurrent_change(self, error: Exception) -> bool:
        return False


class SqliteReader:
    """A connection that only reads, with the thread that uses it (`Reader`)."""

    def __init__(self, path: Path, *, name: str) -> None:
        self._connection = connect(path, what=WHAT, read_only=True)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, read: Callable[[Connection], R]) -> R:
        """
        Run `read` in one read transaction, so that all its statements see the same.

        Raises: LedgerUnavailableError.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._read, read)
        except sqlite3.Error as error:
            raise LedgerUnavailableError("not_readable", str(error)) from error

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    def _read(self, read: Callable[[Connection], R]) -> R:
        self._connection.execute("BEGIN")
        try:
            return read(SqliteConnection(self._connection))
        finally:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")


@asynccontextmanager
async def open_sqlite_ledger(
    path: Path,
    *,
    config: LedgerConfig,
    clock: Clock,
    metrics: Metrics,
    step: StepHook = no_step,
) -> AsyncIterator[SqliteLedger]:
    """
    Open, or make, the ledger in the file at `path`; it belongs to this process until closed.

    What another process instance was attempting is in doubt from now on, and what waited for a
    creation by it is due.
    Raises: StartupError: in use, not a ledger, a newer schema, another tenant, universe or way
    of booking points.
    """
    async with AsyncExitStack() as stack:
        lock = FileLock(path, what=WHAT)
        stack.callback(lock.release)
        connection = await asyncio.to_thread(_open_writer, path, config, clock)
        # Closing writes the rest of the WAL back, which may take a while.
        stack.push_async_callback(asyncio.to_thread, connection.raw.close)
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
        )
        stack.push_async_callback(committer.close)
        readers = []
        for name in ("ledger-hot-reads", "ledger-slow-reads"):
            reader = SqliteReader(path, name=name)
            stack.push_async_callback(reader.close)
            readers.append(reader)
        ledger = SqliteLedger(
            path,
            config=config,
            clock=clock,
            committer=committer,
            hot_reads=readers[0],
            slow_reads=readers[1],
        )
        await ledger.work(doubts.expire_foreign_claims)
        await ledger.work(claims.wake_up)
        yield ledger


def _open_writer(path: Path, config: LedgerConfig, clock: Clock) -> SqliteWriterConnection:
    migrations = load_migrations("sqlite")
    sqlite_schema.check_file(path, migrations[-1].version)
    raw = connect(path, what=WHAT)
    try:
        raw.execute(f"PRAGMA cache_size=-{_WRITER_CACHE_KIB}")
        raw.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        raw.execute(f"PRAGMA journal_size_limit={_WAL_LIMIT_BYTES}")
        sqlite_schema.migrate(raw, migrations)
        connection = SqliteWriterConnection(raw, clock)
        check_meta(connection, config)
    except sqlite3.Error as error:
        raw.close()
        raise StartupError("cannot_open", f"{WHAT} {path}: {error}") from error
    except StartupError:
        raw.close()
        raise
    return connection
