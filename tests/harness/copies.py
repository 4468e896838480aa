"""Copies of a ledger that are put back later, as after a loss; the service is stopped meanwhile."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.harness.files import PostgresView, SqliteView
from tests.harness.place import Place
from tests.harness.postgres_server import PostgresServer

PutBack = Callable[[], None]


def copy_ledger(place: Place, postgres: PostgresServer | None) -> PutBack:
    """Copy the ledger as it is now; the returned function puts the copy in its place."""
    view = place.ledger
    if isinstance(view, SqliteView):
        copy = view.path.with_suffix(".copy")
        with closing(sqlite3.connect(view.path)) as live, closing(sqlite3.connect(copy)) as other:
            live.backup(other)
        return lambda: _replace_file(view.path, copy)
    assert isinstance(view, PostgresView) and postgres is not None
    address = postgres.new_database(template=view.address.rpartition("/")[2])
    return lambda: postgres.replace(view.address, by=address)


def empty_ledger(place: Place, postgres: PostgresServer | None) -> PutBack:
    """The same with a ledger that knows nothing, as one that was lost and made anew."""
    view = place.ledger
    if isinstance(view, SqliteView):
        return lambda: _remove_file(view.path)
    assert isinstance(view, PostgresView) and postgres is not None
    address = postgres.new_ledger()
    return lambda: postgres.replace(view.address, by=address)


def _replace_file(path: Path, copy: Path) -> None:
    _remove_file(path)
    copy.rename(path)


def _remove_file(path: Path) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
