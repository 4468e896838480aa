"""Logs on a real broker, opened, filled and read for tests."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from prometheus_client import CollectorRegistry

from service.domain.clock import SteadyClock
from service.domain.ports import StepHook, no_step
from service.domain.records import NewRecord, Record, Stream, Topic
from service.eventlog.kafka import KafkaEventLog, open_kafka_log
from service.eventlog.kafka_config import KafkaConfig
from service.eventlog.kafka_topics import (
    TopicPlan,
    create_topics,
    topic_plans,
    wait_for_leaders,
)
from service.telemetry.metrics import Metrics
from tests.harness.kafka_server import KafkaServer


def config_of(server: KafkaServer, **changes: Any) -> KafkaConfig:
    """A prefix of its own on `server`, and a group that notices quickly."""
    fresh = KafkaConfig(
        servers=server.servers, prefix=f"t{uuid4().hex[:12]}.", session_timeout_s=3.0
    )
    return replace(fresh, **changes)


def plans_of(config: KafkaConfig, *, partitions: int = 4) -> list[TopicPlan]:
    return topic_plans(config, partitions=partitions, replication=1, min_insync=1)


async def make_topics(
    config: KafkaConfig, *, partitions: int = 4, settings: Mapping[str, str] | None = None
) -> None:
    """All topics, with leaders; with `settings` those of brokers and not of the plan."""
    plans = plans_of(config, partitions=partitions)
    if settings is not None:
        await make_unplanned(
            config,
            [NewTopic(p.name, p.partitions, 1, topic_configs=dict(settings)) for p in plans],
        )
    await create_topics(config, plans)
    await wait_for_leaders(config, [plan.name for plan in plans], patience_s=20)


def open_log(
    config: KafkaConfig,
    *,
    metrics: Metrics | None = None,
    step: StepHook = no_step,
    **arguments: Any,
) -> AbstractAsyncContextManager[KafkaEventLog]:
    return open_kafka_log(
        config,
        metrics=metrics or Metrics(CollectorRegistry()),
        clock=SteadyClock(),
        step=step,
        **arguments,
    )


async def make_unplanned(config: KafkaConfig, topics: Sequence[NewTopic]) -> None:
    """Topics as no plan would have them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=list(config.servers))
    await admin.start()
    try:
        answer = await admin.create_topics(list(topics))
        assert all(code == 0 for _, code, _ in answer.topic_errors), answer
    finally:
        await admin.close()


async def delete_records(config: KafkaConfig, before: dict[Any, int]) -> None:
    """Remove what lies before these offsets, by partition as Kafka names it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=list(config.servers))
    await admin.start()
    try:
        await admin.delete_records(
            {partition: RecordsToDelete(offset) for partition, offset in before.items()}
        )
    finally:
        await admin.close()


def order(number: int, *, size: int = 2) -> NewRecord:
    return NewRecord(Topic.ORDERS, str(number), b"\xa5" * size)


async def from_the_beginning(streams: Sequence[Stream]) -> Mapping[Stream, int]:
    return {}


async def read_all(log: KafkaEventLog) -> list[Record]:
    """Every record of the streams that intake reads, up to where they end now."""
    reader = await log.open_reader(from_the_beginning)
    left = sum((await log.end_positions()).values())
    records: list[Record] = []
    async with asyncio.timeout(30):
        while len(records) < left:
            records += await reader.fetch(max_records=500, wait_s=1.0)
    await reader.close()
    return records


async def raw_records(config: KafkaConfig, topic: str) -> list[Any]:
    """Every record of a topic in the order of its partitions, read without a group."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=list(config.servers), auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        ends = await consumer.end_offsets(list(consumer.assignment()))
        rows: list[Any] = []
        async with asyncio.timeout(20):
            while len(rows) < sum(ends.values()):
                for found in (await consumer.getmany(timeout_ms=500)).values():
                    rows += found
        return rows
    finally:
        await consumer.stop()
