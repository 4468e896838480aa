"""Fixtures for real infrastructure: absent, a test skips on a laptop and fails in CI."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from tests.harness.kafka_jars import BrokerMissingError, broker_jars
from tests.harness.kafka_server import KafkaServer, archive_classes
from tests.harness.postgres_server import PostgresMissingError, PostgresServer

MakeKafkaServer = Callable[..., KafkaServer]


def absent(reason: str) -> NoReturn:
    """End the test that needs what is not there, saying why."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka_jars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The broker's jars, with its classes archived."""
    try:
        jars = broker_jars()
    except BrokerMissingError as error:
        absent(str(error))
    archive_classes(tmp_path_factory.mktemp("kafka-classes"), jars)
    return jars


@pytest.fixture(scope="session")
def kafka_server(
    kafka_jars: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaServer]:
    """The broker of the whole session; each test takes a topic prefix of its own."""
    with KafkaServer(tmp_path_factory.mktemp("kafka"), kafka_jars) as server:
        server.start()
        yield server


@pytest.fixture
def make_kafka_server(kafka_jars: Path, tmp_path: Path) -> Iterator[MakeKafkaServer]:
    """Makes and starts brokers for one test alone, which may break them."""
    with ExitStack() as stack:

        def make(*, secure: bool = False, **settings: str) -> KafkaServer:
            directory = tmp_path / f"kafka-{len(os.listdir(tmp_path))}"
            try:
                server = KafkaServer(directory, kafka_jars, secure=secure, settings=settings)
            except BrokerMissingError as error:
                absent(str(error))
            stack.enter_context(server).start()
            return server

        yield make


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests that only need SQL; each takes its own database."""
    try:
        server = PostgresServer(durable=False)
    except PostgresMissingError as error:
        absent(str(error))
    with server:
        yield server


@pytest.fixture
def private_postgres() -> Iterator[PostgresServer]:
    """A durable server of one test alone, to be stopped, frozen and killed."""
    try:
        server = PostgresServer(durable=True)
    except PostgresMissingError as error:
        absent(str(error))
    with server:
        yield server
