"""Reads back what Splio holds: an order to compare, credits to count. Pure; no I/O."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

import orjson

from service.domain.effects import RenderedRequest
from service.domain.ports import CreditPage, OrderComparison, OrderMatch
from service.splio.config import PointsKind
from service.splio.requests import path_part

_POINTS_PATH: Final = "/loyalty/points"
PAGE_SIZE: Final = 500  # credits a page: about 300 KB, well within the limit of a reply

_DIGITS_LIMIT: Final = 28  # of a number before or after the point: sums of these stay exact


class UnreadableReplyError(ValueError):
    """The reply is not what its operation documents."""


def external_id_of(request: RenderedRequest) -> str:
    """The external id of an order's stored request."""
    external_id = orjson.loads(request.body)["external_id"]
    assert isinstance(external_id, str)
    return external_id


def order_path(external_id: str) -> str:
    """Where an order is read, with its status."""
    return f"/data/v2/orders/{path_part(external_id)}"


def compare(ours: bytes, held: Mapping[str, Any]) -> OrderComparison:
    """
    Compare the order that we would post with the one that Splio shows under its external id,
    `held`, whose numbers are exact.

    Total, card and lines (product, quantity, unit price) are compared as exact decimals, equal
    lines summed up; a unit price that Splio leaves out is not held against it, nor is a card
    where we sent none. How a cart looks is not documented beyond samples in which its
    `ordered_at` is null: that, or `completed: false`, is taken for one. A cart's lines and
    total are not compared, since it is changed to ours.

    Raises: UnreadableReplyError when it is not our order at all.
    """
    sent = parse_exact(ours)
    if str(held.get("external_id")) != sent["external_id"]:
        raise UnreadableReplyError("another external_id")
    card = sent.get("card_code")
    held_card = _card(held)
    if _is_cart(held):
        if card is None or card == held_card:
            return OrderComparison(OrderMatch.CART)
        if held_card is None:
            return OrderComparison(OrderMatch.CART_WITHOUT_CARD)
        return OrderComparison(OrderMatch.DIFFERENT, "card_code")
    differs = []
    if exact_number(held.get("total_price")) != exact_number(sent["total_price"]):
        differs.append("total_price")
    if card is not None and card != held_card:
        differs.append("card_code")
    if not _same_lines(sent.get("products"), held.get("products")):
        differs.append("products")
    if differs:
        return OrderComparison(OrderMatch.DIFFERENT, ", ".join(differs))
    return OrderComparison(OrderMatch.EQUAL)


def completion(request: RenderedRequest) -> tuple[str, bytes]:
    """
    Path and body of the PATCH that turns a cart into the order of `request`.

    `external_id` and `card_code` cannot be changed; an empty `products` would erase the lines.
    """
    # Numbers with a point are kept as the text they are.
    body: dict[str, Any] = json.loads(request.body, parse_float=orjson.Fragment)
    path = f"/data/v3/orders/{path_part(body.pop('external_id'))}"
    body.pop("card_code", None)
    if not body.get("products"):
        body.pop("products", None)
    body["completed"] = True
    return path, orjson.dumps(body)


@dataclass(frozen=True, slots=True)
class BookedCredit:
    """What a stored credit says of itself, to be searched for in the points ledger."""

    card: str
    points_kind: PointsKind


def booked_credit(request: RenderedRequest) -> BookedCredit:
    """The card and the kind of points of a credit's stored request."""
    body = orjson.loads(request.body)
    return BookedCredit(
        card=unquote(request.path.rsplit("/", 2)[1]),
        points_kind="nq" if body.get("nq_points_quantity") else "q",
    )


def points_path(
    points_kind: PointsKind,
    event_type: str,
    *,
    order: str,
    card: str | None = None,
    after: str | None = None,
) -> str:
    """
    Where a page of the points ledger is listed, in the order in which Splio made its entries.

    Both filters that have a default are set. There is none for the date: in whose time zone
    Splio keeps it is not documented, and an entry that a filter hides would be sent again.

    Args:
        order: `asc` or `desc`.
        card: of this card only.
        after: the cursor of the page before, made with the same arguments.
    """
    query = {
        "limit": str(PAGE_SIZE),
        "sort": "ID",
        "order": order,
        "event_type": _equals(event_type),
        "points_type": _equals(points_kind),
    }
    if card is not None:
        query["card_code"] = _equals(card)
    if after is not None:
        query["after"] = after
    return f"{_POINTS_PATH}?{urlencode(query, quote_via=quote)}"


def credits_path(
    points_kind: PointsKind, *, order: str, card: str | None = None, after: str | None = None
) -> str:
    """Where a page of credits is listed; arguments as for `points_path`."""
    return points_path(points_kind, "credit_points", order=order, card=card, after=after)


@dataclass(frozen=True, slots=True)
class ListPage:
    """The elements of a page, and the cursor of the page after it (None for the last one)."""

    elements: tuple[Mapping[str, Any], ...]
    following: str | None


def read_page(document: Mapping[str, Any]) -> ListPage:
    """
    A page of a list with cursors.

    Raises: UnreadableReplyError.
    """
    elements = document.get("elements")
    paging = document.get("paging")
    if not isinstance(elements, list) or not isinstance(paging, dict):
        raise UnreadableReplyError("no elements")
    cursors = paging.get("cursors")
    if not isinstance(cursors, dict):
        raise UnreadableReplyError("no cursors")
    return ListPage(
        elements=tuple(element for element in elements if isinstance(element, dict)),
        following=_cursor(cursors.get("after")),
    )


def read_credits(document: Mapping[str, Any], *, after: str | None) -> CreditPage:
    """
    The contexts of a page, and the cursor after its last element.

    Raises: UnreadableReplyError.
    """
    page = read_page(document)
    last = page.elements[-1].get("cursor") if page.elements else None
    return CreditPage(
        contexts=tuple(reason_of(element) for element in page.elements),
        cursor=page.following or _cursor(last) or after,
        is_last=page.following is None,
    )


def reason_of(element: Mapping[str, Any]) -> str:
    """
    The reason of an entry of the points ledger, empty when it names none.

    That the `context` of a credit comes back as `reason.message` is inferred (contract C.5).
    """
    reason = element.get("reason")
    message = reason.get("message") if isinstance(reason, dict) else reason
    return message.strip() if isinstance(message, str) else ""


def _cursor(value: Any) -> str | None:
    """
    A cursor as it is sent back; a number is one too.

    Raises: UnreadableReplyError, as a page that goes on nobody knows where is not the last one.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UnreadableReplyError("no cursor")


def _equals(value: str) -> str:
    return orjson.dumps({"operator": "equals", "value": value}).decode()


def parse_exact(body: bytes) -> dict[str, Any]:
    """
    A JSON object whose numbers are exact.

    Raises: UnreadableReplyError.
    """
    try:
        document = json.loads(body, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise UnreadableReplyError("not JSON") from error
    if not isinstance(document, dict):
        raise UnreadableReplyError("not an object")
    return document


def exact_number(value: Any) -> Decimal | None:
    """A number, or text that is one, exactly; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) < _DIGITS_LIMIT else None


def _card(order: Mapping[str, Any]) -> str | None:
    loyalty = order.get("loyalty")
    card = loyalty.get("card_code") if isinstance(loyalty, dict) else order.get("card_code")
    return str(card) if card not in (None, "") else None


def _is_cart(order: Mapping[str, Any]) -> bool:
    has_no_date = "ordered_at" in order and not order["ordered_at"]
    return order.get("completed") is False or has_no_date


def _same_lines(sent: Any, held: Any) -> bool:
    if not sent and not held:
        return True
    ours, theirs = _lines(sent), _lines(held)
    if ours is None or theirs is None:
        return False
    if any(price is None for _, price in theirs):
        return _quantities(ours) == _quantities(theirs)
    return ours == theirs


def _lines(lines: Any) -> dict[tuple[str, Decimal | None], Decimal] | None:
    """Quantity by product and unit price; None when it cannot be read."""
    if not isinstance(lines, list):
        return None
    quantities: dict[tuple[str, Decimal | None], Decimal] = {}
    for line in lines:
        if not isinstance(line, dict):
            return None
        product = line.get("external_id", line.get("product_id"))
        quantity = exact_number(line.get("quantity"))
        if product is None or quantity is None:
            return None
        at = (str(product), exact_number(line.get("unit_price")))
        quantities[at] = quantities.get(at, Decimal(0)) + quantity
    return quantities


def _quantities(lines: Mapping[tuple[str, Decimal | None], Decimal]) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = {}
    for (product, _), quantity in lines.items():
        sums[product] = sums.get(product, Decimal(0)) + quantity
    return sums
