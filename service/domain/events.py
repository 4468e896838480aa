"""What happened at SCAYLE, in our words: immutable events that planning reads."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class LoyaltyCard:
    """The card attached to an order; `points` are those earned with it, None when not sent."""

    number: str
    points: int | None
    provider: str | None


@dataclass(frozen=True, slots=True)
class Customer:
    """Who ordered, with what Splio needs to know a contact; any part may be missing."""

    customer_id: str | None
    reference_key: str | None
    email: str | None
    cellphone: str | None
    first_name: str | None
    last_name: str | None
    is_guest: bool
    is_test: bool


@dataclass(frozen=True, slots=True)
class OrderItem:
    """One piece (SCAYLE has no quantity); amounts in minor units, tax included."""

    item_id: str
    product_id: str | None
    product_name: str | None
    amount_minor: int
    tax_minor: int
    discount_minor: int


@dataclass(frozen=True, slots=True)
class OrderConfirmed:
    """
    An order whose payment was reserved; amounts in minor units of `currency`, tax included.

    Source: SCAYLE order-confirmed reference; contract section A.7.
    `points_base_minor` is the total after reductions and before fees, None when not sent.
    """

    order_id: str
    app_id: str | None
    language: str | None
    currency: str
    confirmed_at: datetime
    total_minor: int
    tax_minor: int
    shipping_minor: int
    discount_minor: int
    points_base_minor: int | None
    items: tuple[OrderItem, ...]
    card: LoyaltyCard | None
    customer: Customer | None
