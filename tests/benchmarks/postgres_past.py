"""Fills a ledger in PostgreSQL with the keys of the past, by SQL and in chunks."""

import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import sql

from tests.benchmarks.bench_ledger import OLD_IDS

Connection = psycopg.Connection[tuple[Any, ...]]

TEMPLATE: Final = "1"  # the order that is multiplied
_CHUNK: Final = 250_000  # orders inserted in one transaction
# Has no factor in common with OLD_IDS, so that its multiples are different ids in no order.
_STRIDE: Final = 61_803_398_877
# Orders' own columns; effects' ids are handed out by the table.
_CHANGED: Final = {
    "effects": {
        "effect_key": "'main:' || t.kind || ':' || n.order_id",
        "order_key": "n.order_id",
        "seen_at": "t.settled_at",
        "body_id": "NULL",
    },
    "orders": {"id": "n.number", "order_key": "n.order_id"},
}
_OWN_IDS: Final = {"effects": "id"}


def fill(address: str, keys: int) -> None:
    """
    Multiply the applied order `TEMPLATE` until there are about `keys` effects.

    Indexes are left out meanwhile and built at the end, which is the quicker way.
    """
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '1GB'")
        for table in _CHANGED:
            # Apart, so that a chunk need not look for it in what there is by then.
            connection.execute(
                f"CREATE TEMP TABLE template_{table} AS SELECT * FROM {table} "
                f"WHERE order_key = '{TEMPLATE}'".encode()
            )
        dropped = _drop_indexes(connection)
        began_s = time.monotonic()
        wanted = keys // 2
        for first in range(1, wanted + 1, _CHUNK):
            last = min(first + _CHUNK - 1, wanted)
            for table in _CHANGED:
                _multiply(connection, table, first, last)
            _tell(f"{2 * last:,} of {keys:,} keys, {time.monotonic() - began_s:.0f} s")
        for statement in dropped:
            connection.execute(statement.encode())
        _tell(f"indexes, {time.monotonic() - began_s:.0f} s")
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
        _tell(f"vacuumed, {time.monotonic() - began_s:.0f} s")


def size_bytes(address: str) -> int:
    """What the database takes on disk."""
    with psycopg.connect(address, autocommit=True) as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        assert row is not None
        size: int = row[0]
        return size


def _drop_indexes(connection: Connection) -> Sequence[str]:
    """Drop what can be built anew from its definition; constraints keep theirs."""
    found = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' "
        "AND tablename = ANY(%s) AND indexname NOT IN (SELECT conname FROM pg_constraint)",
        [list(_CHANGED)],
    ).fetchall()
    for name, _ in found:
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
    return [definition for _, definition in found]


def _multiply(connection: Connection, table: str, first: int, last: int) -> None:
    columns = [
        name
        for (name,) in connection.execute(
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name = %s ORDER BY ordinal_position",
            [table],
        )
        if name != _OWN_IDS.get(table)
    ]
    changed = _CHANGED[table]
    names = ", ".join(f'"{column}"' for column in columns)
    values = ", ".join(changed.get(column, f't."{column}"') for column in columns)
    connection.execute(
        f"INSERT INTO {table} ({names}) SELECT {values} FROM (SELECT number, "
        f"lpad((number::numeric * {_STRIDE} % {OLD_IDS})::text, 12, '0') AS order_id "
        f"FROM generate_series({first}, {last}) AS number) AS n "
        f"CROSS JOIN template_{table} AS t".encode()
    )


def _tell(progress: str) -> None:
    print(f"filling PostgreSQL: {progress}", file=sys.stderr, flush=True)
