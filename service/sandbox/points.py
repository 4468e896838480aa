"""Points: credited to a card, and read back from the ledger a little later."""

from __future__ import annotations

import sqlite3
from typing import Any

from service.sandbox.answers import (
    Answer,
    Refused,
    answer_flat_problem,
    answer_problem,
)
from service.sandbox.balance import visible_points
from service.sandbox.books import count_up
from service.sandbox.checks import (
    LARGEST_INTEGER,
    blank_problems,
    days_after,
    normal_date,
    refuse_bad_date,
    refuse_problems,
    type_problems,
)
from service.sandbox.listing import Column, Listing, answer_page, read_page
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
_VALIDITY_DAYS = 365

# The filters that are offered, with what each compares; a program is the member's.
_LEDGER = Listing(
    columns="p.*, m.program_id",
    source="points p LEFT JOIN members m USING (card_code)",
    number="p.id",
    sorts={"ID": "p.id", "EventDate": "p.event_date", "ValueDate": "p.event_date"},
    filters={
        "card_code": Column("p.card_code"),
        "event_type": Column("p.event_type"),
        "points_type": Column("p.points_type"),
        "event_date": Column("p.event_date", "date"),
        "value_date": Column("p.event_date", "date"),
        "points_credited": Column("p.points", "number"),
        "points_earned": Column("p.points", "number"),
        "points_remaining": Column("p.points", "number"),
        "id_program": Column("m.program_id", "number"),
        "id_individual": Column("CAST(m.contact AS TEXT)"),
    },
    defaults={
        "points_type": '{"operator":"equals","value":"nq"}',
        "event_type": '{"operator":"equals","value":"event"}',
    },
)


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


def list_points(call: Call) -> Answer:
    """
    GET /loyalty/points

    Both documented defaults hold: without `points_type` only NQ points, and without
    `event_type` those of type `event`, which no booking has.
    """
    page = read_page(call, _LEDGER, *visible_points(call))
    return answer_page(page, [_element(call, row, cursor) for row, cursor in page.rows])


def _is_known(call: Call, key: str) -> bool:
    found = call.db.execute("SELECT 1 FROM credits WHERE idempotency_key = ?", (key,)).fetchone()
    return found is not None


def _element(call: Call, row: sqlite3.Row, cursor: str) -> dict[str, Any]:
    program = PROGRAMS.get(row["program_id"])
    held_days = call.universe.holding_days if row["points_type"] == "nq" else 0
    valid_from = days_after(row["event_date"], held_days if row["points"] > 0 else 0)
    return {
        "validity_start": valid_from,
        "validity_end": days_after(valid_from, _VALIDITY_DAYS),
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
