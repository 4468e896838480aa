"""From a minimised payload to the domain's event."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from service.domain.errors import PoisonMessageError
from service.domain.events import Customer, LoyaltyCard, OrderConfirmed, OrderItem
from service.scayle.decode import decode_event, decode_unreadable
from service.scayle.webhook import UsedWebhook, read_webhook
from tests.fakes.scayle_bodies import ABSENT, order_confirmed_bytes

RECEIVED_AT = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)


def decoded(changes: dict[str, Any] | None = None) -> OrderConfirmed:
    """Through the minimised payload; the way of an unreadable body must agree."""
    body = order_confirmed_bytes(changes)
    webhook = read_webhook(body)
    assert isinstance(webhook, UsedWebhook), webhook
    event = decode_event(
        webhook.event_type,
        orjson.loads(webhook.payload),
        occurred_at=webhook.occurred_at,
        received_at=RECEIVED_AT,
    )
    assert decode_unreadable(body, received_at=RECEIVED_AT) == event
    return event


def test_complete_order_is_decoded() -> None:
    assert decoded() == OrderConfirmed(
        order_id="10000001",
        app_id="2001",
        language="de_DE",
        currency="EUR",
        confirmed_at=datetime(2026, 9, 21, 6, 4, 30, tzinfo=UTC),
        total_minor=6695,
        tax_minor=1069,
        shipping_minor=395,
        discount_minor=700,
        points_base_minor=6300,
        items=(
            OrderItem("990001", "UMB-07-NVY", "Regenschirm", 4500, 718, 500),
            OrderItem("990002", "CAP-31-GRY", "Wollmütze", 1800, 287, 200),
        ),
        card=LoyaltyCard("6010000000017", 189, "club"),
        customer=Customer(
            customer_id="77310",
            reference_key="crm-0b7e91",
            email="Ilse.Brandt@example.org",
            cellphone="+494000000000",
            first_name="Ilse",
            last_name="Brandt",
            is_guest=False,
            is_test=False,
        ),
    )


@pytest.mark.parametrize(
    ("changes", "confirmed_at"),
    [
        ({}, datetime(2026, 9, 21, 6, 4, 30, tzinfo=UTC)),
        ({"payload.confirmedAt": ABSENT}, datetime(2026, 9, 21, 6, 4, 31, tzinfo=UTC)),
        ({"payload.confirmedAt": "0001-01-01T00:00:00Z", "occurredAt": ABSENT}, RECEIVED_AT),
        ({"payload.confirmedAt": None, "occurredAt": "soon"}, RECEIVED_AT),
    ],
)
def test_confirmation_time_falls_back_to_the_event_then_to_receipt(
    changes: dict[str, Any], confirmed_at: datetime
) -> None:
    assert decoded(changes).confirmed_at == confirmed_at


@pytest.mark.parametrize(
    ("variant", "product_id"),
    [
        ({"id": 5, "referenceKey": "SKU"}, "SKU"),
        ({"id": 5, "referenceKey": ""}, "5"),
        ({"id": "5", "referenceKey": None}, "5"),
        ({"referenceKey": 77}, "77"),
        ({}, None),
        ([], None),
        (ABSENT, None),
    ],
)
def test_product_is_named_by_the_clients_key_else_by_scayles(
    variant: object, product_id: str | None
) -> None:
    assert decoded({"payload.items.0.variant": variant}).items[0].product_id == product_id


@pytest.mark.parametrize(
    ("changes", "tax"),
    [
        ({"payload.cost.tax": {"vat": {"amount": 0}}}, 0),
        ({"payload.cost.tax": ABSENT}, 1069),
        ({"payload.cost.tax.vat.amount": 10.69}, 1069),
        ({"payload.cost.tax": ABSENT, "payload.cost.withoutTax": ABSENT}, 0),
    ],
)
def test_tax_falls_back_to_the_difference_of_the_totals(changes: dict[str, Any], tax: int) -> None:
    assert decoded(changes).tax_minor == tax


def test_only_delivery_fees_are_shipping() -> None:
    fees = [
        {"category": "delivery", "amount": {"withTax": 395}},
        {"category": "delivery", "amount": {"withTax": 100}},
        {"category": "payment", "amount": {"withTax": 9000}},
        {"amount": {"withTax": 9000}},
        {"category": "delivery"},
    ]
    assert decoded({"payload.cost.appliedFees": fees}).shipping_minor == 495


@pytest.mark.parametrize("card", [ABSENT, None, [], {}, {"cardNumber": " ", "points": 0}])
def test_order_without_a_card_number_has_no_card(card: object) -> None:
    assert decoded({"payload.loyaltyCard": card}).card is None


def test_points_that_were_not_sent_are_unknown_rather_than_zero() -> None:
    assert decoded({"payload.loyaltyCard": {"cardNumber": "1"}}).card == LoyaltyCard(
        "1", None, None
    )


@pytest.mark.parametrize("customer", [ABSENT, None, [], {}])
def test_order_without_customer_has_none(customer: object) -> None:
    assert decoded({"payload.customer": customer}).customer is None


def test_guests_and_test_customers_are_told_apart() -> None:
    status = {"isGuestCustomer": True, "isTestCustomer": True}
    customer = decoded({"payload.customer": {"status": status}}).customer
    assert customer == Customer(None, None, None, None, None, None, is_guest=True, is_test=True)


def test_unknown_event_type_and_foreign_payload_are_poison() -> None:
    times = {"occurred_at": None, "received_at": RECEIVED_AT}
    with pytest.raises(PoisonMessageError, match="unknown_event_type"):
        decode_event("order-cancelled", {}, **times)  # type: ignore[arg-type]
    with pytest.raises(PoisonMessageError, match="bad_payload"):
        decode_event("order-confirmed", {"id": "1"}, **times)  # type: ignore[arg-type]
    with pytest.raises(PoisonMessageError, match="unreadable"):
        decode_unreadable(b"{}", received_at=RECEIVED_AT)
    with pytest.raises(PoisonMessageError, match="cardNumber"):
        decode_unreadable(
            order_confirmed_bytes({"payload.loyaltyCard.cardNumber": ABSENT}),
            received_at=RECEIVED_AT,
        )
