"""Makes group consumers, ends them whatever state they are in, and reads where they cannot."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaError, NodeNotReadyError, NoError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition

from service.eventlog.kafka_config import KafkaConfig, connection_arguments
from service.eventlog.kafka_errors import described

# What one stream and one broker hand over at a time, and aiokafka holds once more ahead. A
# record that is larger comes all the same, alone.
_STREAM_BYTES: Final = 256 * 1024
_BROKER_BYTES: Final = 4 * 1024 * 1024
_WAIT_MS: Final = 500
_TRY_AGAIN_MS: Final = 250
# Joining the group takes as long as the slowest member needs to give up its streams: a request
# must be allowed to last longer than that.
_ABOVE_REBALANCE_S: Final = 4.0
_BEATS_PER_SESSION: Final = 6
# How long intake may stand still (braked, or its ledger away) without leaving the group: for
# ever, as only one process can have its streams and another could not go on either.
_FOR_EVER_MS: Final = 2**31 - 1
_LOOK_S: Final = 0.1

logger = logging.getLogger("relay.log")

Callback = Callable[[Sequence[TopicPartition]], Awaitable[None]]


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    def __init__(self, *, revoked: Callback, assigned: Callback) -> None:
        self._revoked = revoked
        self._assigned = assigned

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._revoked(sorted(revoked))

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._assigned(sorted(assigned))


class GroupConsumer:
    """
    One member of the group, from `start` to `stop`; positions are its user's business.

    `revoked` is awaited before streams go to others, while the member's heartbeat goes on.
    """

    def __init__(
        self, config: KafkaConfig, topics: Sequence[str], *, revoked: Callback, assigned: Callback
    ) -> None:
        session_ms = int(config.session_timeout_s * 1000)
        arguments = connection_arguments(
            config, request_timeout_s=config.session_timeout_s + _ABOVE_REBALANCE_S
        )
        self._consumer = AIOKafkaConsumer(
            **arguments,
            group_id=config.group,
            group_instance_id=config.group_instance_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // _BEATS_PER_SESSION,
            max_poll_interval_ms=_FOR_EVER_MS,
            retry_backoff_ms=_TRY_AGAIN_MS,
            fetch_max_wait_ms=_WAIT_MS,
            fetch_max_bytes=_BROKER_BYTES,
            max_partition_fetch_bytes=_STREAM_BYTES,
            partition_assignment_strategy=(RoundRobinPartitionAssignor,),
        )
        self._consumer.subscribe(topics, listener=_Listener(revoked=revoked, assigned=assigned))
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Join the group. Raises: KafkaError; waits as long as no broker lets it in."""
        self._starting = asyncio.create_task(self._consumer.start(), name="log-reader-start")
        # Cancelled while it connects, aiokafka would leave a connection behind.
        await asyncio.shield(self._starting)

    @property
    def is_lost(self) -> bool:
        """Whether the group has given this member up already: its streams may be elsewhere."""
        coordinator = self._consumer._coordinator
        return coordinator is not None and not coordinator.member_id

    @property
    def is_broken(self) -> bool:
        """Whether it will never fetch again, which aiokafka does not tell by itself."""
        return bool(self._consumer._fetcher.error_future.done())

    async def poll(
        self, partitions: Sequence[TopicPartition], *, wait_ms: int
    ) -> dict[TopicPartition, list[Any]]:
        """
        What came for these partitions; waits while a rebalance is under way.

        Raises: KafkaError, and what decoding of damaged bytes ends with. What was decoded before
        an error is lost: seek.
        """
        found: dict[TopicPartition, list[Any]] = await self._consumer.getmany(
            *partitions, timeout_ms=wait_ms
        )
        return found

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at `offset`."""
        self._consumer.seek(partition, offset)

    def pause(self, partition: TopicPartition) -> None:
        """Fetch nothing of it, for as long as this assignment lasts or until it is resumed."""
        self._consumer.pause(partition)

    def resume(self, partition: TopicPartition) -> None:
        """Fetch it again."""
        self._consumer.resume(partition)

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        """Commit for the group; tries as long as no coordinator is there. Raises: KafkaError."""
        await self._consumer.commit(offsets)

    @property
    def client(self) -> Any:
        """Its connections, for questions."""
        return self._consumer._client

    async def fetch_raw(self, partition: TopicPartition, offset: int) -> bytes:
        """The undecoded batches from `offset` on, one if there is one. Raises: KafkaError."""
        leader = self.client.cluster.leader_for_partition(partition)
        if leader is None or leader == -1:
            raise NodeNotReadyError(f"{partition} has no leader now")
        wanted = [(partition.topic, [(partition.partition, offset, _STREAM_BYTES)])]
        answer = await self.client.send(leader, FetchRequest(0, 0, _BROKER_BYTES, 0, wanted))
        for _, rows in answer.topics:
            for _, code, *_, data in rows:
                kind = for_code(code)
                if kind is not NoError:
                    raise kind(str(partition))
                return bytes(data or b"")
        return b""

    async def stop(self) -> None:
        """Leave the group and close the connections; takes its requests' time limits at most."""
        starting = self._starting
        # Past its connecting phase it may wait for the group for ever, and is safe to cancel.
        while starting and not starting.done() and self._consumer._coordinator is None:
            await asyncio.wait([starting], timeout=_LOOK_S)
        stopping = asyncio.create_task(self._consumer.stop(), name="log-reader-stop")
        if starting is not None:
            await asyncio.wait([stopping])
            starting.cancel()
            await asyncio.wait([starting])
            if not starting.cancelled():
                starting.exception()
        await asyncio.wait([stopping])
        # It may end early: `AIOKafkaConsumer.stop` takes the cancellation of its own tasks for
        # one of itself while a broker is away.
        if not stopping.cancelled() and (error := stopping.exception()):
            if not isinstance(error, KafkaError):
                raise error
            logger.warning("log.reader_not_stopped", extra={"reason": described(error)})
        await self.client.close()
