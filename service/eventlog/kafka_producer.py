"""One connected producer that can be given up without waiting for what it never gets."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    InvalidTopicError,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from service.eventlog.kafka_config import KafkaConfig, connection_arguments
from service.eventlog.kafka_errors import described

# A request holds one batch of each stream and one request is under way to a broker, so this is
# what a stream takes in one round trip; a record that is larger has a batch of its own.
_BATCH_BYTES: Final = 64 * 1024
# Above the largest body (64 MiB) and what the envelope adds; the topic's own limit decides.
_RECORD_BYTES: Final = 80 * 1024 * 1024
_TRY_AGAIN_MS: Final = 50
_NAME_LIMIT: Final = 249  # characters of a topic's name


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record in the form in which aiokafka takes it."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]]

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory while it waits."""
        return len(self.value) + len(self.key or b"")


@dataclass(eq=False, slots=True)
class Producer:
    """
    An idempotent producer from its first connection on. Made by `connect`.

    aiokafka never gives up a batch of an idempotent producer, so whoever misses its time limit
    discards the whole of it.
    """

    _producer: Any
    has_acknowledged: bool = False
    _deadlines: set[asyncio.Timeout] = field(default_factory=set)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _turns: "count[int]" = field(default_factory=count)

    @property
    def client(self) -> Any:
        """Its connections, for questions about topics and offsets."""
        return self._producer.client

    async def hand_over(self, record: Outgoing, *, timestamp_ms: int) -> asyncio.Future[object]:
        """
        Put `record` behind the others of its stream; done when it is acknowledged.

        Waits for room in its stream's batch. Raises: KafkaError when nothing was put anywhere.
        """
        partitions = self.client.cluster.partitions_for_topic(record.topic)
        if not partitions:
            partitions = await find_partitions(self.client, record.topic)
        partition = None
        if record.key is None:
            order = sorted(partitions)
            partition = order[next(self._turns) % len(order)]
        future: asyncio.Future[object] = await self._producer.send(
            record.topic,
            record.value,
            key=record.key,
            partition=partition,
            timestamp_ms=timestamp_ms,
            headers=record.headers,
        )
        return future

    def enter(self, deadline: asyncio.Timeout) -> None:
        """An append begins to wait, no longer than `deadline`."""
        self._deadlines.add(deadline)
        self._idle.clear()

    def leave(self, deadline: asyncio.Timeout) -> None:
        """That append is over."""
        self._deadlines.discard(deadline)
        if not self._deadlines:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no append waits, which their time limits see to."""
        if self._deadlines:
            await self._idle.wait()

    def expire(self) -> None:
        """Let everything that waits for it meet its time limit now."""
        now = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(now)

    async def discard(self) -> None:
        """
        End it without flushing; takes as long as its requests' time limits at most.

        `AIOKafkaProducer.stop` waits for every batch to be acknowledged. Instead its sender is
        told to end, and its connections are closed, so that what is under way fails and is not
        sent again; the sender's task is over once those requests are.
        """
        sender = self._producer._sender.sender_task
        if sender is not None:
            sender.cancel()
            for connection in list(self.client._conns.values()):
                connection.close()
            await asyncio.wait([sender])
            if not sender.cancelled():
                sender.exception()  # it was a sender that had failed
        await _close(self._producer)


async def connect(config: KafkaConfig, topics: Sequence[str]) -> Producer:
    """
    A producer that found a broker and was given its id there.

    Not to be cancelled: aiokafka would leave a connection behind. It ends by itself.
    Raises: KafkaError, TimeoutError, StartupError (TLS files).
    """
    arguments = connection_arguments(config, request_timeout_s=config.publish_deadline_s)
    producer = AIOKafkaProducer(
        **arguments,
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=_BATCH_BYTES,
        max_request_size=_RECORD_BYTES,
        retry_backoff_ms=_TRY_AGAIN_MS,
    )
    try:
        await producer.client.bootstrap()
        async with asyncio.timeout(2 * config.publish_deadline_s):
            await producer._sender.start()
            # Else every refresh would ask for all topics of the cluster.
            await producer.client.set_topics(topics)
    except BaseException:
        await Producer(producer).discard()
        raise
    return Producer(producer)


async def why_not(config: KafkaConfig) -> str | None:
    """
    What keeps us from connecting to the first server, None when nothing does.

    aiokafka only logs it while it tries one server after the other.
    """
    arguments = connection_arguments(config, request_timeout_s=config.publish_deadline_s)
    del arguments["metadata_max_age_ms"]
    [(host, port, _), *_] = collect_hosts(arguments.pop("bootstrap_servers"))
    try:
        connection = await create_conn(host, port, **arguments)
    except (OSError, KafkaError, TimeoutError) as error:
        return described(error)
    await connection.close()
    return None


async def find_partitions(client: Any, topic: str) -> set[int]:
    """
    The partitions of `topic` after a fresh look at the cluster.

    Raises: KafkaError: no connection, or there is no such topic for us.
    """
    client.add_topic(topic)
    if not await client.force_metadata_update():
        raise KafkaConnectionError("no broker tells which topics there are")
    cluster = client.cluster
    partitions: set[int] | None = cluster.partitions_for_topic(topic)
    if partitions:
        return partitions
    if topic in cluster.unauthorized_topics:
        raise TopicAuthorizationFailedError(topic)
    if not is_valid_name(topic):
        raise InvalidTopicError(topic)
    raise UnknownTopicOrPartitionError(
        "there is no such topic; make it: loyalty-relay topics create"
    )


def is_valid_name(topic: str) -> bool:
    """Whether Kafka takes this as a topic's name."""
    allowed = all(sign.isascii() and (sign.isalnum() or sign in "._-") for sign in topic)
    return allowed and 0 < len(topic) <= _NAME_LIMIT and topic not in (".", "..")


def encoded_headers(headers: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """Headers as Kafka holds them. Raises: UnicodeEncodeError, also for a name."""
    for name in headers:
        name.encode()
    return [(name, value.encode()) for name, value in headers.items()]


async def _close(producer: Any) -> None:
    producer._closed = True  # else it complains when it is collected
    await producer.client.close()
