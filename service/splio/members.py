"""Reads members, contacts, programmes and balances out of Splio's replies. Pure; no I/O."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from service.domain.loyalty import Contact, LoyaltyProgram, Member
from service.domain.planning import ContactKey
from service.splio.readback import UnreadableReplyError, exact_number
from service.splio.requests import CUSTOM_KEYS, path_part

_POINTS_LIMIT: Final = 2**53  # beyond it no balance is one, and JSON readers lose digits
_DIGITS_LIMIT: Final = 28  # of what a point is worth
# Padded as in all samples; a universe that takes plain hours may show them so.
_DATE: Final = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2}) (\d{1,2}):(\d{1,2}):(\d{1,2})", re.ASCII)
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


def member_path(card: str) -> str | None:
    """Where a member is read; None for what cannot be asked for, so that nobody has it."""
    return _path("/loyalty/members/", card)


def balance_path(card: str) -> str | None:
    """Where a balance is read; None as for `member_path`."""
    return _path("/loyalty/members/", card, "/balance")


def contact_path(key: str, *, is_internal: bool) -> str | None:
    """Where a contact is read by the universe's unique key or Splio's id; None as above."""
    return _path("/data/contacts/", key, "?key=internal_id" if is_internal else "")


def program_path(program: str) -> str | None:
    """Where a programme is read; None as above."""
    return _path("/loyalty/programs/", program)


def read_balance(document: Mapping[str, Any]) -> int:
    """
    The NQ points that can be spent now: `remaining.nq_points.total`, a whole number.

    That `pending` is in its holding period and not usable is inferred (contract C.1).
    Raises: UnreadableReplyError.
    """
    remaining = document.get("remaining")
    points = remaining.get("nq_points") if isinstance(remaining, dict) else None
    total = exact_number(points.get("total")) if isinstance(points, dict) else None
    if total is None or total != total.to_integral_value() or abs(total) > _POINTS_LIMIT:
        raise UnreadableReplyError("no balance")
    return int(total)


def read_member(document: Mapping[str, Any], *, card: str, timezone: ZoneInfo) -> Member:
    """
    The member that a reply shows.

    Args:
        card: the one that was asked for.
        timezone: of Splio's dates, which name none.
    Raises: UnreadableReplyError for another card, no programme, or an expiry that cannot be
        read, which is not to be taken for none.
    """
    if _text(document.get("card_code")) != card:
        raise UnreadableReplyError("another card")
    program = document.get("program")
    program_id = _text(program.get("id")) if isinstance(program, dict) else None
    if program_id is None:
        raise UnreadableReplyError("no program")
    expires_at = document.get("card_expire_at")
    expiry = _date(expires_at, timezone)
    if expiry is None and expires_at not in (None, ""):
        raise UnreadableReplyError("no date in card_expire_at")
    # The answer to a creation has the other spelling.
    joined_at = document.get("program_joined_at", document.get("program_join_at"))
    individual = document.get("individual")
    holder = individual if isinstance(individual, dict) else {}
    return Member(
        card=card,
        program=program_id,
        joined_at=_date(joined_at, timezone),
        expires_at=expiry,
        email=_email(holder),
        contact_id=_text(holder.get("id")),
    )


def read_contact(
    document: Mapping[str, Any], *, key: str, is_internal: bool, contact_key: ContactKey
) -> Contact:
    """
    The contact that a reply shows.

    Args:
        key: what was asked for, Splio's id if `is_internal`.
        contact_key: which is the universe's unique key.
    Raises: UnreadableReplyError for another contact or none, or a card that cannot be read, as a
        contact without a card would be given one.
    """
    internal_id = _text(document.get("id"))
    if internal_id is None:
        raise UnreadableReplyError("no contact")
    unique_key = _unique_key(document, contact_key)
    shown = internal_id if is_internal else unique_key
    # How Splio writes telephone numbers is its own affair.
    is_comparable = is_internal or contact_key is not ContactKey.CELLPHONE
    if shown is not None and is_comparable and shown.casefold() != key.casefold():
        raise UnreadableReplyError("another contact")
    loyalty = document.get("loyalty")
    if loyalty is not None and not isinstance(loyalty, list):
        raise UnreadableReplyError("no list of cards")
    return Contact(
        unique_key=unique_key,
        email=_email(document),
        cards=tuple(_card(membership) for membership in loyalty or ()),
    )


def read_program(document: Mapping[str, Any], *, program: str) -> LoyaltyProgram:
    """
    The programme that a reply shows.

    What `default_points_to_amount_ratio` stands for is in its name only: it is read as the money
    that a point is worth, None unless it is a number above 0.
    Raises: UnreadableReplyError for another programme.
    """
    if _text(document.get("id")) != program:
        raise UnreadableReplyError("another program")
    ratio = exact_number(document.get("default_points_to_amount_ratio"))
    return LoyaltyProgram(
        is_running=document.get("status") == "running",
        subscribes_automatically=document.get("automatic_subscription") is True,
        points_to_amount=_exact_text(ratio) if ratio is not None and ratio > 0 else None,
    )


def _path(prefix: str, part: str, suffix: str = "") -> str | None:
    try:
        return f"{prefix}{path_part(part)}{suffix}"
    except ValueError:  # UnicodeEncodeError is one
        return None


def _text(value: Any) -> str | None:
    """An id, a card or a key, which Splio writes as text here and as a number there."""
    if isinstance(value, str):
        return value.strip() or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _email(document: Mapping[str, Any]) -> str | None:
    email = _text(document.get("email"))
    return email.lower() if email is not None else None


def _date(value: Any, timezone: ZoneInfo) -> datetime | None:
    """
    A local `YYYY-MM-DD HH:MM:SS` in UTC, None for anything else.

    At either end of the calendar, where UTC has no such time, it is the last or first there is.
    """
    found = _DATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return None
    year, month, day, hour, minute, second = map(int, found.groups())
    try:
        local = datetime(year, month, day, hour, minute, second, tzinfo=timezone)
    except ValueError:
        return None
    try:
        return local.astimezone(UTC)
    except OverflowError:
        return _LAST if year == _LAST.year else _FIRST


def _unique_key(document: Mapping[str, Any], contact_key: ContactKey) -> str | None:
    name = CUSTOM_KEYS.get(contact_key)
    if name is None:
        return _text(document.get(contact_key.value))
    fields = document.get("custom_fields")
    for field in fields if isinstance(fields, list) else ():
        if isinstance(field, dict) and field.get("name") == name:
            return _text(field.get("value"))
    return None


def _card(membership: Any) -> tuple[str, str]:
    if isinstance(membership, dict):
        card, program = _text(membership.get("card_code")), _text(membership.get("id_program"))
        if card is not None and program is not None:
            return card, program
    raise UnreadableReplyError("no card in loyalty")


def _exact_text(number: Decimal) -> str | None:
    """`number` in plain digits, None for more of them than anything is worth."""
    text = f"{number:f}"
    return text if len(text) <= _DIGITS_LIMIT else None
