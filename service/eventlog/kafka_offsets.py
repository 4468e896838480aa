"""Questions about offsets, asked over connections that exist already."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaError, NodeNotReadyError, NoError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition

from service.domain.errors import LogUnavailableError
from service.eventlog.kafka_errors import described

FIRST: Final = -2
END: Final = -1
_NOTHING_COMMITTED: Final = -1
_ASK_AGAIN_S: Final = 0.1

T = TypeVar("T")
_UNCOMMITTED: Final = 0  # records of open transactions count: we never write any


async def persistently(question: Callable[[], Awaitable[T]], *, patience_s: float) -> T:
    """
    The answer to `question`, asked again while only the moment is wrong: a leader that moves, a
    coordinator that is being made.

    Raises: LogUnavailableError `offsets_not_known`.
    """
    why: BaseException | None = None
    try:
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    return await question()
                except KafkaError as error:
                    why = error
                    if not error.retriable:
                        raise
                await asyncio.sleep(_ASK_AGAIN_S)
    except (KafkaError, TimeoutError) as error:
        raise LogUnavailableError("offsets_not_known", described(why or error)) from error


async def ask_offsets(
    client: Any, partitions: Iterable[TopicPartition], which: int
) -> dict[TopicPartition, int]:
    """
    The `FIRST` offset of each partition, the `END`: the one that its next record will get, or
    that of the first record since `which` (milliseconds since the epoch; -1 when there is none).

    Raises: KafkaError, which may be of this moment only: see `persistently`.
    """
    by_node: dict[int, dict[str, list[tuple[int, int]]]] = {}
    for partition in partitions:
        leader = client.cluster.leader_for_partition(partition)
        if leader is None or leader == -1:
            client.force_metadata_update()
            raise NodeNotReadyError(f"{partition.topic} {partition.partition} has no leader now")
        topics = by_node.setdefault(leader, {})
        topics.setdefault(partition.topic, []).append((partition.partition, which))
    answers = await asyncio.gather(
        *(
            client.send(node, OffsetRequest(-1, _UNCOMMITTED, list(topics.items())))
            for node, topics in by_node.items()
        )
    )
    found: dict[TopicPartition, int] = {}
    for answer in answers:
        for topic, rows in answer.topics:
            for number, code, _, offset in rows:
                _raise_for(client, code, f"{topic} {number}")
                found[TopicPartition(topic, number)] = offset
    return found


async def ask_committed(
    client: Any, group: str, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    """What `group` committed, without the partitions where it never did. Raises: KafkaError."""
    topics: dict[str, list[int]] = {}
    for partition in partitions:
        topics.setdefault(partition.topic, []).append(partition.partition)
    coordinator = await client.coordinator_lookup(CoordinationType.GROUP, group)
    answer = await client.send(
        coordinator,
        OffsetFetchRequest(group, list(topics.items())),
        group=ConnectionGroup.COORDINATION,
    )
    found: dict[TopicPartition, int] = {}
    _raise_for(client, getattr(answer, "error_code", 0), group)
    for topic, rows in answer.topics:
        for number, offset, _, code in rows:
            _raise_for(client, code, f"{topic} {number}")
            if offset != _NOTHING_COMMITTED:
                found[TopicPartition(topic, number)] = offset
    return found


def _raise_for(client: Any, code: int, what: str) -> None:
    kind: type[KafkaError] = for_code(code)
    if kind is not NoError:
        if kind.invalid_metadata:
            client.force_metadata_update()
        raise kind(what)
