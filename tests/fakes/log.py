"""A log in memory with one reader."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.domain.errors import LogUnavailableError
from service.domain.ports import PositionSource
from service.domain.records import NewRecord, Record, Stream
from tests.fakes.clock import FakeClock


@dataclass
class FakeLog:
    """Implements `EventLog` with one partition a topic."""

    clock: FakeClock
    streams: dict[Stream, list[Record]] = field(default_factory=dict)
    acknowledgements: dict[Stream, int] = field(default_factory=dict)
    free: int | None = None
    trims: list[int] = field(default_factory=list)
    acknowledging_fails: int = 0
    opening_fails: int = 0
    fetching_fails: int = 0
    opened: list["FakeReader"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.changed = asyncio.Event()

    def put(self, *records: Record) -> None:
        """Append records that a test made; their offsets may leave gaps."""
        for record in records:
            held = self.streams.setdefault(record.stream, [])
            assert not held or held[-1].offset < record.offset, "offsets grow"
            held.append(record)
        self.changed.set()

    async def append(self, record: NewRecord) -> None:
        stream = Stream(record.topic, 0)
        offset = (await self.end_positions()).get(stream, 0)
        self.put(
            Record(stream, offset, record.key, record.value, record.headers, self.clock.now_ms())
        )

    async def open_reader(self, positions: PositionSource) -> "FakeReader":
        if self.opening_fails:
            self.opening_fails -= 1
            raise LogUnavailableError("not_connected")
        at = dict.fromkeys(self.streams, 0)
        at.update(await positions(list(self.streams)))
        reader = FakeReader(self, at)
        self.opened.append(reader)
        return reader

    async def end_positions(self) -> Mapping[Stream, int]:
        return {stream: held[-1].offset + 1 for stream, held in self.streams.items() if held}

    async def acknowledged(self) -> Mapping[Stream, int]:
        return dict(self.acknowledgements)

    async def positions_at(self, time_ms: int) -> Mapping[Stream, int]:
        return {
            stream: sum(record.appended_at_ms < time_ms for record in held)
            for stream, held in self.streams.items()
        }

    async def trim(self, *, limit: int) -> int:
        return self.trims.pop(0) if self.trims else 0

    def free_bytes(self) -> int | None:
        return self.free


@dataclass
class FakeReader:
    """Implements `LogReader`; fetching waits for records, not for time."""

    log: FakeLog
    at: dict[Stream, int]
    sought: list[dict[Stream, int]] = field(default_factory=list)
    is_closed: bool = False

    async def fetch(self, *, max_records: int, wait_s: float) -> Sequence[Record]:
        assert not self.is_closed and wait_s > 0
        if self.log.fetching_fails:
            self.log.fetching_fails -= 1
            raise LogUnavailableError("not_connected")
        while True:
            self.log.changed.clear()
            found = self._next(max_records)
            if found:
                return found
            await self.log.changed.wait()

    def _next(self, max_records: int) -> list[Record]:
        found: list[Record] = []
        for stream, held in self.log.streams.items():
            start = self.at.get(stream, 0)
            room = max_records - len(found)
            fresh = [record for record in held if record.offset >= start][:room]
            if fresh:
                self.at[stream] = fresh[-1].offset + 1
            found += fresh
        return found

    async def seek(self, positions: Mapping[Stream, int]) -> None:
        self.sought.append(dict(positions))
        self.at.update(positions)

    async def acknowledge(self, positions: Mapping[Stream, int]) -> None:
        if self.log.acknowledging_fails:
            self.log.acknowledging_fails -= 1
            raise LogUnavailableError("not_writable")
        for stream, position in positions.items():
            assert position <= self.at[stream], "acknowledged before it was read"
            self.log.acknowledgements[stream] = position

    async def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True
