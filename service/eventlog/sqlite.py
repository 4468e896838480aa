"""The embedded event log: one SQLite file, one thread that commits, no server."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Final, TypeVar
from zlib import crc32

import orjson

from service.domain.clock import Clock
from service.domain.errors import LogUnavailableError, PermanentError, RelayError, StartupError
from service.domain.ports import PositionSource, Step, StepHook, no_step
from service.domain.records import NewRecord, Stream, Topic
from service.eventlog.sqlite_file import WHAT, LogFile, StreamState, offset_of
from service.eventlog.sqlite_reader import SqliteLogReader, describe_mismatch
from service.group_commit import GroupCommitter, QueueFullError, StorageError
from service.sqlite import connect, free_bytes
from service.telemetry.metrics import Metrics

_DAY_S: Final = 86400.0
RETENTION_S: Final[Mapping[Topic, float]] = {
    Topic.ORDERS: 7 * _DAY_S,
    Topic.UNREADABLE: 3 * _DAY_S,
}

# Values that wait in memory for their commit; the number of records alone would let a burst of
# bodies at the size limit take gigabytes.
_MAX_QUEUE_BYTES: Final = 64 * 1024 * 1024
_MAX_BATCH: Final = 1024
# Every statement gives up the interpreter's lock and has to win it back from a busy event loop,
# so a commit inserts many rows at once. Powers of two keep the number of prepared statements low.
_MAX_ROWS: Final = 256

# The WAL is moved into the file after about this much, once the acknowledgements are out.
_CHECKPOINT_BYTES: Final = 1024 * 1024
# Beyond this the checkpoint no longer lets readers go first, but waits for them to pause.
_WAL_LIMIT_PAGES: Final = 4 * 1024
_WAL_PATIENCE_MS: Final = 100
_PAGE_BYTES: Final = 4096
_COLUMNS: Final = 5
_PAGES_PER_COMMIT: Final = 3  # pages written anew by a commit besides what its values fill

# Records removed in one transaction, for which appends wait: about 2 ms at 4 KB each.
_TRIM_BITE: Final = 100

_FULL_RETRY_S: Final = 1.0
_NOT_WRITABLE_RETRY_S: Final = 5.0

# The end of the first records from `first` on that are all older than the cutoff; `room` is how
# many are looked at, -1 for all.
_FIND_TRIMMABLE: Final = """
    SELECT coalesce(
        min(position) FILTER (WHERE appended_at_ms >= :cutoff_ms),
        max(position) + 1,
        :first
    ) FROM (
        SELECT position, appended_at_ms FROM records
        WHERE position >= :first AND position < :end
        ORDER BY position LIMIT :room
    )
"""
_DELETE: Final = "DELETE FROM records WHERE position >= ? AND position < ?"
_SET_FIRST: Final = "UPDATE streams SET first_offset = ? WHERE id = ?"
# Changes no page, so costs no commit, when nothing new was acknowledged.
_SET_ACKNOWLEDGED: Final = """
    UPDATE streams SET acknowledged = :position WHERE id = :id AND acknowledged IS NOT :position
"""
# Between two times that appends write it along; what a crash takes back is no longer than this.
_KEEP_ACKNOWLEDGED_MS: Final = 1000

T = TypeVar("T")

# A record to append, taken apart: stream, key, headers, value. A tuple, as it is the hot path.
_Append = tuple[StreamState, str | None, str, bytes]
# Something else for the writing thread to do, with transactions of its own.
_Work = Callable[[], int]


class SqliteEventLog:
    """
    The `EventLog` of an embedded service. To be opened with `open_sqlite_log`.

    A key's partition is the CRC-32 of its UTF-8 bytes, modulo the number of partitions; records
    without a key go round. `trim` gives back the room of what every reader has behind it.
    """

    def __init__(
        self,
        file: LogFile,
        *,
        metrics: Metrics,
        clock: Clock,
        step: StepHook,
        max_queue: int,
        retention_s: Mapping[Topic, float],
    ) -> None:
        self._file = file
        self._connection = file.connection
        self._metrics = metrics
        self._clock = clock
        self._step = step
        self._retention_s = retention_s
        self._partitions: dict[Topic, list[StreamState]] = {topic: [] for topic in Topic}
        for state in file.streams:
            self._partitions[state.stream.log_topic].append(state)
        self._turns = count()
        self._readers: set[SqliteLogReader] = set()
        self._waiting_bytes = 0
        self._uncheckpointed_bytes = 0
        self._acknowledged_kept_ms = 0
        self._committer = GroupCommitter[_Append | _Work, int](
            self._commit,
            name="log-writer",
            max_batch=_MAX_BATCH,
            max_queue=max_queue,
            on_batch=self._on_batch,
            after_batch=self._checkpoint,
        )
        # Asked when scraped: a disk that hangs must not leave the last good number standing.
        metrics.log_connected.set(1)
        metrics.log_queue.set_function(lambda: self._committer.waiting)

    async def append(self, record: NewRecord) -> None:
        partitions = self._partitions[record.topic]
        key = record.key
        try:
            number = next(self._turns) if key is None else crc32(key.encode())
        except UnicodeEncodeError as error:
            raise PermanentError("not_unicode", "a key is not valid text") from error
        headers = encode_headers(record.headers).decode()
        size = len(record.value)
        if self._waiting_bytes + size > _MAX_QUEUE_BYTES and self._waiting_bytes:
            raise LogUnavailableError(
                "queue_full",
                f"{self._waiting_bytes} bytes wait already",
                retry_after_s=_FULL_RETRY_S,
            )
        state = partitions[number % len(partitions)]
        self._waiting_bytes += size
        try:
            await self._submit((state, key, headers, record.value))
        finally:
            self._waiting_bytes -= size

    async def open_reader(self, positions: PositionSource) -> SqliteLogReader:
        """Raises: StartupError when the ledger is at a position that this log does not have."""
        streams = self._file.streams
        connection = await asyncio.to_thread(connect, self._file.path, what=WHAT, read_only=True)
        try:
            wanted = await positions([state.stream for state in streams])
            start = {state.stream: wanted.get(state.stream, state.first) for state in streams}
            mismatches = [describe_mismatch(state, start[state.stream]) for state in streams]
            if any(mismatches):
                raise StartupError(
                    "position_out_of_range",
                    "; ".join(filter(None, mismatches))
                    + "; ledger and log do not belong together, put back the files that do",
                )
        except BaseException:
            connection.close()
            raise
        # Known to `trim` before it can run again.
        reader = SqliteLogReader(connection, start, streams=streams, on_close=self._readers.discard)
        self._readers.add(reader)
        return reader

    async def end_positions(self) -> Mapping[Stream, int]:
        return {state.stream: state.end for state in self._file.streams}

    async def acknowledged(self) -> Mapping[Stream, int]:
        return {
            state.stream: state.acknowledged
            for state in self._file.streams
            if state.acknowledged is not None
        }

    def free_bytes(self) -> int | None:
        return free_bytes(self._file.path)

    async def positions_at(self, time_ms: int) -> Mapping[Stream, int]:
        return await asyncio.to_thread(self._find_positions, time_ms)

    async def trim(self, *, limit: int) -> int:
        """
        Remove up to `limit` records that are past retention and behind every reader.

        Without a reader nothing is removed: how far the ledger is, only a reader knows. Appends
        go on in between, as it is done in small bites.
        Returns: how many were removed; less than `limit` when nothing more is to be removed.
        Raises: LogUnavailableError.
        """
        total = 0
        while total < limit and self._readers:
            bite = min(_TRIM_BITE, limit - total)
            before = [
                (state, min(reader.acknowledged[state.stream] for reader in self._readers))
                for state in self._file.streams
            ]
            removed = await self._submit(partial(self._trim, bite, before))
            total += removed
            if removed < bite:
                break
        return total

    @property
    def records(self) -> int:
        """How many records the file holds."""
        return sum(state.end - state.first for state in self._file.streams)

    @property
    def waiting(self) -> int:
        """What was submitted and has no answer yet; a caller that was cancelled counts too."""
        return self._committer.waiting

    async def commit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """
        Run `work` on the writing thread, in a transaction of its own, after what waits already.

        Raises: LogUnavailableError; then nothing of it is left.
        """
        results: list[T] = []

        def run() -> int:
            changes = self._connection.total_changes
            with self._transaction():
                results.append(work(self._connection))
                self._keep_acknowledged()
            if self._connection.total_changes > changes:
                self._uncheckpointed_bytes += _CHECKPOINT_BYTES  # who knows how much it was
            return 0

        await self._submit(run)
        return results[0]

    async def close(self) -> None:
        """Commit what waits, close the readers that are still open, then the file."""
        # What was acknowledged last may get lost: it only makes it older.
        with contextlib.suppress(LogUnavailableError):
            await self.commit(lambda _: None)
        await self._committer.close()
        for reader in list(self._readers):
            await reader.close()
        await asyncio.to_thread(self._file.close)

    def _find_positions(self, time_ms: int) -> Mapping[Stream, int]:
        connection = connect(self._file.path, what=WHAT, read_only=True)
        try:
            found = {}
            for state in self._file.streams:
                (end,) = connection.execute(
                    _FIND_TRIMMABLE,
                    {
                        "first": state.position(state.first),
                        "end": state.position(state.end),
                        "cutoff_ms": time_ms,
                        "room": -1,
                    },
                ).fetchone()
                found[state.stream] = offset_of(end)
            return found
        finally:
            connection.close()

    async def _submit(self, item: _Append | _Work) -> int:
        try:
            return await self._committer.submit(item)
        except QueueFullError as error:
            raise LogUnavailableError(
                "queue_full", error.detail, retry_after_s=_FULL_RETRY_S
            ) from error
        except StorageError as error:
            raise LogUnavailableError(
                "not_writable",
                error.detail or error.reason,
                retry_after_s=_NOT_WRITABLE_RETRY_S,
            ) from error

    def _on_batch(self, size: int, waiting: int) -> None:
        for reader in self._readers:
            reader.wake()

    # What follows runs on the writing thread.

    def _commit(self, batch: Sequence[_Append | _Work]) -> Sequence[int | RelayError]:
        appends = [item for item in batch if isinstance(item, tuple)]
        if appends:
            self._commit_records(appends)
        if len(appends) == len(batch):
            return [0] * len(batch)
        return [0 if isinstance(item, tuple) else _attempt(item) for item in batch]

    def _commit_records(self, appends: Sequence[_Append]) -> None:
        now_ms = self._clock.now_ms()
        ends: dict[int, int] = {}
        parameters: list[int | str | bytes | None] = []
        for state, key, headers, value in appends:
            offset = ends.get(state.id, state.end)
            ends[state.id] = offset + 1
            parameters += (state.position(offset), now_ms, key, headers, value)
            self._uncheckpointed_bytes += len(value)
        with self._transaction():
            start = 0
            while start < len(appends):
                rows = min(_MAX_ROWS, 1 << ((len(appends) - start).bit_length() - 1))
                self._connection.execute(
                    _insert(rows), parameters[start * _COLUMNS : (start + rows) * _COLUMNS]
                )
                start += rows
            if now_ms - self._acknowledged_kept_ms >= _KEEP_ACKNOWLEDGED_MS:
                self._acknowledged_kept_ms = now_ms
                self._keep_acknowledged()
            self._step(Step.LOG_BEFORE_COMMIT)
        for state in self._file.streams:
            state.end = ends.get(state.id, state.end)
        self._metrics.log_commit_records.observe(len(appends))
        self._step(Step.LOG_AFTER_COMMIT)

    def _keep_acknowledged(self) -> None:
        """Write how far the ledger is; part of the transaction that is open."""
        for state in self._file.streams:
            if state.acknowledged is not None:
                self._connection.execute(
                    _SET_ACKNOWLEDGED, {"position": state.acknowledged, "id": state.id}
                )

    def _trim(self, limit: int, before: Sequence[tuple[StreamState, int]]) -> int:
        now_ms = self._clock.now_ms()
        firsts: dict[int, int] = {}
        room = limit
        with self._transaction():
            self._keep_acknowledged()
            for state, offset in before:
                first = state.position(state.first)
                (end,) = self._connection.execute(
                    _FIND_TRIMMABLE,
                    {
                        "first": first,
                        "end": state.position(offset),
                        "cutoff_ms": now_ms - int(self._retention_s[state.stream.log_topic] * 1000),
                        "room": room,
                    },
                ).fetchone()
                if end == first:
                    continue
                self._connection.execute(_DELETE, (first, end))
                self._connection.execute(_SET_FIRST, (offset_of(end), state.id))
                firsts[state.id] = offset_of(end)
                room -= end - first
        for state in self._file.streams:
            state.first = firsts.get(state.id, state.first)
        removed = limit - room
        self._uncheckpointed_bytes += removed * _PAGE_BYTES
        if removed:
            self._step(Step.LOG_TRIMMED)
        return removed

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what the block does; nothing of it is left when it fails."""
        connection = self._connection
        if connection.in_transaction:
            # Its rollback failed with the disk; nobody was told that it had been committed.
            connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            # SQLite rolls back by itself after some errors.
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise

    def _checkpoint(self) -> None:
        """
        Keep the WAL short. Between two checkpoints it grows by `_CHECKPOINT_BYTES` or so.

        A checkpoint lets readers finish; the WAL begins anew once none of them is in it. Readers
        that are always in it are waited for briefly when it has grown too long.
        """
        self._uncheckpointed_bytes += _PAGES_PER_COMMIT * _PAGE_BYTES
        if self._uncheckpointed_bytes < _CHECKPOINT_BYTES:
            return
        self._uncheckpointed_bytes = 0
        execute = self._connection.execute
        # What a full disk refuses here stays in the WAL, where it is durable.
        with contextlib.suppress(sqlite3.Error):
            _, pages, _ = execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if pages > _WAL_LIMIT_PAGES:
                (patience_ms,) = execute("PRAGMA busy_timeout").fetchone()
                execute(f"PRAGMA busy_timeout={_WAL_PATIENCE_MS}")
                execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                execute(f"PRAGMA busy_timeout={patience_ms}")


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """The headers as the log stores them. Raises: PermanentError."""
    try:
        return orjson.dumps(dict(headers))
    except orjson.JSONEncodeError as error:
        raise PermanentError("not_unicode", "a header is not valid text") from error


def _attempt(work: _Work) -> int | RelayError:
    try:
        return work()
    except sqlite3.Error as error:
        return StorageError("not_committed", str(error))


@cache
def _insert(rows: int) -> str:
    row = f"({', '.join('?' * _COLUMNS)})"
    return f"INSERT INTO records VALUES {', '.join([row] * rows)}"


@asynccontextmanager
async def open_sqlite_log(
    path: Path,
    *,
    metrics: Metrics,
    clock: Clock,
    step: StepHook = no_step,
    partitions: int = 4,
    max_queue: int = 10_000,
    retention_s: Mapping[Topic, float] = RETENTION_S,
) -> AsyncIterator[SqliteEventLog]:
    """
    The log in the file at `path`, made when it is missing, for this process alone.

    Args:
        partitions: of each topic, in a new file; an existing one keeps its own number.
        max_queue: records that may wait for a commit; more are refused.
        retention_s: how long a record is kept at least, by topic.
    Raises: StartupError (in use, another kind of file, newer schema, not writable).
    """
    file = await asyncio.to_thread(LogFile.open, path, partitions=partitions)
    log = SqliteEventLog(
        file,
        metrics=metrics,
        clock=clock,
        step=step,
        max_queue=max_queue,
        retention_s=retention_s,
    )
    try:
        yield log
    finally:
        await log.close()
