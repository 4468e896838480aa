"""SCAYLE's webhook bodies: one pass that validates and keeps only what the service needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Required

import orjson
from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    TypeAdapter,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ValidationError, core_schema
from typing_extensions import TypedDict

from service.domain.errors import PoisonMessageError

ORDER_CONFIRMED: Final = "order-confirmed"

_EXACT: Final = 2**53  # beyond this a JSON number is not an exact integer everywhere
_YEARS: Final = range(2000, 2200)  # a time outside is a mistake, and overflows in time zones


@dataclass(frozen=True, slots=True)
class _OrAbsent:
    """Marks a field that is left out when it cannot be read, as nothing depends on it."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_default_schema(handler(source), on_error="omit")


@dataclass(frozen=True, slots=True)
class _OrEmptyList:
    """Marks an object that may be written as `[]`, PHP's object without members: absent."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        empty = core_schema.no_info_after_validator_function(
            lambda _: None, core_schema.list_schema(max_length=0)
        )
        return core_schema.union_schema(
            [(handler(source), ""), (empty, "empty")], mode="left_to_right"
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Of what is written to the log: the object or null."""
        assert schema["type"] == "union"
        (written, _), _ = schema["choices"]
        return handler(written)


@dataclass(frozen=True, slots=True)
class _NumberOrText:
    """Marks text that may arrive as a whole number; `True` and 12.0 are neither."""

    max_length: int
    pattern: str

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        number = core_schema.no_info_after_validator_function(
            str, core_schema.int_schema(strict=True, ge=-_EXACT, le=_EXACT)
        )
        text = core_schema.str_schema(
            strip_whitespace=True, max_length=self.max_length, pattern=self.pattern
        )
        return core_schema.union_schema(
            [number, text],
            mode="left_to_right",
            custom_error_type="no_id",
            custom_error_message="neither a number nor a fitting text",
        )

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Of what is written to the log: text."""
        return {"type": "string", "maxLength": self.max_length, "pattern": self.pattern}


@dataclass(frozen=True, slots=True)
class _Whole:
    """Marks an integer that may be written with a fraction of zero: 12.0 is 12."""

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        whole = core_schema.int_schema(strict=True, ge=-_EXACT, le=_EXACT)
        fraction = core_schema.no_info_after_validator_function(
            # An integer beyond the bound would pass as the float that it is rounded to.
            int,
            core_schema.float_schema(strict=True, multiple_of=1, gt=-_EXACT, lt=_EXACT),
        )
        return core_schema.union_schema(
            [whole, fraction],
            mode="left_to_right",
            custom_error_type="no_amount",
            custom_error_message="not a whole number within 2^53",
        )

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Of what is written to the log: an integer."""
        return {"type": "integer", "minimum": -_EXACT, "maximum": _EXACT}


# Ids become parts of keys and of paths: no separator in them, and not dots alone.
IdText = Annotated[
    str, _NumberOrText(max_length=50, pattern=r"^[._~-]*[0-9A-Za-z][0-9A-Za-z._~-]*$")
]
# A card number becomes a part of a path too; an empty one means that there is none.
CardNumber = Annotated[str, _NumberOrText(max_length=100, pattern=r"^$|[0-9A-Za-z]")]
Text = Annotated[str, Field(coerce_numbers_to_str=True), StringConstraints(strip_whitespace=True)]
Amount = Annotated[int, _Whole()]  # in the currency's smallest unit
Currency = Annotated[
    str, StringConstraints(strip_whitespace=True, to_upper=True, min_length=1, max_length=10)
]
# Kept as text: only the reader of the log needs the time itself.
Time = Annotated[str, StringConstraints(max_length=40, pattern=r"^[0-9TtZz:+. -]{10,}$")]

LooseAmount = Annotated[Amount | None, _OrAbsent()]
LooseText = Annotated[Text | None, _OrAbsent()]
LooseTime = Annotated[Time | None, _OrAbsent()]


class Vat(TypedDict, total=False):
    amount: LooseAmount


class Tax(TypedDict, total=False):
    vat: Annotated[Vat | None, _OrAbsent()]


class ReductionAmount(TypedDict, total=False):
    absoluteWithTax: Amount | None


class Reduction(TypedDict, total=False):
    amount: ReductionAmount | None


class FeeAmount(TypedDict, total=False):
    withTax: Amount | None


class Fee(TypedDict, total=False):
    category: LooseText
    amount: FeeAmount | None


class Cost(TypedDict, total=False):
    withTax: Required[Amount]
    withoutTax: LooseAmount
    withTaxWithMembershipDiscountWithoutServiceCosts: LooseAmount
    tax: Annotated[Tax | None, _OrAbsent()]
    appliedFees: list[Fee] | None
    appliedReductions: list[Reduction] | None


class CustomerStatus(TypedDict, total=False):
    isGuestCustomer: bool | None
    isTestCustomer: bool | None


class WireCustomer(TypedDict, total=False):
    id: IdText | None
    referenceKey: Text | None
    email: Text | None
    phone: Text | None
    firstName: LooseText
    lastName: LooseText
    status: Annotated[CustomerStatus | None, _OrEmptyList()]


class Price(TypedDict, total=False):
    withTax: Required[Amount]
    withoutTax: LooseAmount
    tax: Annotated[Tax | None, _OrAbsent()]
    appliedReductions: list[Reduction] | None


class Product(TypedDict, total=False):
    name: LooseText


class Variant(TypedDict, total=False):
    id: Annotated[IdText | None, _OrAbsent()]
    referenceKey: LooseText


class Item(TypedDict, total=False):
    id: Required[IdText]
    price: Required[Price]
    product: Annotated[Product | None, _OrAbsent()]
    variant: Annotated[Variant | None, _OrAbsent()]


class WireCard(TypedDict, total=False):
    cardNumber: CardNumber | None
    points: Amount | None
    provider: LooseText


class Locale(TypedDict, total=False):
    appId: IdText | None
    languageCode: LooseText


class Order(TypedDict, total=False):
    """
    The minimised payload of `order-confirmed`, under SCAYLE's names: what reaches the log.

    `locale` is the envelope's; SCAYLE's order has no such field. An amount that nothing can be
    derived from is absent when unreadable; one that decides what is sent makes the body unreadable.
    Source: contract sections A.5, A.7, A.9, A.10.
    """

    id: Required[IdText]
    confirmedAt: LooseTime
    currencyCode: Required[Currency]
    cost: Required[Cost]
    customer: Annotated[WireCustomer | None, _OrEmptyList()]
    items: list[Item] | None
    loyaltyCard: Annotated[WireCard | None, _OrEmptyList()]
    locale: Annotated[Locale | None, _OrEmptyList()]


class _Envelope(TypedDict, total=False):
    type: Required[Literal["order-confirmed"]]
    key: Annotated[Text, StringConstraints(max_length=200), _OrAbsent()]
    occurredAt: LooseTime
    locale: Annotated[Locale | None, _OrEmptyList()]
    payload: Required[Order]


class _Typed(TypedDict):
    type: Annotated[str, Field(strict=True)]


_envelope: Final = TypeAdapter(_Envelope)
_typed: Final = TypeAdapter(_Typed)
_order: Final = TypeAdapter(Order)


class NotAnEventError(PoisonMessageError):
    """Refuse the webhook with 400: its body is not a JSON object with a text `type`."""


@dataclass(frozen=True, slots=True)
class UsedWebhook:
    """A webhook whose event the service uses; `payload` is the minimised JSON for the log."""

    event_type: str
    order_id: str
    occurred_at: datetime | None
    source_key: str | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class IgnoredWebhook:
    """A webhook of an event type that the service does not use."""

    event_type: str


@dataclass(frozen=True, slots=True)
class UnreadableWebhook:
    """
    A webhook of a used type that cannot be used.

    `reason` names the first field at fault and what is wrong with it, without any value.
    """

    event_type: str
    reason: str


def read_webhook(body: bytes) -> UsedWebhook | IgnoredWebhook | UnreadableWebhook:
    """
    Validate and minimise the body of one webhook.

    Raises: NotAnEventError.
    """
    try:
        delivery, order = parse_order_confirmed(body)
    except ValidationError as error:
        event_type = _event_type(body)
        if event_type != ORDER_CONFIRMED:
            return IgnoredWebhook(event_type)
        return UnreadableWebhook(event_type, first_problem(error))
    except PoisonMessageError as error:
        return UnreadableWebhook(ORDER_CONFIRMED, error.reason)
    return UsedWebhook(
        ORDER_CONFIRMED,
        order["id"],
        read_time(delivery.get("occurredAt")),
        delivery.get("key"),
        orjson.dumps(order),
    )


def parse_order_confirmed(body: bytes) -> tuple[_Envelope, Order]:
    """
    The validated body and its order, with the envelope's locale in it.

    Raises: pydantic's ValidationError; PoisonMessageError for points without a card.
    """
    delivery = _envelope.validate_json(body)
    order = delivery["payload"]
    card = order.get("loyaltyCard")
    if card and card.get("points") and not card.get("cardNumber"):
        # Without a number they can be booked nowhere, and must not vanish.
        raise PoisonMessageError("payload.loyaltyCard.cardNumber missing")
    if locale := delivery.get("locale"):
        order["locale"] = locale
    return delivery, order


def parse_order(payload: Mapping[str, Any]) -> Order:
    """
    A minimised payload as the log holds it.

    Raises: PoisonMessageError when it is none.
    """
    try:
        return _order.validate_python(payload)
    except ValidationError as error:
        raise PoisonMessageError("bad_payload", first_problem(error)) from None


def read_time(text: str | None) -> datetime | None:
    """
    A time as SCAYLE writes it (ISO 8601, without offset: UTC), in UTC.

    None when it is absent, is no time, or lies outside the years 2000 to 2199.
    """
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.year not in _YEARS:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _event_type(body: bytes) -> str:
    try:
        return _typed.validate_json(body)["type"]
    except ValidationError as error:
        raise NotAnEventError(first_problem(error)) from None


def first_problem(error: ValidationError) -> str:
    """`payload.items.0.price.withTax missing`: field names and pydantic's words, no values."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(str(part) for part in problem["loc"] if part != "")
    return f"{path} {problem['type']}".strip()
