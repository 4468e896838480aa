"""The embedded log's file: its schema, its streams, and how it is opened without harm to others."""

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from service.domain.errors import StartupError
from service.domain.records import Stream, Topic
from service.sqlite import FileLock, check_identity, connect

WHAT: Final = "log"
APPLICATION_ID: Final = 0x524C4F47  # "RLOG"

# A record's position in the file is its stream's id above these bits and its offset within them,
# so a stream is one range of the primary key and needs no index.
OFFSET_BITS: Final = 48
_OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1

# Offsets are never used twice: what `first_offset` says was trimmed stays counted.
_CREATE: Final = (
    """
    CREATE TABLE streams (
        id INTEGER PRIMARY KEY,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        first_offset INTEGER NOT NULL DEFAULT 0,
        UNIQUE (topic, partition)
    ) STRICT
    """,
    # What is small stands before the value, so that trimming reads no overflow pages.
    """
    CREATE TABLE records (
        position INTEGER PRIMARY KEY,
        appended_at_ms INTEGER NOT NULL,
        key TEXT,
        headers TEXT NOT NULL,
        value BLOB NOT NULL
    ) STRICT
    """,
    f"PRAGMA application_id={APPLICATION_ID}",
)
# How far the ledger is (null: never told), and what the spool's target refused for good.
_ADD_ACKNOWLEDGED_AND_SET_ASIDE: Final = (
    "ALTER TABLE streams ADD COLUMN acknowledged INTEGER",
    """
    CREATE TABLE set_aside (
        id INTEGER PRIMARY KEY,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        record_offset INTEGER NOT NULL,
        appended_at_ms INTEGER NOT NULL,
        set_aside_at_ms INTEGER NOT NULL,
        reason TEXT NOT NULL,
        key TEXT,
        headers TEXT NOT NULL,
        value BLOB NOT NULL,
        UNIQUE (topic, partition, record_offset)
    ) STRICT
    """,
)
# From no version to 1, from 1 to 2; never edited once released.
_MIGRATIONS: Final = (_CREATE, _ADD_ACKNOWLEDGED_AND_SET_ASIDE)
SCHEMA_VERSION: Final = len(_MIGRATIONS)
_ADD_STREAM: Final = "INSERT INTO streams (topic, partition) VALUES (?, ?)"
_LIST_TOPICS: Final = "SELECT DISTINCT topic FROM streams"
_LIST_STREAMS: Final = (
    "SELECT id, topic, partition, first_offset, acknowledged FROM streams ORDER BY id"
)
_LAST_POSITION: Final = (
    "SELECT position FROM records WHERE position BETWEEN ? AND ? ORDER BY position DESC LIMIT 1"
)


@dataclass(slots=True)
class StreamState:
    """
    One stream of the file: which offsets it holds, `first` to `end` without a gap.

    Only the writing thread changes these, after a commit; any thread may read them.
    `acknowledged` is how far the ledger is, set by the readers on the event loop and written with
    a later commit; None when no reader ever told.
    """

    id: int
    stream: Stream
    first: int
    end: int
    acknowledged: int | None = None

    def position(self, offset: int) -> int:
        """Where `offset` of this stream stands in the file."""
        return self.id << OFFSET_BITS | offset


def offset_of(position: int) -> int:
    """The offset within its stream of a position in the file."""
    return position & _OFFSET_MASK


class LogFile:
    """The open file: the lock, the connection that writes, and the streams. Blocking."""

    def __init__(
        self,
        path: Path,
        lock: FileLock,
        connection: sqlite3.Connection,
        streams: tuple[StreamState, ...],
    ) -> None:
        self.path = path
        self.connection = connection
        self.streams = streams
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, partitions: int) -> Self:
        """
        Open or create the log at `path`, with `partitions` for topics it does not know yet.

        The topics it knows keep their number of partitions: another number would send a key's
        next record elsewhere and so break its order.
        Raises: StartupError (in use, not a log, newer, not writable).
        """
        with contextlib.ExitStack() as cleanup:
            lock = FileLock(path, what=WHAT)
            cleanup.callback(lock.release)
            check_identity(
                path, what=WHAT, application_id=APPLICATION_ID, newest_version=SCHEMA_VERSION
            )
            _sync_wal(path)
            connection = connect(path, what=WHAT)
            cleanup.callback(connection.close)
            try:
                streams = _prepare(connection, partitions)
            except sqlite3.Error as error:
                raise StartupError("cannot_open", f"{WHAT} {path}: {error}") from error
            cleanup.pop_all()
        return cls(path, lock, connection, streams)

    def close(self) -> None:
        """Move what the WAL holds into the file and give it free; readers are closed before."""
        self.connection.close()
        self._lock.release()


def _sync_wal(path: Path) -> None:
    """
    Put on disk what a killed process had written but not synced.

    SQLite recovers such a commit as it finds it; without this, a reader could hand on a record
    that a power cut still takes back.
    """
    wal = path.with_name(path.name + "-wal")
    try:
        descriptor = os.open(wal, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartupError("cannot_open", f"{WHAT} {wal}: {error.strerror}") from error


def _prepare(connection: sqlite3.Connection, partitions: int) -> tuple[StreamState, ...]:
    # Trimmed bytes are overwritten: they hold personal data.
    connection.execute("PRAGMA secure_delete=ON")
    # The writer checkpoints by itself, once the acknowledgements are out.
    connection.execute("PRAGMA wal_autocheckpoint=0")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    known = set() if version == 0 else {topic for (topic,) in connection.execute(_LIST_TOPICS)}
    missing = [topic for topic in Topic if topic not in known]
    if missing or version < SCHEMA_VERSION:
        connection.execute("BEGIN IMMEDIATE")
        for migration in _MIGRATIONS[version:]:
            for statement in migration:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        rows = [(topic.value, number) for topic in missing for number in range(partitions)]
        connection.executemany(_ADD_STREAM, rows)
        connection.execute("COMMIT")
    topics = {topic.value: topic for topic in Topic}
    return tuple(
        _read_state(connection, stream_id, Stream(topics[name], partition), first, acknowledged)
        for stream_id, name, partition, first, acknowledged in connection.execute(
            _LIST_STREAMS
        ).fetchall()
        if name in topics
    )


def _read_state(
    connection: sqlite3.Connection,
    stream_id: int,
    stream: Stream,
    first: int,
    acknowledged: int | None,
) -> StreamState:
    state = StreamState(stream_id, stream, first, first, acknowledged)
    last = connection.execute(
        _LAST_POSITION, (state.position(first), state.position(_OFFSET_MASK))
    ).fetchone()
    if last is not None:
        state.end = offset_of(last[0]) + 1
    return state
