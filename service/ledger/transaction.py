"""One transaction of the ledger's writer, with statements that take many rows at once.

Every step of a `sqlite3` statement gives up Python's global lock and has to win it back from a
busy event loop. So what is hot runs a number of statements that does not grow with the batch:
rows go in by the dozen and come out as one JSON text.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import orjson

from service.ledger.config import LedgerConfig

# Ids are milliseconds since the epoch in the upper bits and a counter in the lower ones.
_ID_SHIFT: Final = 20
# Rows or keys in one statement; sizes are powers of two, so that few texts are ever prepared.
_MOST_AT_ONCE: Final = 128
_SIZES: Final = tuple(1 << n for n in range(_MOST_AT_ONCE.bit_length() - 1, -1, -1))


@dataclass(slots=True)
class WriterMemory:
    """
    What the writer knows without asking the file; only its thread uses it.

    `has_followers` may be true when no effect waits for another any more, never the reverse.
    """

    last_id: int
    has_followers: bool


def first_id_at(time_ms: int) -> int:
    """Rows with a smaller id are older than `time_ms`."""
    return time_ms << _ID_SHIFT


@dataclass(frozen=True, slots=True)
class Tx:
    """The open transaction of the writer; `now_ms` is the same for all that it writes."""

    connection: sqlite3.Connection
    now_ms: int
    memory: WriterMemory
    config: LedgerConfig

    def id(self) -> int:
        """A new id: greater than all before, and telling its time."""
        last = self.memory.last_id = max(self.memory.last_id + 1, self.now_ms << _ID_SHIFT)
        return last


class RowInsert:
    """
    An INSERT of any number of rows in few statements.

    The list of rows is filled up with NULL and rows without a first column are left out.
    """

    def __init__(self, table: str, columns: Sequence[str], *, conflict: str = "") -> None:
        row = f"({', '.join('?' * len(columns))})"
        names = ", ".join(f'"{column}"' for column in columns)
        self._width = len(columns)
        self._texts = {
            size: f"INSERT INTO {table} ({names}) SELECT * FROM (VALUES {', '.join([row] * size)}) "
            f"WHERE column1 IS NOT NULL {conflict}"
            for size in _SIZES
        }

    def run(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        for start in range(0, len(rows), _MOST_AT_ONCE):
            chunk = rows[start : start + _MOST_AT_ONCE]
            size = _size_for(len(chunk))
            values = list(chain.from_iterable(chunk))
            values += [None] * (self._width * (size - len(chunk)))
            connection.execute(self._texts[size], values)


class KeyStatement:
    """
    A statement with `IN (:keys)` as its last parameters, run for any number of keys.

    The list is filled up with NULL, which equals nothing.
    """

    def __init__(self, text: str) -> None:
        assert text.count(":keys") == 1
        self._texts = {size: text.replace(":keys", ", ".join("?" * size)) for size in _SIZES}

    def changed(
        self, connection: sqlite3.Connection, keys: Sequence[str | int], *parameters: Any
    ) -> int:
        """Run it; returns how many rows it changed."""
        return sum(
            connection.execute(text, values).rowcount
            for text, values in self._chunks(keys, parameters)
        )

    def rows(
        self, connection: sqlite3.Connection, keys: Sequence[str | int], *parameters: Any
    ) -> list[Any]:
        """Run it as a query of one column and one row that is a JSON array; returns its items."""
        found: list[Any] = []
        for text, values in self._chunks(keys, parameters):
            found += orjson.loads(connection.execute(text, values).fetchone()[0])
        return found

    def raw_rows(
        self, connection: sqlite3.Connection, keys: Sequence[str | int], *parameters: Any
    ) -> list[Any]:
        """Run it as a plain query; returns its rows."""
        found: list[Any] = []
        for text, values in self._chunks(keys, parameters):
            found += connection.execute(text, values).fetchall()
        return found

    def _chunks(
        self, keys: Sequence[str | int], parameters: tuple[Any, ...]
    ) -> Iterable[tuple[str, list[Any]]]:
        for start in range(0, len(keys), _MOST_AT_ONCE):
            chunk = keys[start : start + _MOST_AT_ONCE]
            size = _size_for(len(chunk))
            padding = [None] * (size - len(chunk))
            yield self._texts[size], [*parameters, *chunk, *padding]


def _size_for(count: int) -> int:
    """The smallest prepared size that holds `count`."""
    return 1 << (count - 1).bit_length()
