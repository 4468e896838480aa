"""Any body at all: only declared ends, and what is accepted can be decoded and planned."""

from datetime import UTC, datetime
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from service.scayle.decode import decode_event
from service.scayle.webhook import (
    IgnoredWebhook,
    NotAnEventError,
    UnreadableWebhook,
    UsedWebhook,
    read_webhook,
)
from tests.fakes.scayle_bodies import ABSENT, order_confirmed

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=60)
    | st.sampled_from(["", "order-confirmed", "..", "2026-09-21T08:04:30+02:00", "EUR", "1"])
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)


def paths(value: Any, at: str = "") -> list[str]:
    """Every dotted path in the example."""
    parts = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    found = []
    for name, part in parts:
        path = f"{at}.{name}" if at else str(name)
        found += [path, *paths(part, path)]
    return found


PATHS = paths(order_confirmed())


def check(body: bytes) -> UsedWebhook | None:
    try:
        webhook = read_webhook(body)
    except NotAnEventError:
        return None
    match webhook:
        case IgnoredWebhook():
            assert webhook.event_type != "order-confirmed"
        case UnreadableWebhook():
            assert webhook.event_type == "order-confirmed"
            assert webhook.reason
        case UsedWebhook():
            event = decode_event(
                webhook.event_type,
                orjson.loads(webhook.payload),
                occurred_at=webhook.occurred_at,
                received_at=datetime(2027, 1, 1, tzinfo=UTC),
            )
            assert event.order_id == webhook.order_id
            assert event.confirmed_at.tzinfo is not None
            if event.card is None:
                sent = orjson.loads(body)["payload"].get("loyaltyCard") or {}
                assert not sent.get("points")
            return webhook
    return None


@given(st.binary(max_size=300))
def test_any_bytes_have_a_declared_end(body: bytes) -> None:
    check(body)


@given(anything)
def test_any_json_has_a_declared_end(value: Any) -> None:
    check(orjson.dumps(value, default=str) if _fits(value) else b"{}")


@given(anything)
def test_any_payload_has_a_declared_end(value: Any) -> None:
    if _fits(value):
        check(orjson.dumps({"type": "order-confirmed", "payload": value}))


@settings(max_examples=400)
@given(st.lists(st.tuples(st.sampled_from(PATHS), anything), min_size=1, max_size=3))
def test_example_with_anything_anywhere_has_a_declared_end(
    replaced: list[tuple[str, Any]],
) -> None:
    body = order_confirmed()
    for path, value in replaced:
        if _fits(value):
            _replace(body, path, value)
    check(orjson.dumps(body))


@given(st.lists(st.sampled_from(PATHS), min_size=1, max_size=6))
def test_example_without_any_of_its_parts_has_a_declared_end(removed: list[str]) -> None:
    body = order_confirmed()
    for path in removed:
        _replace(body, path, ABSENT)
    check(orjson.dumps(body))


@given(
    st.text(st.characters(codec="utf-8"), min_size=12, max_size=40).filter(
        lambda text: text.strip() == text
    ),
    st.sampled_from([path for path in PATHS if path.startswith("payload.address")]),
)
def test_addresses_never_reach_the_payload(secret: str, path: str) -> None:
    """P7, for any text anywhere in them."""
    body = order_confirmed()
    _replace(body, path, secret)
    webhook = check(orjson.dumps(body))
    assert webhook is not None
    assert webhook.payload == check_example().payload


def check_example() -> UsedWebhook:
    webhook = check(orjson.dumps(order_confirmed()))
    assert webhook is not None
    return webhook


def _replace(body: Any, path: str, value: Any) -> None:
    """Set what is at `path`, as far as the path still exists."""
    *parents, last = path.split(".")
    place = body
    try:
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        name: Any = int(last) if isinstance(place, list) else last
        if value is ABSENT:
            del place[name]
        else:
            place[name] = value
    except (KeyError, IndexError, TypeError, ValueError):
        pass


def _fits(value: Any) -> bool:
    """Whether orjson can write it: integers within 64 bits, keys and texts without surrogates."""
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return False
    return True
