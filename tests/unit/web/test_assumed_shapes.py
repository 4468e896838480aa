"""What is assumed of SCAYLE's requests, and how differences are told."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from service.domain.checkout import CallOperation
from service.scayle.webhook import Order
from service.web.assumed_shapes import (
    ASSUMED,
    Basis,
    Deviation,
    Difference,
    assumed_of,
    differences,
    free_paths,
)
from service.web.structure import take_shape

ORDER = orjson.loads(
    (Path(__file__).parents[2] / "fixtures/scayle/order-confirmed.json").read_bytes()
)
CAPTURE: dict[str, Any] = {
    "amount": 1000,
    "cardKey": "2171707962088",
    "type": "splio_club",
    "currencyCode": "EUR",
    "orderId": 2345388,
    "transactionKey": "4bd1f0a97c2e5518d3aa06e9b7c1",
}


def compare(source: str, document: Any, query: dict[str, str] | None = None) -> list[Difference]:
    body = b"" if document is None else orjson.dumps(document)
    fields, is_cut = take_shape(body, urlencode(query or {}), free=free_paths(source))
    assumed = assumed_of(source)
    assert assumed is not None
    return differences(fields, assumed, is_cut=is_cut)


def test_something_is_assumed_of_every_operation() -> None:
    assert set(ASSUMED) == {
        "webhook:order-confirmed",
        *(f"loyalty:{operation}" for operation in CallOperation),
    }
    assert assumed_of("loyalty:capture:refused") is ASSUMED["loyalty:capture"]
    assert assumed_of("webhook:customer-created") is None


@pytest.mark.parametrize(
    ("source", "document", "query"),
    [
        ("webhook:order-confirmed", ORDER, None),
        ("loyalty:points-rate", None, {"currency": "EUR", "type": "splio_club"}),
        ("loyalty:balance", None, {"cardKey": "2171707962088", "type": "splio_club"}),
        ("loyalty:validate", {"cardKey": "1", "type": "p"}, None),
        ("loyalty:verify", {"cardKey": "1", "type": "p", "email": "a@b"}, None),
        ("loyalty:register", {"type": "p", "customer": {"id": 5, "email": "a@b"}}, None),
        ("loyalty:collect", {"cardKey": "1", "type": "p", "points": 5, "orderId": 7}, None),
        ("loyalty:capture", CAPTURE, None),
        ("loyalty:refund", CAPTURE, None),
    ],
)
def test_what_we_assume_has_no_differences(
    source: str, document: Any, query: dict[str, str] | None
) -> None:
    assert compare(source, document, query) == []


def test_each_difference_is_named_with_what_it_rests_on() -> None:
    document = {**CAPTURE, "amount": "10.00", "cardNumber": "217"}
    del document["cardKey"]

    assert compare("loyalty:capture", document) == [
        Difference("amount", Deviation.OTHER_TYPE, "string", "integer", Basis.DOCUMENTED),
        Difference("cardKey", Deviation.MISSING, None, "string", Basis.DOCUMENTED),
        Difference("cardNumber", Deviation.UNEXPECTED, "string", None, None),
    ]
    assert compare("loyalty:validate", {"type": "p", "cardKey": 217}) == [
        Difference("cardKey", Deviation.OTHER_TYPE, "integer", "string", Basis.INFERRED)
    ]


def test_a_body_in_place_of_a_query_differs() -> None:
    found = compare("loyalty:balance", {"cardKey": "1", "type": "p"})

    assert [(each.path, each.difference) for each in found] == [
        ("?cardKey", Deviation.MISSING),
        ("?type", Deviation.MISSING),
        ("cardKey", Deviation.UNEXPECTED),
        ("type", Deviation.UNEXPECTED),
    ]


def test_of_a_request_whose_body_was_not_read_the_query_is_compared() -> None:
    fields, is_cut = take_shape(None, "type=p")
    query = differences(fields, ASSUMED["loyalty:balance"], is_cut=is_cut)
    assert [(each.path, each.difference) for each in query] == [("?cardKey", Deviation.MISSING)]
    fields, is_cut = take_shape(None)
    assert differences(fields, ASSUMED["loyalty:capture"], is_cut=is_cut) == []


def test_of_what_is_missing_or_unexpected_as_a_whole_only_the_whole_is_told() -> None:
    order = {**ORDER, "payload": {**ORDER["payload"], "points": [{"a": {"b": 1}}]}}
    del order["payload"]["cost"]

    assert [(each.path, each.difference) for each in compare("webhook:order-confirmed", order)] == [
        ("payload.cost", Deviation.MISSING),
        ("payload.points", Deviation.UNEXPECTED),
    ]


def test_parts_of_what_may_be_absent_are_missing_only_where_it_is_there() -> None:
    guest = {**ORDER, "payload": {**ORDER["payload"], "customer": {"id": 5}}}
    paths = [each.path for each in compare("webhook:order-confirmed", guest)]
    assert "payload.customer.firstName" in paths
    nothings: tuple[Any, ...] = (None, [])
    for absent in nothings:
        guest["payload"]["customer"] = absent
        (found,) = compare("webhook:order-confirmed", guest)
        assert (found.path, found.difference) == ("payload.customer", Deviation.OTHER_TYPE)
    del guest["payload"]["customer"]
    assert compare("webhook:order-confirmed", guest) == []
    guest["payload"]["items"] = []
    assert compare("webhook:order-confirmed", guest) == []


def test_anything_may_stand_where_nothing_depends_on_it() -> None:
    order = {**ORDER, "payload": {**ORDER["payload"], "customData": {"a": [{"b": 1}]}, "shop": 5}}

    assert compare("webhook:order-confirmed", order) == []


def test_an_integer_is_a_number() -> None:
    order = {**ORDER, "payload": {**ORDER["payload"]}}
    order["payload"]["cost"] = {**order["payload"]["cost"], "withTax": 59.95}
    (found,) = compare("webhook:order-confirmed", order)

    assert (found.seen, found.assumed) == ("number", "integer")


def test_nothing_is_missing_behind_a_cut() -> None:
    fields = {"type": "string", "odd": "string"}

    (found,) = differences(fields, ASSUMED["loyalty:capture"], is_cut=True)
    assert (found.path, found.difference) == ("odd", Deviation.UNEXPECTED)


@pytest.mark.parametrize(
    ("body", "seen"), [(b"{", "unreadable"), (b"[1]", "array"), (b"5", "integer")]
)
def test_what_is_no_object_is_told_as_a_whole(body: bytes, seen: str) -> None:
    fields, is_cut = take_shape(body)
    found = differences(fields, ASSUMED["loyalty:refund"], is_cut=is_cut)

    assert found[0] == Difference("", Deviation.UNEXPECTED, seen, None, None)
    assert {each.difference for each in found[1:]} == {Deviation.MISSING}


def test_what_the_service_reads_of_an_order_is_assumed() -> None:
    paths = ASSUMED["webhook:order-confirmed"].keys()
    read = {f"payload.{name}" for name in Order.__annotations__ if name != "locale"} | {"locale"}

    assert read <= paths
