"""Splio's error replies: six shapes and any garbage, brought to one form."""

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

_ERRORS_LIMIT: Final = 50  # entries read of one reply; more tell nothing new
_TEXT_LIMIT: Final = 1000  # characters kept of one description
_SHOWN_LIMIT: Final = 3  # entries shown in one line of log

# Field names as documented: `products[0].unit_price`, `reward.force_validity_start`. Anything
# else may be a value (an e-mail address, a card number) and is not shown.
_KEY: Final = re.compile(r"[a-z][a-z_]{0,40}(\[\d{1,4}\])?(\.[a-z][a-z_]{0,40}){0,3}")
_SLUG: Final = re.compile(r"[a-z][a-z_. ]{0,40}")
# The sentences that occur in documented descriptions; the values around them are not shown.
_PHRASES: Final = (
    "already exists",
    "not found",
    "should be of type",
    "must be of type",
    "is empty",
    "is invalid",
    "is missing",
    "must be in running state",
    "could not be found",
    "must have a card code",
    "failed to generate a card code",
    "not enough stock",
    "could not be done",
    "authentication failed",
    "method not allowed",
    "rate limit exceeded",
    "wrong payload",
)


@dataclass(frozen=True, slots=True)
class SplioError:
    """One entry of an error reply; parts that were not sent are empty."""

    key: str
    slug: str
    description: str


def parse_errors(body: bytes) -> tuple[SplioError, ...]:
    """
    The errors that a reply names, in their order; empty when it names none. Never raises.

    | shape | body                                                                    |
    |-------|-------------------------------------------------------------------------|
    | 1     | `{"status", "errors": [{"error_key", "error", "error_description"}]}`   |
    | 2     | the same with `errors` an object                                        |
    | 3     | `{"error_key", "error", "error_description"}`                           |
    | 4     | `{"statusCode", "message", "errors": [text]}`                           |
    | 5     | text, bare or as a JSON string                                          |
    | 6     | `{"message"}`                                                           |
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _bare_text(body.decode("utf-8", "replace"))
    match document:
        case dict():
            return _from_object(document)
        case list():
            return _from_list(document)
        case str():
            return _bare_text(document)
        case _:
            return ()


def describe(errors: tuple[SplioError, ...]) -> str:
    """
    `errors` for logs and attempts: key, slug and a known phrase of each, never a value.

    Descriptions can hold e-mail addresses (`Individual not found for identifier {...}`).
    """
    shown = [_describe_one(error) for error in errors[:_SHOWN_LIMIT]]
    if len(errors) > _SHOWN_LIMIT:
        shown.append(f"and {len(errors) - _SHOWN_LIMIT} more")
    return "; ".join(shown)


def _describe_one(error: SplioError) -> str:
    key = error.key if _KEY.fullmatch(error.key) else "?" if error.key else "-"
    slug = error.slug if _SLUG.fullmatch(error.slug) else "?" if error.slug else "-"
    description = error.description.lower()
    phrase = next((phrase for phrase in _PHRASES if phrase in description), "")
    return f"{key}/{slug} {phrase}".rstrip()


def _from_object(document: dict[str, Any]) -> tuple[SplioError, ...]:
    errors = document.get("errors")
    found: tuple[SplioError, ...] = ()
    if isinstance(errors, list):
        found = _from_list(errors)
    elif isinstance(errors, dict):
        found = _from_entry(errors)
    if not found:
        found = _from_entry(document)
    if not found:
        found = _bare_text(_text(document.get("message")))
    return found


def _from_list(entries: list[Any]) -> tuple[SplioError, ...]:
    found: list[SplioError] = []
    for entry in entries[:_ERRORS_LIMIT]:
        if isinstance(entry, dict):
            found.extend(_from_entry(entry))
        elif isinstance(entry, str):
            found.extend(_bare_text(entry))
    return tuple(found)


def _from_entry(entry: dict[str, Any]) -> tuple[SplioError, ...]:
    if not ("error_key" in entry or "error" in entry or "error_description" in entry):
        return ()
    return (
        SplioError(
            key=_text(entry.get("error_key")),
            slug=_text(entry.get("error")),
            description=_text(entry.get("error_description")),
        ),
    )


def _bare_text(text: str) -> tuple[SplioError, ...]:
    """Text as one entry; nothing of a page (`<html…`) and nothing of nothing."""
    text = text.strip()
    if not text or text.startswith("<"):
        return ()
    return (SplioError("", "", text[:_TEXT_LIMIT]),)


def _text(value: Any) -> str:
    return value[:_TEXT_LIMIT] if isinstance(value, str) else ""
