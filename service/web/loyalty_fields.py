"""
SCAYLE Checkout's calls, read into what they say.

Names and types are documented for points-rate, balance, capture and refund; those of the other
calls are inferred (contract section B.3), hence several names for one field. Unknown fields are
passed over.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from service.domain.checkout import Spending
from service.domain.errors import PoisonMessageError
from service.domain.events import Customer
from service.scayle.decode import read_customer
from service.web.call_fields import FieldError, Fields, missing, text_of, whole_or_same

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


def read_collect(fields: Fields) -> Spending:
    """Of collect; `points` go before `amount`, which may be the order's money."""
    return _spending(fields, "points", "amount")


def read_spending(fields: Fields) -> Spending:
    """Of capture and refund; their `points` are the amount until its unit is looked at."""
    return replace(_spending(fields, "amount"), transaction_key=fields.transaction_key())


def _spending(fields: Fields, *amounts: str) -> Spending:
    program, card, amount = fields.program(), fields.card(), fields.amount(*amounts)
    return Spending(
        program=program,
        transaction_key=fields.transaction_key_if_given() or "",
        order_key=fields.order_id(),
        card=card,
        amount=amount,
        points=amount,
        currency=fields.currency_if_given(),
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
