"""Objects of the domain with sensible values, for tests that care about one or two fields."""

from datetime import UTC, datetime
from typing import Any, Final

from service.domain.effects import (
    LANE_OF,
    EffectKey,
    Kind,
    Prerequisite,
    PrerequisiteKind,
    RenderedRequest,
    State,
    effect_key,
    idempotency_key,
)
from service.domain.events import Customer, LoyaltyCard, OrderConfirmed, OrderItem
from service.domain.ledger import Claim, Doubt, ReadyEffect
from service.domain.notices import DeadLetterNotice, OutcomeNotice
from service.domain.planning import PlanningPolicy, Shop
from service.domain.records import Record, Stream, Topic
from tests.fakes.clock import START_MS

CARD: Final = "2990000000017"
TRACEPARENT: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SHOP: Final = Shop(store="online", program=None, timezone="Europe/Paris")
POLICY: Final = PlanningPolicy(tenant="main", shop=SHOP)
STREAM: Final = Stream(Topic.ORDERS, 0)

CONTACT: Final = Prerequisite(PrerequisiteKind.CONTACT, "a@example.com", "/data/contacts", b"{}")
STORE: Final = Prerequisite(PrerequisiteKind.STORE, "online", "/data/v1/stores", b"{}")
PRODUCT: Final = Prerequisite(PrerequisiteKind.PRODUCT, "p1", "/data/v1/products", b"{}")
OTHER_PRODUCT: Final = Prerequisite(PrerequisiteKind.PRODUCT, "p2", "/data/v1/products", b"{}")


def make_customer(**changes: Any) -> Customer:
    values: dict[str, Any] = {
        "customer_id": "48213",
        "reference_key": "crm-1",
        "email": "Ada@Example.com",
        "cellphone": "+33600000000",
        "first_name": "Ada",
        "last_name": "L",
        "is_guest": False,
        "is_test": False,
    }
    return Customer(**values | changes)


def make_item(item_id: str = "1", **changes: Any) -> OrderItem:
    values: dict[str, Any] = {
        "item_id": item_id,
        "product_id": "p1",
        "product_name": "Shirt",
        "amount_minor": 5995,
        "tax_minor": 999,
        "discount_minor": 0,
    }
    return OrderItem(**values | changes)


def make_card(points: int | None = 177, number: str = CARD) -> LoyaltyCard:
    return LoyaltyCard(number=number, points=points, provider="splio_club")


def make_order(**changes: Any) -> OrderConfirmed:
    values: dict[str, Any] = {
        "order_id": "1001",
        "app_id": "1042",
        "language": "fr_FR",
        "currency": "EUR",
        "confirmed_at": datetime(2026, 11, 14, 17, 22, 31, tzinfo=UTC),
        "total_minor": 6485,
        "tax_minor": 1081,
        "shipping_minor": 490,
        "discount_minor": 0,
        "points_base_minor": 5995,
        "items": (make_item(),),
        "card": make_card(),
        "customer": make_customer(),
    }
    return OrderConfirmed(**values | changes)


def make_ready(
    order_id: str = "1001",
    kind: Kind = Kind.EARN,
    *,
    points: int | None = None,
    prerequisites: tuple[Prerequisite, ...] = (),
    request_id: int = 1,
) -> ReadyEffect:
    key = effect_key("main", kind, order_id)
    path = "/data/v1/orders" if kind is Kind.ORDER else f"/loyalty/v1/members/{CARD}/credit"
    if points is None:
        points = 0 if kind is Kind.ORDER else 177
    return ReadyEffect(
        key=key,
        kind=kind,
        lane=LANE_OF[kind],
        order_key=order_id,
        event_id=f"event-{order_id}",
        traceparent=TRACEPARENT,
        points=points,
        received_at_ms=START_MS,
        request=RenderedRequest(
            path=path,
            body=f'{{"{kind.value}":"{order_id}"}}'.encode(),
            idempotency_key=None if kind is Kind.ORDER else idempotency_key(key),
            prerequisites=prerequisites,
        ),
        request_id=request_id,
    )


def make_claim(effect: ReadyEffect | None = None, **changes: Any) -> Claim:
    values: dict[str, Any] = {
        "effect": effect or make_ready(),
        "attempt": 1,
        "lease_until_ms": START_MS + 30_000,
        "started_at_ms": START_MS,
        "first_attempt_at_ms": START_MS,
        "was_in_doubt": False,
        "rounds": 0,
    }
    return Claim(**values | changes)


def make_doubt(effect: ReadyEffect | None = None, **changes: Any) -> Doubt:
    values: dict[str, Any] = {
        "effect": effect or make_ready(),
        "attempt": 1,
        "absence_counts_from_ms": START_MS + 60_000,
        "first_attempt_at_ms": START_MS,
        "resends": 0,
    }
    return Doubt(**values | changes)


def make_record(offset: int = 0, value: bytes = b"{}", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "stream": STREAM,
        "offset": offset,
        "key": "1001",
        "value": value,
        "headers": {"event_type": "order-confirmed", "traceparent": TRACEPARENT},
        "appended_at_ms": START_MS,
    }
    return Record(**values | changes)


def key_of(order_id: str, kind: Kind = Kind.EARN) -> EffectKey:
    return effect_key("main", kind, order_id)


def make_outcome(order_id: str = "17", **changes: Any) -> OutcomeNotice:
    key = effect_key("main", Kind.EARN, order_id)
    values: dict[str, Any] = {
        "effect_key": key,
        "kind": Kind.EARN,
        "order_id": order_id,
        "outcome": State.APPLIED,
        "reason": None,
        "points": 177,
        "attempt": 1,
        "reference": idempotency_key(key),
        "event_id": "01998a2f-7c1d-7000-8f3a-0d5b2c9e4a61",
        "settled_at_ms": START_MS,
    }
    return OutcomeNotice(**values | changes)


def make_dead_letter_notice(order_id: str | None = "17", **changes: Any) -> DeadLetterNotice:
    values: dict[str, Any] = {
        "id": 5,
        "kind": "event",
        "reason": "unreadable",
        "effect_key": None,
        "order_id": order_id,
        "event_id": "01998a2f-7c1d-7000-8f3a-0d5b2c9e4a61",
        "event_type": "order-confirmed",
        "topic": Topic.UNREADABLE.value,
        "partition": 0,
        "offset": 12,
        "at_ms": START_MS,
    }
    return DeadLetterNotice(**values | changes)
