"""Reading a webhook's body: what is used, ignored, unreadable or refused."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from service.scayle.webhook import (
    IgnoredWebhook,
    NotAnEventError,
    UnreadableWebhook,
    UsedWebhook,
    read_time,
    read_webhook,
)
from tests.fakes.scayle_bodies import ABSENT, order_confirmed, order_confirmed_bytes


def used(changes: dict[str, Any] | None = None) -> UsedWebhook:
    webhook = read_webhook(order_confirmed_bytes(changes))
    assert isinstance(webhook, UsedWebhook), webhook
    return webhook


def payload(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(used(changes).payload)
    return document


def test_complete_order_is_minimised_under_scayles_names() -> None:
    webhook = used()
    assert webhook.event_type == "order-confirmed"
    assert webhook.order_id == "10000001"
    assert webhook.occurred_at == datetime(2026, 9, 21, 6, 4, 31, tzinfo=UTC)
    assert webhook.source_key == "9f1d2c34-order-confirmed-10000001"
    assert orjson.loads(webhook.payload) == {
        "id": "10000001",
        "confirmedAt": "2026-09-21T08:04:30+02:00",
        "currencyCode": "EUR",
        "cost": {
            "withTax": 6695,
            "withoutTax": 5626,
            "withTaxWithMembershipDiscountWithoutServiceCosts": 6300,
            "tax": {"vat": {"amount": 1069}},
            "appliedFees": [{"category": "delivery", "amount": {"withTax": 395}}],
            "appliedReductions": [{"amount": {"absoluteWithTax": 700}}],
        },
        "customer": {
            "id": "77310",
            "referenceKey": "crm-0b7e91",
            "email": "Ilse.Brandt@example.org",
            "phone": "+494000000000",
            "firstName": "Ilse",
            "lastName": "Brandt",
            "status": {"isGuestCustomer": False, "isTestCustomer": False},
        },
        "items": [
            {
                "id": "990001",
                "price": {
                    "withTax": 4500,
                    "withoutTax": 3782,
                    "tax": {"vat": {"amount": 718}},
                    "appliedReductions": [{"amount": {"absoluteWithTax": 500}}],
                },
                "product": {"name": "Regenschirm"},
                "variant": {"id": "880001", "referenceKey": "UMB-07-NVY"},
            },
            {
                "id": "990002",
                "price": {
                    "withTax": 1800,
                    "withoutTax": 1513,
                    "tax": {"vat": {"amount": 287}},
                    "appliedReductions": [{"amount": {"absoluteWithTax": 200}}],
                },
                "product": {"name": "Wollmütze"},
                "variant": {"id": "880002", "referenceKey": "CAP-31-GRY"},
            },
        ],
        "loyaltyCard": {"cardNumber": "6010000000017", "points": 189, "provider": "club"},
        "locale": {"appId": "2001", "languageCode": "de_DE"},
    }


def test_what_is_not_needed_never_reaches_the_payload() -> None:
    """P7: addresses, payment, birth date, network data and unknown fields are dropped."""
    kept = set(_texts(orjson.loads(used().payload)))
    dropped = set(_texts(order_confirmed())) - kept
    assert {
        "Lindenallee",
        "Hamburg",
        "20357",
        "1984-02-29",
        "203.0.113.9",
        "Mozilla/5.0",
        "pay.pal@example.org",
        "psp-55d0a7",
        "HERBST10",
        "K-77310",
    } <= dropped
    marked = order_confirmed(
        {
            "payload.customer.nickname": "secret-1",
            "payload.customData": {"note": "secret-2"},
            "payload.items.0.giftMessage": "secret-3",
            "locale.region": "secret-4",
            "unknown": ["secret-5"],
        }
    )
    webhook = read_webhook(orjson.dumps(marked))
    assert isinstance(webhook, UsedWebhook)
    assert b"secret" not in webhook.payload


@pytest.mark.parametrize(
    ("sent", "kept"),
    [(10000001, "10000001"), ("10000001", "10000001"), ("A.b_c~d-1", "A.b_c~d-1"), (0, "0")],
)
def test_order_id_is_text_whether_sent_as_number_or_text(sent: object, kept: str) -> None:
    assert used({"payload.id": sent}).order_id == kept
    assert payload({"payload.id": sent})["id"] == kept


@pytest.mark.parametrize(
    "sent",
    [True, None, "", ".", "..", "a/b", "a:b", "a b", "é", "x" * 51, 2**53 + 1, 1.5, 12.0, [], {}],
)
def test_order_id_that_cannot_be_part_of_a_key_makes_the_body_unreadable(sent: object) -> None:
    webhook = read_webhook(order_confirmed_bytes({"payload.id": sent}))
    assert webhook == UnreadableWebhook("order-confirmed", "payload.id no_id")


@pytest.mark.parametrize(
    "changes",
    [
        {"payload.customer": ABSENT},
        {"payload.customer": None},
        {"payload.customer": []},
        {"payload.customer.email": ABSENT},
        {"payload.customer.email": None},
        {"payload.customer.status": []},
        {"payload.customer.firstName": {"given": "Ilse"}},
        {"locale": ABSENT},
        {"locale": ABSENT, "meta": {"tenantKey": "t", "xRequestId": "r"}},
        {"locale": None},
        {"locale": []},
        {"key": ABSENT},
        {"key": None},
        {"key": 7},
        {"key": {"a": 1}},
        {"occurredAt": ABSENT},
        {"occurredAt": "yesterday"},
        {"payload.confirmedAt": None},
        {"payload.confirmedAt": 1789971870},
        {"payload.loyaltyCard": ABSENT},
        {"payload.loyaltyCard": None},
        {"payload.loyaltyCard": []},
        {"payload.loyaltyCard.points": None},
        {"payload.loyaltyCard.points": 189.0},
        {"payload.loyaltyCard.cardNumber": 6010000000017},
        {"payload.loyaltyCard": {"cardNumber": "", "points": 0}},
        {"payload.items": []},
        {"payload.items": None},
        {"payload.items": ABSENT},
        {"payload.items.0.variant": ABSENT},
        {"payload.items.0.variant": []},
        {"payload.items.0.product": None},
        {"payload.items.0.price.tax": None},
        {"payload.items.0.price.tax.vat.amount": 71.8},
        {"payload.items.0.price.withTax": 4500.0},
        {"payload.cost.tax": []},
        {"payload.cost.appliedFees": None},
        {"payload.cost.appliedReductions": ABSENT},
        {"payload.cost.itemGroups": {"x": 1}},
        {"payload.currencyCode": "eur"},
    ],
)
def test_scayles_variety_is_accepted(changes: dict[str, Any]) -> None:
    used(changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"payload": ABSENT}, "payload missing"),
        ({"payload": []}, "payload dict_type"),
        ({"payload.id": ABSENT}, "payload.id missing"),
        ({"payload.cost": ABSENT}, "payload.cost missing"),
        ({"payload.cost.withTax": None}, "payload.cost.withTax no_amount"),
        ({"payload.cost.withTax": 64.5}, "payload.cost.withTax no_amount"),
        ({"payload.cost.withTax": True}, "payload.cost.withTax no_amount"),
        ({"payload.cost.withTax": 2**53 + 1}, "payload.cost.withTax no_amount"),
        ({"payload.currencyCode": ABSENT}, "payload.currencyCode missing"),
        ({"payload.items.1.price": ABSENT}, "payload.items.1.price missing"),
        ({"payload.items.1.id": {}}, "payload.items.1.id no_id"),
        ({"payload.customer": [1]}, "payload.customer dict_type"),
        ({"payload.customer.email": True}, "payload.customer.email string_type"),
        (
            {"payload.customer.status.isTestCustomer": "perhaps"},
            "payload.customer.status.isTestCustomer bool_parsing",
        ),
        ({"payload.loyaltyCard.points": "many"}, "payload.loyaltyCard.points no_amount"),
        ({"payload.loyaltyCard.cardNumber": ".."}, "payload.loyaltyCard.cardNumber no_id"),
    ],
)
def test_body_without_what_planning_needs_is_unreadable_and_says_where(
    changes: dict[str, Any], reason: str
) -> None:
    webhook = read_webhook(order_confirmed_bytes(changes))
    assert webhook == UnreadableWebhook("order-confirmed", reason)


@pytest.mark.parametrize("number", ["", None, ABSENT])
def test_points_without_a_card_number_are_unreadable_rather_than_lost(number: object) -> None:
    """P3: nothing could book them, and nobody would notice."""
    webhook = read_webhook(order_confirmed_bytes({"payload.loyaltyCard.cardNumber": number}))
    assert webhook == UnreadableWebhook("order-confirmed", "payload.loyaltyCard.cardNumber missing")


@pytest.mark.parametrize("event_type", ["order-cancelled", "customer-created", "", "order"])
def test_event_type_that_is_not_used_is_ignored_whatever_its_payload(event_type: str) -> None:
    body = orjson.dumps({"type": event_type, "payload": 5})
    assert read_webhook(body) == IgnoredWebhook(event_type)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"order-confirmed"',
        b"{}",
        b'{"type": 5}',
        b'{"type": null}',
        b'{"type": ["order-confirmed"]}',
        b'{"type": "order-confirmed"',
        b'{"type": "order-confirmed"} trailing',
        b'{"type": "\xff"}',
        b'\xef\xbb\xbf{"type": "order-confirmed"}',
        '{"type": "order-confirmed"}'.encode("utf-16"),
        b"\x00",
        b"[" * 100_000,
        b'{"type": "order-confirmed", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"type": "order-confirmed", "x": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_not_a_json_object_with_a_text_type_is_refused(body: bytes) -> None:
    with pytest.raises(NotAnEventError):
        read_webhook(body)


def test_reasons_repeat_no_value() -> None:
    webhook = read_webhook(order_confirmed_bytes({"payload.customer.email": ["a@example.org"]}))
    assert isinstance(webhook, UnreadableWebhook)
    assert "example" not in webhook.reason


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-09-21T08:04:30+02:00", datetime(2026, 9, 21, 6, 4, 30, tzinfo=UTC)),
        ("2026-09-21T08:04:30Z", datetime(2026, 9, 21, 8, 4, 30, tzinfo=UTC)),
        ("2026-09-21T08:04:30", datetime(2026, 9, 21, 8, 4, 30, tzinfo=UTC)),
        ("2026-09-21 08:04:30.250", datetime(2026, 9, 21, 8, 4, 30, 250_000, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("1999-12-31T23:59:59Z", None),
        ("2026-13-01T00:00:00Z", None),
        ("", None),
        (None, None),
    ],
)
def test_times_are_read_into_utc_or_not_at_all(text: str | None, moment: datetime | None) -> None:
    assert read_time(text) == moment


def _texts(value: object) -> list[str]:
    match value:
        case dict():
            return [text for part in value.values() for text in _texts(part)]
        case list():
            return [text for part in value for text in _texts(part)]
        case str():
            return [value]
        case _:
            return []
