"""A broker and a durable PostgreSQL for benchmarks, and the places that they hold."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.kafka_jars import broker_jars
from tests.harness.kafka_server import KafkaServer
from tests.harness.place import Place, make_place
from tests.harness.postgres_server import PostgresServer


@dataclass(frozen=True, slots=True)
class Servers:
    """Both servers; each run takes a place of its own on them."""

    kafka: KafkaServer
    postgres: PostgresServer

    async def open_place(self, folder: Path) -> Place:
        """New topics and a migrated database."""
        return await make_place(
            folder, log="kafka", ledger="postgres", kafka=self.kafka, postgres=self.postgres
        )

    def place(self, folder: Path) -> Place:
        """The same where no event loop runs."""
        return asyncio.run(self.open_place(folder))


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """
    Both on disk until the context ends.

    Raises: BrokerMissingError, PostgresMissingError: the message says what to install.
    """
    with (
        KafkaServer(folder / "kafka", broker_jars()) as kafka,
        PostgresServer(durable=True) as postgres,
    ):
        kafka.start()
        yield Servers(kafka, postgres)
