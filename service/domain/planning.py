"""Planning: which effects a confirmed order asks of Splio. Pure; no I/O and no clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, Protocol

from service.domain.effects import (
    LANE_OF,
    EffectKey,
    Kind,
    Lane,
    RenderedRequest,
    State,
    effect_key,
    fingerprint,
)
from service.domain.events import Customer, OrderConfirmed
from service.domain.money import UnknownCurrencyError, exponent, to_major
from service.domain.points import Rounding, earnable_points, is_plausible


class PointsFrom(StrEnum):
    """Who books the points of an order; two at once would book twice."""

    WEBHOOK = "webhook"
    COLLECT = "collect"
    RULES = "rules"


class ContactKey(StrEnum):
    """Which field of SCAYLE's customer is the unique key of the Splio universe."""

    EMAIL = "email"
    CELLPHONE = "cellphone"
    CUSTOMER_ID = "customer_id"
    REFERENCE_KEY = "reference_key"


class GuestOrders(StrEnum):
    """What becomes of an order by a guest without a card."""

    POST = "post"
    SKIP = "skip"


class Reason(StrEnum):
    """Why planning ignored, held or rejected something; stable, used in metrics and lists."""

    TEST_CUSTOMER = "test_customer"
    UNMAPPED_SHOP = "unmapped_shop"
    GUEST_ORDER = "guest_order"
    SHOP_MISSING = "shop_missing"
    CONTACT_KEY_MISSING = "contact_key_missing"
    PRODUCT_ID_MISSING = "product_id_missing"
    UNKNOWN_CURRENCY = "unknown_currency"
    NEGATIVE_POINTS = "negative_points"
    POINTS_OVER_LIMIT = "points_over_limit"
    POINTS_IMPLAUSIBLE = "points_implausible"
    CONFLICT = "conflict"
    MORE_THAN_CAPTURED = "more_than_captured"
    UNREADABLE = "unreadable"
    PLANNING_FAILED = "planning_failed"


@dataclass(frozen=True, slots=True)
class Shop:
    """Where an order belongs at Splio: store, programme and the time zone of its dates."""

    store: str
    program: str | None
    timezone: str


@dataclass(frozen=True, slots=True)
class PlanningPolicy:
    """
    The settings that planning obeys.

    `shops` maps SCAYLE's `appId` to a shop; when it is empty every order uses `shop`.
    """

    tenant: str
    shop: Shop
    shops: Mapping[str, Shop] = field(default_factory=dict)
    contact_key: ContactKey = ContactKey.EMAIL
    points_from: PointsFrom = PointsFrom.WEBHOOK
    points_limit: int = 100_000
    points_factor: Decimal | None = None
    points_tolerance: int = 1
    points_rounding: Rounding = Rounding.DOWN
    guest_orders: GuestOrders = GuestOrders.POST


class RequestRenderer(Protocol):
    """Renders the requests to store with an effect, in the words of the platform."""

    def order(self, order: OrderConfirmed, *, contact_id: str, shop: Shop) -> RenderedRequest:
        """
        The request that posts `order`, with those that create what it needs to exist first.

        Raises: UnknownCurrencyError.
        """
        ...

    def earned_points(
        self, order: OrderConfirmed, *, key: EffectKey, card: str, points: int, shop: Shop
    ) -> RenderedRequest:
        """The request that books `points` on `card`; `key` is what a look-up searches for."""
        ...


@dataclass(frozen=True, slots=True)
class PlannedEffect:
    """
    An effect as planned, before the ledger knows it.

    `state` is due, held or rejected; `request` is None only when it cannot be rendered, and
    then the state is rejected. `points` is what it books, 0 for an order.
    """

    key: EffectKey
    kind: Kind
    lane: Lane
    order_key: str
    fingerprint: str
    state: State
    request: RenderedRequest | None
    after: EffectKey | None = None
    reason: str | None = None
    points: int = 0


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """What later events need to know of an order; no names. `items` are (id, amount)."""

    order_key: str
    card: str | None
    points: int | None
    points_from: PointsFrom
    currency: str
    items: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What one event asks for: effects with the order's facts, or the reason it is ignored, or the
    reason it is set aside as a dead letter. Exactly one of the three.

    `points_elsewhere` are points that the event names and that another way books; `earn` is what
    a collect will book, or has, when that is the way.
    """

    order_key: str | None = None
    effects: tuple[PlannedEffect, ...] = ()
    facts: OrderFacts | None = None
    ignored: Reason | None = None
    dead_letter: Reason | None = None
    detail: str = ""
    points_elsewhere: int = 0
    earn: "Earn | None" = None


@dataclass(frozen=True, slots=True)
class Earn:
    """The points of an order as one of two sources names them, to be compared."""

    key: EffectKey
    fingerprint: str
    is_collect: bool


MAX_POINTS: Final = 2**63 - 1  # what a 64-bit column holds; far above any points limit


def plan_order_confirmed(
    order: OrderConfirmed, policy: PlanningPolicy, renderer: RequestRenderer
) -> Plan:
    """
    The effects of a confirmed order: post the order, book the points earned with its card.

    The two do not wait for each other (a credit needs only the card). An order that cannot be
    posted, or points that cannot be booked, are planned as rejected: the key is then known, so
    a repeat of the event is a repeat and not another dead letter.
    """
    order_key = order.order_id
    if order.customer is not None and order.customer.is_test:
        return Plan(order_key, ignored=Reason.TEST_CUSTOMER)
    shop = policy.shop
    if policy.shops:
        if order.app_id is None:
            return Plan(order_key, dead_letter=Reason.SHOP_MISSING, detail="the order has no appId")
        mapped = policy.shops.get(order.app_id)
        if mapped is None:
            return Plan(order_key, ignored=Reason.UNMAPPED_SHOP)
        shop = mapped
    is_guest = order.customer is None or order.customer.is_guest
    if is_guest and order.card is None and policy.guest_orders is GuestOrders.SKIP:
        return Plan(order_key, ignored=Reason.GUEST_ORDER)

    effects = [_order_effect(order, policy, renderer, shop)]
    points_elsewhere = 0
    earn: Earn | None = None
    if order.card is not None and order.card.points:
        if policy.points_from is PointsFrom.WEBHOOK:
            effects.append(_earn_effect(order, order.card.number, policy, renderer, shop))
        else:
            points_elsewhere = max(order.card.points, 0)
            if policy.points_from is PointsFrom.COLLECT:
                earn = Earn(
                    effect_key(policy.tenant, Kind.EARN, order_key),
                    earn_fingerprint(order.card.number, order.card.points),
                    is_collect=False,
                )
    facts = OrderFacts(
        order_key=order_key,
        card=order.card.number if order.card else None,
        points=order.card.points if order.card else None,
        points_from=policy.points_from,
        currency=order.currency,
        items=tuple((item.item_id, item.amount_minor) for item in order.items),
    )
    return Plan(order_key, tuple(effects), facts, points_elsewhere=points_elsewhere, earn=earn)


def earn_fingerprint(card: str, points: int) -> str:
    """The same for a webhook and a collect that name the same card and points."""
    return fingerprint([card, points])


def contact_id(order: OrderConfirmed, contact_key: ContactKey) -> str | None:
    """
    The value of the universe's unique key for the customer of `order`, None when not sent.

    E-mail addresses are lowered, as Splio's Datahub pages ask.
    """
    return None if order.customer is None else contact_key_of(order.customer, contact_key)


def contact_key_of(customer: Customer, contact_key: ContactKey) -> str | None:
    """The same for a customer without an order."""
    match contact_key:
        case ContactKey.EMAIL:
            return customer.email.lower() if customer.email else None
        case ContactKey.CELLPHONE:
            return customer.cellphone or None
        case ContactKey.CUSTOMER_ID:
            return customer.customer_id or None
        case ContactKey.REFERENCE_KEY:
            return customer.reference_key or None


def _order_effect(
    order: OrderConfirmed, policy: PlanningPolicy, renderer: RequestRenderer, shop: Shop
) -> PlannedEffect:
    key = effect_key(policy.tenant, Kind.ORDER, order.order_id)
    request = None
    reason: Reason | None = None
    contact = contact_id(order, policy.contact_key)
    if contact is None:
        reason = Reason.CONTACT_KEY_MISSING
    elif any(item.product_id is None for item in order.items):
        reason = Reason.PRODUCT_ID_MISSING
    else:
        try:
            request = renderer.order(order, contact_id=contact, shop=shop)
        except UnknownCurrencyError:
            reason = Reason.UNKNOWN_CURRENCY
    return PlannedEffect(
        key=key,
        kind=Kind.ORDER,
        lane=LANE_OF[Kind.ORDER],
        order_key=order.order_id,
        fingerprint=fingerprint(_order_facts(order)),
        state=State.REJECTED if reason else State.DUE,
        request=request,
        reason=reason,
    )


def _earn_effect(
    order: OrderConfirmed, card: str, policy: PlanningPolicy, renderer: RequestRenderer, shop: Shop
) -> PlannedEffect:
    assert order.card is not None and order.card.points
    points = order.card.points
    key = effect_key(policy.tenant, Kind.EARN, order.order_id)
    state, reason = _judge_points(points, order, policy)
    request = None
    if state is not State.REJECTED:
        request = renderer.earned_points(order, key=key, card=card, points=points, shop=shop)
    return PlannedEffect(
        key=key,
        kind=Kind.EARN,
        lane=LANE_OF[Kind.EARN],
        order_key=order.order_id,
        fingerprint=earn_fingerprint(card, points),
        state=state,
        request=request,
        reason=reason,
        points=min(points, MAX_POINTS),
    )


def _judge_points(
    points: int, order: OrderConfirmed, policy: PlanningPolicy
) -> tuple[State, Reason | None]:
    """Negative points are rejected; too many, or off SCAYLE's rule, wait for a person."""
    if points < 0:
        return State.REJECTED, Reason.NEGATIVE_POINTS
    if points > policy.points_limit:
        return State.HELD, Reason.POINTS_OVER_LIMIT
    if policy.points_factor is not None and order.points_base_minor is not None:
        try:
            exponent(order.currency)
        except UnknownCurrencyError:
            return State.HELD, Reason.POINTS_IMPLAUSIBLE
        expected = earnable_points(
            to_major(order.points_base_minor, order.currency),
            factor=policy.points_factor,
            rounding=policy.points_rounding,
        )
        if not is_plausible(points, expected, tolerance=policy.points_tolerance):
            return State.HELD, Reason.POINTS_IMPLAUSIBLE
    return State.DUE, None


def _order_facts(order: OrderConfirmed) -> list[Any]:
    """What identifies the order's content; not what varies between deliveries (`updatedAt`)."""
    return [
        order.card.number if order.card else None,
        order.card.points if order.card else None,
        order.currency,
        order.total_minor,
        order.tax_minor,
        order.shipping_minor,
        order.discount_minor,
        sorted(
            ([item.item_id, item.product_id, item.amount_minor] for item in order.items), key=str
        ),
    ]
