"""What a reader has in memory of each stream: where it goes on, and records fetched ahead."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.structs import TopicPartition

from service.domain.records import Record, Stream
from service.eventlog.kafka_batches import RawRecord

# What a record takes in memory besides its value.
_RECORD_BYTES: Final = 1024


@dataclass(slots=True)
class StreamState:
    """
    One stream that was assigned. `position` is the next offset to be fetched, None while the
    ledger was not asked for it; `stands_still` says why it is not read.
    """

    stream: Stream
    partition: TopicPartition
    position: int | None = None
    stands_still: str | None = None
    ahead: deque[Record] = field(default_factory=deque)

    @property
    def is_read(self) -> bool:
        return self.position is not None and self.stands_still is None


class Streams:
    """The streams of one assignment, taken from in turn so that none keeps another waiting."""

    def __init__(self) -> None:
        self._states: dict[TopicPartition, StreamState] = {}
        self._order: deque[StreamState] = deque()
        self.ahead_bytes = 0

    def assign(self, streams: Iterable[tuple[Stream, TopicPartition]]) -> None:
        """Begin anew with these streams, whose positions are not known yet."""
        self._states = {partition: StreamState(stream, partition) for stream, partition in streams}
        self._order = deque(self._states.values())
        self.ahead_bytes = 0

    def get(self, partition: TopicPartition) -> StreamState | None:
        """The state of a stream, None when it is not assigned."""
        return self._states.get(partition)

    def all(self) -> list[StreamState]:
        """Every assigned stream."""
        return list(self._states.values())

    def put(self, state: StreamState, records: Sequence[Record], position: int) -> None:
        """Records that were fetched, and the offset after them."""
        state.position = position
        state.ahead.extend(records)
        self.ahead_bytes += sum(map(_size, records))

    def go_to(self, state: StreamState, position: int) -> None:
        """Forget what was fetched ahead and go on at `position`."""
        self.ahead_bytes -= sum(map(_size, state.ahead))
        state.ahead.clear()
        state.position = position

    def take(self, room: int) -> list[Record]:
        """Share `room` among the streams that have records, another one first each time."""
        full = [state for state in self._order if state.ahead]
        taken: list[Record] = []
        for number, state in enumerate(full):
            share = -(-(room - len(taken)) // (len(full) - number))
            for _ in range(min(share, len(state.ahead))):
                taken.append(state.ahead.popleft())
        self.ahead_bytes -= sum(map(_size, taken))
        self._order.rotate(-1)
        return taken


def _size(record: Record) -> int:
    return len(record.value) + _RECORD_BYTES


def record_of(stream: Stream, row: Any) -> Record:
    """A record as aiokafka decoded it."""
    return _made(
        stream,
        row.offset,
        row.timestamp,
        row.key,
        row.value,
        {name: _text(value) for name, value in row.headers},
    )


def raw_record_of(stream: Stream, row: RawRecord) -> Record:
    """A record as `read_batches` decoded it."""
    headers = {_text(name): _text(value) for name, value in row.headers}
    return _made(stream, row.offset, row.timestamp_ms, row.key, row.value, headers)


def _made(
    stream: Stream,
    offset: int,
    timestamp_ms: int,
    key: bytes | None,
    value: bytes | None,
    headers: Mapping[str, str],
) -> Record:
    text = None if key is None else _text(key)
    return Record(stream, offset, text, value or b"", headers, timestamp_ms)


def _text(content: bytes | None) -> str:
    """What is not UTF-8 is replaced: a record must never hold up its stream."""
    return (content or b"").decode(errors="replace")


def where(stream: Stream, offset: int | None) -> dict[str, object]:
    """The fields of a log line about one place in one stream."""
    return {"topic": stream.topic.value, "partition": stream.partition, "offset": offset}
