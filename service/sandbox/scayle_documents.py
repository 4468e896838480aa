"""The parts of a made-up order as SCAYLE's documents have them: customer, items, addresses."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from service.sandbox.scayle_money import VAT, Item, contained_tax

_STREETS = ("Rue des Lilas", "Quai du Port", "Place du Marché", "Allée des Tilleuls")
_CITIES = (("69003", "Lyon"), ("13002", "Marseille"), ("44000", "Nantes"), ("67000", "Strasbourg"))


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer of the pool; `card` is theirs only where `has_card`."""

    number: int
    first: str
    last: str
    gender: str
    card: str
    has_card: bool


def item_row(
    draw: random.Random,
    item: Item,
    order_id: int,
    place: int,
    currency: str,
    *,
    at: datetime,
    text_ids: bool,
) -> dict[str, Any]:
    """`payload.items[]`."""
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


def settlement(order_id: int, cost: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    """How an order is sent and paid, a part of `payload`."""
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


def voucher_document(
    code: str, cost: Mapping[str, Any], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """`payload.vouchers[]`: one that takes an absolute amount off the whole order."""
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


def customer_document(
    customer: Customer, at: datetime, *, guest: bool, text_ids: bool
) -> dict[str, Any]:
    """`payload.customer`; of a guest SCAYLE knows less."""
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
            "phone": phone_of(customer),
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


def phone_of(customer: Customer) -> str:
    """The telephone number of a customer of the pool."""
    return f"+336123{customer.number:05d}"


def addresses(draw: random.Random, customer: Customer, at: datetime) -> dict[str, Any]:
    """`payload.address`."""
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
