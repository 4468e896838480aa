"""Everything one running sandbox knows: its books, rules, limits, faults and counts."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, get_args

from service.sandbox.answers import Refused, answer_problem
from service.sandbox.books import Books
from service.sandbox.catalogue import seed_fields
from service.sandbox.checks import is_integer, is_number
from service.sandbox.contacts import find_contact
from service.sandbox.faults import Faults
from service.sandbox.limits import CATEGORIES, PeakRate, RateLimits
from service.sandbox.members import FIRST_PROGRAM, enrol
from service.sandbox.rewards import seed_rewards
from service.sandbox.tokens import Tokens
from service.sandbox.universe import (
    LONGEST_HOLDING_DAYS,
    Call,
    RepeatedGrantKey,
    RepeatedKey,
    TooFewPoints,
    Universe,
)

_DELAYS = ("points_visible_after_s", "grants_visible_after_s")
_CHOICES = {
    "repeated_key": get_args(RepeatedKey),
    "repeated_grant_key": get_args(RepeatedGrantKey),
    "too_few_points": get_args(TooFewPoints),
}


class BadSettingError(ValueError):
    """A setting cannot be changed like this; the text says why."""


@dataclass(slots=True)
class State:
    """
    One running sandbox.

    Attributes:
        requests: (operation, status) to how often; the status is `lost` where no answer was
            given. Counted since the start, unlike the books.
        rate_limited: requests over a limit; injected ones do not count.
        peaks: per category, the most requests that arrived within one second.
    """

    books: Books
    universe: Universe
    limits: RateLimits
    tokens: Tokens
    api_keys: tuple[str, ...]
    token_lifetime_s: float
    faults: Faults = field(default_factory=Faults)
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    rate_limited: int = 0
    peaks: dict[str, PeakRate] = field(
        default_factory=lambda: {category: PeakRate() for category in CATEGORIES}
    )

    def settings(self) -> dict[str, Any]:
        """The settings that may change at run time, as they are now."""
        names = (*_DELAYS, *_CHOICES, "holding_days")
        rules = {name: getattr(self.universe, name) for name in names}
        return {**rules, "limits": self.limits.limits}

    def change_settings(self, changes: Any) -> None:
        """
        Changes some of what `settings` shows, all or none.

        Raises: BadSettingError.
        """
        known = self.settings()
        if not isinstance(changes, dict) or not changes.keys() <= known.keys():
            raise BadSettingError(f"an object with some of: {', '.join(known)}")
        wanted = known | changes
        for name in _DELAYS:
            if not is_number(wanted[name]) or wanted[name] < 0:
                raise BadSettingError(f"{name} is a number of seconds, 0 or more")
        for name, choices in _CHOICES.items():
            if wanted[name] not in choices:
                raise BadSettingError(f"{name} is one of: {', '.join(choices)}")
        days = wanted["holding_days"]
        if not is_integer(days) or not 0 <= days <= LONGEST_HOLDING_DAYS:
            raise BadSettingError(f"holding_days is a number from 0 to {LONGEST_HOLDING_DAYS}")
        limits = wanted["limits"]
        if limits is not None and not (
            isinstance(limits, dict) and all(is_number(limit) for limit in limits.values())
        ):
            raise BadSettingError("limits is null or an object of category to requests per second")
        try:
            self.limits.change(limits)
        except ValueError as error:
            raise BadSettingError(str(error)) from None
        for name in _DELAYS:
            setattr(self.universe, name, float(wanted[name]))
        for name in (*_CHOICES, "holding_days"):
            setattr(self.universe, name, wanted[name])


def prepare(db: sqlite3.Connection, universe: Universe) -> bytes:
    """
    Seeds new books and checks old ones against the universe's unique key.

    Returns: the secret that signs tokens; it stays with the books, so tokens survive a restart.
    Raises: ValueError when the books were kept under another unique key.
    """
    db.execute("INSERT OR IGNORE INTO meta VALUES ('unique_key', ?)", (universe.unique_key,))
    db.execute("INSERT OR IGNORE INTO meta VALUES ('secret', ?)", (secrets.token_hex(32),))
    kept = {row["name"]: row["value"] for row in db.execute("SELECT name, value FROM meta")}
    if kept["unique_key"] != universe.unique_key:
        raise ValueError(
            f"these sandbox books use the unique key {kept['unique_key']},"
            f" not {universe.unique_key}: take another file"
        )
    seed_fields(db, universe)
    seed_rewards(db, universe)
    return bytes.fromhex(kept["secret"])


def register_member(
    state: State,
    db: sqlite3.Connection,
    *,
    card_code: str,
    contact_id: str | None = None,
    program_id: int = FIRST_PROGRAM,
) -> dict[str, Any]:
    """
    Makes a card known, or gives a known card another contact and program.

    Raises: Refused when the contact does not exist.
    """
    contact = None
    if contact_id is not None:
        row = find_contact(db, contact_id)
        if row is None:
            text = f"Individual not found for unique key {contact_id}."
            raise Refused(answer_problem(400, "individual_id", "wrong_value", text))
        contact = row["id"]
    changed = db.execute(
        "UPDATE members SET contact = ?, program_id = ? WHERE card_code = ?",
        (contact, program_id, card_code),
    )
    if not changed.rowcount:
        call = Call(db, state.universe, time.time())
        enrol(call, card_code=card_code, contact=contact, program_id=program_id)
    return {"card_code": card_code, "contact_id": contact_id, "program_id": program_id}
