"""Who holds which card: look-up, generated card codes, enrolment."""

from __future__ import annotations

import sqlite3

from service.sandbox.checks import ean13_check_digit, is_ean13
from service.sandbox.universe import Call

FIRST_PROGRAM = 1
# Generated codes begin with a prefix for internal use and count up.
_CODE_PREFIX = "21717"
_COLUMNS = "id, card_code, contact, program_id, joined_at, birthday"


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
) -> sqlite3.Row:
    """A new member; the card code must be free."""
    joined = call.universe.program_start if joined_at is None else joined_at
    row: sqlite3.Row = call.db.execute(
        "INSERT INTO members (card_code, contact, program_id, joined_at, birthday)"
        f" VALUES (?, ?, ?, ?, ?) RETURNING {_COLUMNS}",
        (card_code, contact, program_id, joined, birthday),
    ).fetchone()
    return row


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
        f"SELECT {_COLUMNS} FROM members WHERE card_code = ?", (card_code,)
    ).fetchone()
    return row
