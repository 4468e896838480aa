"""Renders the requests that are stored with an effect, in Splio's words."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote
from zoneinfo import ZoneInfo

import orjson

from service.domain.effects import (
    EffectKey,
    Prerequisite,
    PrerequisiteKind,
    RenderedRequest,
    idempotency_key,
)
from service.domain.events import Customer, OrderConfirmed
from service.domain.money import json_number
from service.domain.planning import ContactKey, Shop
from service.splio.config import Hours, PointsKind

ORDERS_PATH: Final = "/data/v1/orders"
_CONTACTS_PATH: Final = "/data/contacts"
_PRODUCTS_PATH: Final = "/data/v1/products"
_STORES_PATH: Final = "/data/v1/stores"
_MEMBERS_PATH: Final = "/loyalty/v1/members/"
_CREDIT: Final = "/credit"
_MEMBERSHIPS_PATH: Final = "/loyalty/members"
_REWARDS_PATH: Final = "/loyalty/v1/rewards/"
_GRANT: Final = "/grant"

# A universe whose key is one of SCAYLE's ids holds it in a custom field. Splio numbers such
# fields (`c0`) and lets each universe name them: these names are ours, from the contract's
# examples, and the field must exist there.
CUSTOM_KEYS: Final = {
    ContactKey.CUSTOMER_ID: "scayle_customer_id",
    ContactKey.REFERENCE_KEY: "scayle_reference_key",
}
# The languages that Splio lists; another is left out rather than refused. Contract section F.5.
_LANGUAGES: Final = frozenset("ar br ca cz de en es fr gr it ja kr nl pl ru tr zh".split())


@dataclass(slots=True)
class _Line:
    """Equal pieces of an order: one product at one price."""

    product_id: str
    product_name: str | None
    unit_minor: int
    quantity: int = 0
    tax_minor: int = 0
    discount_minor: int = 0


class SplioRenderer:
    """
    Renders what is asked of Splio (`RequestRenderer`). Amounts are exact: never a binary float.

    Args:
        contact_key: the unique key of the universe.
        points_kind: `nq` (the currency that buys rewards) or `q` (decides the tier).
        is_final: sent with credits; Splio does not document what it means.
        hours: `padded` (01:05:00) as in Splio's guides, `plain` (1:05:00) as in its own
            OpenAPI file, which refuses padded hours 01 to 09.
    """

    def __init__(
        self,
        *,
        contact_key: ContactKey = ContactKey.EMAIL,
        points_kind: PointsKind = "nq",
        is_final: bool = True,
        hours: Hours = "padded",
    ) -> None:
        self._contact_key = contact_key
        self._points_kind = points_kind
        self._is_final = is_final
        self._hours: Hours = hours

    def order(self, order: OrderConfirmed, *, contact_id: str, shop: Shop) -> RenderedRequest:
        """
        The request that posts `order`, with those that create contact, store and products.

        Raises: UnknownCurrencyError; ValueError for an item without a product id.
        """
        currency = order.currency
        lines = _lines(order)
        parts = [
            f'{{"external_id":{_text(order.order_id)},"contact_id":{_text(contact_id)}',
            f',"card_code":{_text(order.card.number)}' if order.card is not None else "",
            f',"store_external_id":{_text(shop.store)},"ordered_at":"',
            splio_date(order.confirmed_at, shop.timezone, self._hours),
            f'","discount_amount":{json_number(order.discount_minor, currency)}'
            f',"shipping_amount":{json_number(order.shipping_minor, currency)}'
            f',"total_price":{json_number(order.total_minor, currency)}'
            f',"tax_amount":{json_number(order.tax_minor, currency)}'
            f',"completed":true,"currency":"{currency}","products":[',
            ",".join([_line_json(line, currency) for line in lines]),
            "]}",
        ]
        products: dict[str, Prerequisite] = {}
        for line in lines:
            if line.product_id not in products:
                products[line.product_id] = _product(line, currency)
        return RenderedRequest(
            path=ORDERS_PATH,
            body="".join(parts).encode(),
            prerequisites=(
                self._contact(order.customer, contact_id, order.language),
                _store(shop.store),
                *products.values(),
            ),
        )

    def earned_points(
        self, order: OrderConfirmed, *, key: EffectKey, card: str, points: int, shop: Shop
    ) -> RenderedRequest:
        """
        The request that books `points` on `card`; `context` carries `key` for the look-up.

        Raises: ValueError for a card number that cannot be a part of a path.
        """
        date = splio_date(order.confirmed_at, shop.timezone, self._hours)
        return self._credit(key, card=card, points=points, date=date)

    def credit(
        self,
        *,
        key: EffectKey,
        card: str,
        points: int,
        at: datetime,
        timezone: str,
        is_given_back: bool = False,
    ) -> RenderedRequest:
        """
        The request that books `points` on `card`, as that of earned points does.

        Args:
            is_given_back: points that were spent; they are `nq`, whatever kind is earned.
        Raises: ValueError for a card number that cannot be a part of a path.
        """
        date = splio_date(at, timezone, self._hours)
        return self._credit(key, card=card, points=points, date=date, is_nq=is_given_back)

    def grant(
        self, *, key: EffectKey, card: str, reward: str, quantity: int, at: datetime, timezone: str
    ) -> RenderedRequest:
        """
        The request that grants `card` a reward `quantity` times and uses it in the same second.

        `reason_msg` carries `key` for the look-up.
        Raises: ValueError for a reward's id that cannot be a part of a path.
        """
        repeat_key = idempotency_key(key)
        date = splio_date(at, timezone, self._hours)
        body = {
            "card_code": card,
            "quantity": quantity,
            "reason_msg": key,
            "grant_date": date,
            "burned_date": date,
            "idempotency_key": repeat_key,
        }
        return RenderedRequest(
            path=f"{_REWARDS_PATH}{path_part(reward)}{_GRANT}",
            body=orjson.dumps(body),
            idempotency_key=repeat_key,
        )

    def membership(
        self, *, program: str, contact_id: str, customer: Customer, language: str | None
    ) -> RenderedRequest:
        """
        The request that makes a contact a member, with the one that creates the contact.

        Raises: ValueError for a program that is no whole number.
        """
        if not (program.isascii() and program.isdecimal()):
            raise ValueError("a program is a whole number")
        return RenderedRequest(
            path=_MEMBERSHIPS_PATH,
            body=orjson.dumps({"program_id": int(program), "contact_id": contact_id}),
            prerequisites=(self._contact(customer, contact_id, language),),
        )

    def _credit(
        self, key: EffectKey, *, card: str, points: int, date: str, is_nq: bool = False
    ) -> RenderedRequest:
        repeat_key = idempotency_key(key)
        is_nq = is_nq or self._points_kind == "nq"
        body = {
            "event_date": date,
            "nq_points_quantity": points if is_nq else 0,
            "q_points_quantity": 0 if is_nq else points,
            "context": key,
            "is_final": self._is_final,
            "idempotency_key": repeat_key,
        }
        return RenderedRequest(
            path=f"{_MEMBERS_PATH}{path_part(card)}{_CREDIT}",
            body=orjson.dumps(body),
            idempotency_key=repeat_key,
        )

    def _contact(
        self, customer: Customer | None, contact_id: str, language: str | None
    ) -> Prerequisite:
        body: dict[str, Any] = {}
        if customer is not None:
            body["lastname"] = customer.last_name
            body["firstname"] = customer.first_name
            body["email"] = customer.email.lower() if customer.email else None
            body["cellphone"] = customer.cellphone
        if language and (short := language[:2].lower()) in _LANGUAGES:
            body["language"] = short
        if (field := CUSTOM_KEYS.get(self._contact_key)) is not None:
            body["custom_fields"] = [{"name": field, "value": contact_id}]
        else:
            body[self._contact_key.value] = contact_id
        return Prerequisite(
            kind=PrerequisiteKind.CONTACT,
            name=contact_id,
            path=_CONTACTS_PATH,
            body=orjson.dumps({name: value for name, value in body.items() if value}),
        )


# An order and its credit carry the same one.
@lru_cache(maxsize=512)
def splio_date(at: datetime, timezone: str, hours: Hours) -> str:
    """`at` in `timezone` as `YYYY-MM-DD HH:MM:SS`, the only form of date that Splio takes."""
    local = at.astimezone(_zone(timezone))
    text = local.isoformat(" ", "seconds")[:19]
    return text if hours == "padded" else f"{text[:11]}{local.hour}{text[13:]}"


def path_part(value: str) -> str:
    """
    `value` as one part of a path, percent-encoded.

    Raises: ValueError for what no encoding keeps apart from the path around it.
    """
    if value in ("", ".", ".."):
        raise ValueError("cannot be a part of a path")
    return quote(value, safe="")


@lru_cache(maxsize=512)
def _zone(timezone: str) -> ZoneInfo:
    return ZoneInfo(timezone)


def _text(value: str) -> str:
    """`value` as JSON."""
    return orjson.dumps(value).decode()


def _lines(order: OrderConfirmed) -> list[_Line]:
    """One line for each product and price; SCAYLE sends pieces."""
    lines: dict[tuple[str, int], _Line] = {}
    for item in order.items:
        if item.product_id is None:
            raise ValueError("an item without a product id cannot be posted")
        line = lines.get((item.product_id, item.amount_minor))
        if line is None:
            line = _Line(item.product_id, item.product_name, item.amount_minor)
            lines[item.product_id, item.amount_minor] = line
        line.quantity += 1
        line.tax_minor += item.tax_minor
        line.discount_minor += item.discount_minor
    return list(lines.values())


def _line_json(line: _Line, currency: str) -> str:
    return (
        f'{{"product_id":{_text(line.product_id)}'
        f',"unit_price":{json_number(line.unit_minor, currency)},"quantity":{line.quantity}'
        f',"discount_amount":{json_number(line.discount_minor, currency)}'
        f',"tax_amount":{json_number(line.tax_minor, currency)},"currency":"{currency}"'
        f',"total_line_amount":{json_number(line.unit_minor * line.quantity, currency)}}}'
    )


@lru_cache(maxsize=64)
def _store(store: str) -> Prerequisite:
    return Prerequisite(
        kind=PrerequisiteKind.STORE,
        name=store,
        path=_STORES_PATH,
        body=orjson.dumps({"external_id": store, "name": store, "online": True}),
    )


def _product(line: _Line, currency: str) -> Prerequisite:
    product_id = _text(line.product_id)
    name = _text(line.product_name) if line.product_name else product_id
    price = json_number(line.unit_minor, currency)
    body = f'{{"external_id":{product_id},"name":{name},"price":{price},"sku":{product_id}}}'
    return Prerequisite(
        kind=PrerequisiteKind.PRODUCT,
        name=line.product_id,
        path=_PRODUCTS_PATH,
        body=body.encode(),
    )
