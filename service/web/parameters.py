"""Parameters of requests: read strictly, refused by name."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from service.domain.effects import Kind, State
from service.operations import Selection

MAX_LIMIT: Final = 500
MAX_IDS: Final = 1000
MAX_TEXT: Final = 200  # characters of a key, an id or a reason
MAX_NUMBER: Final = 2**63 - 1  # what a 64-bit column holds
_DEFAULT_LIMIT: Final = 50
_MAX_FIELDS: Final = 50
_WHOLE: Final = re.compile(r"[0-9]{1,19}")
_FORMS: Final = "Give one of ids, reason, since and until, all."


class BadParameterError(Exception):
    """Answer 400 and name the parameter."""

    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(f"{parameter} {problem}")
        self.parameter = parameter


class Query:
    """The query of a request: only known names, each once except where it may repeat."""

    def __init__(self, request: web.BaseRequest, *, known: tuple[str, ...]) -> None:
        self._values: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(
                request.rel_url.raw_query_string,
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MAX_FIELDS,
            )
        except ValueError:
            raise BadParameterError("query", "is too long or not percent-encoded UTF-8") from None
        for name, value in pairs:
            if name not in known:
                names = ", ".join(known) or "none"
                raise BadParameterError(name[:MAX_TEXT], f"is not known here; known: {names}")
            if len(value) > MAX_TEXT:
                raise BadParameterError(name, f"is longer than {MAX_TEXT} characters")
            self._values.setdefault(name, []).append(value)

    def text(self, name: str) -> str | None:
        """A text that is not empty, None when not given."""
        values = self._values.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise BadParameterError(name, "is given twice")
        if not values[0]:
            raise BadParameterError(name, "is empty")
        return values[0]

    def limit(self) -> int:
        """`limit`, 1 to MAX_LIMIT."""
        text = self.text("limit")
        if text is None:
            return _DEFAULT_LIMIT
        limit = read_whole("limit", text)
        if not 1 <= limit <= MAX_LIMIT:
            raise BadParameterError("limit", f"is not between 1 and {MAX_LIMIT}")
        return limit

    def flag(self, name: str) -> bool:
        """`true` or `false`, False when not given."""
        text = self.text(name)
        if text not in (None, "true", "false"):
            raise BadParameterError(name, "is neither true nor false")
        return text == "true"

    def time_ms(self, name: str) -> int | None:
        """A time as `read_time_ms` takes it, None when not given."""
        text = self.text(name)
        return None if text is None else read_time_ms(name, text)

    def kind(self) -> Kind | None:
        """`kind` of effect."""
        text = self.text("kind")
        if text is None:
            return None
        try:
            return Kind(text)
        except ValueError:
            raise BadParameterError("kind", f"is none of {', '.join(Kind)}") from None

    def states(self) -> tuple[State, ...]:
        """`state`, several by commas or repetition."""
        try:
            return tuple(
                State(text) for given in self._values.get("state", ()) for text in given.split(",")
            )
        except ValueError:
            raise BadParameterError("state", f"is none of {', '.join(State)}") from None


def read_whole(name: str, text: str) -> int:
    """A whole number in decimal digits that a 64-bit column holds."""
    if not _WHOLE.fullmatch(text) or (number := int(text)) > MAX_NUMBER:
        raise BadParameterError(name, "is not a whole number")
    return number


def read_time_ms(name: str, value: Any) -> int:
    """
    Milliseconds since the epoch, from such a number or from RFC 3339 with an offset.

    A time before the epoch is the epoch: nothing of ours is older.
    """
    if (number := _json_integer(value)) is not None and 0 <= number <= MAX_NUMBER:
        return number
    if isinstance(value, str):
        if _WHOLE.fullmatch(value):
            return read_whole(name, value)
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                return max(int(moment.timestamp() * 1000), 0)
        except (ValueError, OverflowError):
            pass
    raise BadParameterError(
        name, "is neither a time with an offset (2026-11-14T17:22:31Z) nor milliseconds"
    )


def read_selection(body: bytes) -> Selection:
    """Which dead letters a request body means; exactly one of the four forms."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadParameterError("body", "is not JSON") from None
    if not isinstance(fields, dict) or not fields:
        raise BadParameterError("body", f"is not an object that selects. {_FORMS}")
    names = fields.keys()
    if names == {"ids"}:
        return Selection(ids=_read_ids(fields["ids"]))
    if names == {"reason"}:
        return Selection(reason=_read_reason(fields["reason"]))
    if names == {"all"}:
        if fields["all"] is not True:
            raise BadParameterError("all", "is not true")
        return Selection(everything=True)
    if names <= {"since", "until"}:
        return Selection(
            since_ms=_read_time_of(fields, "since"), until_ms=_read_time_of(fields, "until")
        )
    raise BadParameterError("body", f"does not select in one way. {_FORMS}")


def _read_ids(value: Any) -> tuple[int, ...]:
    problem = f"is not a list of 1 to {MAX_IDS} whole numbers from 1"
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_IDS:
        raise BadParameterError("ids", problem)
    ids: dict[int, None] = {}
    for part in value:
        number = _json_integer(part)
        if number is None or not 1 <= number <= MAX_NUMBER:
            raise BadParameterError("ids", problem)
        ids[number] = None
    return tuple(ids)


def _json_integer(value: Any) -> int | None:
    """An integer as JSON Schema has it: 12.0 is one, true is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _read_reason(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        raise BadParameterError("reason", f"is not a text of 1 to {MAX_TEXT} characters")
    return value


def _read_time_of(fields: Mapping[str, Any], name: str) -> int | None:
    return read_time_ms(name, fields[name]) if name in fields else None
