"""
Fields of a call by name, read tolerantly and without I/O.

What is null or blank counts as not given; a number is taken where text is expected.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import TypeAdapter, ValidationError

from service.domain.planning import MAX_POINTS
from service.scayle.webhook import IdText

T = TypeVar("T")

CARD_NAMES: Final = ("cardKey", "cardNumber", "loyaltyNumber", "number")
CURRENCY_NAMES: Final = ("currency", "currencyCode")

_EXACT: Final = 2**53  # a float beyond may be another number than the one that was written
_LONGEST_NUMBER: Final = 2**64  # JSON's integers end here, for us
_MAX_QUERY_FIELDS: Final = 50
_CARD_LIMIT: Final = 64  # characters, as the following
_PROGRAM_LIMIT: Final = 60
_KEY_LIMIT: Final = 200
_EMAIL_LIMIT: Final = 320
_AMOUNT: Final = re.compile(r"([0-9]{1,40})(?:\.0{1,40})?")
_CURRENCY: Final = re.compile(r"[A-Za-z]{3}")
_LETTER_OR_DIGIT: Final = re.compile(r"[0-9A-Za-z]")
_id_text: Final = TypeAdapter[str](IdText)


class FieldError(Exception):
    """Refuse the call with `status`; the message names the field and never a value."""

    def __init__(
        self, field: str, problem: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST
    ) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field
        self.problem = problem
        self.status = status


class Fields:
    """
    What a call says, by name; a query may say it several times.

    Args:
        program: stands in for a call without `type`, where there is but one programme.
    """

    def __init__(self, values: Mapping[str, Sequence[Any]], *, program: str | None = None) -> None:
        self._values = values
        self._program = program

    @classmethod
    def of_query(cls, raw_query: str, *, program: str | None = None) -> Self:
        """Raises: FieldError for a query that is too long or no percent-encoded UTF-8."""
        values: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(
                raw_query,
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MAX_QUERY_FIELDS,
            )
        except ValueError:
            raise FieldError("query", "is too long or not percent-encoded UTF-8") from None
        for name, value in pairs:
            values.setdefault(name, []).append(value)
        return cls(values, program=program)

    @classmethod
    def of_body(cls, body: bytes, *, program: str | None = None) -> Self:
        """Raises: FieldError for what is no JSON object."""
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise FieldError("body", "is not JSON") from None
        if not isinstance(document, dict):
            raise FieldError("body", "is not a JSON object")
        return cls.of_object(document, program=program)

    @classmethod
    def of_object(cls, document: Mapping[str, Any], *, program: str | None = None) -> Self:
        """Those of a parsed JSON object."""
        return cls({name: (value,) for name, value in document.items()}, program=program)

    @classmethod
    def of_call(
        cls, method: str, raw_query: str, body: bytes, *, program: str | None = None
    ) -> Self:
        """
        A GET's query; of other methods the JSON body, or the query when that is empty.

        Raises: FieldError.
        """
        if method != "GET" and body.strip():
            return cls.of_body(body, program=program)
        return cls.of_query(raw_query, program=program)

    def program(self) -> str:
        """SCAYLE's key of the programme."""
        found = self.find(("type",), text_of(_PROGRAM_LIMIT))
        if found is not None:
            return found
        if self._program is None:
            raise missing(("type",))
        return self._program

    def card(self) -> str:
        """A card number, in any of the names that SCAYLE may use."""
        return self._need(CARD_NAMES, _card_number)

    def email(self) -> str:
        """An e-mail address; whether it is one is not asked."""
        return self._need(("email",), text_of(_EMAIL_LIMIT))

    def currency(self) -> str:
        """Three letters, upper case; whether we know the currency is not asked."""
        return self._need(CURRENCY_NAMES, _currency)

    def currency_if_given(self) -> str | None:
        """As `currency`, None when not given."""
        return self.find(CURRENCY_NAMES, _currency)

    def order_id(self) -> str:
        """An order's id by the rule of webhooks, so that both name the same order."""
        return self._need(("orderId",), _order_id)

    def transaction_key(self) -> str:
        """What names a capture or a refund at SCAYLE."""
        return self._need(("transactionKey",), text_of(_KEY_LIMIT))

    def transaction_key_if_given(self) -> str | None:
        """As `transaction_key`, None when not given."""
        return self.find(("transactionKey",), text_of(_KEY_LIMIT))

    def amount(self, *names: str) -> int:
        """
        A whole number above zero, under the first of `names` that is given.

        Raises: FieldError, 422 for any other amount.
        """
        for name in names:
            amount = self.find((name,), _amount_of)
            if amount is not None:
                return amount
        raise missing(names)

    def part(self, name: str) -> "Fields":
        """
        The fields of the object `name` with our own beside them, to be taken for the same thing.

        Raises: FieldError when it is there and no object.
        """
        merged = {own: list(values) for own, values in self._values.items() if own != name}
        for value in self._values.get(name, ()):
            if not isinstance(value, Mapping):
                if is_blank(value) or value == []:  # PHP's object without members
                    continue
                raise FieldError(name, "is not an object")
            for inner, given in value.items():
                merged.setdefault(inner, []).append(given)
        return Fields(merged, program=self._program)

    def given(self, names: Sequence[str]) -> list[tuple[str, Any]]:
        """Name and value of everything that is given under `names`."""
        return [
            (name, value)
            for name in names
            for value in self._values.get(name, ())
            if not is_blank(value)
        ]

    def find(self, names: Sequence[str], read: Callable[[str, Any], T]) -> T | None:
        """
        The one value that all of `names` agree on, None when none is given.

        Raises: FieldError when they contradict each other, or what `read` raises.
        """
        found = [(name, read(name, value)) for name, value in self.given(names)]
        if not found:
            return None
        first, value = found[0]
        for name, other in found:
            if other != value:
                both = "is given twice" if name == first else f"contradicts {first}"
                raise FieldError(name, f"{both}, with another value")
        return value

    def _need(self, names: Sequence[str], read: Callable[[str, Any], T]) -> T:
        found = self.find(names, read)
        if found is None:
            raise missing(names)
        return found


def missing(names: Sequence[str]) -> FieldError:
    """Of a field that goes by any of `names`."""
    taken = f" (or {', '.join(names[1:])})" if names[1:] else ""
    return FieldError(names[0], f"is missing{taken}")


def text_of(limit: int) -> Callable[[str, Any], str]:
    """A reader of 1 to `limit` printable characters; a whole number is its digits."""

    def read(name: str, value: Any) -> str:
        if not isinstance(value, str):
            value = whole_or_same(value)
            if type(value) is not int or not -_LONGEST_NUMBER < value < _LONGEST_NUMBER:
                raise FieldError(name, "is neither a text nor a whole number")
        text = str(value).strip()
        if not 1 <= len(text) <= limit or not text.isprintable():
            raise FieldError(name, f"is not 1 to {limit} printable characters")
        return text

    return read


def whole_or_same(value: Any) -> Any:
    """12 for 12.0, where that is exact; any other value as it is."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < _EXACT
    return int(value) if is_whole else value


def is_blank(value: Any) -> bool:
    """Whether a value counts as not given."""
    return value is None or (isinstance(value, str) and not value.strip())


def _card_number(name: str, value: Any) -> str:
    card = text_of(_CARD_LIMIT)(name, value)
    # It becomes a part of a path, so it is not dots alone.
    if not _LETTER_OR_DIGIT.search(card) or (not isinstance(value, str) and value < 0):
        raise FieldError(name, "is not a card number")
    return card


def _currency(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _CURRENCY.fullmatch(value.strip()):
        raise FieldError(name, "is not a currency of three letters, such as EUR")
    return value.strip().upper()


def _order_id(name: str, value: Any) -> str:
    try:
        return _id_text.validate_python(whole_or_same(value))
    except ValidationError:
        raise FieldError(
            name, "is neither a number nor letters, digits, '.', '_', '~' and '-', 50 at most"
        ) from None


def _amount_of(name: str, value: Any) -> int:
    amount = whole_or_same(value)
    if isinstance(value, str) and (match := _AMOUNT.fullmatch(value.strip())):
        amount = int(match[1])
    if type(amount) is not int or not 1 <= amount <= MAX_POINTS:
        raise FieldError(name, "is not a whole number above zero", HTTPStatus.UNPROCESSABLE_ENTITY)
    return amount
