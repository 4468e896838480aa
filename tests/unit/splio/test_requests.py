"""What is sent to Splio for an order and its points."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.effects import (
    Kind,
    PrerequisiteKind,
    RenderedRequest,
    effect_key,
    idempotency_key,
)
from service.domain.events import Customer, LoyaltyCard, OrderConfirmed, OrderItem
from service.domain.money import UnknownCurrencyError, to_major
from service.domain.planning import ContactKey, Shop
from service.splio.config import Hours
from service.splio.requests import SplioRenderer, path_part, splio_date

PARIS = Shop(store="web-fr", program=None, timezone="Europe/Paris")
ORDER_KEY = effect_key("main", Kind.ORDER, "2345234")
EARN_KEY = effect_key("main", Kind.EARN, "2345234")
CAMILLE = Customer(
    customer_id="48213",
    reference_key="R-7",
    email="Camille.Roux@Example.com",
    cellphone="+33612345678",
    first_name="Camille",
    last_name="Roux",
    is_guest=False,
    is_test=False,
)


def item(number: int, product: str | None, amount: int, *, tax: int = 0) -> OrderItem:
    return OrderItem(str(number), product, f"Product {product}", amount, tax, 0)


def order(
    items: Sequence[OrderItem] = (item(1, "JKT-001-M", 3995, tax=666), item(2, "CAP", 2000)),
    **changes: Any,
) -> OrderConfirmed:
    confirmed = OrderConfirmed(
        order_id="2345234",
        app_id=None,
        language="fr",
        currency="EUR",
        confirmed_at=datetime(2026, 11, 14, 17, 22, 31, 987_654, tzinfo=UTC),
        total_minor=6485,
        tax_minor=1081,
        shipping_minor=490,
        discount_minor=0,
        points_base_minor=5995,
        items=tuple(items),
        card=LoyaltyCard("2171707962088", 177, None),
        customer=CAMILLE,
    )
    return replace(confirmed, **changes)


def render(confirmed: OrderConfirmed, **settings: Any) -> RenderedRequest:
    return SplioRenderer(**settings).order(
        confirmed, contact_id="camille.roux@example.com", shop=PARIS
    )


def exact(body: bytes) -> dict[str, Any]:
    document = json.loads(body, parse_float=Decimal)
    assert isinstance(document, dict)
    return document


def test_order_is_mapped_field_by_field() -> None:
    request = render(order())

    assert request.path == "/data/v1/orders"
    assert request.idempotency_key is None
    assert exact(request.body) == {
        "external_id": "2345234",
        "contact_id": "camille.roux@example.com",
        "card_code": "2171707962088",
        "store_external_id": "web-fr",
        "ordered_at": "2026-11-14 18:22:31",
        "discount_amount": 0,
        "shipping_amount": Decimal("4.90"),
        "total_price": Decimal("64.85"),
        "tax_amount": Decimal("10.81"),
        "completed": True,
        "currency": "EUR",
        "products": [
            {
                "product_id": "JKT-001-M",
                "unit_price": Decimal("39.95"),
                "quantity": 1,
                "discount_amount": 0,
                "tax_amount": Decimal("6.66"),
                "currency": "EUR",
                "total_line_amount": Decimal("39.95"),
            },
            {
                "product_id": "CAP",
                "unit_price": Decimal("20.00"),
                "quantity": 1,
                "discount_amount": 0,
                "tax_amount": 0,
                "currency": "EUR",
                "total_line_amount": Decimal("20.00"),
            },
        ],
    }


def test_order_without_a_card_names_none() -> None:
    assert "card_code" not in exact(render(order(card=None)).body)


def test_equal_product_and_price_are_one_line() -> None:
    pieces = [item(1, "A", 1000, tax=167), item(2, "A", 900), item(3, "A", 1000, tax=166)]

    lines = exact(render(order(pieces)).body)["products"]

    assert [(line["unit_price"], line["quantity"]) for line in lines] == [(10, 2), (9, 1)]
    assert lines[0]["total_line_amount"] == 20
    assert lines[0]["tax_amount"] == Decimal("3.33")


amounts = st.integers(0, 10**12)
pieces = st.lists(
    st.tuples(st.sampled_from("ABC"), st.sampled_from([0, 1, 999, 1000]) | amounts, amounts),
    max_size=12,
)


@given(pieces=pieces, total=amounts, currency=st.sampled_from(["EUR", "JPY", "KWD"]))
def test_amounts_are_exact_and_lines_add_up(
    pieces: list[tuple[str, int, int]], total: int, currency: str
) -> None:
    items = [item(n, product, amount, tax=tax) for n, (product, amount, tax) in enumerate(pieces)]

    body = exact(render(order(items, total_minor=total, currency=currency)).body)

    lines = body["products"]
    assert body["total_price"] == to_major(total, currency)
    assert sum(line["quantity"] for line in lines) == len(items)
    assert sum(line["total_line_amount"] for line in lines) == to_major(
        sum(amount for _, amount, _ in pieces), currency
    )
    assert sum(line["tax_amount"] for line in lines) == to_major(
        sum(tax for _, _, tax in pieces), currency
    )
    assert all(line["unit_price"] * line["quantity"] == line["total_line_amount"] for line in lines)


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_text_is_json(order_id: str, product: str) -> None:
    try:
        f"{order_id}{product}".encode()
    except UnicodeEncodeError:
        return
    body = exact(render(order([item(1, product, 1)], order_id=order_id)).body)

    assert body["external_id"] == order_id
    assert body["products"][0]["product_id"] == product


def test_unknown_currency_is_told() -> None:
    with pytest.raises(UnknownCurrencyError):
        render(order(currency='E"R'))


def test_item_without_a_product_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="product id"):
        render(order([item(1, None, 1)]))


def prerequisites(request: RenderedRequest, kind: PrerequisiteKind) -> list[dict[str, Any]]:
    return [exact(p.body) for p in request.prerequisites if p.kind is kind]


def test_contact_store_and_products_can_be_created() -> None:
    again = [item(1, "A", 1000), item(2, "B", 2000), item(3, "A", 900)]
    request = render(order(again))

    assert [(p.kind, p.name, p.path) for p in request.prerequisites] == [
        (PrerequisiteKind.CONTACT, "camille.roux@example.com", "/data/contacts"),
        (PrerequisiteKind.STORE, "web-fr", "/data/v1/stores"),
        (PrerequisiteKind.PRODUCT, "A", "/data/v1/products"),
        (PrerequisiteKind.PRODUCT, "B", "/data/v1/products"),
    ]
    assert prerequisites(request, PrerequisiteKind.CONTACT) == [
        {
            "lastname": "Roux",
            "firstname": "Camille",
            "email": "camille.roux@example.com",
            "cellphone": "+33612345678",
            "language": "fr",
        }
    ]
    assert prerequisites(request, PrerequisiteKind.STORE) == [
        {"external_id": "web-fr", "name": "web-fr", "online": True}
    ]
    assert prerequisites(request, PrerequisiteKind.PRODUCT)[0] == {
        "external_id": "A",
        "name": "Product A",
        "price": 10,
        "sku": "A",
    }


@pytest.mark.parametrize(
    ("contact_key", "contact_id", "expected"),
    [
        (ContactKey.EMAIL, "a@example.com", {"email": "a@example.com"}),
        (ContactKey.CELLPHONE, "+331", {"cellphone": "+331", "email": "camille.roux@example.com"}),
        (
            ContactKey.CUSTOMER_ID,
            "48213",
            {"custom_fields": [{"name": "scayle_customer_id", "value": "48213"}]},
        ),
        (
            ContactKey.REFERENCE_KEY,
            "R-7",
            {"custom_fields": [{"name": "scayle_reference_key", "value": "R-7"}]},
        ),
    ],
)
def test_contact_carries_the_key_of_the_universe(
    contact_key: ContactKey, contact_id: str, expected: dict[str, Any]
) -> None:
    request = SplioRenderer(contact_key=contact_key).order(
        order(), contact_id=contact_id, shop=PARIS
    )

    (contact,) = prerequisites(request, PrerequisiteKind.CONTACT)
    assert contact.items() >= expected.items()


@pytest.mark.parametrize("language", [None, "", "sv", "x"])
def test_language_that_splio_does_not_list_is_left_out(language: str | None) -> None:
    (contact,) = prerequisites(render(order(language=language)), PrerequisiteKind.CONTACT)

    assert "language" not in contact


def earned(renderer: SplioRenderer, card: str = "2171707962088") -> RenderedRequest:
    return renderer.earned_points(order(), key=EARN_KEY, card=card, points=177, shop=PARIS)


def test_points_are_booked_with_our_key_as_context_and_a_stable_idempotency_key() -> None:
    request = earned(SplioRenderer())

    assert request.path == "/loyalty/v1/members/2171707962088/credit"
    assert request.idempotency_key == idempotency_key(EARN_KEY)
    assert exact(request.body) == {
        "event_date": "2026-11-14 18:22:31",
        "nq_points_quantity": 177,
        "q_points_quantity": 0,
        "context": "main:earn:2345234",
        "is_final": True,
        "idempotency_key": idempotency_key(EARN_KEY),
    }
    assert request == earned(SplioRenderer())


def test_kind_of_points_and_is_final_are_settings() -> None:
    body = exact(earned(SplioRenderer(points_kind="q", is_final=False)).body)

    assert (body["nq_points_quantity"], body["q_points_quantity"]) == (0, 177)
    assert body["is_final"] is False


@given(st.text(min_size=1))
def test_card_stays_one_part_of_the_path(card: str) -> None:
    try:
        path = earned(SplioRenderer(), card).path
    except (UnicodeEncodeError, ValueError):
        return
    assert path.isascii()
    assert path.count("/") == 5
    assert "?" not in path
    assert "#" not in path
    assert unquote(path.split("/")[4]) == card


REFUND_KEY = effect_key("main", Kind.REFUND, "club", "R-1")
DEBIT_KEY = effect_key("main", Kind.DEBIT, "club", "C-1", "PT100")
AT = datetime(2026, 11, 15, 0, 12, 40, 999_999, tzinfo=UTC)


def test_refund_is_a_credit_with_its_own_keys() -> None:
    request = SplioRenderer(is_final=False, hours="plain").credit(
        key=REFUND_KEY, card="a/b", points=12, at=AT, timezone="Europe/Paris"
    )

    assert request.path == "/loyalty/v1/members/a%2Fb/credit"
    assert request.idempotency_key == idempotency_key(REFUND_KEY)
    assert exact(request.body) == {
        "event_date": "2026-11-15 1:12:40",
        "nq_points_quantity": 12,
        "q_points_quantity": 0,
        "context": "main:refund:club:R-1",
        "is_final": False,
        "idempotency_key": idempotency_key(REFUND_KEY),
    }


@pytest.mark.parametrize(("is_given_back", "points"), [(False, (0, 12)), (True, (12, 0))])
def test_points_that_are_given_back_are_of_the_kind_that_was_spent(
    is_given_back: bool, points: tuple[int, int]
) -> None:
    """Rewards cost `nq` points, and balances count them, also where `q` points are earned."""
    request = SplioRenderer(points_kind="q").credit(
        key=REFUND_KEY,
        card="1",
        points=12,
        at=AT,
        timezone="UTC",
        is_given_back=is_given_back,
    )
    body = exact(request.body)
    assert (body["nq_points_quantity"], body["q_points_quantity"]) == points


def granted(renderer: SplioRenderer, reward: str = "PT100") -> RenderedRequest:
    return renderer.grant(
        key=DEBIT_KEY,
        card="2171707962088",
        reward=reward,
        quantity=3,
        at=AT,
        timezone="Europe/Paris",
    )


def test_grant_is_used_in_the_same_second_and_carries_our_keys() -> None:
    request = granted(SplioRenderer())

    assert request.path == "/loyalty/v1/rewards/PT100/grant"
    assert request.idempotency_key == idempotency_key(DEBIT_KEY)
    assert exact(request.body) == {
        "card_code": "2171707962088",
        "quantity": 3,
        "reason_msg": "main:debit:club:C-1:PT100",
        "grant_date": "2026-11-15 01:12:40",
        "burned_date": "2026-11-15 01:12:40",
        "idempotency_key": idempotency_key(DEBIT_KEY),
    }
    assert request == granted(SplioRenderer())
    assert exact(granted(SplioRenderer(hours="plain")).body)["grant_date"] == "2026-11-15 1:12:40"


def test_reward_stays_one_part_of_the_path() -> None:
    assert granted(SplioRenderer(), "5 € / 1?").path == (
        "/loyalty/v1/rewards/5%20%E2%82%AC%20%2F%201%3F/grant"
    )
    with pytest.raises(ValueError, match="path"):
        granted(SplioRenderer(), "..")


def member(program: str = "1", language: str | None = "fr-FR") -> RenderedRequest:
    return SplioRenderer(contact_key=ContactKey.CUSTOMER_ID).membership(
        program=program, contact_id="48213", customer=CAMILLE, language=language
    )


def test_membership_names_program_and_contact_and_can_create_the_contact() -> None:
    request = member()

    assert request.path == "/loyalty/members"
    assert request.idempotency_key is None
    assert exact(request.body) == {"program_id": 1, "contact_id": "48213"}
    (contact,) = request.prerequisites
    assert (contact.kind, contact.name, contact.path) == (
        PrerequisiteKind.CONTACT,
        "48213",
        "/data/contacts",
    )
    assert exact(contact.body) == {
        "lastname": "Roux",
        "firstname": "Camille",
        "email": "camille.roux@example.com",
        "cellphone": "+33612345678",
        "language": "fr",
        "custom_fields": [{"name": "scayle_customer_id", "value": "48213"}],
    }
    for language in (None, "sv"):
        assert "language" not in exact(member(language=language).prerequisites[0].body)


@pytest.mark.parametrize("program", ["", "club", "1.0", "-1", " 1", "\u0661"])
def test_program_of_a_membership_is_a_whole_number(program: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        member(program)


@pytest.mark.parametrize("part", ["", ".", ".."])
def test_part_that_would_change_the_path_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="path"):
        path_part(part)


@pytest.mark.parametrize(
    ("at", "timezone", "hours", "text"),
    [
        ("2026-11-14T17:22:31Z", "Europe/Paris", "padded", "2026-11-14 18:22:31"),
        ("2026-07-14T17:22:31Z", "Europe/Paris", "padded", "2026-07-14 19:22:31"),
        ("2026-07-14T23:22:31Z", "Europe/Paris", "padded", "2026-07-15 01:22:31"),
        ("2026-07-14T23:22:31Z", "Europe/Paris", "plain", "2026-07-15 1:22:31"),
        ("2026-07-14T12:22:31Z", "UTC", "plain", "2026-07-14 12:22:31"),
        ("2026-07-14T00:00:00Z", "UTC", "plain", "2026-07-14 0:00:00"),
        ("2026-07-14T10:22:31.999+05:30", "UTC", "padded", "2026-07-14 04:52:31"),
    ],
)
def test_dates_are_local_and_without_a_zone(
    at: str, timezone: str, hours: Hours, text: str
) -> None:
    assert splio_date(datetime.fromisoformat(at), timezone, hours) == text
