"""Who holds which card: look-up, generated card codes, enrolment, expiry."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import orjson

from service.sandbox.checks import ean13_check_digit, is_ean13
from service.sandbox.universe import Call

FIRST_PROGRAM = 1
# Generated codes begin with a prefix for internal use and count up.
_CODE_PREFIX = "21717"
_SELECT = """
SELECT m.id, m.card_code, m.contact, m.program_id, m.joined_at, m.birthday,
    d.expires_at, coalesce(d.fields, '[]') AS fields
FROM members m LEFT JOIN member_details d ON d.member = m.id
"""


def find_member(call: Call, card_code: str) -> sqlite3.Row | None:
    """The member with this card; under `ean13` every good number is one of program 1."""
    row = _stored(call.db, card_code)
    if row is None and call.universe.members == "ean13" and is_ean13(card_code):
        return enrol(call, card_code=card_code, contact=None, program_id=FIRST_PROGRAM)
    return row


def enrol(
    call: Call,
    *,
    card_code: str,
    contact: int | None,
    program_id: int,
    joined_at: str | None = None,
    birthday: str | None = None,
    expires_at: str | None = None,
    fields: Sequence[dict[str, Any]] = (),
) -> sqlite3.Row:
    """A new member; the card code must be free."""
    joined = call.universe.program_start if joined_at is None else joined_at
    number = call.db.execute(
        "INSERT INTO members (card_code, contact, program_id, joined_at, birthday)"
        " VALUES (?, ?, ?, ?, ?) RETURNING id",
        (card_code, contact, program_id, joined, birthday),
    ).fetchone()["id"]
    if expires_at is not None or fields:
        keep_details(call.db, number, expires_at=expires_at, fields=fields)
    return _known(call.db, number)


def change_member(
    call: Call,
    number: int,
    *,
    contact: int | None,
    joined_at: str,
    birthday: str | None,
    expires_at: str | None,
    fields: Sequence[dict[str, Any]],
) -> sqlite3.Row:
    """The member as it is after the change."""
    call.db.execute(
        "UPDATE members SET contact = ?, joined_at = ?, birthday = ? WHERE id = ?",
        (contact, joined_at, birthday, number),
    )
    keep_details(call.db, number, expires_at=expires_at, fields=fields)
    return _known(call.db, number)


def keep_details(
    db: sqlite3.Connection,
    number: int,
    *,
    expires_at: str | None,
    fields: Sequence[dict[str, Any]],
) -> None:
    """Keeps when a card expires, and its custom fields."""
    db.execute(
        "INSERT INTO member_details VALUES (?, ?, ?) ON CONFLICT (member)"
        " DO UPDATE SET expires_at = excluded.expires_at, fields = excluded.fields",
        (number, expires_at, orjson.dumps(list(fields)).decode()),
    )


def is_member_at(member: sqlite3.Row, date: str) -> bool:
    """Whether the card had joined and not expired at a date in normal form."""
    expires_at = member["expires_at"]
    return bool(member["joined_at"] <= date and (expires_at is None or date < expires_at))


def subscribe(call: Call, *, contact: int) -> sqlite3.Row:
    """Makes a contact a member of program 1 with a generated card, joined now."""
    return enrol(
        call,
        card_code=free_card_code(call.db),
        contact=contact,
        program_id=FIRST_PROGRAM,
        joined_at=call.date,
    )


def free_card_code(db: sqlite3.Connection) -> str:
    """An EAN-13 code that no member has."""
    number: int = db.execute("SELECT coalesce(max(id), 0) + 1 AS n FROM members").fetchone()["n"]
    while True:
        digits = f"{_CODE_PREFIX}{number:07d}"
        code = digits + ean13_check_digit(digits)
        if _stored(db, code) is None:
            return code
        number += 1


def _stored(db: sqlite3.Connection, card_code: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(
        f"{_SELECT} WHERE m.card_code = ?", (card_code,)
    ).fetchone()
    return row


def _known(db: sqlite3.Connection, number: int) -> sqlite3.Row:
    row: sqlite3.Row = db.execute(f"{_SELECT} WHERE m.id = ?", (number,)).fetchone()
    return row
