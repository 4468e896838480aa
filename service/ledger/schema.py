"""The ledger file's schema: is it ours, which version, and the migrations that bring it up."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from service.domain.errors import StartupError, WrongStateError
from service.domain.planning import PointsFrom
from service.ledger.config import LedgerConfig
from service.ledger.transaction import Tx
from service.sqlite import connect

APPLICATION_ID: Final = 0x4C524C31  # "LRL1", in the file's header: a ledger of this application
WHAT: Final = "ledger"


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file; never edited once it was released."""

    version: int
    name: str
    sql: str


def load_migrations() -> Sequence[Migration]:
    """The migrations in `migrations/`, in order: version 1, 2, … without a gap."""
    found = sorted(
        (entry for entry in files("service.ledger.migrations").iterdir()),
        key=lambda entry: entry.name,
    )
    migrations = [
        Migration(int(entry.name[:4]), entry.name, entry.read_text("utf-8"))
        for entry in found
        if entry.name.endswith(".sql")
    ]
    assert [migration.version for migration in migrations] == list(range(1, len(migrations) + 1))
    return migrations


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


# Guarantees: the first writer of a name stands; what is compared later was written once.
_WRITE_META: Final = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING"
_CHANGE_META: Final = (
    "INSERT INTO meta (name, value) VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
_COUNT_OPEN_BOOKINGS: Final = (
    "SELECT count(*) FROM effects INDEXED BY effects_unfinished "
    "WHERE state <> 'applied' AND kind = 'earn' AND settled_at IS NULL"
)
_READ_META: Final = "SELECT value FROM meta WHERE name = ?"

_REMEDIES: Final = {
    "tenant": "set RELAY_TENANT back, or name another ledger file: keys begin with the tenant",
    "points_from": "set RELAY_POINTS_FROM back; it changes only by `loyalty-relay points-from`, "
    "when no booking is open, because two ways at once would book twice",
    "universe": "set RELAY_SPLIO_URL back, or name another ledger file: what was posted there is "
    "not posted here",
}


def check_meta(connection: sqlite3.Connection, config: LedgerConfig) -> None:
    """
    Write what a new ledger belongs to, compare what an old one does.

    Raises: StartupError naming every difference and how to change it.
    """
    expected = {
        "tenant": config.tenant,
        "points_from": config.points_from.value if config.points_from else None,
        "universe": config.universe,
    }
    differences = []
    connection.execute("BEGIN IMMEDIATE")
    for name, value in expected.items():
        if value is None:
            continue
        connection.execute(_WRITE_META, (name, value))
        (known,) = connection.execute(_READ_META, (name,)).fetchone()
        if known != value:
            differences.append(
                f"{name} is {known!r} in the ledger and {value!r} in the settings: "
                f"{_REMEDIES[name]}"
            )
    if differences:
        connection.execute("ROLLBACK")
        raise StartupError("ledger_mismatch", "; ".join(differences))
    connection.execute("COMMIT")


def change_points_from(tx: Tx, points_from: PointsFrom) -> None:
    """See `SqliteLedger.change_points_from`."""
    (open_bookings,) = tx.connection.execute(_COUNT_OPEN_BOOKINGS).fetchone()
    if open_bookings:
        raise WrongStateError("bookings_open", f"{open_bookings} bookings are not settled yet")
    tx.connection.execute(_CHANGE_META, ("points_from", points_from.value))


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
