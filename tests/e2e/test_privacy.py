"""No personal data, token or card number in logs, metrics and lists (P7)."""

import io
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from service.sandbox.deliveries import DeliveryPlan
from service.sandbox.faults import FaultRule
from service.sandbox.scayle import generate_orders
from service.sandbox.splio import SplioSandbox
from service.telemetry.logs import JsonFormatter
from tests.harness.relay import PASSWORD, Relay, running_relay, running_sandbox
from tests.harness.waiting import until

# Fields of SCAYLE's orders that say something about a person, wherever they stand.
_PERSONAL: Final = frozenset(
    (
        "email",
        "firstName",
        "lastName",
        "birthDate",
        "phone",
        "street",
        "city",
        "cardNumber",
        "publicKey",
        "referenceKey",
    )
)
# What may have been lost is looked up soon.
_SOON: Final = {
    "visible_after": "orders=300ms,credits=500ms,grants=500ms",
    "request_timeout": "500ms",
}
_SECRETS: Final = (PASSWORD, "sandbox-api-key")


def personal_data(document: Any, *, under: str = "") -> Iterator[str]:
    """The values of personal fields in an envelope; those of variants and merchants are not."""
    if isinstance(document, Mapping):
        for name, value in document.items():
            if (
                name in _PERSONAL
                and isinstance(value, str)
                and under not in ("variant", "merchant")
            ):
                yield value
            yield from personal_data(value, under=name)
    elif isinstance(document, list):
        for value in document:
            yield from personal_data(value, under=under)


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    """Everything that any logger writes, down to DEBUG, as the service would write it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(before)


def _odd_orders() -> list[dict[str, Any]]:
    """Orders that are set aside or held, each for another reason."""
    conflict, negative, many, nobody, strange, unknown = generate_orders(
        21, 6, first_order_id=9_000_001, customers=6
    )
    cost = {**conflict["payload"]["cost"], "withTax": 1}
    conflicting = {**conflict, "payload": {**conflict["payload"], "cost": cost}}
    card = {"cardNumber": "2171999999994", "provider": "splio_club"}
    negative["payload"]["loyaltyCard"] = {**card, "points": -5}
    many["payload"]["loyaltyCard"] = {**card, "points": 10_000_000}
    del nobody["payload"]["customer"]
    strange["payload"]["items"] = [{"id": {"street": "Quai du Port"}}]
    unknown["payload"]["currencyCode"] = "XXQ"
    return [conflict, conflicting, negative, many, nobody, strange, unknown]


async def _call(relay: Relay, sandbox: SplioSandbox) -> set[str]:
    """Play a checkout with its mistakes; returns what must not stand anywhere."""
    card, other, email = "2171700000107", "2171700000206", "Ada.Byron@example.org"
    spent = {
        "amount": 20,
        "cardKey": card,
        "type": "splio_club",
        "orderId": 9_500_001,
        "transactionKey": "4bd1f0a97c2e5518d3aa06e9b7c1",
    }
    customer = {"type": "splio_club", "email": email, "firstName": "Augusta", "lastName": "Byron"}
    for operation in ("member.create", "reward.grant", "member.balance", "contact.read"):
        for fault in ("lost_reply", "garbage", "status"):
            sandbox.add_fault(FaultRule(operation, fault, count=1))

    async def status(method: str, operation: str, fields: Mapping[str, Any], **token: str) -> int:
        return (await relay.call(method, operation, fields, **token)).status

    for _ in range(3):
        assert await status("POST", "register", customer) in (200, 201, 503)
        assert await status("GET", "balance", {"cardKey": card, "type": "splio_club"}) in (200, 503)
        assert await status("POST", "verify", {**spent, "email": email}) in (200, 503)
        assert await status("POST", "validate", {**spent, "cardNumber": other}) == 400

    async def is_registered() -> bool:
        return await status("POST", "register", customer) == 200

    async def is_told() -> bool:
        return await status("GET", "balance", {"cardKey": card, "type": "splio_club"}) == 200

    await until(is_registered, what="the customer is registered")
    await until(is_told, what="the balance is told")
    assert await status("PUT", "capture", spent) == 200
    assert await status("PUT", "capture", {**spent, "cardKey": other}) == 409
    assert await status("POST", "refund", {**spent, "cardKey": other, "amount": 5}) == 409
    assert await status("POST", "collect", {**spent, "cardKey": other, "orderId": None}) == 422
    assert await status("PUT", "capture", spent, Authorization="Bearer wrong-secret-7") == 401
    registered = (await relay.call("POST", "register", customer)).json["cardKey"]
    return {card, other, registered, email, email.lower(), "Augusta", "Byron"}


async def _lists(relay: Relay) -> list[str]:
    """What the operations door shows."""
    texts = []
    effects = await relay.effects()
    assert {"order", "earn", "capture", "debit", "member"} <= {item["kind"] for item in effects}
    order_ids = {item["order_key"] for item in effects}
    letters = [item["id"] for item in await relay.dead_letters()]
    for path in (
        "/metrics",
        "/readyz",
        "/healthz",
        "/api/lanes",
        "/api/shapes",
        "/api/holds",
        "/api/effects?limit=200",
        "/api/dead-letters?limit=200",
        *(f"/api/orders/{order_id}" for order_id in sorted(order_ids)),
        *(f"/api/effects/{item['effect_key']}" for item in effects),
    ):
        answer = await relay.operate("GET", path)
        assert answer.status == 200, (path, answer)
        texts.append(answer.body.decode())
    assert letters
    return texts


async def test_nothing_personal_is_written_or_shown(tmp_path: Path, log_lines: io.StringIO) -> None:
    envelopes = [*generate_orders(20, 40, customers=8, products=6), *_odd_orders()]
    private = {value for envelope in envelopes for value in personal_data(envelope)}
    private |= {value.lower() for value in private if "@" in value}
    assert len(private) > 50
    async with running_sandbox(tmp_path) as sandbox:
        for fault in ("lost_reply", "garbage", "429", "unauthorized", "status", "status_after"):
            for operation in ("order.create", "credit", "contact.create"):
                sandbox.add_fault(FaultRule(operation, fault, count=1, skip=3))
        sandbox.add_fault(FaultRule("credit", "status", count=1, skip=9, status=418))
        async with running_relay(tmp_path, sandbox, _SOON) as relay:
            await relay.post(b'{"type": "order-confirmed", "payload": {"email": "a@b.example"}}')
            await relay.post(b'{"type": 5, "email": "camille.roux@example.com"}')
            await relay.deliver(envelopes, DeliveryPlan(duplicates=0.3, reordering=5, seed=1))
            private |= await _call(relay, sandbox)
            await relay.rest(held=2, timeout_s=30)
            reasons = {item["reason"] for item in await relay.dead_letters()}
            assert {"conflict", "negative_points", "contact_key_missing", "unreadable"} <= reasons
            shown = await _lists(relay)
        # As an operator does who wrote the password wrongly.
        async with (
            running_relay(tmp_path, sandbox) as relay,
            aiohttp.ClientSession() as session,
            session.post(
                f"{relay.runtime.listeners.public_url}/webhooks/scayle",
                headers={"Authorization": aiohttp.encode_basic_auth("scayle", "wrong-secret-7")},
            ) as response,
        ):
            assert response.status == 401
    written = log_lines.getvalue()
    assert "effect.attempted" in written
    for text in (written, *shown):
        leaked = {value for value in private if _stands_in(value, text)}
        assert not leaked
        assert "@" not in text
        assert not [secret for secret in ("wrong-secret-7", *_SECRETS[1:]) if secret in text]
        assert not re.search(r"Bearer \S", text)  # the form of a header may be told


def _stands_in(value: str, text: str) -> bool:
    """Whether `value` stands in `text` as a word of its own."""
    return value in text and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None
