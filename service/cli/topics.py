"""`topics`: the Kafka topics, made and compared with what they should be."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import typer

from service.cli.desk import Row
from service.cli.exits import FAILED, UnreachableError
from service.cli.options import AsJson
from service.cli.output import Column, print_json, print_lines, print_table
from service.configuration import kafka_config
from service.domain.errors import LogUnavailableError, StartupError
from service.eventlog.kafka_config import KafkaConfig
from service.eventlog.kafka_topics import (
    TopicState,
    check_topics,
    create_topics,
    describe_topics,
    topic_plans,
)
from service.settings import load_settings

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")

Partitions = Annotated[
    int, typer.Option("--partitions", min=1, help="Partitions of each topic; never made fewer.")
]
Replication = Annotated[int, typer.Option("--replication", min=1, help="Copies of each partition.")]
MinInsync = Annotated[
    int,
    typer.Option("--min-insync", min=1, help="Copies that must have a record to acknowledge it."),
]

_DESCRIBED: Final = {
    "retention.ms": "retention_ms",
    "cleanup.policy": "cleanup_policy",
    "min.insync.replicas": "min_insync",
    "unclean.leader.election.enable": "unclean_election",
    "max.message.bytes": "max_record_bytes",
}
_COLUMNS: Final = (
    Column("topic", "topic"),
    Column("partitions", "partitions", right=True),
    Column("replicas", "replication", right=True),
    Column("in sync", "in_sync", right=True),
    Column("min in sync", "min_insync", right=True),
    Column("retention ms", "retention_ms", right=True),
    Column("policy", "cleanup_policy"),
    Column("unclean election", "unclean_election"),
    Column("max record", "max_record_bytes", right=True),
)


@app.callback()
def topics() -> None:
    """
    Topics: what the log on Kafka is kept in, and what downstream services read.

    RELAY_LOG_URL names the cluster (kafka://host:9092), RELAY_TOPIC_PREFIX what stands before
    the names.

    Examples:

        loyalty-relay topics check
    """


@app.command("create")
def create(
    partitions: Partitions = 12,
    replication: Replication = 3,
    min_insync: MinInsync = 2,
    as_json: AsJson = False,
) -> None:
    """
    Make the topics that are missing, and add partitions where there are too few.

    May be repeated: what is there is never made smaller, and its settings are left as they are.
    Adding partitions moves keys to other partitions, so do it while little is under way.

    Examples:

        loyalty-relay topics create

        loyalty-relay topics create --partitions 4 --replication 1 --min-insync 1
    """
    _check_options(replication=replication, min_insync=min_insync)

    async def act(config: KafkaConfig) -> list[Row]:
        plans = topic_plans(
            config, partitions=partitions, replication=replication, min_insync=min_insync
        )
        return [
            {"topic": change.topic, "changed": change.is_new, "says": change.says}
            for change in await create_topics(config, plans)
        ]

    rows = _at_kafka(act)
    if as_json:
        print_json(rows)
    else:
        print_lines(f"{row['topic']}: {row['says']}" for row in rows)


@app.command("check")
def check(
    partitions: Partitions = 12,
    replication: Replication = 3,
    min_insync: MinInsync = 2,
    as_json: AsJson = False,
) -> None:
    """
    Name every difference between the topics and what they should be, one a line.

    Exit code 1 when there is one. More partitions, replicas or retention than asked for is fine,
    except that unreadable bodies are kept no longer than 3 days.

    Examples:

        loyalty-relay topics check

        loyalty-relay topics check --json | jq .says
    """
    _check_options(replication=replication, min_insync=min_insync)

    async def act(config: KafkaConfig) -> list[str]:
        plans = topic_plans(
            config, partitions=partitions, replication=replication, min_insync=min_insync
        )
        return await check_topics(config, plans)

    lines = _at_kafka(act)
    if as_json:
        rows = [line.partition(": ") for line in lines]
        print_json({"topic": topic, "says": says} for topic, _, says in rows)
    else:
        print_lines(lines or ["The topics are as they should be."])
    if lines:
        raise typer.Exit(FAILED)


@app.command("describe")
def describe(as_json: AsJson = False) -> None:
    """
    Show the topics as they are.

    Examples:

        loyalty-relay topics describe

        loyalty-relay topics describe --json
    """

    async def act(config: KafkaConfig) -> list[Row]:
        plans = topic_plans(config, partitions=1, replication=1, min_insync=1)
        return [_row(state) for state in await describe_topics(config, [p.name for p in plans])]

    rows = _at_kafka(act)
    if as_json:
        print_json(rows)
    else:
        print_table(rows, _COLUMNS, nothing="There is none; make them: loyalty-relay topics create")


def _row(state: TopicState) -> Row:
    return {
        "topic": state.name,
        "partitions": state.partitions,
        "replication": state.replication,
        "in_sync": state.in_sync,
        **{name: state.settings[setting] for setting, name in _DESCRIBED.items()},
    }


def _check_options(*, replication: int, min_insync: int) -> None:
    if min_insync > replication:
        raise typer.BadParameter("more copies than --replication can never be in sync")


def _at_kafka(act: Callable[[KafkaConfig], Awaitable[T]]) -> T:
    config = kafka_config(load_settings(os.environ, serving=False))
    if config is None:
        raise StartupError("no_kafka", "RELAY_LOG_URL names no cluster; set kafka://host:9092")

    async def run() -> T:
        try:
            return await act(config)
        except LogUnavailableError as error:
            raise UnreachableError(error.reason, error.detail) from error

    return asyncio.run(run())
