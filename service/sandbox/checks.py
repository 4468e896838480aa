"""Checks of what a request carries: types, dates, check digits."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Mapping, Sequence
from datetime import MAXYEAR, UTC, datetime, timedelta
from typing import Any, Literal, TypeGuard

from service.sandbox.answers import Problem, Refused, answer_problem, answer_problems

Hours = Literal["padded", "plain"]

DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
LAST_DATE = "9999-12-31 23:59:59"
_PADDED = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]) ([01]\d|2[0-3]):[0-5]\d:[0-5]\d", re.ASCII
)
# The pattern of Splio's own OpenAPI file, which has no padded hours 01 to 09.
_PLAIN = re.compile(
    r"\d{4}-(0?[1-9]|1[0-2])-(0?[1-9]|[12]\d|3[01]) "
    r"(00|\d|1\d|2[0-3]):(\d|[0-5]\d):(\d|[0-5]\d)",
    re.ASCII,
)
_SEPARATORS = re.compile("[- :]")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_EAN13 = re.compile(r"\d{13}", re.ASCII)
# Larger whole numbers lose digits in other JSON readers, and SQLite ends at 64 bits.
LARGEST_INTEGER = 2**53


def is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str)


def is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_TESTS = {
    "string": is_text,
    "int": is_integer,
    "numeric": is_number,
    "boolean": _is_boolean,
    # The rewards' word for it.
    "bool": _is_boolean,
    "array": _is_list,
    "object": _is_object,
}


def type_problems(
    document: Mapping[str, Any], types: Mapping[str, str], *, prefix: str = ""
) -> list[Problem]:
    """
    One problem for each field of `document` that is not of its type; null counts as absent.

    Args:
        types: field to `string`, `int`, `numeric`, `boolean` (or `bool`), `array` or
            `object`, in the order in which the problems are listed.
        prefix: goes before the field's name, as in `products[0].`.
    """
    return [
        Problem(f"{prefix}{name}", "wrong_type", f"This value should be of type {kind}.")
        for name, kind in types.items()
        if document.get(name) is not None and not _TESTS[kind](document[name])
    ]


def blank_problems(document: Mapping[str, Any], names: Sequence[str]) -> list[Problem]:
    """One problem for each of the required fields that is absent, null or empty."""
    return [
        Problem(name, "is_blank", "This value should not be blank.")
        for name in names
        if document.get(name) is None or document[name] == ""
    ]


def refuse_problems(problems: Sequence[Problem]) -> None:
    """Raises: Refused with all `problems` in one 400, when there are any."""
    if problems:
        raise Refused(answer_problems(400, problems))


def refuse_bad_date(document: Mapping[str, Any], name: str, hours: Hours) -> None:
    """Raises: Refused as documented for `ordered_at` when the text is no date in Splio's form."""
    value = document.get(name)
    if value is not None and not is_date(value, hours):
        raise Refused(answer_problem(400, name, "wrong_value", "wrong_value"))


def is_date(text: str, hours: Hours) -> bool:
    """True for `YYYY-MM-DD HH:MM:SS` with the form of hours that this universe takes."""
    pattern = _PADDED if hours == "padded" else _PLAIN
    if not pattern.fullmatch(text):
        return False
    try:
        parse_date(text)
    except ValueError:
        return False
    return True


def parse_date(text: str) -> datetime:
    """The date of a text that `is_date` accepts; the universe's time zone is UTC."""
    year, month, day, hour, minute, second = map(int, _SEPARATORS.split(text))
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


def normal_date(text: str) -> str:
    """The date as Splio prints it: padded, whichever form was sent."""
    return _printed(parse_date(text))


def days_after(text: str, days: int) -> str:
    """So many days after a date in normal form, or the last second of the calendar."""
    try:
        return _printed(parse_date(text) + timedelta(days=days))
    except OverflowError:
        return LAST_DATE


def months_after(text: str, months: int) -> str:
    """The same day so many months later, or the last of that month; see `days_after`."""
    date = parse_date(text)
    year, month = divmod(date.year * 12 + date.month - 1 + months, 12)
    if year > MAXYEAR:
        return LAST_DATE
    day = min(date.day, monthrange(year, month + 1)[1])
    return _printed(date.replace(year=year, month=month + 1, day=day))


def _printed(date: datetime) -> str:
    # strftime does not pad a year before 1000.
    return f"{date.year:04d}-{date:%m-%d %H:%M:%S}"


def is_email(text: str) -> bool:
    """True for something@domain.tld without spaces; not more than that."""
    return _EMAIL.fullmatch(text) is not None


def is_ean13(code: str) -> bool:
    """True for 13 digits whose last is the EAN-13 check digit of the others."""
    return _EAN13.fullmatch(code) is not None and code[12] == ean13_check_digit(code[:12])


def ean13_check_digit(twelve: str) -> str:
    """The digit that makes the weighted sum (1, 3, 1, 3, ...) a multiple of ten."""
    total = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(twelve))
    return str(-total % 10)
