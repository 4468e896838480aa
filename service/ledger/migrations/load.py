"""The migrations of either database, as numbered SQL files."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file; never edited once it was released."""

    version: int
    name: str
    sql: str


def load_migrations(dialect: Literal["sqlite", "postgres"]) -> Sequence[Migration]:
    """The migrations in `migrations/<dialect>/`, in order: version 1, 2, … without a gap."""
    found = sorted(
        files(f"service.ledger.migrations.{dialect}").iterdir(), key=lambda entry: entry.name
    )
    migrations = [
        Migration(int(entry.name[:4]), entry.name, entry.read_text("utf-8"))
        for entry in found
        if entry.name.endswith(".sql")
    ]
    assert [migration.version for migration in migrations] == list(range(1, len(migrations) + 1))
    return migrations
