"""Topics made, compared and described on a real broker, by the functions and by the command."""

import pytest
from aiokafka.admin import NewTopic
from typer.testing import Result

from service.eventlog.kafka_config import KafkaConfig
from service.eventlog.kafka_topics import (
    TopicPlan,
    TopicState,
    check_topics,
    create_topics,
    describe_topics,
    differences,
    topic_plans,
)
from tests.harness.kafka_server import KafkaServer
from tests.harness.ports import free_port
from tests.integration.kafka_log import config_of, make_unplanned, plans_of
from tests.unit.cli.commands import objects, run

_DAY_MS = 86_400_000
ORDERS, UNREADABLE = "scayle.orders.v1", "scayle.unreadable.v1"
SMALL = ("--partitions", "2", "--replication", "1", "--min-insync", "1")


def topics(server: KafkaServer, config: KafkaConfig, *arguments: str) -> Result:
    """`loyalty-relay topics …` on `server`; it runs an event loop of its own."""
    environ = {
        "RELAY_LOG_URL": f"kafka://{','.join(server.servers)}",
        "RELAY_TOPIC_PREFIX": config.prefix,
    }
    return run("topics", *arguments, environ=environ)


async def test_what_is_missing_is_made_once_and_then_as_planned(kafka_server: KafkaServer) -> None:
    config = config_of(kafka_server)
    plans = plans_of(config, partitions=3)
    names = [plan.name for plan in plans]
    assert len(names) == 4
    assert await check_topics(config, plans) == [f"{name}: is missing" for name in names]

    made = await create_topics(config, plans)
    assert [(change.topic, change.is_new) for change in made] == [(name, True) for name in names]
    again = await create_topics(config, plans)
    assert [change.is_new for change in again] == [False] * 4

    assert await check_topics(config, plans) == []
    states = {state.name: state for state in await describe_topics(config, names)}
    assert {state.partitions for state in states.values()} == {3}
    assert states[config.prefix + UNREADABLE].number("retention.ms") == 3 * _DAY_MS
    assert states[config.prefix + ORDERS].number("retention.ms") == 14 * _DAY_MS


async def test_partitions_are_added_and_never_taken_away(kafka_server: KafkaServer) -> None:
    config = config_of(kafka_server)
    await create_topics(config, plans_of(config, partitions=4))

    assert not any(
        change.is_new for change in await create_topics(config, plans_of(config, partitions=2))
    )
    assert await check_topics(config, plans_of(config, partitions=2)) == []
    more = plans_of(config, partitions=5)
    assert f"{more[0].name}: has 4 partitions, not 5" in await check_topics(config, more)
    assert all(change.is_new for change in await create_topics(config, more))
    assert await check_topics(config, more) == []


async def test_every_difference_is_named_in_a_line_of_its_own(kafka_server: KafkaServer) -> None:
    config = config_of(kafka_server)
    settings = {
        "cleanup.policy": "compact",
        "retention.ms": "1000",
        "retention.bytes": "5000000",
        "unclean.leader.election.enable": "true",
        "max.message.bytes": "5000",
        "compression.type": "zstd",
    }
    await make_unplanned(
        config,
        [
            NewTopic(config.prefix + ORDERS, 1, 1, topic_configs=settings),
            NewTopic(config.prefix + UNREADABLE, 4, 1, topic_configs={"retention.ms": "-1"}),
            NewTopic(
                config.prefix + "loyalty.outcomes.v1",
                4,
                1,
                topic_configs={"min.insync.replicas": "2", "retention.ms": "-1"},
            ),
        ],
    )
    plans = topic_plans(config, partitions=4, replication=3, min_insync=2)

    lines = await check_topics(config, plans)

    orders = [
        "has 1 partitions, not 4",
        "has 1 replicas, not 3",
        "cleanup.policy is compact, not delete: compaction removes records of a key",
        "retention.ms is 1000, less than 1209600000",
        "retention.bytes is 5000000, so records may go before their time",
        "min.insync.replicas is 1, less than 2",
        "unclean.leader.election.enable is true: acknowledged records may be lost",
        "max.message.bytes is 5000, less than 1000000",
        "compression.type is zstd, which cannot be read; set it to producer",
    ]
    assert lines == [
        *(f"{config.prefix}{ORDERS}: {each}" for each in orders),
        f"{config.prefix}{UNREADABLE}: has 1 replicas, not 3",
        f"{config.prefix}{UNREADABLE}: retention.ms is -1, more than 259200000: it holds personal"
        " data",
        f"{config.prefix}{UNREADABLE}: min.insync.replicas is 1, less than 2",
        f"{config.prefix}loyalty.outcomes.v1: has 1 replicas, not 3",
        f"{config.prefix}loyalty.outcomes.v1: min.insync.replicas is 2, more than its 1 replicas",
        f"{config.prefix}loyalty.dead-letters.v1: is missing",
    ]


def test_more_than_planned_is_no_difference() -> None:
    plan = TopicPlan("orders", partitions=3, replication=2, min_insync=1)
    settings = {**plan.settings(), "max.message.bytes": "2000000"}
    more = {**settings, "retention.ms": str(90 * _DAY_MS), "compression.type": "gzip"}
    assert not differences(plan, TopicState("orders", 6, 3, 3, more))


def test_the_command_makes_checks_and_describes(kafka_server: KafkaServer) -> None:
    config = config_of(kafka_server)
    before = topics(kafka_server, config, "check", *SMALL)
    assert before.exit_code == 1
    assert before.stdout.splitlines()[0] == f"{config.prefix}{ORDERS}: is missing"

    made = topics(kafka_server, config, "create", *SMALL)
    assert made.exit_code == 0
    assert made.stdout.splitlines()[0] == f"{config.prefix}{ORDERS}: made with 2 partitions"
    assert topics(kafka_server, config, "create", *SMALL, "--json").exit_code == 0

    after = topics(kafka_server, config, "check", *SMALL)
    assert (after.exit_code, after.stdout) == (0, "The topics are as they should be.\n")
    production = topics(kafka_server, config, "check", "--json")
    assert production.exit_code == 1
    assert {"topic": config.prefix + ORDERS, "says": "has 2 partitions, not 12"} in objects(
        production
    )

    rows = objects(topics(kafka_server, config, "describe", "--json"))
    assert next(row["topic"] for row in rows) == config.prefix + ORDERS
    assert {(row["partitions"], row["in_sync"], row["cleanup_policy"]) for row in rows} == {
        (2, 1, "delete")
    }
    assert ORDERS in topics(kafka_server, config, "describe").stdout


def test_a_refusal_of_the_cluster_is_told(kafka_server: KafkaServer) -> None:
    config = config_of(kafka_server)
    result = topics(kafka_server, config, "create", "--replication", "3")
    assert result.exit_code == 1
    assert "InvalidReplicationFactorError" in result.stderr


@pytest.mark.parametrize("command", ["create", "check", "describe"])
def test_a_cluster_that_is_away_is_three(command: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    result = run("topics", command, environ={"RELAY_LOG_URL": f"kafka://{address}"})
    assert result.exit_code == 3
    assert address in result.stderr


def test_a_log_that_is_a_file_has_no_topics() -> None:
    result = run("topics", "check")
    assert result.exit_code == 2
    assert "RELAY_LOG_URL" in result.stderr


def test_more_in_sync_than_there_are_copies_is_wrong_usage() -> None:
    arguments = ("topics", "create", "--replication", "1", "--min-insync", "2")
    result = run(*arguments, environ={"RELAY_LOG_URL": "kafka://127.0.0.1:1"})
    assert result.exit_code == 2
