"""Checks of the servers that a distributed service shares, for `doctor`: reads only."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from service.cli.checks import Finding, fail, ok, warn
from service.configuration import kafka_config
from service.domain.errors import LogUnavailableError, StartupError
from service.eventlog.kafka_config import KafkaConfig
from service.eventlog.kafka_topics import TopicsError, check_topics, topic_plans
from service.ledger import postgres_schema
from service.ledger.postgres_connection import connect
from service.settings import Settings

_CLOCK_WARN_S: Final = 5.0
_STANDBYS: Final = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
_SETTING: Final = "SELECT current_setting(%s)"
# What keeps a commit that was answered from being lost with the server's machine.
_NO_STANDBY: Final = (
    "synchronous_standby_names is empty: a commit that was answered is lost with the server, and "
    "what was claimed then would be sent again after a failover; run a synchronous standby, or "
    "accept that `loyalty-relay recover` is needed after one"
)


async def check_stores(settings: Settings) -> AsyncIterator[Finding]:
    """Kafka and PostgreSQL, where the settings name them."""
    config = kafka_config(settings)
    if config is not None:
        for finding in await _check_topics(config):
            yield finding
        if settings.spool_path is None:
            yield warn(
                "spool",
                "RELAY_SPOOL_PATH is not set: a receiver answers 503 while the brokers are away; "
                "name a file on a persistent volume",
            )
    if settings.ledger_path is None:
        for finding in await asyncio.to_thread(_check_ledger, settings.ledger_url):
            yield finding


async def _check_topics(config: KafkaConfig) -> list[Finding]:
    try:
        # How many partitions and replicas there are to be is the operator's choice at creation.
        lines = await check_topics(
            config, topic_plans(config, partitions=1, replication=1, min_insync=1)
        )
    except (LogUnavailableError, TopicsError) as error:
        return [fail("kafka", f"{', '.join(config.servers)}: {error}")]
    findings = [fail("topics", f"{line}; see `loyalty-relay topics check`") for line in lines]
    return [
        ok("kafka", f"{', '.join(config.servers)} lets us in"),
        *(findings or [ok("topics", "are there; `loyalty-relay topics check` compares all")]),
    ]


def _check_ledger(address: str) -> list[Finding]:
    try:
        with connect(address, name="loyalty-relay doctor") as connection:
            return [
                *_check_schema(connection),
                _check_standby(connection),
                _check_clock(connection),
            ]
    except psycopg.Error as error:
        return [fail("ledger", f"{postgres_schema.not_reachable(error).detail}")]


def _check_schema(connection: psycopg.Connection[Any]) -> list[Finding]:
    version = _one(connection, _SETTING, "server_version")
    findings = [ok("ledger", f"PostgreSQL {version} lets us in")]
    try:
        postgres_schema.check(connection)
    except StartupError as error:
        return [*findings, fail("schema", str(error))]
    return [*findings, ok("schema", "is this release's")]


def _check_standby(connection: psycopg.Connection[Any]) -> Finding:
    names = _one(connection, _SETTING, "synchronous_standby_names")
    commit = _one(connection, _SETTING, "synchronous_commit")
    if not names:
        return warn("standby", _NO_STANDBY)
    if commit in ("off", "local"):
        return fail("standby", f"synchronous_commit is {commit}: commits do not wait for it")
    standbys = _one(connection, _STANDBYS)
    if not standbys:
        return fail("standby", f"none of {names} is connected and synchronous; commits will hang")
    return ok("standby", f"{standbys} synchronous, of {names}")


def _check_clock(connection: psycopg.Connection[Any]) -> Finding:
    server = _one(connection, "SELECT clock_timestamp()")
    offset_s = (datetime.now(UTC) - server).total_seconds()
    if abs(offset_s) > _CLOCK_WARN_S:
        return warn(
            "server clock",
            f"differs from this machine's by {offset_s:+.0f} s; leases go by the server's, but the "
            "dates in logs will not fit; synchronise both",
        )
    return ok("server clock", "is this machine's")


def _one(connection: psycopg.Connection[Any], query: str, *parameters: str) -> Any:
    row = connection.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row[0]
