"""Points: credited to a card, and read back from the ledger a little later."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Mapping
from typing import Any

import orjson

from service.sandbox.answers import (
    WRONG_PAYLOAD,
    Answer,
    Refused,
    answer_flat_problem,
    answer_json,
    answer_problem,
)
from service.sandbox.books import count_up
from service.sandbox.checks import (
    LARGEST_INTEGER,
    blank_problems,
    normal_date,
    parse_date,
    refuse_bad_date,
    refuse_problems,
    type_problems,
    year_after,
)
from service.sandbox.members import find_member
from service.sandbox.programs import PROGRAMS
from service.sandbox.universe import Call

CREDIT_TYPES = {
    "event_date": "string",
    "context": "string",
    "nq_points_quantity": "int",
    "q_points_quantity": "int",
    "is_final": "boolean",
    "idempotency_key": "string",
}
_REQUIRED = ("context", "nq_points_quantity", "q_points_quantity", "is_final")
_QUANTITIES = ("nq_points_quantity", "q_points_quantity")
_SHOWN_TYPES = {"nq": "non-qualifying", "q": "qualifying"}

# The filters that are offered, with what each compares; a program is the member's.
_COLUMNS = {
    "card_code": "p.card_code",
    "event_type": "p.event_type",
    "points_type": "p.points_type",
    "event_date": "p.event_date",
    "value_date": "p.event_date",
    "points_credited": "p.points",
    "points_earned": "p.points",
    "points_remaining": "p.points",
    "id_program": "m.program_id",
    "id_individual": "CAST(m.contact AS TEXT)",
}
_NUMBERS = ("points_credited", "points_earned", "points_remaining", "id_program")
_DATES = ("event_date", "value_date")
_COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_PATTERNS = {"contains": "%{}%", "begins": "{}%", "ends": "%{}"}
_DEFAULTS = {
    "points_type": '{"operator":"equals","value":"nq"}',
    "event_type": '{"operator":"equals","value":"event"}',
}
_SORTS = {"ID": "p.id", "EventDate": "p.event_date", "ValueDate": "p.event_date"}
_PAGING = ("limit", "before", "after", "order", "sort")
_LARGEST_LIMIT = 1000


def credit_points(call: Call) -> Answer:
    """
    POST /loyalty/v1/members/{card_code}/credit

    Not documented, so settings: whether a number is a member's card, and what a repeated
    idempotency key does. Both ways answer 202.
    """
    body = call.body
    refuse_problems(type_problems(body, CREDIT_TYPES) or blank_problems(body, _REQUIRED))
    refuse_bad_date(body, "event_date", call.universe.hours)
    for name in _QUANTITIES:
        if abs(body[name]) > LARGEST_INTEGER:
            raise Refused(answer_problem(400, name, "wrong_value", "wrong_value"))
    card_code = call.parts[0]
    if find_member(call, card_code) is None:
        text = "Membership not found for given identifier."
        return answer_problem(404, "card_code", "wrong_value", text)
    event_date = normal_date(body["event_date"]) if body.get("event_date") else call.date
    if event_date < call.universe.program_start:
        return answer_flat_problem(400, "", "", "program not found")
    key = body.get("idempotency_key")
    if call.universe.repeated_key == "suppress" and key is not None and _is_known(call, key):
        count_up(call.db, "credits_suppressed")
        return Answer(202)
    call.db.execute(
        "INSERT INTO credits (card_code, context, nq_points, q_points, is_final,"
        " idempotency_key, event_date, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            card_code,
            body["context"],
            *(body[name] for name in _QUANTITIES),
            body["is_final"],
            key,
            event_date,
            call.date,
        ),
    )
    for kind, name in zip(_SHOWN_TYPES, _QUANTITIES, strict=True):
        if body[name]:
            call.db.execute(
                "INSERT INTO points (card_code, event_type, points_type, points, event_date,"
                " booked_at, message) VALUES (?, 'credit_points', ?, ?, ?, ?, ?)",
                (card_code, kind, body[name], event_date, call.now, body["context"]),
            )
    return Answer(202)


def totals(call: Call, card_code: str) -> tuple[int, int]:
    """The visible NQ and Q points of a card."""
    rows = call.db.execute(
        "SELECT points_type, sum(points) AS n FROM points"
        " WHERE card_code = ? AND booked_at <= ? GROUP BY points_type",
        (card_code, _visible_until(call)),
    )
    sums = {row["points_type"]: row["n"] for row in rows}
    return sums.get("nq", 0), sums.get("q", 0)


def list_points(call: Call) -> Answer:
    """
    GET /loyalty/points

    Both documented defaults hold: without `points_type` only NQ points, and without
    `event_type` those of type `event`, which no booking has.
    """
    query = call.query
    limit = _limit(query.get("limit"))
    sort, order = query.get("sort", "ID"), query.get("order", "desc")
    after, before = query.get("after"), query.get("before")
    if sort not in _SORTS or order not in ("asc", "desc") or (after and before):
        raise Refused(WRONG_PAYLOAD)
    where, values = _filters(query)
    matching = f"{where} AND p.booked_at <= ?"
    values.append(_visible_until(call))
    # Reading backwards from `before` turns the order round, and the page back afterwards.
    ascending = (order == "asc") != bool(before)
    place = _keyset(sort, "asc" if ascending else "desc", after or before, values)
    direction = "ASC" if ascending else "DESC"
    rows = call.db.execute(
        "SELECT p.*, m.program_id FROM points p LEFT JOIN members m USING (card_code)"
        f" WHERE {matching} {place} ORDER BY {_SORTS[sort]} {direction}, p.id {direction} LIMIT ?",
        (*values, limit + 1),
    ).fetchall()
    more = len(rows) > limit
    rows = rows[:limit]
    if before:
        rows.reverse()
    elements = [_element(row, sort) for row in rows]
    has_next = bool(before) or more
    has_previous = more if before else bool(after)
    return answer_json(
        200,
        {
            "paging": {
                "cursors": {
                    "after": elements[-1]["cursor"] if elements and has_next else None,
                    "before": elements[0]["cursor"] if elements and has_previous else None,
                },
                "previous": "",
                "next": "",
            },
            "count_element": len(elements),
            "elements": elements,
        },
    )


def _is_known(call: Call, key: str) -> bool:
    found = call.db.execute("SELECT 1 FROM credits WHERE idempotency_key = ?", (key,)).fetchone()
    return found is not None


def _visible_until(call: Call) -> float:
    return call.now - call.universe.points_visible_after_s


def _limit(text: str | None) -> int:
    if text is None:
        return 50
    if not text.isdecimal() or len(text) > len(str(_LARGEST_LIMIT)) or int(text) > _LARGEST_LIMIT:
        raise Refused(WRONG_PAYLOAD)
    return int(text)


def _filters(query: Mapping[str, str]) -> tuple[str, list[Any]]:
    given = {name: text for name, text in query.items() if name not in _PAGING}
    conditions, values = [], []
    for name, text in {**_DEFAULTS, **given}.items():
        if name not in _COLUMNS:
            raise Refused(WRONG_PAYLOAD)
        condition, value = _condition(name, text)
        conditions.append(condition)
        values.append(value)
    return " AND ".join(conditions), values


def _condition(name: str, text: str) -> tuple[str, Any]:
    try:
        document = orjson.loads(text)
        operator, value = document["operator"], document["value"]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        raise Refused(WRONG_PAYLOAD) from None
    if not isinstance(operator, str) or not isinstance(value, str | int):
        raise Refused(WRONG_PAYLOAD)
    column = _COLUMNS[name]
    ordered = name in _NUMBERS or name in _DATES
    if operator in ("equals", "not equals"):
        sign = "IS" if operator == "equals" else "IS NOT"
        return f"{column} {sign} ?", _number(value) if name in _NUMBERS else str(value)
    if ordered and operator in _COMPARISONS:
        sign = _COMPARISONS[operator]
        return f"{column} {sign} ?", _number(value) if name in _NUMBERS else str(value)
    if name in _DATES and operator == "on date":
        return f"substr({column}, 1, 10) = ?", _day(str(value))
    if not ordered and operator in _PATTERNS:
        escaped = str(value).replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        return f"{column} LIKE ? ESCAPE '\\'", _PATTERNS[operator].format(escaped)
    raise Refused(WRONG_PAYLOAD)


def _number(value: str | int) -> int:
    try:
        number = int(value)
    except ValueError:
        raise Refused(WRONG_PAYLOAD) from None
    if abs(number) > LARGEST_INTEGER:
        raise Refused(WRONG_PAYLOAD)
    return number


def _day(text: str) -> str:
    day = text[:10]
    try:
        parse_date(f"{day} 00:00:00")
    except ValueError:
        raise Refused(WRONG_PAYLOAD) from None
    return day


def _keyset(sort: str, order: str, cursor: str | None, values: list[Any]) -> str:
    if not cursor:
        return ""
    try:
        made_for, value, number = orjson.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError):
        raise Refused(WRONG_PAYLOAD) from None
    if made_for != sort or not isinstance(number, int) or not isinstance(value, str | int):
        raise Refused(WRONG_PAYLOAD)
    values += [value, number]
    return f"AND ({_SORTS[sort]}, p.id) {'>' if order == 'asc' else '<'} (?, ?)"


def _element(row: sqlite3.Row, sort: str) -> dict[str, Any]:
    value = row["id"] if sort == "ID" else row["event_date"]
    cursor = base64.urlsafe_b64encode(orjson.dumps([sort, value, row["id"]])).decode()
    program = PROGRAMS.get(row["program_id"])
    return {
        "validity_start": row["event_date"],
        "validity_end": year_after(row["event_date"]),
        "tier_name": "",
        "reason": {
            "interaction_type": "manual",
            "message": row["message"],
            "interaction_id": "",
            "rules_id": None,
            "rule_name": "",
        },
        "event_type": row["event_type"],
        "points_type": _SHOWN_TYPES[row["points_type"]],
        "program_name": "" if program is None else program.name,
        "status": "valid",
        "event_date": row["event_date"],
        "value_date": row["event_date"],
        "card_code": row["card_code"],
        "points_credited": row["points"],
        "points_remaining": row["points"],
        "points_earned": row["points"],
        "id": row["id"],
        "cursor": cursor,
    }
