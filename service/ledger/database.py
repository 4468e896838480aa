"""What the ledger's statements need of a database, and where SQLite and PostgreSQL differ.

The ledger's rules are written once, in SQL that both understand but for what stands here:

    SQLite                                      PostgreSQL
    one writer, so nothing read can change      rows that decide are read `FOR UPDATE`
    each step of a statement gives up Python's  a statement is one way to the server
    global lock and has to win it back, so      and back, and brings all its rows
    many rows come as one JSON text
    a place in the text for each value          an array is one value
    INDEXED BY, as its planner is not asked     its planner decides
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, Protocol

import orjson

# Rows or keys in one statement of SQLite; sizes are powers of two, so that few texts are prepared.
_MOST_AT_ONCE: Final = 128
_SIZES: Final = tuple(1 << n for n in range(_MOST_AT_ONCE.bit_length() - 1, -1, -1))

# Types of columns, as PostgreSQL names them; SQLite takes the value's own.
TEXT: Final = "text"
INTEGER: Final = "bigint"
BYTES: Final = "bytea"


class Cursor(Protocol):
    """What a statement brought."""

    @property
    def description(self) -> Sequence[Sequence[Any]] | None:
        """Per column a sequence that begins with its name."""
        ...

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """
    A connection to the ledger's database. What a statement brought may be waited for only when
    its cursor is looked at, so a cursor is looked at where something depends on it.

    `takes_arrays`: it is PostgreSQL, and takes a list as one value. `?` is the place of a value,
    `?1` that of the first, also where it stands more than once.
    """

    @property
    def takes_arrays(self) -> bool: ...

    def execute(self, text: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Run one statement. Raises the driver's errors."""
        ...


class RowInsert:
    """
    An INSERT of any number of rows in few statements; `columns` maps each to its type.

    SQLite: the list of rows is filled up with NULL and rows without a first column are left out.
    PostgreSQL: one array per column.
    """

    def __init__(self, table: str, columns: dict[str, str], *, conflict: str = "") -> None:
        row = f"({', '.join('?' * len(columns))})"
        names = ", ".join(f'"{column}"' for column in columns)
        self._width = len(columns)
        self._texts = {
            size: f"INSERT INTO {table} ({names}) SELECT * FROM (VALUES {', '.join([row] * size)}) "
            f"WHERE column1 IS NOT NULL {conflict}"
            for size in _SIZES
        }
        arrays = ", ".join(f"?::{kind}[]" for kind in columns.values())
        self._array_text = (
            f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays}) {conflict}"
        )

    def run(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        if connection.takes_arrays:
            if rows:
                connection.execute(
                    self._array_text, [list(column) for column in zip(*rows, strict=True)]
                )
            return
        for start in range(0, len(rows), _MOST_AT_ONCE):
            chunk = rows[start : start + _MOST_AT_ONCE]
            size = _size_for(len(chunk))
            values = list(chain.from_iterable(chunk))
            values += [None] * (self._width * (size - len(chunk)))
            connection.execute(self._texts[size], values)


class KeyStatement:
    """
    A statement with `IN (:keys)` as its last parameters, run for any number of keys.

    SQLite: the list is filled up with NULL, which equals nothing.
    """

    def __init__(self, text: str) -> None:
        assert text.count("IN (:keys)") == 1
        self._texts = {size: text.replace(":keys", ", ".join("?" * size)) for size in _SIZES}
        self._array_text = text.replace("IN (:keys)", "= ANY(?)")

    def run(
        self, connection: Connection, keys: Sequence[str | int], *parameters: Any
    ) -> Sequence[Cursor]:
        """Run it; what it brought need not be looked at."""
        return list(self._run(connection, keys, parameters))

    def changed(self, connection: Connection, keys: Sequence[str | int], *parameters: Any) -> int:
        """Run it; returns how many rows it changed."""
        return sum(cursor.rowcount for cursor in self._run(connection, keys, parameters))

    def raw_rows(
        self, connection: Connection, keys: Sequence[str | int], *parameters: Any
    ) -> list[Any]:
        """Run it as a plain query; returns its rows, which may hold bytes."""
        found: list[Any] = []
        for cursor in self._run(connection, keys, parameters):
            found += cursor.fetchall()
        return found

    def _run(
        self, connection: Connection, keys: Sequence[str | int], parameters: tuple[Any, ...]
    ) -> Iterator[Cursor]:
        if connection.takes_arrays:
            if keys:
                yield connection.execute(self._array_text, [*parameters, list(keys)])
            return
        for start in range(0, len(keys), _MOST_AT_ONCE):
            chunk = keys[start : start + _MOST_AT_ONCE]
            size = _size_for(len(chunk))
            padding = [None] * (size - len(chunk))
            yield connection.execute(self._texts[size], [*parameters, *chunk, *padding])


class Query:
    """
    A query whose rows hold no bytes.

    Args:
        columns: what is selected, one expression each.
        tail: the rest, from FROM on; it may hold `IN (:keys)` as its last parameters.
        locked: the column in whose order PostgreSQL locks the rows, so that what was read stays
            as it is until the transaction ends, and no two transactions wait for each other.
    """

    def __init__(self, columns: Sequence[str], tail: str, *, locked: str | None = None) -> None:
        named = ", ".join(f"{column} AS c{number}" for number, column in enumerate(columns))
        names = ", ".join(f"c{number}" for number in range(len(columns)))
        json = f"SELECT json_group_array(json_array({names})) FROM (SELECT {named} {tail})"
        plain = f"SELECT {', '.join(columns)} {tail}"
        if locked is not None:
            plain += f" ORDER BY {locked} FOR UPDATE"
        has_keys = ":keys" in tail
        self._json = json
        self._plain = plain
        self._json_by_keys = KeyStatement(json) if has_keys else None
        self._plain_by_keys = KeyStatement(plain) if has_keys else None

    def rows(self, connection: Connection, *parameters: Any) -> list[Any]:
        """Its rows, each a sequence of the columns."""
        if connection.takes_arrays:
            return connection.execute(self._plain, parameters).fetchall()
        found: list[Any] = orjson.loads(connection.execute(self._json, parameters).fetchone()[0])
        return found

    def rows_for(
        self, connection: Connection, keys: Sequence[str | int], *parameters: Any
    ) -> list[Any]:
        """The same for these keys."""
        assert self._json_by_keys is not None and self._plain_by_keys is not None
        if connection.takes_arrays:
            return self._plain_by_keys.raw_rows(connection, keys, *parameters)
        texts = self._json_by_keys.raw_rows(connection, keys, *parameters)
        return list(chain.from_iterable(orjson.loads(text) for (text,) in texts))


def mappings(cursor: Cursor, rows: Iterable[Sequence[Any]] | None = None) -> list[dict[str, Any]]:
    """Rows of a cursor (all that are left, when none are given) by the names of the columns."""
    names = [column[0] for column in cursor.description or ()]
    return [
        dict(zip(names, row, strict=True)) for row in (cursor.fetchall() if rows is None else rows)
    ]


def _size_for(count: int) -> int:
    """The smallest prepared size that holds `count`."""
    return 1 << (count - 1).bit_length()
