"""Where the log and the ledger of one test live: files, or a broker and a server."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from service.eventlog.kafka_config import KafkaConfig
from service.eventlog.kafka_topics import create_topics, topic_plans, wait_for_leaders
from tests.harness.files import (
    KafkaLogView,
    LedgerView,
    LogView,
    PostgresView,
    SqliteLogView,
    SqliteView,
)
from tests.harness.kafka_server import KafkaServer
from tests.harness.postgres_server import PostgresServer

PARTITIONS = 4
_LEADERS_S = 20.0


class Stores(StrEnum):
    """A log and a ledger that work together; processes share them when both are servers."""

    EMBEDDED = "sqlite-sqlite"
    SERVERS = "kafka-postgres"
    LEDGER_ON_SERVER = "sqlite-postgres"
    LOG_ON_SERVER = "kafka-sqlite"

    @property
    def log(self) -> Literal["sqlite", "kafka"]:
        return "kafka" if self in {Stores.SERVERS, Stores.LOG_ON_SERVER} else "sqlite"

    @property
    def ledger(self) -> Literal["sqlite", "postgres"]:
        return "postgres" if self in {Stores.SERVERS, Stores.LEDGER_ON_SERVER} else "sqlite"


@dataclass(frozen=True, slots=True)
class Place:
    """
    `environment` are the RELAY_ variables that name log and ledger; the views look in from
    outside. Processes share it when both are servers.
    """

    environment: Mapping[str, str]
    log: LogView
    ledger: LedgerView

    @property
    def is_shared(self) -> bool:
        return isinstance(self.log, KafkaLogView) and isinstance(self.ledger, PostgresView)


def files_in(directory: Path) -> Place:
    """Both embedded, in `directory`."""
    log, ledger = directory / "log.db", directory / "ledger.db"
    return Place(
        {"RELAY_LOG_URL": f"sqlite:///{log}", "RELAY_LEDGER_URL": f"sqlite:///{ledger}"},
        SqliteLogView(log),
        SqliteView(ledger),
    )


async def make_place(
    directory: Path,
    *,
    log: Literal["sqlite", "kafka"],
    ledger: Literal["sqlite", "postgres"],
    kafka: KafkaServer | None = None,
    postgres: PostgresServer | None = None,
) -> Place:
    """A new place: topics of its own prefix, a migrated database of its own, or files."""
    embedded = files_in(directory)
    environment = dict(embedded.environment)
    log_view, ledger_view = embedded.log, embedded.ledger
    if log == "kafka":
        assert kafka is not None
        prefix = f"t{uuid.uuid4().hex[:12]}."
        await make_topics(kafka, prefix)
        environment["RELAY_LOG_URL"] = f"kafka://{','.join(kafka.servers)}"
        environment["RELAY_TOPIC_PREFIX"] = prefix
        log_view = KafkaLogView(kafka.servers, prefix)
    if ledger == "postgres":
        assert postgres is not None
        address = postgres.new_ledger()
        environment["RELAY_LEDGER_URL"] = address
        ledger_view = PostgresView(address)
    return Place(environment, log_view, ledger_view)


async def make_topics(kafka: KafkaServer, prefix: str) -> None:
    """All topics, each with a few partitions, ready for use."""
    config = KafkaConfig(servers=kafka.servers, prefix=prefix)
    plans = topic_plans(config, partitions=PARTITIONS, replication=1, min_insync=1)
    await create_topics(config, plans)
    await wait_for_leaders(config, [plan.name for plan in plans], patience_s=_LEADERS_S)
