"""The topics as they should be: made where they are missing, compared where they are there."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, NoError, TopicAlreadyExistsError, for_code

from service.domain.errors import LogUnavailableError, RelayError
from service.domain.records import PublicTopic, Topic
from service.eventlog.kafka_config import KafkaConfig, connection_arguments
from service.eventlog.kafka_errors import described

_DAY_MS: Final = 86_400_000
_REQUEST_S: Final = 10.0
# The largest record by default: a webhook's body of 512 KiB with its envelope, doubled.
_RECORD_BYTES: Final = 1_000_000
# What every installation can read; the others need a library that we do not bring along.
_COMPRESSIONS: Final = ("producer", "uncompressed", "gzip")
_UNLIMITED: Final = -1

_DELETE: Final = "cleanup.policy"
_RETENTION: Final = "retention.ms"
_SIZE: Final = "retention.bytes"
_MIN_INSYNC: Final = "min.insync.replicas"
_UNCLEAN: Final = "unclean.leader.election.enable"
_RECORD: Final = "max.message.bytes"
_COMPRESSION: Final = "compression.type"


class TopicsError(RelayError):
    """Tell the operator: the cluster refused what was asked of it."""


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """
    What a topic should be. `name` has its prefix. `retention_ms` is the least, and also the most
    where `is_brief`: unreadable bodies hold personal data and are not to be kept longer.
    """

    name: str
    partitions: int
    replication: int
    min_insync: int
    retention_ms: int = 14 * _DAY_MS
    is_brief: bool = False

    def settings(self) -> dict[str, str]:
        """What the topic is made with."""
        return {
            _DELETE: "delete",
            _RETENTION: str(self.retention_ms),
            _SIZE: str(_UNLIMITED),
            _MIN_INSYNC: str(self.min_insync),
            _UNCLEAN: "false",
            _COMPRESSION: "producer",
        }


@dataclass(frozen=True, slots=True)
class TopicState:
    """What a topic is. `replication` and `in_sync` are those of its worst partition."""

    name: str
    partitions: int
    replication: int
    in_sync: int
    settings: Mapping[str, str] = field(default_factory=dict)

    def number(self, setting: str) -> int:
        """A setting that is a whole number."""
        return int(self.settings[setting])


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to one topic, in a sentence; `is_new` when something was done."""

    topic: str
    is_new: bool
    says: str


def topic_plans(
    config: KafkaConfig, *, partitions: int, replication: int, min_insync: int
) -> list[TopicPlan]:
    """The plan of every topic, those of downstream services included."""
    plans = []
    for topic in (*Topic, *PublicTopic):
        is_brief = topic is Topic.UNREADABLE
        plans.append(
            TopicPlan(
                name=config.name(topic),
                partitions=partitions,
                replication=replication,
                min_insync=min_insync,
                retention_ms=(3 if is_brief else 14) * _DAY_MS,
                is_brief=is_brief,
            )
        )
    return plans


async def create_topics(config: KafkaConfig, plans: Sequence[TopicPlan]) -> list[Change]:
    """
    Make the topics that are missing and add partitions where there are too few; nothing else.

    May be repeated. Settings of a topic that is there are left as they are: `check_topics` tells.
    Raises: LogUnavailableError (not reachable), TopicsError (refused).
    """
    async with _admin(config) as admin:
        states = await _look(admin, [plan.name for plan in plans])
        changes = []
        for plan in plans:
            state = states.get(plan.name)
            if state is None:
                changes.append(await _create(admin, plan))
            elif state.partitions < plan.partitions:
                more = {plan.name: NewPartitions(plan.partitions)}
                await admin.create_partitions(more)
                changes.append(
                    Change(
                        plan.name,
                        True,
                        f"{state.partitions} partitions became {plan.partitions}: from now on a key"
                        " may be in another one, so order within a key begins anew",
                    )
                )
            else:
                changes.append(Change(plan.name, False, "is there already"))
        return changes


async def check_topics(config: KafkaConfig, plans: Sequence[TopicPlan]) -> list[str]:
    """
    Every difference between the plans and what is there, one a line; empty when there is none.

    More than planned (partitions, replicas, retention) is no difference, except in a brief topic.
    Raises: LogUnavailableError (not reachable), TopicsError (refused).
    """
    async with _admin(config) as admin:
        states = await _look(admin, [plan.name for plan in plans])
    lines = []
    for plan in plans:
        state = states.get(plan.name)
        found = ["is missing"] if state is None else differences(plan, state)
        lines += [f"{plan.name}: {each}" for each in found]
    return lines


async def describe_topics(config: KafkaConfig, names: Sequence[str]) -> list[TopicState]:
    """What is there of these topics. Raises: LogUnavailableError, TopicsError."""
    async with _admin(config) as admin:
        states = await _look(admin, names)
    return [states[name] for name in names if name in states]


def differences(plan: TopicPlan, state: TopicState) -> list[str]:
    """Where `state` falls short of `plan`, each in a sentence that names both."""
    found = []
    if state.partitions < plan.partitions:
        found.append(f"has {state.partitions} partitions, not {plan.partitions}")
    if state.replication < plan.replication:
        found.append(f"has {state.replication} replicas, not {plan.replication}")
    if (policy := state.settings[_DELETE]) != "delete":
        found.append(f"{_DELETE} is {policy}, not delete: compaction removes records of a key")
    retention = state.number(_RETENTION)
    if retention != _UNLIMITED and retention < plan.retention_ms:
        found.append(f"{_RETENTION} is {retention}, less than {plan.retention_ms}")
    if plan.is_brief and (retention == _UNLIMITED or retention > plan.retention_ms):
        found.append(
            f"{_RETENTION} is {retention}, more than {plan.retention_ms}: it holds personal data"
        )
    if (size := state.number(_SIZE)) != _UNLIMITED:
        found.append(f"{_SIZE} is {size}, so records may go before their time")
    insync = state.number(_MIN_INSYNC)
    if insync < plan.min_insync:
        found.append(f"{_MIN_INSYNC} is {insync}, less than {plan.min_insync}")
    if insync > state.replication:
        found.append(f"{_MIN_INSYNC} is {insync}, more than its {state.replication} replicas")
    if state.settings[_UNCLEAN] != "false":
        found.append(f"{_UNCLEAN} is {state.settings[_UNCLEAN]}: acknowledged records may be lost")
    if (largest := state.number(_RECORD)) < _RECORD_BYTES:
        found.append(f"{_RECORD} is {largest}, less than {_RECORD_BYTES}")
    if (compression := state.settings[_COMPRESSION]) not in _COMPRESSIONS:
        found.append(f"{_COMPRESSION} is {compression}, which cannot be read; set it to producer")
    return found


@asynccontextmanager
async def _admin(config: KafkaConfig) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(**connection_arguments(config, request_timeout_s=_REQUEST_S))
    try:
        try:
            await admin.start()
        except KafkaError as error:
            raise LogUnavailableError(
                "log_not_reachable", f"{config.described()}: {described(error)}"
            ) from error
        try:
            yield admin
        except (KafkaError, TimeoutError) as error:
            if isinstance(error, KafkaError) and not error.retriable:
                raise TopicsError("refused", described(error)) from error
            raise LogUnavailableError(
                "log_not_reachable", f"{config.described()}: {described(error)}"
            ) from error
    finally:
        await admin.close()


async def _create(admin: Any, plan: TopicPlan) -> Change:
    topic = NewTopic(plan.name, plan.partitions, plan.replication, topic_configs=plan.settings())
    answer = await admin.create_topics([topic])
    for _, code, message in answer.topic_errors:
        kind = for_code(code)
        if kind is TopicAlreadyExistsError:
            return Change(plan.name, False, "is there already")
        if kind is not NoError:
            raise kind(f"{plan.name}: {message}")
    return Change(plan.name, True, f"made with {plan.partitions} partitions")


async def _look(admin: Any, names: Sequence[str]) -> dict[str, TopicState]:
    """The topics that are there."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for topic in await admin.describe_topics(list(names)):
        if for_code(topic["error_code"]) is NoError and topic["partitions"]:
            found[topic["topic"]] = topic["partitions"]
    settings = await _settings(admin, list(found))
    return {
        name: TopicState(
            name=name,
            partitions=len(partitions),
            replication=min(len(each["replicas"]) for each in partitions),
            in_sync=min(len(each["isr"]) for each in partitions),
            settings=settings[name],
        )
        for name, partitions in found.items()
    }


async def _settings(admin: Any, names: Sequence[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs(asked):
        for code, message, _, name, entries in answer.resources:
            kind = for_code(code)
            if kind is not NoError:
                raise kind(f"{name}: {message}")
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


async def wait_for_leaders(config: KafkaConfig, names: Sequence[str], *, patience_s: float) -> None:
    """
    Wait until every partition has a leader: a topic that was made just now may not have one.

    Raises: LogUnavailableError when it takes too long.
    """
    async with _admin(config) as admin, asyncio.timeout(patience_s):
        while True:
            topics = await admin.describe_topics(list(names))
            if all(
                topic["partitions"] and all(each["leader"] >= 0 for each in topic["partitions"])
                for topic in topics
            ):
                return
            await asyncio.sleep(0.05)
