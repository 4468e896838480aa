"""The distributed event log: Kafka, written by an idempotent producer, read by a group."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka.structs import TopicPartition

from service.domain.clock import Clock
from service.domain.errors import LogUnavailableError, PermanentError
from service.domain.ports import PositionSource, StepHook, no_step
from service.domain.records import NewRecord, PublicRecord, PublicTopic, Stream, Topic
from service.eventlog.kafka_config import KafkaConfig
from service.eventlog.kafka_offsets import END, ask_committed, ask_offsets, persistently
from service.eventlog.kafka_producer import Outgoing, encoded_headers
from service.eventlog.kafka_reader import KafkaLogReader
from service.eventlog.kafka_writer import KafkaWriter
from service.telemetry.metrics import Metrics

__all__ = ["KafkaConfig", "KafkaEventLog", "open_kafka_log"]

MAX_QUEUE_BYTES: Final = 64 * 1024 * 1024
_CONNECT_S: Final = 15.0
_QUESTION_S: Final = 5.0
_CLOSE_S: Final = 15.0


class KafkaEventLog:
    """
    The `EventLog` and `PublicLog` of a distributed service. To be opened with `open_kafka_log`.

    A key's partition is what Kafka's own clients choose (murmur2); records without a key go
    round. Retention is the brokers' business, so `trim` does nothing.
    """

    def __init__(self, config: KafkaConfig, writer: KafkaWriter, *, metrics: Metrics) -> None:
        self._config = config
        self._writer = writer
        self._metrics = metrics
        self._topics = {config.name(topic): topic for topic in Topic}
        self._readers: set[KafkaLogReader] = set()
        self._closing: set[asyncio.Task[None]] = set()

    async def append(self, record: NewRecord) -> None:
        """
        As the port says. Reasons: `not_connected`, `queue_full`, `deadline_missed`, `refused`;
        for good: `not_unicode`, `too_large`, `not_authorised`, `unknown_topic`, `invalid_topic`.
        """
        await self._writer.append((self._outgoing(record),))

    async def publish(self, records: Sequence[PublicRecord]) -> None:
        """As the port says; reasons as those of `append`."""
        if records:
            await self._writer.append([self._outgoing(record) for record in records])

    async def open_reader(self, positions: PositionSource) -> KafkaLogReader:
        """
        A member of the group. Raises: StartupError when a stream that it is assigned is wanted
        from where the log has nothing; LogUnavailableError (away, a topic is missing).
        """
        await self._partitions()
        reader = KafkaLogReader(
            self._config, positions, metrics=self._metrics, closing=self._closing
        )
        await reader.open()
        self._readers.add(reader)
        return reader

    async def end_positions(self) -> Mapping[Stream, int]:
        """As the port says. Raises: LogUnavailableError."""
        client = self._writer.client()
        partitions = await self._partitions()
        ends = await persistently(
            lambda: ask_offsets(client, partitions, END), patience_s=_QUESTION_S
        )
        return {self._stream(partition): end for partition, end in ends.items()}

    async def acknowledged(self) -> Mapping[Stream, int]:
        """What the group committed. Raises: LogUnavailableError."""
        client = self._writer.client()
        partitions = await self._partitions()
        found = await persistently(
            lambda: ask_committed(client, self._config.group, partitions), patience_s=_QUESTION_S
        )
        return {self._stream(partition): offset for partition, offset in found.items()}

    async def positions_at(self, time_ms: int) -> Mapping[Stream, int]:
        """As the port says. Raises: LogUnavailableError."""
        client = self._writer.client()
        partitions = await self._partitions()
        found = await persistently(
            lambda: ask_offsets(client, partitions, time_ms), patience_s=_QUESTION_S
        )
        # Where nothing is so young, reading goes on at the end.
        ends = await self.end_positions()
        return {
            self._stream(partition): ends[self._stream(partition)] if offset < 0 else offset
            for partition, offset in found.items()
        }

    async def trim(self, *, limit: int) -> int:
        return 0

    def free_bytes(self) -> int | None:
        return None

    async def close(self) -> None:
        """Let appends end within their time limits, leave the group, close the connections."""
        await asyncio.gather(*(reader.close() for reader in self._readers))
        await self._writer.close()
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSE_S)

    def _outgoing(self, record: NewRecord | PublicRecord) -> Outgoing:
        try:
            return Outgoing(
                topic=self._config.name(record.topic),
                key=None if record.key is None else record.key.encode(),
                value=record.value,
                headers=encoded_headers(record.headers),
            )
        except UnicodeEncodeError as error:
            raise PermanentError("not_unicode", "a key or header is not valid text") from error

    async def _partitions(self) -> list[TopicPartition]:
        """All of the topics that intake reads. Raises: LogUnavailableError when one is missing."""
        client = self._writer.client()
        missing = self._missing(client)
        if missing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_QUESTION_S):
                    await client.force_metadata_update()
            missing = self._missing(client)
        if missing:
            raise LogUnavailableError(
                "unknown_topic",
                f"{', '.join(missing)}; make what is missing: loyalty-relay topics create",
            )
        return [
            TopicPartition(topic, number)
            for topic in self._topics
            for number in sorted(client.cluster.partitions_for_topic(topic))
        ]

    def _missing(self, client: Any) -> list[str]:
        return [name for name in self._topics if not client.cluster.partitions_for_topic(name)]

    def _stream(self, partition: TopicPartition) -> Stream:
        return Stream(self._topics[partition.topic], partition.partition)


@asynccontextmanager
async def open_kafka_log(
    config: KafkaConfig,
    *,
    metrics: Metrics,
    clock: Clock,
    step: StepHook = no_step,
    must_connect: bool = True,
    max_queue: int = 10_000,
    max_queue_bytes: int = MAX_QUEUE_BYTES,
    connect_s: float = _CONNECT_S,
) -> AsyncIterator[KafkaEventLog]:
    """
    The log on the cluster that `config` names.

    Args:
        must_connect: whether to fail when no broker answers within `connect_s`; without, the
            log begins disconnected and goes on trying, for a process that has a spool.
        max_queue, max_queue_bytes: records, and bytes of them, that may wait for their
            acknowledgement; more are refused.
    Raises: StartupError (`log_not_reachable`, `kafka_tls_files`).
    """
    topics = [*map(config.name, Topic), *map(config.name, PublicTopic)]
    writer = KafkaWriter(
        config,
        topics,
        metrics=metrics,
        clock=clock,
        step=step,
        max_records=max_queue,
        max_bytes=max_queue_bytes,
    )
    log = KafkaEventLog(config, writer, metrics=metrics)
    try:
        await writer.open(must_connect=must_connect, patience_s=connect_s)
        yield log
    finally:
        await log.close()
