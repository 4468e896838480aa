"""The writer's transactions on PostgreSQL, whose statements are not waited for one by one."""

from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from psycopg import errors

from service.ledger.postgres_connection import AWAY, PostgresWriterConnection, connect
from tests.harness.postgres_server import PostgresServer
from tests.harness.waiting import until

_INSERT = "INSERT INTO meta (name, value) VALUES (?, ?)"
_COUNT = "SELECT count(*) FROM meta WHERE name LIKE 'test%'"


@pytest.fixture
def connection(postgres_server: PostgresServer) -> Iterator[PostgresWriterConnection]:
    address = postgres_server.new_ledger()
    writer = PostgresWriterConnection(address, name="test")
    yield writer
    writer.close()


def count(connection: PostgresWriterConnection) -> int:
    connection.begin()
    found: int = connection.execute(_COUNT).fetchone()[0]
    connection.commit()
    return found


def insert_and_commit(connection: PostgresWriterConnection, name: str, *, times: int = 1) -> None:
    """Where an error is noticed is left to the driver."""
    for _ in range(times):
        connection.execute(_INSERT, (name, "x"))
    connection.commit()


def test_what_nobody_looked_at_is_committed(connection: PostgresWriterConnection) -> None:
    connection.begin()
    connection.execute(_INSERT, ("test 1", "x"))
    connection.execute(_INSERT, ("test 2", "x"))
    connection.commit()
    assert count(connection) == 2


def test_a_cursor_that_is_looked_at_waits_for_its_statement(
    connection: PostgresWriterConnection,
) -> None:
    connection.begin()
    first = connection.execute(_INSERT, ("test 1", "x"))
    found = connection.execute("SELECT name, value FROM meta WHERE name = ?", ("test 1",))
    assert [column[0] for column in found.description or ()] == ["name", "value"]
    assert found.fetchall() == [("test 1", "x")]
    assert first.rowcount == 1
    assert connection.execute("DELETE FROM meta WHERE name LIKE 'test%'").rowcount == 1
    connection.commit()


def test_an_error_that_nobody_looked_at_fails_the_commit(
    connection: PostgresWriterConnection,
) -> None:
    connection.begin()
    connection.execute(_INSERT, ("test 1", "x"))
    with pytest.raises(errors.UniqueViolation):
        insert_and_commit(connection, "test 1", times=3)
    connection.roll_back()
    assert count(connection) == 0


def test_a_failed_transaction_is_never_taken_for_a_committed_one(
    connection: PostgresWriterConnection,
) -> None:
    connection.begin()
    connection.execute(_INSERT, ("test 1", "x"))
    with pytest.raises(errors.UniqueViolation):
        assert connection.execute(_INSERT, ("test 1", "again")).rowcount
    with pytest.raises(psycopg.Error):
        connection.commit()
    connection.roll_back()
    assert count(connection) == 0


def test_after_an_error_the_next_transaction_is_a_new_one(
    connection: PostgresWriterConnection,
) -> None:
    connection.begin()
    with pytest.raises(errors.UndefinedTable):
        connection.execute("SELECT 1 FROM nothing").fetchall()
    connection.roll_back()
    connection.begin()
    connection.execute(_INSERT, ("test 1", "x"))
    connection.roll_back()
    assert count(connection) == 0


def test_a_server_that_went_away_in_between_commits_nothing(
    private_postgres: PostgresServer,
) -> None:
    address = private_postgres.new_ledger()
    connection = PostgresWriterConnection(address, name="test")
    try:
        connection.begin()
        connection.execute(_INSERT, ("test 1", "x")).rowcount  # noqa: B018  it is there
        private_postgres.restart()
        with pytest.raises(AWAY):
            insert_and_commit(connection, "test 2")
        connection.roll_back()
        assert count(connection) == 0
    finally:
        connection.close()


async def test_a_process_that_is_stopped_between_two_statements_keeps_no_row_for_long(
    postgres_server: PostgresServer,
) -> None:
    """The server's limit of idle transactions does not count there, as more may be on its way."""
    address = postgres_server.new_ledger()
    with (
        psycopg.connect(address, autocommit=True) as onlooker,
        connect(address, name="stopped", transaction_timeout_ms=700) as stopped,
    ):

        def state() -> str | None:
            row = onlooker.execute(
                "SELECT state FROM pg_stat_activity WHERE application_name = 'stopped'"
            ).fetchone()
            return row[0] if row else None

        with suppress(psycopg.OperationalError), stopped.pipeline():
            for number in range(3):
                stopped.execute(
                    "INSERT INTO meta (name, value) VALUES (%s, 'x')", [f"test {number}"]
                )
            await until(lambda: state() == "active", what="statements are under way")
            await until(lambda: state() is None, what="the server gives it up", timeout_s=8)
        assert onlooker.execute(_COUNT.replace("?", "%s")).fetchone() == (0,)


@pytest.mark.parametrize(
    "values",
    [
        ["a", 'quote " and \\', "{,}", "", "NULL", "ü", None],
        [b"\x00\xff", None, b"", b'"\\'],
        [0, -1, 2**63 - 1, -(2**63), None],
    ],
)
def test_lists_arrive_as_they_are(
    connection: PostgresWriterConnection, values: list[object]
) -> None:
    kind = {str: "text", bytes: "bytea", int: "bigint"}[type(values[0])]
    connection.begin()
    found = connection.execute(f"SELECT * FROM unnest(?::{kind}[])", (values,)).fetchall()
    nothing = connection.execute(f"SELECT * FROM unnest(?::{kind}[])", ([None, None],)).fetchall()
    connection.commit()
    assert [value for (value,) in found] == values
    assert nothing == [(None,), (None,)]


@pytest.mark.parametrize("values", [["\x00"], ["\ud800"], [2**63]])
def test_a_list_that_cannot_be_stored_is_told_apart(
    connection: PostgresWriterConnection, values: list[object]
) -> None:
    connection.begin()
    with pytest.raises((psycopg.DataError, UnicodeEncodeError)) as caught:
        connection.execute("SELECT ?::text[]", (values,)).fetchall()
    assert connection.is_not_storable(caught.value)
    connection.roll_back()
    assert count(connection) == 0
