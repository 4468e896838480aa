"""Reading from Kafka: rebalances, poison, damage, and a ledger that does not fit."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.codec import has_zstd
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from service.domain.errors import LedgerUnavailableError, LogUnavailableError, StartupError
from service.domain.ports import LogReader
from service.domain.records import Record, Stream, Topic
from service.eventlog.kafka import KafkaConfig, KafkaEventLog
from service.eventlog.kafka_reader import KafkaLogReader
from service.telemetry.metrics import Metrics
from tests.fakes.metrics import value
from tests.harness.infrastructure import MakeKafkaServer
from tests.harness.kafka_server import KafkaServer
from tests.harness.waiting import until
from tests.integration.kafka_log import (
    config_of,
    delete_records,
    from_the_beginning,
    make_topics,
    open_log,
    order,
)

ORDERS_0 = Stream(Topic.ORDERS, 0)


@dataclass
class Ledger:
    """Positions with compare-and-set, as the real one has them."""

    at: dict[Stream, int] = field(default_factory=dict)
    committed: list[str] = field(default_factory=list)
    refused: int = 0
    asked: int = 0
    away: int = 0

    async def positions(self, streams: Sequence[Stream]) -> Mapping[Stream, int]:
        self.asked += 1
        if self.away:
            self.away -= 1
            raise LedgerUnavailableError("not_reachable")
        return {stream: self.at[stream] for stream in streams if stream in self.at}

    def commit(self, records: Sequence[Record]) -> Mapping[Stream, int] | None:
        """The positions after `records`, or None when somebody else went on meanwhile."""
        begun = {record.stream: record.offset for record in reversed(records)}
        if any(self.at.get(stream, 0) != first for stream, first in begun.items()):
            self.refused += 1
            return None
        after = {record.stream: record.offset + 1 for record in records}
        self.at |= after
        self.committed += [record.key or "" for record in records]
        return after


async def work(reader: LogReader, ledger: Ledger, stop: asyncio.Event) -> None:
    """What intake does with records."""
    while not stop.is_set():
        records = await reader.fetch(max_records=20, wait_s=0.1)
        await asyncio.sleep(0)
        if records:
            after = ledger.commit(records)
            if after is None:
                begun = {record.stream: record.offset for record in reversed(records)}
                await reader.seek({**begun, **await ledger.positions(list(begun))})
            else:
                await reader.acknowledge(after)


@asynccontextmanager
async def open_reader(log: KafkaEventLog, ledger: Ledger | None = None) -> AsyncIterator[LogReader]:
    reader = await log.open_reader(ledger.positions if ledger else from_the_beginning)
    try:
        yield reader
    finally:
        await reader.close()


async def append(log: KafkaEventLog, numbers: range) -> None:
    async with asyncio.TaskGroup() as tasks:
        for number in numbers:
            tasks.create_task(log.append(order(number)))


async def read(reader: LogReader, number: int) -> list[Record]:
    records: list[Record] = []
    async with asyncio.timeout(20):
        while len(records) < number:
            records += await reader.fetch(max_records=number - len(records), wait_s=1.0)
    return records


async def until_committed(ledger: Ledger, number: int) -> None:
    await until(lambda: len(ledger.committed) >= number, what=f"{number} are read", timeout_s=30)


async def first_records(reader: LogReader) -> Sequence[Record]:
    """A batch that is not empty."""
    async with asyncio.timeout(20):
        while True:
            if records := await reader.fetch(max_records=1000, wait_s=1.0):
                return records


def out_of_range(metrics: Metrics) -> float:
    return value(metrics, "relay_streams_out_of_range")


async def test_readers_that_come_and_go_leave_nothing_out_and_nothing_twice(
    kafka_server: KafkaServer,
) -> None:
    config = config_of(kafka_server)
    await make_topics(config)
    ledger = Ledger()
    async with open_log(config) as log:
        stops = [asyncio.Event() for _ in range(3)]

        async def member(stop: asyncio.Event) -> None:
            async with open_reader(log, ledger) as reader:
                await work(reader, ledger, stop)

        async with asyncio.TaskGroup() as tasks:
            for turn, stop in enumerate(stops):
                tasks.create_task(member(stop))
                await append(log, range(turn * 300, turn * 300 + 300))
                await until_committed(ledger, turn * 300 + 100)
            for turn, stop in enumerate(stops[:-1], start=3):
                stop.set()
                await append(log, range(turn * 300, turn * 300 + 300))
                # By those that stay.
                await until_committed(ledger, turn * 300 + 300)
            stops[-1].set()
    assert Counter(ledger.committed) == Counter(map(str, range(1500)))


async def test_a_batch_in_hand_is_finished_before_its_streams_go(
    kafka_server: KafkaServer, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(kafka_server, session_timeout_s=6.0)
    await make_topics(config)
    ledger = Ledger()
    async with open_log(config, metrics=metrics) as log, open_reader(log, ledger) as first:
        await append(log, range(50))
        records = await first_records(first)
        opening = asyncio.create_task(log.open_reader(ledger.positions))
        await until(
            lambda: value(metrics, "relay_log_rebalances_total", event="revoked") == 1,
            what="the streams are to go",
        )
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 1.0, what="a rebalance takes less")
        assert not opening.done()
        after = ledger.commit(records)
        assert after is not None
        await first.acknowledge(after)
        second = await opening
        assert "records.given_up" not in caplog.text

        stop = asyncio.Event()
        workers = [asyncio.create_task(work(each, ledger, stop)) for each in (first, second)]
        await until(lambda: len(ledger.committed) >= 50, what="the rest is read")
        stop.set()
        await asyncio.gather(*workers)
        await second.close()
    assert Counter(ledger.committed) == Counter(map(str, range(50)))
    assert ledger.refused == 0


async def test_a_batch_that_is_held_too_long_is_given_up_and_the_ledger_decides(
    kafka_server: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(kafka_server, session_timeout_s=2.0)
    await make_topics(config)
    ledger = Ledger()
    async with open_log(config) as log, open_reader(log, ledger) as slow:
        await append(log, range(80))
        held = await first_records(slow)
        async with asyncio.timeout(15), open_reader(log, ledger) as quick:
            assert "records.given_up" in caplog.text
            stop = asyncio.Event()
            working = asyncio.create_task(work(quick, ledger, stop))
            half = len(ledger.at) or 1
            await until(lambda: len(ledger.at) > half or ledger.committed, what="the other reads")

            after = ledger.commit(held)  # too late where the other was quicker
            if after is not None:
                await slow.acknowledge(after)
            mine = {record.stream for record in await slow.fetch(max_records=500, wait_s=0.5)}
            await slow.seek(dict.fromkeys({r.stream for r in held}, 0))
            stop.set()
            await working
            theirs = {record.stream for record in await quick.fetch(max_records=500, wait_s=0.5)}
            assert mine.isdisjoint(theirs)
        stop = asyncio.Event()
        working = asyncio.create_task(work(slow, ledger, stop))
        await until(lambda: len(ledger.committed) >= 80, what="everything is read", timeout_s=30)
        stop.set()
        await working
    assert Counter(ledger.committed) == Counter(map(str, range(80)))


async def test_what_is_gone_is_not_handed_out_sought_or_acknowledged(
    kafka_server: KafkaServer,
) -> None:
    config = config_of(kafka_server)
    await make_topics(config)
    ledger = Ledger()
    async with open_log(config) as log, open_reader(log, ledger) as first:
        await append(log, range(200))
        await first.fetch(max_records=1, wait_s=5.0)  # the others are ahead in memory by now
        opening = asyncio.create_task(log.open_reader(ledger.positions))
        while not opening.done():
            await first.fetch(max_records=1, wait_s=0.05)
        second = await opening
        await second.fetch(max_records=1, wait_s=1.0)
        ends = await log.end_positions()
        assert isinstance(first, KafkaLogReader)
        ours = first.assigned
        theirs = set(ends) - ours
        assert ours and theirs
        before = await log.acknowledged()
        await first.seek(dict.fromkeys(theirs, 0))
        await first.acknowledge(dict.fromkeys(theirs, 1))
        seen = {r.stream for r in await first.fetch(max_records=1000, wait_s=1.0)}
        assert seen <= ours
        assert {s: p for s, p in (await log.acknowledged()).items() if s in theirs} == {
            s: p for s, p in before.items() if s in theirs
        }
        await second.close()


async def test_the_heartbeat_goes_on_while_intake_is_slow(
    kafka_server: KafkaServer, metrics: Metrics
) -> None:
    config = config_of(kafka_server, session_timeout_s=1.0)
    await make_topics(config)
    async with open_log(config, metrics=metrics) as log, open_reader(log, Ledger()) as reader:
        # More than is fetched ahead, so that fetching stands still as well.
        for number in range(14):
            await log.append(order(number, size=900_000))
        records = list(await reader.fetch(max_records=1, wait_s=10.0))
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 3.0, what="three sessions have passed")
        assert value(metrics, "relay_log_rebalances_total", event="lost") == 0
        assert value(metrics, "relay_log_rebalances_total", event="revoked") == 0
        records += await read(reader, 14 - len(records))
    assert Counter(record.key for record in records) == Counter(map(str, range(14)))


async def test_a_static_member_that_restarts_moves_no_streams(
    kafka_server: KafkaServer, metrics: Metrics
) -> None:
    config = config_of(kafka_server, session_timeout_s=6.0)
    await make_topics(config)
    other = replace(config, group_instance_id="two")
    async with (
        open_log(replace(config, group_instance_id="one"), metrics=metrics) as log,
        open_reader(log, Ledger()) as reader,
    ):
        async with open_log(other) as second, open_reader(second, Ledger()):
            pass
        while not (seen := value(metrics, "relay_log_rebalances_total", event="revoked")):
            await reader.fetch(max_records=1, wait_s=0.1)
        async with open_log(other) as second, open_reader(second, Ledger()):
            await reader.fetch(max_records=1, wait_s=1.0)
        assert value(metrics, "relay_log_rebalances_total", event="revoked") == seen


async def test_reading_goes_on_after_the_broker_was_away(
    make_kafka_server: MakeKafkaServer,
) -> None:
    server = make_kafka_server()
    config = config_of(server, publish_deadline_s=0.6)
    await make_topics(config)
    ledger = Ledger()
    stop = asyncio.Event()
    async with open_log(config) as log, open_reader(log, ledger) as reader:
        working = asyncio.create_task(work(reader, ledger, stop))
        await append(log, range(20))
        await until(lambda: len(ledger.committed) == 20, what="the first are read")
        server.kill()
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 1.0 or working.done(), what="it is away")
        await asyncio.to_thread(server.restart)

        async def is_back() -> bool:
            try:
                await log.append(order(20))
            except LogUnavailableError:
                return False
            return True

        await until(is_back, what="the log is back", timeout_s=30)
        await until(lambda: "20" in ledger.committed, what="more is read", timeout_s=40)
        stop.set()
        await working


async def test_a_ledger_that_is_away_is_asked_again(kafka_server: KafkaServer) -> None:
    config = config_of(kafka_server)
    await make_topics(config)
    ledger = Ledger(away=1)
    async with open_log(config) as log:
        with pytest.raises(LogUnavailableError) as caught:
            await log.open_reader(ledger.positions)
        assert caught.value.reason == "positions_not_known"
        await append(log, range(3))
        async with open_reader(log, ledger) as reader:
            await read(reader, 3)


@pytest.mark.parametrize("position", [1, 6])
async def test_a_ledger_that_does_not_fit_the_log_stops_the_start(
    kafka_server: KafkaServer, position: int
) -> None:
    config = config_of(kafka_server)
    await make_topics(config, partitions=1)
    async with open_log(config) as log:
        for number in range(5):
            await log.append(order(number))
        await delete_records(config, {TopicPartition(config.name(Topic.ORDERS), 0): 2})
        with pytest.raises(StartupError) as caught:
            await log.open_reader(Ledger({ORDERS_0: position}).positions)
        assert caught.value.reason == "position_out_of_range"
        assert f"is wanted from offset {position}, the log has 2 to 5" in caught.value.detail
        async with open_reader(log, Ledger({ORDERS_0: 2})) as reader:
            assert [record.offset for record in await read(reader, 3)] == [2, 3, 4]


async def test_a_stream_that_lost_what_is_next_stands_still_and_the_others_go_on(
    kafka_server: KafkaServer, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(kafka_server)
    await make_topics(config, partitions=2)
    ledger = Ledger()
    lost, other = Stream(Topic.ORDERS, 0), Stream(Topic.ORDERS, 1)
    reader = KafkaLogReader(
        config, ledger.positions, metrics=metrics, closing=set(), look_again_s=0.2
    )
    async with open_log(config) as log:
        await append(log, range(40))
        await reader.open()
        try:
            await read(reader, 40)
            first_ends = await log.end_positions()
            ledger.at = {lost: 1, other: first_ends[other]}
            await delete_records(config, {TopicPartition(config.name(Topic.ORDERS), 0): 3})
            await reader.seek({lost: 1})
            assert not await fetch_until(reader, lambda _: out_of_range(metrics) == 1)
            [line] = [r for r in caplog.records if r.message == "stream.out_of_range"]
            assert vars(line)["wanted"] == 1
            assert vars(line)["have"] == [3, first_ends[lost]]

            await append(log, range(40, 80))
            ends = await log.end_positions()
            more = ends[other] - first_ends[other]
            found = await fetch_until(reader, lambda records: len(records) >= more)
            assert {record.stream for record in found} == {other}
            assert out_of_range(metrics) == 1

            ledger.at[lost] = 3
            found = await fetch_until(reader, lambda records: len(records) >= ends[lost] - 3)
            assert [record.offset for record in found] == list(range(3, ends[lost]))
            assert out_of_range(metrics) == 0
        finally:
            await reader.close()


async def fetch_until(reader: LogReader, is_enough: Callable[[list[Record]], bool]) -> list[Record]:
    records: list[Record] = []
    async with asyncio.timeout(20):
        while not is_enough(records):
            records += await reader.fetch(max_records=500, wait_s=0.1)
    return records


async def append_raw(config: KafkaConfig, data: bytes) -> None:
    """Hand the broker a batch as it is, for partition 0 of the orders."""
    producer = AIOKafkaProducer(bootstrap_servers=list(config.servers))
    await producer.start()
    try:
        topic = config.name(Topic.ORDERS)
        await producer.partitions_for(topic)
        node = producer.client.cluster.leader_for_partition(TopicPartition(topic, 0))
        answer = await producer.client.send(
            node,
            ProduceRequest(
                transactional_id=None, required_acks=-1, timeout=5000, topics=[(topic, [(0, data)])]
            ),
        )
        [(_, [(_, code, *_)])] = answer.topics
        assert code == 0
    finally:
        await producer.stop()


def batch_of(
    *records: tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]],
) -> bytearray:
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 100_000)
    for number, (key, content, headers) in enumerate(records):
        builder.append(number, 1_700_000_000_000, key, content, headers)
    return bytearray(builder.build())


def with_checksum(batch: bytearray) -> bytes:
    """`batch` with the checksum of what it holds now."""
    batch[17:21] = calc_crc32c(bytes(batch[21:])).to_bytes(4, "big")
    return bytes(batch)


async def test_poison_never_holds_up_its_stream_and_loses_nothing_beside_it(
    kafka_server: KafkaServer, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(kafka_server)
    await make_topics(config, partitions=1)
    poison = batch_of(
        (b"before", b"1", []),
        (b"\xff\xfe", None, [("twice", b"a"), ("twice", b"b"), ("none", None), ("raw", b"\xff")]),
        (None, b"", []),
    )
    named = batch_of((b"good", b"2", []), (b"named", b"3", [("NAME", b"x")]), (b"too", b"4", []))
    named = bytearray(bytes(named).replace(b"NAME", b"\xff\xfeME"))
    async with open_log(config, metrics=metrics) as log:
        async with open_reader(log) as reader:
            await log.append(order(1))
            await append_raw(config, with_checksum(poison))
            await log.append(order(2))
            await append_raw(config, with_checksum(named))
            await log.append(order(3))
            await append_raw(config, with_checksum(named))
            found = await read(reader, 12)
            assert not await reader.fetch(max_records=1, wait_s=1.0)
            looks = [r for r in caplog.records if r.message == "records.not_decoded"]
            assert 1 <= len(looks) <= 2  # once for each, then reading goes on as ever
        async with open_reader(log) as again:  # and all of it at once
            assert await read(again, 12) == found
    assert [record.offset for record in found] == list(range(12))
    keys = [record.key for record in found]
    assert keys == [
        *("1", "before", "\ufffd\ufffd", None, "2", "good", "named", "too", "3"),
        *("good", "named", "too"),
    ]
    assert found[2].value == b""
    assert found[2].headers == {"twice": "b", "none": "", "raw": "\ufffd"}
    assert found[6].headers == {"\ufffd\ufffdME": "x"}
    assert found[6].appended_at_ms == 1_700_000_000_000
    assert value(metrics, "relay_records_skipped_total") == 0


async def test_records_damaged_on_the_brokers_disk_are_passed_over_and_counted(
    make_kafka_server: MakeKafkaServer, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_kafka_server()
    config = config_of(server)
    await make_topics(config, partitions=1)
    async with open_log(config) as log:
        for number in range(5):
            await log.append(order(number, size=1000 + number))
    server.stop()
    damage(server.directory, at=bytes([0xA5]) * 1002)
    await asyncio.to_thread(server.restart)
    async with open_log(config, metrics=metrics) as log, open_reader(log) as reader:
        found = await read(reader, 4)
        await log.append(order(5))
        found += await read(reader, 1)
    assert [record.key for record in found] == ["0", "1", "3", "4", "5"]
    assert value(metrics, "relay_records_skipped_total") == 1
    [line] = [r for r in caplog.records if r.message == "records.skipped"]
    assert (vars(line)["offset"], vars(line)["reason"]) == (2, "checksum")


def damage(directory: Path, *, at: bytes) -> None:
    """Change a byte of the run of exactly these bytes in the orders' segment."""
    [segment] = directory.glob("data/*scayle.orders.v1-0/*.log")
    content = bytearray(segment.read_bytes())
    runs = [m.start() for m in re.finditer(b"\xa5+", content) if len(m[0]) == len(at)]
    assert len(runs) == 1
    content[runs[0] + 10] ^= 0xFF
    segment.write_bytes(content)


@pytest.mark.skipif(has_zstd(), reason="this installation can read it")
async def test_what_is_compressed_in_a_way_we_cannot_read_stands_still_and_is_never_passed_over(
    kafka_server: KafkaServer, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(kafka_server)
    await make_topics(config, partitions=1, settings={"compression.type": "zstd"})
    async with open_log(config, metrics=metrics) as log:
        await log.append(order(1, size=5000))
        async with open_reader(log) as reader:
            assert not await fetch_until(reader, lambda _: out_of_range(metrics) == 1)
            assert not await reader.fetch(max_records=10, wait_s=0.5)
            assert value(metrics, "relay_records_skipped_total") == 0
            await reader.acknowledge({})
    [line] = [r for r in caplog.records if r.message == "stream.not_readable"]
    assert "zstd" in vars(line)["reason"]
