"""Real servers for tests: absent ones are a visible skip on a laptop and a failure in CI."""

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tests.harness.postgres_server import PostgresMissingError, PostgresServer


def absent(reason: str) -> NoReturn:
    """End the test that needs what is not there."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


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
