"""Migrations of the ledger on PostgreSQL: applied once, whole or not at all, never by a service."""

import threading
from collections.abc import Sequence

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from service.domain.errors import StartupError
from service.ledger import postgres_schema
from service.ledger.migrations.load import Migration, load_migrations
from service.ledger.postgres import open_postgres_ledger
from service.ledger.postgres_schema import migrate
from service.telemetry.metrics import Metrics
from tests.contract.ledger_fixture import CONFIG
from tests.fakes.clock import FakeClock
from tests.harness.postgres_server import PostgresServer


@pytest.fixture
def address(postgres_server: PostgresServer) -> str:
    return postgres_server.new_database()


def tables(address: str) -> set[str]:
    with psycopg.connect(address) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in rows}


async def open_it(address: str) -> None:
    async with open_postgres_ledger(
        address, config=CONFIG, clock=FakeClock(), metrics=Metrics(CollectorRegistry())
    ):
        pass


def and_then(monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
    """A release that has these migrations too."""
    known = load_migrations("postgres")
    more = [
        Migration(len(known) + number, f"{len(known) + number:04}_more.sql", text)
        for number, text in enumerate(texts, start=1)
    ]
    monkeypatch.setattr(postgres_schema, "load_migrations", lambda _: [*known, *more])


def test_starters_that_migrate_at_once_apply_each_migration_once(address: str) -> None:
    applied: list[Sequence[str]] = []
    starters = [threading.Thread(target=lambda: applied.append(migrate(address))) for _ in range(4)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join(60)
    names = [migration.name for migration in load_migrations("postgres")]
    assert sorted(map(len, applied)) == [0, 0, 0, len(names)]
    assert max(applied, key=len) == names


async def test_a_migration_that_fails_leaves_the_schema_before_it(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(address)
    with monkeypatch.context() as patch:
        and_then(patch, "CREATE TABLE whole (a int)", "CREATE TABLE half (a int); SELECT 1 / 0")
        with pytest.raises(StartupError, match=r"migration_failed.*more.*division by zero"):
            migrate(address)
        assert "whole" in tables(address) and "half" not in tables(address)
        with pytest.raises(StartupError, match="migration_pending"):
            await open_it(address)
    with pytest.raises(StartupError, match="newer_schema"):
        await open_it(address)
    with pytest.raises(StartupError, match="newer_schema"):
        migrate(address)


async def test_a_service_does_not_start_before_the_first_migration(address: str) -> None:
    with pytest.raises(StartupError, match="migration_pending"):
        await open_it(address)
    assert tables(address) == set()


async def test_a_user_who_may_not_make_tables_is_told_so(address: str) -> None:
    """Of a new database PostgreSQL lets only its owner make any."""
    name = f"guest_{address.rpartition('/')[2]}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{name}" LOGIN'.encode())
    guest = address.replace("relay@", f"{name}@")
    with pytest.raises(StartupError, match=r"migration_failed.*permission denied"):
        migrate(guest)
    migrate(address)
    with pytest.raises(StartupError, match="permission denied"):
        await open_it(guest)
