"""Lists with cursors and one filter per field, as points, rewards and grants have them."""

from __future__ import annotations

import base64
import math
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from service.sandbox.answers import WRONG_PAYLOAD, Answer, Refused, answer_json
from service.sandbox.checks import LARGEST_INTEGER, parse_date
from service.sandbox.universe import Call

_LARGEST_LIMIT = 1000
_COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_PATTERNS = {"contains": "%{}%", "begins": "{}%", "ends": "%{}"}
_FLAGS = {"true": 1, "1": 1, "false": 0, "0": 0}


@dataclass(frozen=True, slots=True)
class Column:
    """What a filter compares: an SQL expression, and how its values are written."""

    sql: str
    kind: Literal["text", "number", "date", "flag"] = "text"


@dataclass(frozen=True, slots=True)
class Listing:
    """
    What can be listed.

    Attributes:
        columns, source: what is selected, and the tables it comes from.
        number: the expression that tells rows of equal rank apart; counts up.
        sorts: the query's word to the expression; the first is the default.
        filters: the filters that are offered.
        defaults: filters that hold unless others are given, in the query's form.
        others: parameters that are neither filters nor about pages.
        ordered: whether `order` and `sort` are offered.
    """

    columns: str
    source: str
    number: str
    sorts: Mapping[str, str]
    filters: Mapping[str, Column] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """The rows of one page, each with its cursor, and the cursors of the pages beside it."""

    rows: list[tuple[sqlite3.Row, str]]
    after: str | None
    before: str | None


def read_page(call: Call, listing: Listing, condition: str, values: Iterable[Any]) -> Page:
    """
    The page that the query asks for, of the rows that meet `condition`.

    Raises: Refused for a filter, cursor or limit that Splio would not take.
    """
    query = call.query
    limit = _limit(query.get("limit"))
    default = next(iter(listing.sorts))
    sort, order = query.get("sort", default), query.get("order", "desc")
    after, before = query.get("after"), query.get("before")
    if sort not in listing.sorts or order not in ("asc", "desc") or (after and before):
        raise Refused(WRONG_PAYLOAD)
    where, bound = _filters(listing, query)
    bound += values
    # Reading backwards from `before` turns the order round, and the page back afterwards.
    ascending = (order == "asc") != bool(before)
    rank = listing.sorts[sort]
    place = ""
    if after or before:
        sign = ">" if ascending else "<"
        place = f"AND ({rank}, {listing.number}) {sign} (?, ?)"
        bound += _position(sort, after or before or "")
    direction = "ASC" if ascending else "DESC"
    rows = call.db.execute(
        f"SELECT {listing.columns}, {rank} AS cursor_rank, {listing.number} AS cursor_number"
        f" FROM {listing.source} WHERE {where} AND {condition} {place}"
        f" ORDER BY {rank} {direction}, {listing.number} {direction} LIMIT ?",
        (*bound, limit + 1),
    ).fetchall()
    more = len(rows) > limit
    rows = rows[:limit]
    if before:
        rows.reverse()
    shown = [(row, _cursor(sort, row)) for row in rows]
    has_next = bool(before) or more
    has_previous = more if before else bool(after)
    return Page(
        shown,
        after=shown[-1][1] if shown and has_next else None,
        before=shown[0][1] if shown and has_previous else None,
    )


def answer_page(page: Page, elements: list[dict[str, Any]]) -> Answer:
    """The page's elements with its cursors, as Splio wraps them."""
    return answer_json(
        200,
        {
            "paging": {
                "cursors": {"after": page.after, "before": page.before},
                "previous": "",
                "next": "",
            },
            "count_element": len(elements),
            "elements": elements,
        },
    )


def _limit(text: str | None) -> int:
    if text is None:
        return 50
    if not text.isdecimal() or len(text) > len(str(_LARGEST_LIMIT)) or int(text) > _LARGEST_LIMIT:
        raise Refused(WRONG_PAYLOAD)
    return int(text)


def _filters(listing: Listing, query: Mapping[str, str]) -> tuple[str, list[Any]]:
    paging = {"limit", "before", "after"} | ({"order", "sort"} if listing.ordered else set())
    given = {
        name: text
        for name, text in query.items()
        if name not in paging and name not in listing.others
    }
    conditions, values = ["1"], []
    for name, text in {**listing.defaults, **given}.items():
        if name not in listing.filters:
            raise Refused(WRONG_PAYLOAD)
        condition, value = _condition(listing.filters[name], text)
        conditions.append(condition)
        values.append(value)
    return " AND ".join(conditions), values


def _condition(column: Column, text: str) -> tuple[str, Any]:
    try:
        document = orjson.loads(text)
        operator, value = document["operator"], document["value"]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        raise Refused(WRONG_PAYLOAD) from None
    if not isinstance(operator, str) or not isinstance(value, str | int | float):
        raise Refused(WRONG_PAYLOAD)
    if operator in ("equals", "not equals"):
        sign = "IS" if operator == "equals" else "IS NOT"
        return f"{column.sql} {sign} ?", _value(column, value)
    if column.kind in ("number", "date") and operator in _COMPARISONS:
        return f"{column.sql} {_COMPARISONS[operator]} ?", _value(column, value)
    if column.kind == "date" and operator == "on date":
        return f"substr({column.sql}, 1, 10) = ?", _day(str(value))
    if column.kind == "text" and operator in _PATTERNS:
        escaped = str(value).replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        return f"{column.sql} LIKE ? ESCAPE '\\'", _PATTERNS[operator].format(escaped)
    raise Refused(WRONG_PAYLOAD)


def _value(column: Column, value: str | float) -> str | float:
    if column.kind == "number":
        return _number(value)
    if column.kind == "flag":
        flag = _FLAGS.get(str(value).lower())
        if flag is None:
            raise Refused(WRONG_PAYLOAD)
        return flag
    return str(value)


def _number(value: str | float) -> float:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise Refused(WRONG_PAYLOAD) from None
    if not math.isfinite(number) or abs(number) > LARGEST_INTEGER:
        raise Refused(WRONG_PAYLOAD)
    return number


def _day(text: str) -> str:
    day = text[:10]
    try:
        parse_date(f"{day} 00:00:00")
    except ValueError:
        raise Refused(WRONG_PAYLOAD) from None
    return day


def _cursor(sort: str, row: sqlite3.Row) -> str:
    place = [sort, row["cursor_rank"], row["cursor_number"]]
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode()


def _position(sort: str, cursor: str) -> tuple[str | int, int]:
    try:
        made_for, rank, number = orjson.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError):
        raise Refused(WRONG_PAYLOAD) from None
    if made_for != sort or not isinstance(number, int) or not isinstance(rank, str | int):
        raise Refused(WRONG_PAYLOAD)
    if number > LARGEST_INTEGER or (isinstance(rank, int) and abs(rank) > LARGEST_INTEGER):
        raise Refused(WRONG_PAYLOAD)
    return rank, number
