"""The embedded ledger's schema: is the file ours, which version, and what brings it up."""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from service.domain.errors import StartupError
from service.ledger.migrations.load import Migration
from service.sqlite import connect

APPLICATION_ID: Final = 0x4C524C31  # "LRL1", in the file's header: a ledger of this application
WHAT: Final = "ledger"


def check_file(path: Path, newest_version: int) -> None:
    """
    Look at an existing file without changing it.

    Raises: StartupError when it is no ledger or was written by a newer release.
    """
    try:
        if path.stat().st_size == 0:
            return
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartupError("cannot_open", f"{WHAT} {path}: {error.strerror}") from error
    connection = connect(path, what=WHAT, read_only=True)
    try:
        application = _pragma(connection, "application_id")
        version = _pragma(connection, "user_version")
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    except sqlite3.Error as error:
        raise StartupError("cannot_open", f"{WHAT} {path}: {error}") from error
    finally:
        connection.close()
    if application != APPLICATION_ID and (tables or application):
        raise StartupError(
            "not_a_ledger", f"{path} is a database of something else; name another file"
        )
    if version > newest_version:
        raise StartupError(
            "newer_schema",
            f"{WHAT} {path} has schema version {version}, this release knows up to "
            f"{newest_version}; start the newer release again, or restore a backup from before",
        )


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> Sequence[str]:
    """
    Apply what is missing, each migration with its version number in one transaction.

    Returns: the names of those applied. Raises: StartupError; the file is as before the
    migration that failed.
    """
    applied = []
    version = _pragma(connection, "user_version")
    for migration in migrations:
        if migration.version <= version:
            continue
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            for statement in _statements(migration.sql):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={migration.version}")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise StartupError("migration_failed", f"{migration.name}: {error}") from error
        applied.append(migration.name)
    return applied


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would commit the transaction around them."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    assert not statement.strip(), "the script ends inside a statement"
