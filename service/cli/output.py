"""Results on standard output: tables for people, one JSON object a line for machines."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli.desk import Ask, Row, walk
from service.cli.moments import show_iso, show_local

# Where no terminal limits the line, a table is as wide as its content, so that grep finds it.
_PIPE_WIDTH: Final = 10_000
_STYLES: Final = {
    "applied": "green",
    "duplicate": "cyan",
    "ok": "green",
    "rejected": "red",
    "fail": "red",
    "held": "yellow",
    "in_doubt": "yellow",
    "warn": "yellow",
    "void": "dim",
}


@dataclass(frozen=True, slots=True)
class Column:
    """
    One column of a table: its title and the value's name in a row.

    `show` turns the value into text where its plain form is not for people.
    """

    title: str
    name: str
    show: Callable[[Any], str] | None = None
    right: bool = False

    def cell(self, row: Row) -> Text:
        """The value of `row` as people see it; empty when it has none."""
        value = row.get(self.name)
        text = "" if value is None else (self.show or show_value)(value)
        return Text(clean(text), style=_STYLES.get(text, ""))


def is_moment(name: str) -> bool:
    """Whether a value of this name is a time in milliseconds since the epoch."""
    return name in ("at", "absence_counts_from") or name.endswith(("_at", "_until", "since"))


def moment(value: Any) -> str:
    """A time as people see it."""
    return show_local(value) if isinstance(value, int) else str(value)


def show_value(value: Any) -> str:
    """Any other value as people see it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def clean(text: str) -> str:
    """`text` without what could move a terminal's cursor or change its colours."""
    return "".join(sign if sign.isprintable() else "�" for sign in text)


def print_json(rows: Iterable[Row]) -> None:
    """One object a line; times in ISO 8601, UTC."""
    for row in rows:
        sys.stdout.write(orjson.dumps(_for_machines(row), default=str).decode() + "\n")
    sys.stdout.flush()


def print_table(rows: Sequence[Row], columns: Sequence[Column], *, nothing: str) -> None:
    """A table, or the sentence `nothing` on standard error when there are no rows."""
    if not rows:
        print(nothing, file=sys.stderr)
        return
    has_titles = any(column.title for column in columns)
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=has_titles)
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.show is moment,
        )
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    console().print(table)


def print_lines(lines: Iterable[str]) -> None:
    """Plain sentences, as they are."""
    for line in lines:
        sys.stdout.write(clean(line) + "\n")
    sys.stdout.flush()


def console() -> Console:
    """Standard output as it is now, so that a test or a pipe in its place is honoured."""
    return Console(
        file=sys.stdout,
        width=None if sys.stdout.isatty() else _PIPE_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def _for_machines(value: Any, name: str = "") -> Any:
    match value:
        case Mapping():
            return {key: _for_machines(item, key) for key, item in value.items()}
        case list() | tuple():
            return [_for_machines(item) for item in value]
        case bool():
            return value
        case int() if is_moment(name):
            return show_iso(value)
        case _:
            return value


async def print_pages(
    ask: Ask,
    table: Callable[[Sequence[Row]], None],
    *,
    limit: int | None,
    as_json: bool,
) -> None:
    """
    Print a list: machines get each page as it comes, people one `table`.

    Args:
        ask, limit: as of `walk`.
    """
    rows: list[Row] = []
    is_more = False
    async for page in walk(ask, limit=limit):
        if as_json:
            print_json(page.items)
        else:
            rows.extend(page.items)
        is_more = page.next is not None
    if not as_json:
        table(rows)
    if is_more:
        print("There are more: raise --limit or take --all.", file=sys.stderr)
