"""Appending to Kafka: what the contract suite cannot see, on brokers that are broken on purpose."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiokafka.structs import TopicPartition
from prometheus_client import CollectorRegistry

from service.domain.errors import LogUnavailableError, PermanentError, StartupError
from service.domain.records import NewRecord, PublicRecord, PublicTopic, Topic
from service.eventlog.kafka import KafkaConfig, KafkaEventLog
from service.telemetry.metrics import Metrics
from tests.fakes.metrics import value
from tests.harness.infrastructure import MakeKafkaServer
from tests.harness.kafka_jars import broker_jars
from tests.harness.kafka_server import KafkaServer
from tests.harness.ports import free_port
from tests.harness.waiting import until
from tests.integration.kafka_log import (
    config_of,
    from_the_beginning,
    make_topics,
    open_log,
    order,
    raw_records,
    read_all,
)

DEADLINE_S = 0.6


@contextmanager
def nothing_left_running() -> Iterator[None]:
    """Every task that began within has ended."""
    before = asyncio.all_tasks()
    yield
    left = [task.get_name() for task in asyncio.all_tasks() - before]
    assert not left


async def refusal(log: KafkaEventLog, record: NewRecord) -> LogUnavailableError | None:
    """Why `log` does not take `record` now; None when it took it."""
    try:
        await log.append(record)
    except LogUnavailableError as error:
        return error
    return None


async def until_taken(log: KafkaEventLog, record: NewRecord) -> set[str]:
    """Why it was not taken before it was."""
    reasons: set[str] = set()

    async def is_taken() -> bool:
        error = await refusal(log, record)
        if error is not None:
            reasons.add(error.reason)
        return error is None

    await until(is_taken, what="the log takes appends again", timeout_s=30)
    return reasons


async def test_a_broker_that_stands_still_fails_all_that_wait_at_the_first_deadline(
    make_kafka_server: MakeKafkaServer,
) -> None:
    """One that misses its deadline ends the wait of all; then it is refused at once."""
    server = make_kafka_server()
    config = config_of(server, publish_deadline_s=DEADLINE_S)
    await make_topics(config)
    metrics = Metrics(CollectorRegistry())
    with nothing_left_running():
        async with open_log(config, metrics=metrics) as log:
            await log.append(order(0))
            server.freeze()
            began = time.monotonic()
            first = asyncio.create_task(refusal(log, order(1)))
            await until(lambda: time.monotonic() - began > DEADLINE_S / 2, what="half of it passed")
            later = [asyncio.create_task(refusal(log, order(n, size=5000))) for n in range(2, 60)]
            errors = [await first, *await asyncio.gather(*later)]
            took = time.monotonic() - began

            assert {error and error.reason for error in errors} == {"deadline_missed"}
            assert DEADLINE_S <= took < 1.3 * DEADLINE_S
            assert value(metrics, "relay_log_connected") == 0
            assert value(metrics, "relay_log_queue_records") == 0
            began = time.monotonic()
            error = await refusal(log, order(100))
            assert error is not None and error.reason == "not_connected"
            assert time.monotonic() - began < DEADLINE_S / 2

            server.thaw()
            await until_taken(log, order(101))
            assert value(metrics, "relay_log_connected") == 1
            found = Counter(record.key for record in await read_all(log))
    # What was refused may be there, what was acknowledged is.
    assert found["0"] >= 1 and found["101"] >= 1


async def test_nothing_acknowledged_is_lost_when_the_broker_is_killed_under_appends(
    make_kafka_server: MakeKafkaServer,
) -> None:
    """P1: each append says whether it is there; those that are acknowledged are, in order."""
    server = make_kafka_server()
    config = config_of(server, publish_deadline_s=DEADLINE_S)
    await make_topics(config)
    acknowledged: list[int] = []
    stop = asyncio.Event()

    async def append_on(log: KafkaEventLog, start: int) -> None:
        number = start
        while not stop.is_set():
            if await refusal(log, order(number)) is None:
                acknowledged.append(number)
            else:
                await asyncio.sleep(0.01)
            number += 1

    with nothing_left_running():
        async with open_log(config) as log:
            tasks = [asyncio.create_task(append_on(log, start * 100_000)) for start in range(8)]
            await until(lambda: len(acknowledged) > 200, what="appends before")
            server.kill()
            seen = len(acknowledged)
            await asyncio.to_thread(server.restart)
            await until(lambda: len(acknowledged) > seen + 200, what="appends after", timeout_s=40)
            stop.set()
            await asyncio.gather(*tasks)
            found = {int(record.key or 0) for record in await read_all(log)}
    assert set(acknowledged) <= found


async def test_a_log_that_must_be_there_refuses_to_start_without() -> None:
    config = KafkaConfig(servers=(f"127.0.0.1:{free_port()}",), publish_deadline_s=DEADLINE_S)
    with nothing_left_running(), pytest.raises(StartupError) as caught:
        async with open_log(config, connect_s=0.5):
            pass
    assert caught.value.reason == "log_not_reachable"
    assert config.servers[0] in caught.value.detail


async def test_a_log_that_may_be_away_is_connected_when_it_comes(
    kafka_server: KafkaServer, tmp_path: Path
) -> None:
    with KafkaServer(tmp_path / "late", broker_jars()) as late:
        config = config_of(late, publish_deadline_s=DEADLINE_S)
        async with open_log(config, must_connect=False) as log:
            error = await refusal(log, order(1))
            assert error is not None and error.reason == "not_connected"
            with pytest.raises(LogUnavailableError):
                await log.end_positions()
            with pytest.raises(LogUnavailableError):
                await log.open_reader(from_the_beginning)
            await asyncio.to_thread(late.start)
            await make_topics(config)
            await until_taken(log, order(2))


async def test_closing_beside_a_broker_that_stands_still_ends(
    make_kafka_server: MakeKafkaServer,
) -> None:
    server = make_kafka_server()
    config = config_of(server, publish_deadline_s=DEADLINE_S)
    await make_topics(config)
    with nothing_left_running():
        async with asyncio.timeout(60), open_log(config) as log:
            reader = await log.open_reader(from_the_beginning)
            await log.append(order(1))
            server.freeze()
            began = time.monotonic()
            await reader.close()
            assert time.monotonic() - began < 10
    server.thaw()


async def test_what_is_too_large_is_refused_for_good_and_ends_nothing(
    make_kafka_server: MakeKafkaServer,
) -> None:
    server = make_kafka_server(**{"message.max.bytes": "100000"})
    config = config_of(server)
    await make_topics(config, partitions=1)
    async with open_log(config) as log:
        for number in range(3):
            await log.append(order(number))
        with pytest.raises(PermanentError) as caught:
            await log.append(order(3, size=200_000))
        assert caught.value.reason == "too_large"
        # The refused batch left a gap in the stream's sequence, so there is a new producer.
        for number in range(4, 7):
            assert await until_taken(log, order(number)) <= {"not_connected"}
        keys = [record.key for record in await read_all(log)]
    assert keys == ["0", "1", "2", "4", "5", "6"]


async def test_a_topic_that_is_not_there_is_refused_for_good(kafka_server: KafkaServer) -> None:
    async with open_log(config_of(kafka_server)) as log:
        with pytest.raises(PermanentError) as caught:
            await log.append(order(1))
        assert caught.value.reason == "unknown_topic"
        with pytest.raises(LogUnavailableError) as away:
            await log.open_reader(from_the_beginning)
        assert away.value.reason == "unknown_topic"


async def test_a_topic_that_cannot_be_is_refused_for_good(kafka_server: KafkaServer) -> None:
    async with open_log(config_of(kafka_server, prefix="no/name.")) as log:
        with pytest.raises(PermanentError) as caught:
            await log.append(order(1))
    assert caught.value.reason == "invalid_topic"


@pytest.mark.parametrize(("max_queue", "max_queue_bytes"), [(20, 1 << 20), (1000, 20_000)])
async def test_more_than_may_wait_is_refused_at_once(
    make_kafka_server: MakeKafkaServer, max_queue: int, max_queue_bytes: int
) -> None:
    server = make_kafka_server()
    config = config_of(server, publish_deadline_s=DEADLINE_S)
    await make_topics(config)
    async with open_log(config, max_queue=max_queue, max_queue_bytes=max_queue_bytes) as log:
        await log.append(order(0))
        server.freeze()
        began = time.monotonic()
        waiting = [asyncio.create_task(refusal(log, order(n, size=998))) for n in range(10, 31)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert time.monotonic() - began < DEADLINE_S / 2
        [error] = [task.result() for task in done]
        assert error is not None and error.reason == "queue_full"
        errors = await asyncio.gather(*waiting)
        server.thaw()
    assert Counter(error and error.reason for error in errors) == {
        "queue_full": 1,
        "deadline_missed": 20,
    }


async def test_an_append_that_is_cancelled_no_longer_waits(
    make_kafka_server: MakeKafkaServer,
) -> None:
    server = make_kafka_server()
    config = config_of(server, publish_deadline_s=30.0)
    await make_topics(config)
    metrics = Metrics(CollectorRegistry())
    async with open_log(config, metrics=metrics) as log:
        await log.append(order(0))
        server.freeze()
        append = asyncio.create_task(log.append(order(1)))
        await until(lambda: value(metrics, "relay_log_queue_records") == 1, what="it waits")
        append.cancel()
        await asyncio.wait([append])
        assert append.cancelled()
        assert value(metrics, "relay_log_queue_records") == 0
        server.thaw()
        await log.append(order(2))


async def test_public_records_of_one_key_stay_in_order(kafka_server: KafkaServer) -> None:
    config = config_of(kafka_server)
    await make_topics(config)
    records = [
        PublicRecord(PublicTopic.OUTCOMES, str(number % 3), str(number).encode(), {"n": "1"})
        for number in range(300)
    ]
    async with open_log(config) as log:
        await log.publish(records)
        await log.publish([PublicRecord(PublicTopic.DEAD_LETTERS, None, b"{}")])
        await log.publish([])
    found = await config_reads(config, PublicTopic.OUTCOMES)
    by_key: dict[bytes, list[int]] = {}
    for key, content in found:
        by_key.setdefault(key, []).append(int(content))
    assert by_key == {str(k).encode(): list(range(k, 300, 3)) for k in range(3)}
    assert len(await config_reads(config, PublicTopic.DEAD_LETTERS)) == 1


async def test_public_text_that_is_not_unicode_is_refused_for_good(
    kafka_server: KafkaServer,
) -> None:
    async with open_log(config_of(kafka_server)) as log:
        with pytest.raises(PermanentError) as caught:
            await log.publish([PublicRecord(PublicTopic.OUTCOMES, "\ud800", b"{}")])
    assert caught.value.reason == "not_unicode"


async def test_what_is_acknowledged_outlives_the_process(kafka_server: KafkaServer) -> None:
    config = config_of(kafka_server)
    await make_topics(config)
    async with open_log(config) as log:
        assert await log.acknowledged() == {}
        for number in range(20):
            await log.append(order(number))
        reader = await log.open_reader(from_the_beginning)
        ends = {stream: end for stream, end in (await log.end_positions()).items() if end}
        await reader.acknowledge(dict.fromkeys(ends, 1))
        for _ in range(5):
            await asyncio.sleep(0)  # that commit is on its way, and this is to follow it
        await reader.acknowledge(ends)
        await reader.close()
    async with open_log(config) as log:
        assert await log.acknowledged() == ends
        assert await log.trim(limit=10) == 0


async def config_reads(config: KafkaConfig, topic: PublicTopic) -> list[tuple[bytes, bytes]]:
    """Keys and values of a public topic, as a downstream service reads them."""
    rows = await raw_records(config, config.name(topic))
    return [(row.key, row.value) for row in rows]


def test_names_have_the_prefix() -> None:
    config = KafkaConfig(servers=("a:1",), prefix="shop.")
    assert config.name(Topic.ORDERS) == "shop.scayle.orders.v1"
    assert config.group == "shop.loyalty-relay"
    assert TopicPartition(config.name(PublicTopic.OUTCOMES), 0).topic == "shop.loyalty.outcomes.v1"
    assert "secret" not in repr(KafkaConfig(servers=(), user="me", password="secret"))
