"""The operations the sandbox offers, by name, method and path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.sandbox import (
    attributions,
    catalogue,
    contacts,
    grants,
    loyalty,
    orders,
    points,
    programs,
    rewards,
)
from service.sandbox.answers import Answer
from service.sandbox.universe import Call

Act = Callable[[Call], Answer]

AUTHENTICATE = "authenticate"
PING = "ping"
UNIQUE_KEY = "universe.key"
# What a path that leads nowhere, or a wrong method, is counted as.
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Route:
    """
    One method on one path.

    Attributes:
        path: segments after the first slash; `{}` stands for any one segment.
        act: what it does in the books; None where the server answers by itself.
        takes_body: whether a POST or PATCH carries an object; what it carries otherwise is
            not looked at.
    """

    operation: str
    method: str
    path: str
    act: Act | None = None
    takes_body: bool = True


ROUTES = (
    Route(AUTHENTICATE, "POST", "authenticate"),
    Route(PING, "GET", "ping"),
    Route(UNIQUE_KEY, "GET", "universes/unique-key"),
    Route("field.create", "POST", "data/fields", catalogue.create_field),
    Route("field.list", "GET", "data/fields/{}", catalogue.list_fields),
    Route("contact.create", "POST", "data/contacts", contacts.create_contact),
    Route("contact.read", "GET", "data/contacts/{}", contacts.read_contact),
    Route("contact.update", "PATCH", "data/contacts/{}", contacts.update_contact),
    Route("order.list", "GET", "data/contacts/{}/orders", orders.list_contact_orders),
    Route("order.list", "GET", "data/contacts/{}/orders/abandoned", orders.list_contact_abandoned),
    Route("product.create", "POST", "data/v1/products", catalogue.create_product),
    Route("product.read", "GET", "data/v1/products/{}", catalogue.read_product),
    Route("store.create", "POST", "data/v1/stores", catalogue.create_store),
    Route("store.read", "GET", "data/v1/stores/{}", catalogue.read_store),
    Route("order.create", "POST", "data/v1/orders", orders.create_order),
    Route("order.list", "GET", "data/v1/orders", orders.list_orders_v1),
    Route("order.list", "GET", "data/v2/orders", orders.list_orders_v2),
    Route("order.list", "GET", "data/v1/orders/abandoned", orders.list_abandoned),
    Route("order.read", "GET", "data/v1/orders/{}", orders.read_order_v1),
    Route("order.read", "GET", "data/v2/orders/{}", orders.read_order_v2),
    Route("order.update", "PATCH", "data/v3/orders/{}", orders.update_order),
    Route("order.delete", "DELETE", "data/orders/{}", orders.delete_order),
    Route("program.list", "GET", "loyalty/programs", programs.list_programs),
    Route("program.read", "GET", "loyalty/programs/{}", programs.read_program),
    Route("member.create", "POST", "loyalty/members", loyalty.create_member),
    Route("member.read", "GET", "loyalty/members/{}", loyalty.read_member),
    Route("member.update", "PATCH", "loyalty/members/{}", loyalty.update_member),
    Route("member.balance", "GET", "loyalty/members/{}/balance", loyalty.read_balance),
    Route(
        "member.optout",
        "POST",
        "loyalty/members/{}/optout",
        loyalty.expire_member,
        takes_body=False,
    ),
    Route("credit", "POST", "loyalty/v1/members/{}/credit", points.credit_points),
    Route("points.list", "GET", "loyalty/points", points.list_points),
    Route("reward.create", "POST", "loyalty/v1/rewards", rewards.create_reward),
    Route("reward.read", "GET", "loyalty/v1/rewards/{}", rewards.read_reward),
    Route("reward.list", "GET", "loyalty/v2/rewards", rewards.list_rewards),
    Route("reward.grant", "POST", "loyalty/v1/rewards/{}/grant", grants.grant_reward),
    Route(
        "reward.burn",
        "POST",
        "loyalty/v1/reward-attributions/{}/burn",
        attributions.burn_attribution,
    ),
    Route(
        "attribution.list",
        "GET",
        "loyalty/v2/contacts/{}/rewards",
        attributions.list_contact_attributions,
    ),
    Route(
        "attribution.list",
        "GET",
        "loyalty/v1/rewards/{}/attributions",
        attributions.list_reward_attributions,
    ),
    Route(
        "attribution.read",
        "GET",
        "loyalty/reward-attributions/{}",
        attributions.read_attribution,
    ),
)
OPERATIONS = tuple(dict.fromkeys(route.operation for route in ROUTES))

_Pattern = tuple[str, ...]


def _by_pattern() -> dict[_Pattern, dict[str, Route]]:
    table: dict[_Pattern, dict[str, Route]] = {}
    for route in ROUTES:
        table.setdefault(tuple(route.path.split("/")), {})[route.method] = route
    return table


_TABLE = _by_pattern()
_WITH_VARIABLES = tuple(pattern for pattern in _TABLE if "{}" in pattern)


@dataclass(frozen=True, slots=True)
class Match:
    """The route of a request, or None with whether the path exists for other methods."""

    route: Route | None
    parts: tuple[str, ...] = ()
    path_exists: bool = False


def find_route(method: str, segments: tuple[str, ...]) -> Match:
    """
    The route of a method and a path.

    Args:
        segments: percent-decoded after splitting, so that one may hold a slash.
    """
    methods = _TABLE.get(segments)
    if methods is not None:
        return Match(methods.get(method), path_exists=True)
    for pattern in _WITH_VARIABLES:
        if len(pattern) != len(segments):
            continue
        pairs = tuple(zip(pattern, segments, strict=True))
        if all(wanted in ("{}", given) for wanted, given in pairs):
            parts = tuple(given for wanted, given in pairs if wanted == "{}")
            return Match(_TABLE[pattern].get(method), parts, path_exists=True)
    return Match(None)
