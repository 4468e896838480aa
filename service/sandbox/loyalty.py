"""Members: created, read, and their balance."""

from __future__ import annotations

import sqlite3
from typing import Any

import orjson

from service.sandbox.answers import (
    Answer,
    Refused,
    answer_json,
    answer_problem,
    answer_subscription_problem,
)
from service.sandbox.catalogue import custom_fields
from service.sandbox.checks import (
    blank_problems,
    normal_date,
    refuse_bad_date,
    refuse_problems,
    type_problems,
)
from service.sandbox.contacts import find_contact
from service.sandbox.members import enrol, find_member, free_card_code
from service.sandbox.points import totals
from service.sandbox.programs import PROGRAMS, program_document
from service.sandbox.universe import Call

_MEMBER_TYPES = {
    "program_id": "int",
    "contact_id": "string",
    "card_code": "string",
    "card_expire_at": "string",
    "birthday": "string",
    "program_joined_at": "string",
    "forced_tier_name": "string",
    "custom_fields": "array",
}


def create_member(call: Call) -> Answer:
    """POST /loyalty/members"""
    body = call.body
    refuse_problems(type_problems(body, _MEMBER_TYPES) or blank_problems(body, ("program_id",)))
    refuse_bad_date(body, "program_joined_at", call.universe.hours)
    program = PROGRAMS.get(body["program_id"])
    if program is None or program.status != "running":
        text = "Program must be in running state."
        raise Refused(answer_problem(400, "program_id", "wrong_status", text))
    joined_at = normal_date(body["program_joined_at"]) if body.get("program_joined_at") else None
    if joined_at is not None and joined_at < call.universe.program_start:
        text = "loyalty program could not be found at the given date"
        raise Refused(answer_subscription_problem(text))
    contact = _owner(call, body.get("contact_id"))
    custom_fields(call.db, "loyalty", body.get("custom_fields"))
    if body.get("forced_tier_name"):
        text = f"tier {body['forced_tier_name']} could not be found"
        raise Refused(answer_subscription_problem(text))
    row = enrol(
        call,
        card_code=_card_code(call, body.get("card_code"), generates=program.generates_codes),
        contact=contact,
        program_id=body["program_id"],
        joined_at=joined_at or call.date,
        birthday=body.get("birthday"),
    )
    member = _member(call, row)
    # Spelled otherwise in the answer to a creation, and without the last field.
    member["program_join_at"] = member.pop("program_joined_at")
    member.pop("fields")
    return answer_json(201, member)


def read_member(call: Call) -> Answer:
    """GET /loyalty/members/{card_code}"""
    return answer_json(200, _member(call, _known(call)))


def read_balance(call: Call) -> Answer:
    """GET /loyalty/members/{card_code}/balance; the sandbox's programs hold no points back"""
    row = _known(call)
    nq_points, q_points = totals(call, row["card_code"])
    return answer_json(200, {"pending": _balance(0, 0), "remaining": _balance(nq_points, q_points)})


def _known(call: Call) -> sqlite3.Row:
    row = find_member(call, call.parts[0])
    if row is None:
        text = "Membership not found for given identifier."
        raise Refused(answer_problem(404, "id", "wrong_value", text))
    return row


def _owner(call: Call, contact_id: str | None) -> int | None:
    if not contact_id:
        return None
    contact = find_contact(call.db, contact_id)
    if contact is None:
        text = f"Individual not found for unique key {contact_id}."
        raise Refused(answer_problem(400, "individual_id", "wrong_value", text))
    number: int = contact["id"]
    return number


def _card_code(call: Call, wanted: str | None, *, generates: bool) -> str:
    if not wanted and not generates:
        text = (
            "status must have a card code if the program doesn't have the card code"
            " auto generation option"
        )
        raise Refused(answer_subscription_problem(text))
    if not wanted:
        return free_card_code(call.db)
    taken = call.db.execute("SELECT 1 FROM members WHERE card_code = ?", (wanted,)).fetchone()
    if taken is not None:
        raise Refused(answer_subscription_problem(f"card code {wanted} is already used"))
    return wanted


def _balance(nq_points: int, q_points: int) -> dict[str, Any]:
    return {
        "nq_points": {"next_movement": None, "total": nq_points},
        "q_points": {"next_movement": None, "total": q_points},
    }


def _member(call: Call, row: sqlite3.Row) -> dict[str, Any]:
    nq_points, q_points = totals(call, row["card_code"])
    program = program_document(call.universe, row["program_id"])
    for name in ("automatic_subscription", "q_refund_mode", "nq_refund_mode"):
        program.pop(name)
    program |= {"use_all_orders": False, "user": None}
    return {
        "id": row["id"],
        "card_code": row["card_code"],
        "tier_joined_at": None,
        "program_joined_at": row["joined_at"],
        "card_expire_at": None,
        "computed_at": None,
        "q_point": q_points,
        "nq_point": nq_points,
        "birthday": row["birthday"],
        "individual": _individual(call.db, row["contact"]),
        "program": program,
        "tier": None,
        "fields": [],
    }


def _individual(db: sqlite3.Connection, contact: int | None) -> dict[str, Any] | None:
    row = db.execute("SELECT id, body FROM contacts WHERE id = ?", (contact,)).fetchone()
    if row is None:
        return None
    body = orjson.loads(row["body"])
    fields = [
        {"id": value["id"], "name": value["name"], "value": value["value"]}
        for value in body["custom_fields"]
    ]
    return {
        "id": row["id"],
        "name": body["lastname"],
        "firstname": body["firstname"],
        "email": body["email"],
        "fields": fields,
    }
