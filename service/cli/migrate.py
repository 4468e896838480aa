"""`migrate`: brings the ledger on PostgreSQL to this release's schema."""

import os

import typer

from service.domain.errors import StartupError
from service.ledger.postgres_schema import migrate as migrate_ledger
from service.settings import load_settings


def migrate() -> None:
    """
    Bring the ledger on PostgreSQL to this release's schema; can be repeated.

    Each migration is one transaction, and only one starter applies them at a time: the others
    wait and find nothing to do. `serve` and `consume` refuse to start while one is pending. An
    SQLite ledger needs no such command: it is brought up when it is opened.

    Examples:

        RELAY_LEDGER_URL=postgresql://relay@db/relay loyalty-relay migrate
    """
    settings = load_settings(os.environ, serving=False)
    if settings.ledger_path is not None:
        raise StartupError(
            "not_needed", "an SQLite ledger (RELAY_LEDGER_URL) is brought up when it is opened"
        )
    applied = migrate_ledger(settings.ledger_url)
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("nothing to apply: the schema is this release's")
