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
from service.sandbox.scayle_money import (
    CURRENCIES,
    VAT,
    Item,
    Product,
    apply_voucher,
    contained_tax,
    cost_document,
    draw_item,
    earnable_points,
)

_DEFAULT_START = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
_FIRST = ("Camille", "Noé", "Inès", "Louis", "Zoë", "Jonas", "Maja", "Pia", "Émile", "Yuki")
_LAST = ("Roux", "Martin", "Keller", "Lopez", "Søndergaard", "Weiß", "Okafor", "Tanaka", "Novák")
_STREETS = ("Rue des Lilas", "Quai du Port", "Place du Marché", "Allée des Tilleuls")
_CITIES = (("69003", "Lyon"), ("13002", "Marseille"), ("44000", "Nantes"), ("67000", "Strasbourg"))
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


@dataclass(frozen=True, slots=True)
class _Customer:
    number: int
    first: str
    last: str
    gender: str
    card: str
    has_card: bool


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
    start: datetime = _DEFAULT_START,
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
    people = [_customer(draw, number, mixture) for number in range(customers)]
    goods = [_product(draw, number) for number in range(products)]
    for place in range(count):
        yield _envelope(
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


def _customer(draw: random.Random, number: int, shares: Shares) -> _Customer:
    return _Customer(
        number=48_000 + number,
        first=draw.choice(_FIRST),
        last=draw.choice(_LAST),
        gender=draw.choice("mfdn"),
        card=ean13_card(number),
        has_card=draw.random() >= shares.without_card,
    )


def _product(draw: random.Random, number: int) -> Product:
    name = draw.choice(_GOODS)
    sku = f"{name[:3].upper()}-{number:03d}-{draw.choice(_SIZES)}"
    return Product(55_000 + number, name, sku)


def _envelope(
    draw: random.Random,
    shares: Shares,
    *,
    order_id: int,
    customer: _Customer,
    products: list[Product],
    currency: str,
    factor: Decimal,
    app_id: int,
    provider: str,
    at: datetime,
) -> dict[str, Any]:
    guest = draw.random() < shares.guests
    text_ids = draw.random() < shares.text_ids
    code = f"WELCOME{draw.randrange(10, 99)}" if draw.random() < shares.vouchers else None
    items = [draw_item(draw, product, currency, shares.sales) for product in products]
    if code is not None:
        apply_voucher(items, draw.randrange(5, 30), code)
    goods_total = sum(item.price for item in items)
    fee = 0 if draw.random() < shares.free_delivery else CURRENCIES[currency][1]
    spends = not guest and customer.has_card and draw.random() < shares.points_spent
    spent = goods_total // 4 if spends else 0
    confirmed_at = at.isoformat()
    rows = [
        _item_row(draw, item, order_id, place, currency, at=at, text_ids=text_ids)
        for place, item in enumerate(items)
    ]
    cost = cost_document(items, rows, goods_total=goods_total, fee=fee, spent=spent)
    payload: dict[str, Any] = {
        "id": str(order_id) if text_ids else order_id,
        "address": _addresses(draw, customer, at),
        "basketKey": f"basket-{order_id}",
        "confirmedAt": confirmed_at,
        "contacts": [{"type": "carrier", "value": _phone(customer)}],
        "cost": cost,
        "currencyCode": currency,
        "customData": {},
        "customer": _customer_document(customer, at, guest=guest, text_ids=text_ids),
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
    if spent:
        payload["membershipDiscount"] = {
            "membershipCardId": customer.number,
            "pointsUsed": spent,
            "reductionValue": spent,
            "tax": contained_tax(spent),
        }
    payload |= _settlement(order_id, cost, at)
    payload["vouchers"] = [] if code is None else [_voucher(code, cost, rows)]
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


def _item_row(
    draw: random.Random,
    item: Item,
    order_id: int,
    place: int,
    currency: str,
    *,
    at: datetime,
    text_ids: bool,
) -> dict[str, Any]:
    number = order_id * 10 + place
    vat = contained_tax(item.price)
    return {
        "id": str(number) if text_ids else number,
        "key": f"{draw.getrandbits(128):032x}",
        "status": "available",
        "currency": currency,
        "availableQuantity": draw.randrange(1, 60),
        "packageId": 1,
        "warehouseId": 21,
        "price": {
            "withTax": item.price,
            "withoutTax": item.price - vat,
            "undiscountedWithTax": item.undiscounted,
            "undiscountedWithOutTax": item.undiscounted - contained_tax(item.undiscounted),
            "appliedReductions": item.reductions,
            "tax": {"vat": {"amount": vat, "rate": float(VAT)}},
        },
        "product": {"id": item.product.number, "name": item.product.name},
        "variant": {"id": item.product.number + 935_000, "referenceKey": item.product.sku},
        "merchant": {"id": 7, "referenceKey": "default"},
        "customData": {},
        "createdAt": (at - timedelta(seconds=146)).isoformat(),
        "updatedAt": at.isoformat(),
    }


def _settlement(order_id: int, cost: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    delivery = sum(fee["amount"]["withTax"] for fee in cost["appliedFees"])
    days = {"minimum": at + timedelta(days=4), "maximum": at + timedelta(days=6)}
    return {
        "packages": [
            {
                "id": 1,
                "carrierKey": "colissimo",
                "deliveryDate": {name: f"{day:%Y-%m-%d}" for name, day in days.items()},
                "deliveryStatus": "open",
            }
        ],
        "payment": [
            {
                "amount": cost["costCapture"],
                "key": "adyen_creditcard",
                "transactionKey": f"psp-{order_id:x}",
                "data": {},
                "isGiftCard": False,
            }
        ],
        "publicKey": f"FR-{order_id}",
        "shipping": {
            "policy": "least_packages",
            "deliveryCosts": delivery,
            "expressDeliveryCosts": 0,
        },
        "status": "payment_reserved",
    }


def _voucher(code: str, cost: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    reductions = cost["appliedReductions"]
    values = [
        reduction["amount"]["absoluteWithTax"]
        for reduction in reductions
        if reduction["category"] == "voucher"
    ]
    return {
        "id": 31,
        "voucherId": 9007,
        "code": code,
        "type": "absolute",
        "value": sum(values),
        "applicableItems": [{"isApplied": True, "key": row["key"]} for row in rows],
    }


def _customer_document(
    customer: _Customer, at: datetime, *, guest: bool, text_ids: bool
) -> dict[str, Any]:
    number: int | str = str(customer.number) if text_ids else customer.number
    mail = f"customer{customer.number}@example.com"
    status = {"isActive": True, "isGuestCustomer": guest, "isTestCustomer": False}
    document: dict[str, Any] = {
        "id": number,
        "email": mail,
        "firstName": customer.first,
        "lastName": customer.last,
    }
    if not guest:
        document |= {
            "gender": customer.gender,
            "birthDate": f"19{70 + customer.number % 30}-06-18",
            "phone": _phone(customer),
            "publicKey": f"C-{customer.number}",
            "referenceKey": f"crm-{customer.number:08x}",
        }
    return {
        **document,
        "groups": ["club"] if customer.has_card and not guest else [],
        "status": status,
        "type": "personal",
        "title": None,
        "createdAt": "2024-02-11T09:00:12+00:00",
        "updatedAt": (at - timedelta(seconds=153)).isoformat(),
    }


def _phone(customer: _Customer) -> str:
    return f"+336123{customer.number:05d}"


def _addresses(draw: random.Random, customer: _Customer, at: datetime) -> dict[str, Any]:
    code, city = draw.choice(_CITIES)
    street, house = draw.choice(_STREETS), str(draw.randrange(1, 120))
    made = (at - timedelta(days=200)).isoformat()
    return {
        kind: {
            "id": customer.number * 2 + place,
            "street": street,
            "houseNumber": house,
            "zipCode": code,
            "city": city,
            "countryCode": "FRA",
            "isDefault": {"billing": kind == "billing", "shipping": kind == "shipping"},
            "recipient": {
                "firstName": customer.first,
                "lastName": customer.last,
                "gender": customer.gender,
                "type": "personal",
            },
            "createdAt": made,
            "updatedAt": made,
        }
        for place, kind in enumerate(("billing", "shipping"))
    }


def _leave_out(draw: random.Random, payload: dict[str, Any]) -> None:
    """Takes away some of what SCAYLE marks optional and no booking needs."""
    for name in ("contacts", "customData", "packages", "payment", "shipping", "vouchers"):
        if draw.choice((True, False)):
            del payload[name]
    for name in ("gender", "birthDate", "phone", "publicKey", "groups", "title"):
        if draw.choice((True, False)):
            payload["customer"].pop(name, None)
