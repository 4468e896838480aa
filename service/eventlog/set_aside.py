"""Records that the spool's target refused for good, in the spool's file until it takes them."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import orjson

from service.domain.clock import Clock
from service.domain.records import NewRecord, Record, Stream, Topic
from service.eventlog.forwarding import Refusal
from service.eventlog.sqlite import SqliteEventLog, encode_headers

# Guarantees: a record that is refused again after a crash is kept once.
_ADD: Final = """
    INSERT INTO set_aside (
        topic, partition, record_offset, appended_at_ms, set_aside_at_ms, reason,
        key, headers, value
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING
"""
_READ: Final = """
    SELECT id, topic, partition, record_offset, appended_at_ms, key, headers, value
    FROM set_aside WHERE id > ? ORDER BY id LIMIT ?
"""
_REMOVE: Final = "DELETE FROM set_aside WHERE id = ?"
_MEASURE: Final = """
    SELECT count(*), coalesce(sum(length(value) + length(CAST(headers AS BLOB))), 0)
    FROM set_aside
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A record that is set aside; ids grow in the order in which that was done."""

    id: int
    record: Record


class SetAside:
    """
    The records set aside in the file of `log`, counted and measured. For one task.

    All methods raise LogUnavailableError; then nothing has changed.
    """

    def __init__(self, log: SqliteEventLog, clock: Clock, *, records: int, size_bytes: int) -> None:
        self.records = records
        self.size_bytes = size_bytes
        self._log = log
        self._clock = clock

    @classmethod
    async def open(cls, log: SqliteEventLog, clock: Clock) -> Self:
        """Measure what the file holds."""
        records, size_bytes = await log.commit(lambda file: file.execute(_MEASURE).fetchone())
        return cls(log, clock, records=records, size_bytes=size_bytes)

    async def add(self, refusals: Sequence[Refusal]) -> None:
        """Keep refused records; when this returns they are on disk."""
        now_ms = self._clock.now_ms()

        def insert(file: sqlite3.Connection) -> list[Record]:
            added = []
            for refusal in refusals:
                record = refusal.record
                parameters = (
                    record.stream.topic.value,
                    record.stream.partition,
                    record.offset,
                    record.appended_at_ms,
                    now_ms,
                    refusal.reason,
                    record.key,
                    encode_headers(record.headers).decode(),
                    record.value,
                )
                if file.execute(_ADD, parameters).rowcount:
                    added.append(record)
            return added

        added = await self._log.commit(insert)
        self.records += len(added)
        self.size_bytes += sum(size_of(record) for record in added)

    async def read(self, *, after: int, limit: int) -> Sequence[Kept]:
        """The next records whose id is above `after`."""
        rows = await self._log.commit(lambda file: file.execute(_READ, (after, limit)).fetchall())
        return [
            Kept(
                number,
                Record(
                    Stream(Topic(topic), partition),
                    offset,
                    key,
                    value,
                    orjson.loads(headers),
                    appended_at_ms,
                ),
            )
            for number, topic, partition, offset, appended_at_ms, key, headers, value in rows
        ]

    async def remove(self, taken: Sequence[Kept]) -> None:
        """Forget records that the target took at last."""
        numbers = [(kept.id,) for kept in taken]
        await self._log.commit(lambda file: file.executemany(_REMOVE, numbers))
        self.records -= len(taken)
        self.size_bytes -= sum(size_of(kept.record) for kept in taken)


def size_of(record: Record | NewRecord) -> int:
    """Bytes of a record's value and headers as the file holds them."""
    return len(record.value) + len(encode_headers(record.headers))
