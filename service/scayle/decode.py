"""From SCAYLE's words to ours: payloads of the log become domain events."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic_core import ValidationError

from service.domain.errors import PoisonMessageError
from service.domain.events import Customer, LoyaltyCard, OrderConfirmed, OrderItem
from service.scayle.webhook import (
    ORDER_CONFIRMED,
    Cost,
    Item,
    Order,
    Price,
    Reduction,
    Tax,
    WireCard,
    WireCustomer,
    first_problem,
    parse_order,
    parse_order_confirmed,
    read_time,
)

_DELIVERY: Final = "delivery"  # SCAYLE's category of shipping fees
_wire_customer: Final = TypeAdapter(WireCustomer)


def decode_event(
    event_type: str,
    payload: Mapping[str, Any],
    *,
    occurred_at: datetime | None,
    received_at: datetime,
) -> OrderConfirmed:
    """
    The event of an envelope's payload.

    Raises: PoisonMessageError for a type that the service does not use and for a payload that
    does not fit.
    """
    if event_type != ORDER_CONFIRMED:
        raise PoisonMessageError("unknown_event_type", event_type[:100])
    return _order_confirmed(parse_order(payload), occurred_at or received_at)


def decode_unreadable(body: bytes, *, received_at: datetime) -> OrderConfirmed:
    """
    The event of an original webhook body, to replay one that could not be read when it came.

    Raises: PoisonMessageError while it still cannot be read.
    """
    try:
        delivery, order = parse_order_confirmed(body)
    except ValidationError as error:
        raise PoisonMessageError("unreadable", first_problem(error)) from None
    return _order_confirmed(order, read_time(delivery.get("occurredAt")) or received_at)


def read_customer(fields: Mapping[str, Any]) -> Customer:
    """
    A customer under SCAYLE's names, as an order has one.

    Raises: PoisonMessageError, whose detail begins with the name of the field at fault.
    """
    try:
        wire = _wire_customer.validate_python(fields)
    except ValidationError as error:
        raise PoisonMessageError("bad_customer", first_problem(error)) from None
    return _to_customer(wire)


def _order_confirmed(order: Order, otherwise_at: datetime) -> OrderConfirmed:
    cost = order["cost"]
    locale = order.get("locale") or {}
    return OrderConfirmed(
        order_id=order["id"],
        app_id=locale.get("appId"),
        language=locale.get("languageCode") or None,
        currency=order["currencyCode"],
        confirmed_at=read_time(order.get("confirmedAt")) or otherwise_at,
        total_minor=cost["withTax"],
        tax_minor=_tax(cost),
        shipping_minor=_shipping(cost),
        discount_minor=_discount(cost.get("appliedReductions")),
        points_base_minor=cost.get("withTaxWithMembershipDiscountWithoutServiceCosts"),
        items=tuple(_item(item) for item in order.get("items") or ()),
        card=_card(order.get("loyaltyCard")),
        customer=_customer(order.get("customer")),
    )


def _item(item: Item) -> OrderItem:
    variant = item.get("variant") or {}
    product = item.get("product") or {}
    price = item["price"]
    return OrderItem(
        item_id=item["id"],
        product_id=variant.get("referenceKey") or variant.get("id"),
        product_name=product.get("name") or None,
        amount_minor=price["withTax"],
        tax_minor=_tax(price),
        discount_minor=_discount(price.get("appliedReductions")),
    )


def _card(card: WireCard | None) -> LoyaltyCard | None:
    if not card or not (number := card.get("cardNumber")):
        return None
    return LoyaltyCard(number, card.get("points"), card.get("provider") or None)


def _customer(customer: WireCustomer | None) -> Customer | None:
    return _to_customer(customer) if customer else None


def _to_customer(customer: WireCustomer) -> Customer:
    status = customer.get("status") or {}
    return Customer(
        customer_id=customer.get("id"),
        reference_key=customer.get("referenceKey") or None,
        email=customer.get("email") or None,
        cellphone=customer.get("phone") or None,
        first_name=customer.get("firstName") or None,
        last_name=customer.get("lastName") or None,
        is_guest=bool(status.get("isGuestCustomer")),
        is_test=bool(status.get("isTestCustomer")),
    )


def _tax(amounts: Cost | Price) -> int:
    """The tax as sent, else what lies between the two totals, else 0."""
    tax: Tax = amounts.get("tax") or {}
    amount = (tax.get("vat") or {}).get("amount")
    if amount is not None:
        return amount
    without = amounts.get("withoutTax")
    return 0 if without is None else amounts["withTax"] - without


def _shipping(cost: Cost) -> int:
    return sum(
        (fee.get("amount") or {}).get("withTax") or 0
        for fee in cost.get("appliedFees") or ()
        if fee.get("category") == _DELIVERY
    )


def _discount(reductions: Sequence[Reduction] | None) -> int:
    return sum(
        (reduction.get("amount") or {}).get("absoluteWithTax") or 0
        for reduction in reductions or ()
    )
