"""
Orders as SCAYLE's `order-confirmed` webhook describes them, made up from a seed.

The amounts of an order agree: items after reductions plus fees are the total, the taxes of
items and fees are its tax, and the points follow SCAYLE's table (factor times the whole major
units after all reductions and before fees). Names, addresses and numbers are invented.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from service.sandbox.checks import ean13_check_digit
from service.sandbox.scayle_documents import (
    Customer,
    addresses,
    customer_document,
    item_row,
    phone_of,
    settlement,
    voucher_document,
)
from service.sandbox.scayle_money import (
    CURRENCIES,
    PaidByPoints,
    Product,
    apply_voucher,
    contained_tax,
    cost_document,
    draw_item,
    earnable_points,
)

DEFAULT_START = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
_FIRST = ("Camille", "Noé", "Inès", "Louis", "Zoë", "Jonas", "Maja", "Pia", "Émile", "Yuki")
_LAST = ("Roux", "Martin", "Keller", "Lopez", "Søndergaard", "Weiß", "Okafor", "Tanaka", "Novák")
_GOODS = ("Rain jacket", "Wool cap", "Linen shirt", "Trail shoe", "Canvas bag", "Rib socks")
_SIZES = ("S", "M", "L", "XL", "U")


@dataclass(frozen=True, slots=True)
class Shares:
    """How often, from 0 to 1, an order differs from the plain one."""

    guests: float = 0.1
    without_card: float = 0.15
    vouchers: float = 0.15
    sales: float = 0.2
    free_delivery: float = 0.3
    points_spent: float = 0.05
    text_ids: float = 0.1
    meta: float = 0.05
    missing_fields: float = 0.1


def generate_orders(
    seed: int,
    count: int,
    *,
    first_order_id: int = 5_000_001,
    customers: int = 200,
    products: int = 60,
    currencies: Sequence[str] = ("EUR",),
    factor: Decimal = Decimal(3),
    app_id: int = 1042,
    provider: str = "splio_club",
    start: datetime = DEFAULT_START,
    seconds_between: float = 7.0,
    shares: Shares | None = None,
) -> Iterator[dict[str, Any]]:
    """
    `count` envelopes of confirmed orders; the same arguments give the same orders.

    Args:
        first_order_id: the others count up from it; take another for a second run against
            the same books.
        customers, products: sizes of the pools that are drawn from.
        currencies: drawn from for each order, of `CURRENCIES`.
        factor: points per whole major unit; a fraction of the product is dropped.
        start: when the first order was confirmed; each next one `seconds_between` later.
    """
    unknown = set(currencies) - CURRENCIES.keys()
    if unknown or not currencies:
        raise ValueError(f"currencies are of: {', '.join(CURRENCIES)}")
    draw = random.Random(seed)
    mixture = Shares() if shares is None else shares
    people = [draw_customer(draw, number, mixture) for number in range(customers)]
    goods = [draw_product(draw, number) for number in range(products)]
    for place in range(count):
        yield order_confirmed(
            draw,
            mixture,
            order_id=first_order_id + place,
            customer=draw.choice(people),
            products=[draw.choice(goods) for _ in range(draw.choice((1, 1, 2, 2, 2, 3, 4)))],
            currency=draw.choice(list(currencies)),
            factor=factor,
            app_id=app_id,
            provider=provider,
            at=start + timedelta(seconds=place * seconds_between),
        )


def ean13_card(number: int) -> str:
    """The card number of a generated customer: EAN-13 with a prefix for internal use."""
    digits = f"21719{number:07d}"
    return digits + ean13_check_digit(digits)


def respell(envelope: Mapping[str, Any], *, seconds: int = 60) -> dict[str, Any]:
    """
    The same order as another delivery may spell it: ids the other way (number or text),
    `updatedAt` later.
    """
    payload = dict(envelope["payload"])
    payload["id"] = _other_spelling(payload["id"])
    updated = datetime.fromisoformat(payload["updatedAt"]) + timedelta(seconds=seconds)
    payload["updatedAt"] = updated.isoformat()
    payload["items"] = [{**item, "id": _other_spelling(item["id"])} for item in payload["items"]]
    return {**envelope, "payload": payload}


def _other_spelling(value: int | str) -> int | str:
    return int(value) if isinstance(value, str) else str(value)


def draw_customer(draw: random.Random, number: int, shares: Shares) -> Customer:
    """A customer of the pool, the same by the same draws."""
    return Customer(
        number=48_000 + number,
        first=draw.choice(_FIRST),
        last=draw.choice(_LAST),
        gender=draw.choice("mfdn"),
        card=ean13_card(number),
        has_card=draw.random() >= shares.without_card,
    )


def draw_product(draw: random.Random, number: int) -> Product:
    """A product of the pool."""
    name = draw.choice(_GOODS)
    sku = f"{name[:3].upper()}-{number:03d}-{draw.choice(_SIZES)}"
    return Product(55_000 + number, name, sku)


def order_confirmed(
    draw: random.Random,
    shares: Shares,
    *,
    order_id: int,
    customer: Customer,
    products: list[Product],
    currency: str,
    factor: Decimal,
    app_id: int,
    provider: str,
    at: datetime,
    paid: PaidByPoints | None = None,
) -> dict[str, Any]:
    """The envelope of a confirmed order; `paid` stands in for what the shares would draw."""
    guest = draw.random() < shares.guests
    text_ids = draw.random() < shares.text_ids
    code = f"WELCOME{draw.randrange(10, 99)}" if draw.random() < shares.vouchers else None
    items = [draw_item(draw, product, currency, shares.sales) for product in products]
    if code is not None:
        apply_voucher(items, draw.randrange(5, 30), code)
    goods_total = sum(item.price for item in items)
    fee = 0 if draw.random() < shares.free_delivery else CURRENCIES[currency][1]
    spends = not guest and customer.has_card and draw.random() < shares.points_spent
    if spends and paid is None:
        paid = PaidByPoints(goods_total // 4, goods_total // 4)
    spent = paid.reduction if paid else 0
    confirmed_at = at.isoformat()
    rows = [
        item_row(draw, item, order_id, place, currency, at=at, text_ids=text_ids)
        for place, item in enumerate(items)
    ]
    cost = cost_document(items, rows, goods_total=goods_total, fee=fee, spent=spent)
    payload: dict[str, Any] = {
        "id": str(order_id) if text_ids else order_id,
        "address": addresses(draw, customer, at),
        "basketKey": f"basket-{order_id}",
        "confirmedAt": confirmed_at,
        "contacts": [{"type": "carrier", "value": phone_of(customer)}],
        "cost": cost,
        "currencyCode": currency,
        "customData": {},
        "customer": customer_document(customer, at, guest=guest, text_ids=text_ids),
        "detailedStatus": {
            "order": {"code": "order_confirmed", "name": "Confirmed"},
            "billing": {"code": "billing_payment_pending", "name": "Payment reserved"},
            "shipping": {"code": "shipping_open", "name": "Open"},
        },
        "items": rows,
    }
    if not guest and customer.has_card:
        payload["loyaltyCard"] = {
            "cardNumber": customer.card,
            "points": earnable_points(goods_total - spent, currency, factor),
            "provider": provider,
        }
    if paid:
        payload["membershipDiscount"] = {
            "membershipCardId": customer.number,
            "pointsUsed": paid.points,
            "reductionValue": paid.reduction,
            "tax": contained_tax(paid.reduction),
        }
    payload |= settlement(order_id, cost, at)
    payload["vouchers"] = [] if code is None else [voucher_document(code, cost, rows)]
    payload |= {
        "createdAt": (at - timedelta(seconds=146)).isoformat(),
        "updatedAt": confirmed_at,
    }
    if draw.random() < shares.missing_fields:
        _leave_out(draw, payload)
    return {
        "key": f"evt-{order_id}-confirmed",
        **_origin(draw, shares, app_id=app_id, currency=currency),
        "occurredAt": confirmed_at,
        "type": "order-confirmed",
        "payload": payload,
    }


def _origin(draw: random.Random, shares: Shares, *, app_id: int, currency: str) -> dict[str, Any]:
    if draw.random() < shares.meta:
        request = f"{draw.getrandbits(32):08x}-7d1b-4c35-9a77-{draw.getrandbits(48):012x}"
        return {"meta": {"tenantKey": "acme", "xRequestId": request}}
    locale = {"appId": app_id, "countryCode": "FRA", "currencyCode": currency}
    return {"locale": {**locale, "languageCode": "fr_FR"}}


def _leave_out(draw: random.Random, payload: dict[str, Any]) -> None:
    """Takes away some of what SCAYLE marks optional and no booking needs."""
    for name in ("contacts", "customData", "packages", "payment", "shipping", "vouchers"):
        if draw.choice((True, False)):
            del payload[name]
    for name in ("gender", "birthDate", "phone", "publicKey", "groups", "title"):
        if draw.choice((True, False)):
            payload["customer"].pop(name, None)
