"""What every event log promises; an implementation joins as one parameter of `harness`."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio
from aiokafka.structs import TopicPartition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.domain.clock import SteadyClock
from service.domain.errors import PermanentError
from service.domain.ports import EventLog, LogReader
from service.domain.records import NewRecord, Record, Stream, Topic
from service.eventlog.kafka_config import KafkaConfig
from service.eventlog.sqlite import SqliteEventLog, open_sqlite_log
from service.telemetry.metrics import Metrics
from tests.integration.kafka_log import config_of, delete_records, make_topics, open_log

ARRIVAL_S = 10.0  # far more than any implementation needs
NOT_YET_S = 0.05


class Harness(Protocol):
    """One implementation: each `open` is a new start of the process on the same stored log."""

    def open(self) -> AbstractAsyncContextManager[EventLog]: ...

    async def remove_old(self, log: EventLog) -> None:
        """Let the log remove everything that it may remove, however young."""
        ...


class SqliteHarness:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> AbstractAsyncContextManager[EventLog]:
        return open_sqlite_log(
            self._path,
            metrics=Metrics(CollectorRegistry()),
            clock=SteadyClock(),
            retention_s=dict.fromkeys(Topic, -1.0),
        )

    async def remove_old(self, log: EventLog) -> None:
        assert isinstance(log, SqliteEventLog)
        while await log.trim(limit=100):
            pass


class KafkaHarness:
    def __init__(self, config: KafkaConfig) -> None:
        self._config = config

    def open(self) -> AbstractAsyncContextManager[EventLog]:
        return open_log(self._config)

    async def remove_old(self, log: EventLog) -> None:
        acknowledged = await log.acknowledged()
        await delete_records(
            self._config,
            {
                TopicPartition(self._config.name(stream.log_topic), stream.partition): position
                for stream, position in acknowledged.items()
            },
        )


@pytest_asyncio.fixture(params=["sqlite", "kafka"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    if request.param == "sqlite":
        return SqliteHarness(tmp_path / "log.db")
    config = config_of(request.getfixturevalue("kafka_server"))
    await make_topics(config)
    return KafkaHarness(config)


@pytest_asyncio.fixture
async def log(harness: Harness) -> AsyncIterator[EventLog]:
    async with harness.open() as opened:
        yield opened


async def from_the_beginning(streams: Sequence[Stream]) -> Mapping[Stream, int]:
    return {}


@pytest_asyncio.fixture
async def reader(log: EventLog) -> AsyncIterator[LogReader]:
    opened = await log.open_reader(from_the_beginning)
    yield opened
    await opened.close()


def order(key: str | None, value: bytes = b"{}") -> NewRecord:
    return NewRecord(Topic.ORDERS, key, value)


async def append_all(log: EventLog, records: Sequence[NewRecord]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for record in records:
            tasks.create_task(log.append(record))


async def read(reader: LogReader, number: int) -> list[Record]:
    """Exactly `number` records, after which there is none."""
    records: list[Record] = []
    async with asyncio.timeout(ARRIVAL_S):
        while len(records) < number:
            records += await reader.fetch(max_records=number - len(records), wait_s=1.0)
    assert len(records) == number
    assert not await reader.fetch(max_records=1, wait_s=NOT_YET_S)
    return records


def positions_after(records: Sequence[Record]) -> dict[Stream, int]:
    return {record.stream: record.offset + 1 for record in records}


texts = st.text(max_size=40)
new_records = st.builds(
    NewRecord,
    topic=st.sampled_from(Topic),
    key=st.none() | texts,
    value=st.binary(max_size=6000),
    headers=st.dictionaries(texts, texts, max_size=4),
)


@given(records=st.lists(new_records, min_size=1, max_size=20))
@settings(
    max_examples=40,
    deadline=None,
    # One log and one reader serve all examples: each example reads exactly what it appended.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_keys_headers_and_bytes_come_back_untouched(
    log: EventLog, reader: LogReader, records: list[NewRecord]
) -> None:
    await append_all(log, records)

    found = await read(reader, len(records))

    def content(
        topic: Topic, record: NewRecord | Record
    ) -> tuple[Topic, str, bytes, list[tuple[str, str]]]:
        return topic, repr(record.key), record.value, sorted(record.headers.items())

    assert sorted(content(record.stream.log_topic, record) for record in found) == sorted(
        content(record.topic, record) for record in records
    )


async def test_text_that_is_not_unicode_is_refused_for_good(
    log: EventLog, reader: LogReader
) -> None:
    with pytest.raises(PermanentError):
        await log.append(order("\ud800"))
    with pytest.raises(PermanentError):
        await log.append(NewRecord(Topic.ORDERS, "1", b"", {"name": "\udfff"}))
    await log.append(order("1"))
    assert [record.key for record in await read(reader, 1)] == ["1"]


async def test_records_of_one_key_stay_in_order(log: EventLog, reader: LogReader) -> None:
    async def append_in_turn(key: str) -> None:
        for number in range(20):
            await log.append(order(key, str(number).encode()))

    async with asyncio.TaskGroup() as tasks:
        for key in range(10):
            tasks.create_task(append_in_turn(str(key)))

    values: dict[str | None, list[int]] = defaultdict(list)
    streams: dict[str | None, set[Stream]] = defaultdict(set)
    for record in await read(reader, 200):
        values[record.key].append(int(record.value))
        streams[record.key].add(record.stream)
    assert all(numbers == list(range(20)) for numbers in values.values())
    assert all(len(found) == 1 for found in streams.values())


async def test_a_key_keeps_its_stream_over_a_restart(harness: Harness) -> None:
    found: dict[str | None, set[Stream]] = defaultdict(set)
    for start in range(2):
        async with harness.open() as log:
            await append_all(log, [order(str(key)) for key in range(20)])
            reader = await log.open_reader(from_the_beginning)
            for record in await read(reader, 20 * (start + 1)):
                found[record.key].add(record.stream)
            await reader.close()
    assert all(len(streams) == 1 for streams in found.values())


@pytest.mark.parametrize("with_key", [True, False])
async def test_records_spread_over_the_streams_of_their_topic(
    log: EventLog, reader: LogReader, with_key: bool
) -> None:
    await append_all(log, [order(str(number) if with_key else None) for number in range(100)])
    streams = {record.stream for record in await read(reader, 100)}
    assert streams == {s for s in await log.end_positions() if s.topic is Topic.ORDERS}
    assert len(streams) > 1


async def test_concurrent_appends_are_all_there_after_a_restart(harness: Harness) -> None:
    async with harness.open() as log:
        await append_all(log, [order(str(number)) for number in range(500)])
    async with harness.open() as log:
        reader = await log.open_reader(from_the_beginning)
        found = await read(reader, 500)
        await reader.close()
    assert {record.key for record in found} == {str(number) for number in range(500)}


async def test_end_positions_are_the_offsets_of_the_next_records(harness: Harness) -> None:
    async with harness.open() as log:
        reader = await log.open_reader(from_the_beginning)
        before = await log.end_positions()
        await append_all(log, [order(str(number)) for number in range(50)])
        ends = await log.end_positions()
        offsets: dict[Stream, list[int]] = defaultdict(list)
        for record in await read(reader, 50):
            offsets[record.stream].append(record.offset)
        await reader.close()
    for stream, end in ends.items():
        assert offsets[stream] == list(range(before[stream], end))
    async with harness.open() as log:
        assert await log.end_positions() == ends


async def test_a_reader_begins_where_the_ledger_is(harness: Harness) -> None:
    async with harness.open() as log:
        await append_all(log, [order(str(number)) for number in range(40)])
        reader = await log.open_reader(from_the_beginning)
        done = [*await reader.fetch(max_records=15, wait_s=ARRIVAL_S)]
        not_committed = await reader.fetch(max_records=5, wait_s=ARRIVAL_S)
        await reader.close()
    assert done
    assert not_committed

    asked: list[Stream] = []

    async def ledger(streams: Sequence[Stream]) -> Mapping[Stream, int]:
        asked.extend(streams)
        return positions_after(done)

    async with harness.open() as log:
        assert {record.stream for record in done} <= set(await log.end_positions())
        reader = await log.open_reader(ledger)
        again = await read(reader, 40 - len(done))
        await reader.close()
    assert set(positions_after(done)) <= set(asked)
    assert {record.key for record in again}.isdisjoint(record.key for record in done)
    assert {record.key for record in not_committed} <= {record.key for record in again}


async def test_seek_hands_out_again_what_was_not_committed(
    log: EventLog, reader: LogReader
) -> None:
    await append_all(log, [order(str(number)) for number in range(30)])
    first = await read(reader, 30)
    committed, given_up = first[:10], first[10:]
    positions = {record.stream: record.offset for record in reversed(given_up)}

    await reader.seek(positions)

    again = await read(reader, 20)
    assert {(r.stream, r.offset) for r in again} == {(r.stream, r.offset) for r in given_up}
    assert {r.key for r in again}.isdisjoint(r.key for r in committed)


async def test_fetch_ends_with_nothing_when_nothing_comes(reader: LogReader) -> None:
    async with asyncio.timeout(ARRIVAL_S):
        assert not await reader.fetch(max_records=10, wait_s=NOT_YET_S)
        assert not await reader.fetch(max_records=10, wait_s=0.0)


async def test_a_waiting_fetch_gets_what_is_appended_meanwhile(
    log: EventLog, reader: LogReader
) -> None:
    assert not await reader.fetch(max_records=10, wait_s=NOT_YET_S)
    waiting = asyncio.create_task(reader.fetch(max_records=10, wait_s=ARRIVAL_S))
    await asyncio.sleep(0)
    await log.append(order("1"))
    assert [record.key for record in await waiting] == ["1"]


async def test_a_fetch_that_was_cancelled_loses_nothing(log: EventLog, reader: LogReader) -> None:
    await append_all(log, [order(str(number)) for number in range(10)])
    for turns in range(4):
        fetch = asyncio.create_task(reader.fetch(max_records=10, wait_s=ARRIVAL_S))
        for _ in range(turns):
            await asyncio.sleep(0)
        if not fetch.cancel():
            await reader.seek({r.stream: 0 for r in await fetch})
        await asyncio.wait([fetch])
    assert {record.key for record in await read(reader, 10)} == set(map(str, range(10)))


async def test_a_long_stream_does_not_keep_the_others_waiting(
    log: EventLog, reader: LogReader
) -> None:
    await append_all(log, [order("the same") for _ in range(300)])
    await log.append(NewRecord(Topic.UNREADABLE, None, b"?"))
    seen: list[Topic] = []
    async with asyncio.timeout(ARRIVAL_S):
        while len(seen) < 301:
            records = await reader.fetch(max_records=10, wait_s=1.0)
            assert len(records) <= 10
            seen += [record.stream.log_topic for record in records]
    # Two topics of a few streams each: the short one has had its turn by then.
    assert Topic.UNREADABLE in seen[:200]


async def test_appended_at_is_about_now(log: EventLog, reader: LogReader) -> None:
    clock = SteadyClock()
    before = clock.now_ms()
    await log.append(order("1"))
    (record,) = await read(reader, 1)
    assert before - 1 <= record.appended_at_ms <= clock.now_ms() + 1


async def test_acknowledging_moves_no_reader(log: EventLog, reader: LogReader) -> None:
    await append_all(log, [order(str(number)) for number in range(10)])
    await reader.acknowledge(await log.end_positions())
    await read(reader, 10)


async def test_what_was_acknowledged_is_known_after_a_restart(harness: Harness) -> None:
    async with harness.open() as log:
        assert not await log.acknowledged()
        await append_all(log, [order(str(number)) for number in range(40)])
        reader = await log.open_reader(from_the_beginning)
        done = await reader.fetch(max_records=15, wait_s=ARRIVAL_S)
        acknowledged = positions_after(done)
        await reader.acknowledge(acknowledged)
        assert await reader.fetch(max_records=15, wait_s=ARRIVAL_S)
        await reader.close()

    async def ledger(streams: Sequence[Stream]) -> Mapping[Stream, int]:
        return acknowledged

    async with harness.open() as log:
        assert await log.acknowledged() == acknowledged
        # Reading on acknowledges nothing, also not the streams that were never acknowledged.
        reader = await log.open_reader(ledger)
        await read(reader, 40 - len(done))
        await reader.close()
    async with harness.open() as log:
        assert await log.acknowledged() == acknowledged


async def test_what_was_not_acknowledged_is_never_removed(harness: Harness) -> None:
    """P3: a reader that is slower than retention loses nothing."""
    async with harness.open() as log:
        await append_all(log, [order(str(number)) for number in range(40)])
        reader = await log.open_reader(from_the_beginning)
        records = await read(reader, 40)
        acknowledged = positions_after(records[:15])
        await reader.acknowledge(acknowledged)
        await harness.remove_old(log)
        await reader.seek(dict.fromkeys(positions_after(records), 0) | acknowledged)
        left = await read(reader, 25)
        ends = await log.end_positions()
        await reader.close()

    async def ledger(streams: Sequence[Stream]) -> Mapping[Stream, int]:
        return acknowledged

    async with harness.open() as log:
        assert await log.end_positions() == ends
        reader = await log.open_reader(ledger)
        await harness.remove_old(log)
        assert await read(reader, 25) == left
        await reader.close()


async def test_room_left_is_told_or_none(log: EventLog) -> None:
    room = log.free_bytes()
    assert room is None or room > 0


async def test_positions_at_a_time_are_those_of_the_first_records_since(
    log: EventLog, reader: LogReader
) -> None:
    await append_all(log, [order(str(number)) for number in range(20)])
    ends = await log.end_positions()
    first = await read(reader, 20)
    youngest_ms = max(record.appended_at_ms for record in first)
    assert await log.positions_at(0) == dict.fromkeys(ends, 0)
    assert await log.positions_at(youngest_ms + 3_600_000) == ends
    found = await log.positions_at(youngest_ms)
    for record in first:
        is_since = record.appended_at_ms >= youngest_ms
        assert (record.offset >= found[record.stream]) is is_since
