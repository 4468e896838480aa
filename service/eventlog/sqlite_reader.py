"""Reads the embedded log, on a thread of its own, woken by what is committed."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import orjson

from service.domain.errors import LogUnavailableError
from service.domain.records import Record, Stream
from service.eventlog.sqlite_file import OFFSET_BITS, StreamState, offset_of

# Ranges in one statement cost one way to the thread and one snapshot; the outer order keeps each
# stream's records in order whatever the planner makes of the union.
_RANGE: Final = (
    "SELECT position, appended_at_ms, key, headers, value FROM records"
    " WHERE position >= ? AND position < ?"
)

_Range = tuple[StreamState, int, int]  # the stream, the offsets from and to (not included)


class SqliteLogReader:
    """
    The `LogReader` of an `SqliteEventLog`; streams it does not have are ignored.

    `acknowledged` is how far the ledger is, at least where this reader began: what lies behind
    it may be trimmed.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        positions: Mapping[Stream, int],
        *,
        streams: Sequence[StreamState],
        on_close: Callable[["SqliteLogReader"], None],
    ) -> None:
        self.acknowledged = dict(positions)
        self._positions = dict(positions)
        self._connection = connection
        self._streams = list(streams)
        self._on_close = on_close
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="log-reader")
        self._closed = False

    @property
    def behind(self) -> int:
        """How many committed records were not fetched yet."""
        return sum(state.end - self._positions[state.stream] for state in self._streams)

    def wake(self) -> None:
        """Something was committed."""
        self._arrived.set()

    async def fetch(self, *, max_records: int, wait_s: float) -> Sequence[Record]:
        if self._closed:
            raise LogUnavailableError("closed")
        ranges = self._next_ranges(max_records)
        if not ranges:
            try:
                async with asyncio.timeout(wait_s):
                    while not ranges:
                        self._arrived.clear()
                        await self._arrived.wait()
                        ranges = self._next_ranges(max_records)
            except TimeoutError:
                return ()
        loop = asyncio.get_running_loop()
        try:
            records = await loop.run_in_executor(self._thread, self._read, ranges)
        except sqlite3.Error as error:
            raise LogUnavailableError("not_readable", str(error)) from error
        if len(records) != sum(end - start for _, start, end in ranges):
            raise LogUnavailableError("not_readable", "records that were committed are missing")
        for state, _, end in ranges:
            self._positions[state.stream] = end
        return records

    async def seek(self, positions: Mapping[Stream, int]) -> None:
        for state in self._streams:
            position = positions.get(state.stream)
            if position is not None:
                mismatch = describe_mismatch(state, position)
                if mismatch:
                    raise ValueError(mismatch)
                self._positions[state.stream] = position

    async def acknowledge(self, positions: Mapping[Stream, int]) -> None:
        for state in self._streams:
            position = positions.get(state.stream)
            if position is not None:
                position = max(position, self.acknowledged[state.stream])
                self.acknowledged[state.stream] = state.acknowledged = position

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._on_close(self)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=False)

    def _next_ranges(self, room: int) -> Sequence[_Range]:
        """Share `room` among the streams that have records, another one first each time."""
        behind = [state for state in self._streams if state.end > self._positions[state.stream]]
        ranges = []
        for number, state in enumerate(behind):
            start = self._positions[state.stream]
            share = -(-room // (len(behind) - number))
            end = min(state.end, start + share)
            if end > start:
                ranges.append((state, start, end))
                room -= end - start
        if ranges:
            self._streams.append(self._streams.pop(0))
        return ranges

    def _read(self, ranges: Sequence[_Range]) -> Sequence[Record]:
        statement = " UNION ALL ".join([_RANGE] * len(ranges)) + " ORDER BY position"
        bounds = [state.position(offset) for state, start, end in ranges for offset in (start, end)]
        streams = {state.id: state.stream for state, _, _ in ranges}
        return [
            Record(
                streams[position >> OFFSET_BITS],
                offset_of(position),
                key,
                value,
                orjson.loads(headers),
                appended_at_ms,
            )
            for position, appended_at_ms, key, headers, value in self._connection.execute(
                statement, bounds
            ).fetchall()
        ]


def describe_mismatch(state: StreamState, position: int) -> str | None:
    """What is wrong with going on at `position`, None when nothing is."""
    if state.first <= position <= state.end:
        return None
    return (
        f"{state.stream.topic} partition {state.stream.partition} is wanted from offset "
        f"{position}, the log has {state.first} to {state.end}"
    )
