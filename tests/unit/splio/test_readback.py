"""Comparing an order that exists already, completing carts, finding credits."""

import json
from copy import deepcopy
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.effects import RenderedRequest
from service.domain.ports import CreditPage, OrderComparison, OrderMatch
from service.splio.readback import (
    UnreadableReplyError,
    booked_credit,
    compare,
    completion,
    credits_path,
    external_id_of,
    order_path,
    parse_exact,
    read_credits,
)

OURS = (
    b'{"external_id":"2345234","contact_id":"48213","card_code":"2171707962088",'
    b'"store_external_id":"web-fr","ordered_at":"2026-11-14 18:22:31","total_price":64.85,'
    b'"completed":true,"currency":"EUR","products":['
    b'{"product_id":"JKT-001-M","unit_price":39.95,"quantity":1,"total_line_amount":39.95},'
    b'{"product_id":"CAP-014-U","unit_price":20.00,"quantity":2,"total_line_amount":40.00}]}'
)
THEIRS: dict[str, Any] = {
    "external_id": "2345234",
    "contact_id": "48213",
    "created_at": "2026-11-14 18:22:40",
    "ordered_at": "2026-11-14 18:22:31",
    "total_price": 64.85,
    "currency": "EUR",
    "products": [
        {"external_id": "JKT-001-M", "unit_price": 39.95, "quantity": 1, "status": "paid"},
        {"external_id": "CAP-014-U", "unit_price": 20.0, "quantity": 2, "status": "paid"},
    ],
    "loyalty": {"card_code": "2171707962088", "id_program": 1},
    "status": "paid",
}


def compared(ours: bytes = OURS, **changes: Any) -> OrderComparison:
    theirs = deepcopy(THEIRS) | changes
    held = {name: value for name, value in theirs.items() if value is not ...}
    return compare(ours, parse_exact(orjson.dumps(held)))


EQUAL = OrderComparison(OrderMatch.EQUAL)
JACKET, CAPS = THEIRS["products"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"external_id": 2345234},
        {"total_price": "64.85"},
        {"total_price": "64.850"},
        {"status": ...},
        {"loyalty": {"card_code": 2171707962088}},
        {"products": [CAPS, JACKET]},
        {"products": [JACKET, CAPS | {"quantity": 1}, CAPS | {"quantity": 1}]},
        {"products": [JACKET, CAPS | {"unit_price": "20.000", "quantity": "2"}]},
        {"products": [{"product_id": "JKT-001-M", "quantity": 1}, CAPS | {"unit_price": None}]},
        {"ordered_at": ...},
    ],
)
def test_equal_orders_are_equal_however_they_are_written(changes: dict[str, Any]) -> None:
    assert compared(**changes) == EQUAL


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"total_price": 64.86}, "total_price"),
        ({"total_price": 64.850001}, "total_price"),
        ({"total_price": ...}, "total_price"),
        ({"total_price": None}, "total_price"),
        ({"loyalty": None}, "card_code"),
        ({"loyalty": []}, "card_code"),
        ({"loyalty": ...}, "card_code"),
        ({"loyalty": {"card_code": "0000000000000"}}, "card_code"),
        ({"products": [JACKET]}, "products"),
        ({"products": []}, "products"),
        ({"products": None}, "products"),
        ({"products": "x"}, "products"),
        ({"products": [None, 1]}, "products"),
        ({"products": [JACKET, CAPS | {"quantity": 3}]}, "products"),
        ({"products": [JACKET, CAPS | {"unit_price": 19.99}]}, "products"),
        ({"products": [JACKET, CAPS | {"external_id": "OTHER"}]}, "products"),
        ({"total_price": 1, "loyalty": None, "products": []}, "total_price, card_code, products"),
    ],
)
def test_difference_is_named_without_its_values(changes: dict[str, Any], detail: str) -> None:
    assert compared(**changes) == OrderComparison(OrderMatch.DIFFERENT, detail)


def test_decimals_are_compared_exactly() -> None:
    """Both are the same binary float."""
    ours = OURS.replace(b"64.85", b"9007199254740993")

    found = compare(
        ours, parse_exact(orjson.dumps(THEIRS).replace(b"64.85", b"9007199254740992.0"))
    )

    assert found == OrderComparison(OrderMatch.DIFFERENT, "total_price")


def test_card_that_we_did_not_send_is_not_held_against_it() -> None:
    assert compared(OURS.replace(b'"card_code":"2171707962088",', b"")) == EQUAL


@pytest.mark.parametrize("mark", [{"completed": False}, {"ordered_at": None}, {"ordered_at": ""}])
def test_cart_is_a_cart_whatever_is_in_it(mark: dict[str, Any]) -> None:
    assert compared(**mark).match is OrderMatch.CART
    assert compared(**mark, total_price=1, products=[]).match is OrderMatch.CART
    assert compared(**mark, loyalty=None).match is OrderMatch.CART_WITHOUT_CARD
    assert compared(**mark, loyalty={"card_code": "1"}).match is OrderMatch.DIFFERENT


@pytest.mark.parametrize(
    "reply", [b"", b"<html>", b"[]", b"null", b'{"external_id":"other"}', b"[" * 100_000]
)
def test_other_reply_is_unreadable(reply: bytes) -> None:
    with pytest.raises(UnreadableReplyError):
        compare(OURS, parse_exact(reply))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["total_price", "products", "loyalty", "ordered_at", "completed"]), values
    )
)
def test_no_reply_breaks_the_comparison(changes: dict[str, Any]) -> None:
    compare(OURS, parse_exact(json.dumps(THEIRS | changes).encode()))


def request(body: bytes, path: str = "/data/v1/orders") -> RenderedRequest:
    return RenderedRequest(path=path, body=body)


def test_order_is_read_under_its_external_id() -> None:
    assert order_path(external_id_of(request(OURS))) == "/data/v2/orders/2345234"
    assert order_path("a/b c") == "/data/v2/orders/a%2Fb%20c"


def test_cart_becomes_the_order_but_for_what_cannot_be_changed() -> None:
    path, body = completion(request(OURS))

    assert path == "/data/v3/orders/2345234"
    changed = json.loads(body, parse_float=Decimal)
    expected = json.loads(OURS, parse_float=Decimal)
    del expected["external_id"], expected["card_code"]
    assert changed == expected
    assert b'"unit_price":20.00' in body


def test_cart_keeps_its_lines_when_the_order_has_none() -> None:
    """An empty array would erase them."""
    _, body = completion(request(b'{"external_id":"1","products":[]}'))

    assert orjson.loads(body) == {"completed": True}


def test_stored_credit_tells_where_to_look() -> None:
    stored = request(
        b'{"nq_points_quantity":0,"q_points_quantity":5}', "/loyalty/v1/members/a%2Fb/credit"
    )

    assert booked_credit(stored).card == "a/b"
    assert booked_credit(stored).points_kind == "q"


def test_credits_are_listed_with_both_defaults_set() -> None:
    parts = urlsplit(credits_path("nq", order="desc", card="21 7&1", after="c=="))
    query = {name: value for name, (value,) in parse_qs(parts.query).items()}

    assert parts.path == "/loyalty/points"
    assert {name: orjson.loads(query.pop(name)) for name in ("event_type", "points_type")} == {
        "event_type": {"operator": "equals", "value": "credit_points"},
        "points_type": {"operator": "equals", "value": "nq"},
    }
    assert orjson.loads(query.pop("card_code")) == {"operator": "equals", "value": "21 7&1"}
    assert query == {"limit": "500", "sort": "ID", "order": "desc", "after": "c=="}


def page(*contexts: Any, after: str | None) -> dict[str, Any]:
    return {
        "paging": {"cursors": {"after": after, "before": None}},
        "elements": [
            {"reason": {"message": context}, "cursor": f"c{number}"}
            for number, context in enumerate(contexts)
        ],
    }


def test_page_of_credits_ends_or_goes_on() -> None:
    assert read_credits(page("a", "b", after="next"), after=None) == CreditPage(
        ("a", "b"), "next", is_last=False
    )
    assert read_credits(page("a", "b", after=None), after=None) == CreditPage(
        ("a", "b"), "c1", is_last=True
    )


def test_empty_page_keeps_the_place() -> None:
    assert read_credits(page(after=None), after="c7") == CreditPage((), "c7", is_last=True)


def test_reason_may_be_text_or_missing() -> None:
    document = page("a", None, after=None)
    document["elements"] += [{"reason": " plain "}, {}, {"reason": None}]

    assert read_credits(document, after=None).contexts == ("a", "", "plain", "", "")


@pytest.mark.parametrize(
    "document",
    [{}, {"elements": []}, {"elements": {}, "paging": {}}, {"elements": [], "paging": {}}],
)
def test_other_page_is_unreadable(document: dict[str, Any]) -> None:
    with pytest.raises(UnreadableReplyError):
        read_credits(document, after=None)


def test_cursor_may_be_a_number() -> None:
    """Taken for no cursor, it would make one page the whole, and what is on the next absent."""
    document = {"paging": {"cursors": {"after": 17}}, "elements": [{"cursor": 16}]}
    assert read_credits(document, after=None) == CreditPage(("",), "17", is_last=False)
    document = {"paging": {"cursors": {"after": None}}, "elements": [{"cursor": 16}]}
    assert read_credits(document, after="9") == CreditPage(("",), "16", is_last=True)


@pytest.mark.parametrize("after", [True, 1.5, {"id": 7}, ["7"]])
def test_cursor_of_another_kind_is_unreadable(after: Any) -> None:
    with pytest.raises(UnreadableReplyError):
        read_credits({"paging": {"cursors": {"after": after}}, "elements": []}, after=None)
