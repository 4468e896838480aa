"""The ledger's schema on PostgreSQL: applied by `migrate`, only looked at by everything else."""

from collections.abc import Sequence
from typing import Any, Final

import psycopg

from service.domain.errors import StartupError
from service.ledger.migrations.load import Migration, load_migrations
from service.ledger.postgres_connection import AWAY, connect

# One starter at a time migrates; the others wait and find nothing left to do.
_MIGRATION_LOCK: Final = 0x4C524C32  # "LRL2"
_MIGRATION_PATIENCE: Final = "120s"
_HAS_TABLE: Final = "SELECT to_regclass('relay_migrations') IS NOT NULL"
_MAKE_TABLE: Final = (
    "CREATE TABLE relay_migrations (version integer NOT NULL PRIMARY KEY, name text NOT NULL, "
    "applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
)
_READ: Final = "SELECT coalesce(max(version), 0) FROM relay_migrations"
_NOTE: Final = "INSERT INTO relay_migrations (version, name) VALUES (%s, %s)"


def migrate(address: str) -> Sequence[str]:
    """
    Apply what is missing, each migration in one transaction; safe beside other starters.

    Returns: the names of those applied.
    Raises: StartupError `ledger_not_reachable`, `newer_schema`, `migration_failed`.
    """
    migrations = load_migrations("postgres")
    try:
        with connect(address, name="loyalty-relay migrate", transaction_timeout_ms=0) as connection:
            connection.execute("SET statement_timeout = 0")
            connection.execute(f"SET lock_timeout = '{_MIGRATION_PATIENCE}'")
            connection.limit_s = None
            connection.execute("SELECT pg_advisory_lock(%s)", [_MIGRATION_LOCK])
            version = _version(connection)
            _refuse_newer(version, migrations)
            applied = []
            for migration in migrations[version:]:
                _apply(connection, migration)
                applied.append(migration.name)
            return applied
    except AWAY as error:
        raise not_reachable(error) from error
    except psycopg.Error as error:
        raise StartupError("migration_failed", str(error).partition("\n")[0]) from error


def check(connection: psycopg.Connection[Any]) -> None:
    """Raises: StartupError `migration_pending` (run `migrate`), `newer_schema`."""
    migrations = load_migrations("postgres")
    version = _version(connection, make=False)
    _refuse_newer(version, migrations)
    if version < len(migrations):
        names = ", ".join(migration.name for migration in migrations[version:])
        raise StartupError(
            "migration_pending", f"{names}; run `loyalty-relay migrate`, then start again"
        )


def not_reachable(error: psycopg.Error) -> StartupError:
    """The server cannot be used; the driver's first line says why and holds no password."""
    return StartupError("ledger_not_reachable", f"PostgreSQL: {str(error).splitlines()[0]}")


def _version(connection: psycopg.Connection[Any], *, make: bool = True) -> int:
    row = connection.execute(_HAS_TABLE).fetchone()
    assert row is not None
    if not row[0]:
        if not make:
            return 0
        connection.execute(_MAKE_TABLE)
    row = connection.execute(_READ).fetchone()
    assert row is not None
    version: int = row[0]
    return version


def _refuse_newer(version: int, migrations: Sequence[Migration]) -> None:
    if version > len(migrations):
        raise StartupError(
            "newer_schema",
            f"the ledger has schema version {version}, this release knows up to "
            f"{len(migrations)}; start the newer release again, or restore a backup from before",
        )


def _apply(connection: psycopg.Connection[Any], migration: Migration) -> None:
    try:
        with connection.transaction():
            connection.execute(migration.sql.encode())
            connection.execute(_NOTE, (migration.version, migration.name))
    except AWAY:
        raise
    except psycopg.Error as error:
        raise StartupError("migration_failed", f"{migration.name}: {error}") from error
