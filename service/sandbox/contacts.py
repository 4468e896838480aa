"""Contacts: created, read and changed by the universe's unique key."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import orjson

from service.sandbox.answers import Answer, Refused, answer_json, answer_problem
from service.sandbox.catalogue import custom_fields
from service.sandbox.checks import (
    is_email,
    is_text,
    refuse_bad_date,
    refuse_problems,
    type_problems,
)
from service.sandbox.members import subscribe
from service.sandbox.universe import Call, Universe

TYPES = {
    "lastname": "string",
    "firstname": "string",
    "creation_date": "string",
    "language": "string",
    "email": "string",
    "cellphone": "string",
    "lists": "array",
    "custom_fields": "array",
    "double_optin": "object",
    "tracking_consent": "array",
}
_PLAIN_FIELDS = ("lastname", "firstname", "email", "cellphone", "creation_date", "language")


def create_contact(call: Call) -> Answer:
    """POST /data/contacts"""
    _check(call)
    fields = _fields(call)
    key = _unique_key(call.universe, call.body, fields)
    if not key:
        name = call.universe.unique_key
        text = f"Bad key formating against universe key, {name} is empty"
        raise Refused(answer_problem(400, "contact_key", "wrong_contact_key", text))
    if find_contact(call.db, key) is not None:
        text = f"contact with unique key {key} already exists"
        raise Refused(answer_problem(400, "id", "wrong_value", text))
    document = {name: call.body.get(name) or "" for name in _PLAIN_FIELDS}
    document["creation_date"] = document["creation_date"] or call.date
    document |= {"custom_fields": fields, "lists": call.body.get("lists") or []}
    number = call.db.execute(
        "INSERT INTO contacts (contact_key, body) VALUES (?, ?)",
        (key, orjson.dumps(document).decode()),
    ).lastrowid
    if call.universe.automatic_subscription and number is not None:
        subscribe(call, contact=number)
    return answer_json(201, {"id": number, **document})


def read_contact(call: Call) -> Answer:
    """GET /data/contacts/{unique key}, or by Splio's own id with `?key=internal_id`"""
    row = _resolve(call, call.query.get("key"))
    cards = call.db.execute(
        "SELECT card_code, CAST(program_id AS TEXT) AS id_program FROM members"
        " WHERE contact = ? ORDER BY id",
        (row["id"],),
    )
    loyalty = [dict(card) for card in cards]
    return answer_json(200, {"id": row["id"], **orjson.loads(row["body"]), "loyalty": loyalty})


def update_contact(call: Call) -> Answer:
    """PATCH /data/contacts/{unique key}; the body's `key` may say `internal_id`"""
    row = _resolve(call, call.body.get("key"))
    _check(call)
    fields = _fields(call)
    document = orjson.loads(row["body"])
    changes = {name: call.body[name] for name in _PLAIN_FIELDS if is_text(call.body.get(name))}
    if _unique_key(call.universe, changes, fields) not in (None, row["contact_key"]):
        text = f'unique key "{call.universe.unique_key}" can\'t be updated'
        raise Refused(answer_problem(400, "unique_key", "wrong_value", text))
    merged = {value["id"]: value for value in [*document["custom_fields"], *fields]}
    document |= changes
    document["custom_fields"] = [merged[number] for number in sorted(merged)]
    if call.body.get("lists") is not None:
        document["lists"] = call.body["lists"]
    call.db.execute(
        "UPDATE contacts SET body = ? WHERE id = ?", (orjson.dumps(document).decode(), row["id"])
    )
    return answer_json(200, {"id": row["id"], **document})


def find_contact(db: sqlite3.Connection, key: str) -> sqlite3.Row | None:
    """The row of the contact with this unique key, compared exactly."""
    row: sqlite3.Row | None = db.execute(
        "SELECT id, contact_key, body FROM contacts WHERE contact_key = ?", (key,)
    ).fetchone()
    return row


def resolve_contact(call: Call) -> sqlite3.Row:
    """
    The contact that the path names by unique key.

    Raises: Refused with 404.
    """
    return _resolve(call, None)


def _resolve(call: Call, key: Any) -> sqlite3.Row:
    name = call.parts[0]
    if key == "internal_id":
        row = call.db.execute(
            "SELECT id, contact_key, body FROM contacts WHERE CAST(id AS TEXT) = ?", (name,)
        ).fetchone()
    else:
        row = find_contact(call.db, name)
    if row is None:
        text = f"Record not found for id {name}."
        raise Refused(answer_problem(404, "id", "wrong_value", text))
    found: sqlite3.Row = row
    return found


def _check(call: Call) -> None:
    refuse_problems(type_problems(call.body, TYPES))
    email = call.body.get("email")
    if email and not is_email(email):
        text = "This value is not a valid email address."
        raise Refused(answer_problem(400, "email", "wrong_email", text))
    refuse_bad_date(call.body, "creation_date", call.universe.hours)


def _fields(call: Call) -> list[dict[str, Any]]:
    return custom_fields(call.db, "contacts", call.body.get("custom_fields"))


def _unique_key(
    universe: Universe, body: Mapping[str, Any], fields: list[dict[str, Any]]
) -> str | None:
    if universe.unique_field is None:
        key = body.get(universe.unique_key)
    else:
        values = (value for value in fields if value["id"] == universe.unique_field)
        key = next((value["value"] for value in values), None)
    return None if key is None else str(key)
