"""
SCAYLE Checkout's calls, read into what they say.

Names and types are documented for points-rate, balance, capture and refund; those of the other
calls are inferred (contract section B.3), hence several names for one field. Unknown fields are
passed over.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.domain.errors import PoisonMessageError
from service.domain.events import Customer
from service.scayle.decode import read_customer
from service.web.call_fields import FieldError, Fields, missing, text_of, whole_or_same

__all__ = [
    "CardCall",
    "CollectCall",
    "FieldError",
    "Fields",
    "RateCall",
    "RegisterCall",
    "SpendingCall",
    "VerifyCall",
    "read_card",
    "read_collect",
    "read_rate",
    "read_register",
    "read_spending",
    "read_verify",
]

_LANGUAGE_NAMES: Final = ("languageCode", "language")
_LANGUAGE_LIMIT: Final = 35  # characters
# SCAYLE's customer (contract section A.9), by the name that `read_customer` knows. Of two telephone
# numbers the one that Splio may know a contact by goes first.
_CUSTOMER_NAMES: Final = {
    "id": ("id",),
    "referenceKey": ("referenceKey",),
    "email": ("email",),
    "phone": ("cellphone", "phone"),
    "firstName": ("firstName",),
    "lastName": ("lastName",),
}


@dataclass(frozen=True, slots=True)
class RateCall:
    """points-rate: what a point of the programme is worth in a currency."""

    program: str
    currency: str


@dataclass(frozen=True, slots=True)
class CardCall:
    """balance and validate: a card of a programme."""

    program: str
    card: str


@dataclass(frozen=True, slots=True)
class VerifyCall:
    """verify: whether the card is that of the customer with this e-mail address."""

    program: str
    card: str
    email: str


@dataclass(frozen=True, slots=True)
class RegisterCall:
    """register: a customer who wants a card."""

    program: str
    customer: Customer
    language: str | None


@dataclass(frozen=True, slots=True)
class CollectCall:
    """collect: points earned by an order."""

    program: str
    card: str
    points: int
    order_id: str
    transaction_key: str | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class SpendingCall:
    """capture and refund: `amount` counts points or money, as RELAY_LOYALTY_AMOUNT_UNIT says."""

    program: str
    card: str
    amount: int
    order_id: str
    transaction_key: str
    currency: str | None


def read_rate(fields: Fields) -> RateCall:
    """Raises: FieldError, as the others."""
    return RateCall(fields.program(), fields.currency())


def read_card(fields: Fields) -> CardCall:
    """Of balance and validate."""
    return CardCall(fields.program(), fields.card())


def read_verify(fields: Fields) -> VerifyCall:
    """Of verify."""
    return VerifyCall(fields.program(), fields.card(), fields.email())


def read_register(fields: Fields) -> RegisterCall:
    """Of register: a customer, whose fields stand beside `type`, in `customer` or in both."""
    merged = fields.part("customer")
    customer = {
        known: value
        for known, names in _CUSTOMER_NAMES.items()
        if (value := _first_given(merged, names)) is not None
    }
    if not customer.keys() & {"id", "referenceKey", "email", "phone"}:
        raise missing(("id", "referenceKey", "email", "phone", "cellphone"))
    for _, status in merged.given(("status",)):
        if isinstance(status, Mapping):
            customer["status"] = status
    try:
        read = read_customer(customer)
    except PoisonMessageError as error:
        name = re.split(r"[. ]", error.detail)[0]
        raise FieldError(name, "cannot be read") from None
    return RegisterCall(fields.program(), read, _language(merged))


def read_collect(fields: Fields) -> CollectCall:
    """Of collect; `points` go before `amount`, which may be the order's money."""
    return CollectCall(
        fields.program(),
        fields.card(),
        fields.amount("points", "amount"),
        fields.order_id(),
        fields.transaction_key_if_given(),
        fields.currency_if_given(),
    )


def read_spending(fields: Fields) -> SpendingCall:
    """Of capture and refund."""
    return SpendingCall(
        fields.program(),
        fields.card(),
        fields.amount("amount"),
        fields.order_id(),
        fields.transaction_key(),
        fields.currency_if_given(),
    )


def _first_given(fields: Fields, names: Sequence[str]) -> Any:
    """The value of the first of `names` that is given, None without one."""
    for name in names:
        if (value := fields.find((name,), lambda _, value: _comparable(value))) is not None:
            return value
    return None


def _comparable(value: Any) -> Any:
    """`value` such that 12, 12.0, "12" and " 12 " are one; `read_customer` judges the rest."""
    value = whole_or_same(value)
    return str(value).strip() if type(value) in (str, int) else value


def _language(fields: Fields) -> str | None:
    """None when not given or not readable, as nothing depends on it."""
    locales = (locale for _, locale in fields.given(("locale",)) if isinstance(locale, Mapping))
    for source in (fields, *map(Fields.of_object, locales)):
        try:
            language = source.find(_LANGUAGE_NAMES, text_of(_LANGUAGE_LIMIT))
        except FieldError:
            continue
        if language is not None:
            return language
    return None
