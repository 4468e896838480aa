"""Members: created, read, changed, expired, and their balance."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import orjson

from service.sandbox.answers import (
    MALFORMED,
    Answer,
    Refused,
    answer_json,
    answer_problem,
    answer_subscription_problem,
)
from service.sandbox.balance import read_balance_of
from service.sandbox.catalogue import custom_fields
from service.sandbox.checks import (
    blank_problems,
    normal_date,
    refuse_bad_date,
    refuse_problems,
    type_problems,
)
from service.sandbox.contacts import find_contact
from service.sandbox.members import change_member, enrol, find_member, free_card_code
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
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def create_member(call: Call) -> Answer:
    """POST /loyalty/members"""
    body = call.body
    refuse_problems(type_problems(body, _MEMBER_TYPES) or blank_problems(body, ("program_id",)))
    _refuse_bad_dates(call)
    program = PROGRAMS.get(body["program_id"])
    if program is None or program.status != "running":
        text = "Program must be in running state."
        raise Refused(answer_problem(400, "program_id", "wrong_status", text))
    joined_at = _joined_at(call)
    contact = _owner(call, body.get("contact_id"))
    fields = custom_fields(call.db, "loyalty", body.get("custom_fields"))
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
        expires_at=_date(body, "card_expire_at"),
        fields=fields,
    )
    member = member_document(call, row)
    # Spelled otherwise in the answer to a creation, and without the last field.
    member["program_join_at"] = member.pop("program_joined_at")
    member.pop("fields")
    return answer_json(201, member)


def read_member(call: Call) -> Answer:
    """GET /loyalty/members/{card_code}"""
    return answer_json(200, member_document(call, _known(call)))


def update_member(call: Call) -> Answer:
    """
    PATCH /loyalty/members/{card_code}

    A contact only where there is none yet. Another joining date moves no points here.
    """
    row = find_member(call, call.parts[0])
    if row is None:
        text = f"Record not found for id {call.parts[0]}."
        raise Refused(answer_problem(404, "id", "wrong_value", text))
    body = call.body
    if body.get("program_id") is not None:
        text = 'The field "program_id" can\'t be updated.'
        raise Refused(answer_problem(400, "program_id", "not_updatable_field", text))
    refuse_problems(type_problems(body, _MEMBER_TYPES))
    _refuse_bad_dates(call)
    joined_at = _joined_at(call)
    contact = _owner(call, body.get("contact_id"))
    if contact is not None and row["contact"] not in (None, contact):
        text = "You can not change the owner of a loyalty card"
        raise Refused(answer_problem(400, "individual_id", "wrong_value", text))
    fields = custom_fields(call.db, "loyalty", body.get("custom_fields"))
    merged = {value["id"]: value for value in [*orjson.loads(row["fields"]), *fields]}
    changed = change_member(
        call,
        row["id"],
        contact=row["contact"] if contact is None else contact,
        joined_at=joined_at or row["joined_at"],
        birthday=body.get("birthday") or row["birthday"],
        expires_at=_date(body, "card_expire_at") or row["expires_at"],
        fields=[merged[number] for number in sorted(merged)],
    )
    return answer_json(200, member_document(call, changed))


def expire_member(call: Call) -> Answer:
    """POST /loyalty/members/{card_code}/optout: the card ends now, unless it ended before"""
    row = find_member(call, call.parts[0])
    if row is None:
        text = "Membership not found for given identifier."
        raise Refused(answer_problem(404, "card_code", "wrong_value", text))
    ends = [date for date in (row["expires_at"], call.date) if date is not None]
    changed = change_member(
        call,
        row["id"],
        contact=row["contact"],
        joined_at=row["joined_at"],
        birthday=row["birthday"],
        expires_at=min(ends),
        fields=orjson.loads(row["fields"]),
    )
    return answer_json(200, member_document(call, changed))


def read_balance(call: Call) -> Answer:
    """GET /loyalty/members/{card_code}/balance; what `with_redeemed` adds is not documented"""
    with_redeemed = _FLAGS.get(call.query.get("with_redeemed", "false"))
    if with_redeemed is None:
        raise Refused(answer_problem(400, "with_redeemed", "wrong_value", MALFORMED))
    balance = read_balance_of(call, _known(call)["card_code"])
    shown = {
        "pending": _points(balance.held, 0, movement=balance.next_release),
        "remaining": _points(balance.usable, balance.q_points),
    }
    if with_redeemed:
        shown["redeemed"] = _points(balance.spent, 0)
    return answer_json(200, shown)


def member_document(call: Call, row: sqlite3.Row) -> dict[str, Any]:
    """A member as Splio shows it."""
    balance = read_balance_of(call, row["card_code"])
    program = program_document(call.universe, row["program_id"])
    for name in ("automatic_subscription", "q_refund_mode", "nq_refund_mode"):
        program.pop(name)
    program |= {"use_all_orders": False, "user": None}
    return {
        "id": row["id"],
        "card_code": row["card_code"],
        "tier_joined_at": None,
        "program_joined_at": row["joined_at"],
        "card_expire_at": row["expires_at"],
        "computed_at": None,
        "q_point": balance.q_points,
        "nq_point": balance.usable,
        "birthday": row["birthday"],
        "individual": _individual(call.db, row["contact"]),
        "program": program,
        "tier": None,
        "fields": [
            {name: value[name] for name in ("id", "name", "value")}
            for value in orjson.loads(row["fields"])
        ],
    }


def _refuse_bad_dates(call: Call) -> None:
    for name in ("program_joined_at", "card_expire_at"):
        refuse_bad_date(call.body, name, call.universe.hours)


def _date(body: Mapping[str, Any], name: str) -> str | None:
    return normal_date(body[name]) if body.get(name) else None


def _joined_at(call: Call) -> str | None:
    joined_at = _date(call.body, "program_joined_at")
    if joined_at is not None and joined_at < call.universe.program_start:
        text = "loyalty program could not be found at the given date"
        raise Refused(answer_subscription_problem(text))
    return joined_at


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


def _points(
    nq_points: int, q_points: int, *, movement: tuple[str, int] | None = None
) -> dict[str, Any]:
    next_movement = None if movement is None else {"date": movement[0], "value": movement[1]}
    return {
        "nq_points": {"next_movement": next_movement, "total": nq_points},
        "q_points": {"next_movement": None, "total": q_points},
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
