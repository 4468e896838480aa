"""A signed-in client of the sandbox, with requests that most tests need."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from service.sandbox.splio import SplioSandbox, SplioSandboxSettings, open_splio_sandbox

CARD = "2171707962088"
OTHER_CARD = "2171900000013"
CONTACT = "camille.roux@example.com"
FAULTS: dict[str, dict[str, Any]] = {
    "delay": {"seconds": 0.02},
    "delay_before": {"seconds": 0.02},
    "lost_reply": {},
    "lost_request": {},
    "status": {"status": 503},
    "status_after": {"status": 500},
    "429": {},
    "garbage": {},
    "slow_drip": {"seconds": 30},
    "reset": {},
    "unauthorized": {},
}
"""What one request may meet, with the arguments that such a fault needs."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(slots=True)
class Client:
    """Talks to one sandbox."""

    sandbox: SplioSandbox
    session: aiohttp.ClientSession
    token: str = ""

    async def call(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        data: bytes | None = None,
        query: dict[str, str] | None = None,
        token: str | None = None,
    ) -> Reply:
        body = json.dumps(document).encode() if data is None and document is not None else data
        bearer = self.token if token is None else token
        async with self.session.request(
            method,
            f"{self.sandbox.url}{path}",
            data=None if body is None else io.BytesIO(body),
            params=query,
            headers={"Authorization": f"Bearer {bearer}"} if bearer else {},
        ) as response:
            return Reply(response.status, await response.text(), dict(response.headers))

    async def sign_in(self, key: str = "sandbox-api-key") -> None:
        reply = await self.call("POST", "/authenticate", {"api_key": key}, token="")
        self.token = reply.json["token"]

    async def stock(self) -> None:
        """The contact, store and products that `order()` names."""
        for path, document in (
            ("/data/contacts", {"email": CONTACT, "lastname": "Roux", "firstname": "Camille"}),
            ("/data/v1/stores", {"external_id": "web-fr", "name": "Web shop", "online": True}),
            ("/data/v1/products", {"external_id": "JKT-001-M", "name": "Rain jacket"}),
            ("/data/v1/products", {"external_id": "CAP-014-U", "name": "Wool cap"}),
        ):
            assert (await self.call("POST", path, document)).status == 201

    async def credit(self, card: str = CARD, **changes: Any) -> Reply:
        return await self.call("POST", f"/loyalty/v1/members/{card}/credit", credit(**changes))

    async def grant(self, reward: str = "PT10", **changes: Any) -> Reply:
        return await self.call("POST", f"/loyalty/v1/rewards/{reward}/grant", grant(**changes))

    async def burn(self, code: str, **changes: Any) -> Reply:
        document = {"card_code": CARD, "burned_date": "2026-11-15 09:14:02", **changes}
        return await self.call("POST", f"/loyalty/v1/reward-attributions/{code}/burn", document)

    async def own(self, card: str = CARD) -> None:
        """Gives a card to the contact of `stock`."""
        document = {"card_code": card, "contact_id": CONTACT}
        assert (await self.call("POST", "/_sandbox/members", document, token="")).status == 201

    async def usable(self, card: str = CARD) -> int:
        """What the balance says may be spent."""
        reply = await self.call("GET", f"/loyalty/members/{card}/balance")
        points: int = reply.json["remaining"]["nq_points"]["total"]
        return points


@asynccontextmanager
async def open_client(path: Path, **settings: Any) -> AsyncIterator[Client]:
    """A sandbox in `path` without limits unless told, and a client that is signed in."""
    at_once = {"points_visible_after_s": 0.0, "grants_visible_after_s": 0.0}
    chosen: dict[str, Any] = {"limits": None, **at_once, **settings}
    async with (
        open_splio_sandbox(SplioSandboxSettings(path=str(path / "splio.db"), **chosen)) as sandbox,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
    ):
        # aiohttp repeats a lost GET or DELETE by itself; its own test client turns that off too.
        session._retry_connection = False
        client = Client(sandbox, session)
        await client.sign_in()
        yield client


async def wait_until(holds: Callable[[], Awaitable[bool]], *, timeout_s: float = 10.0) -> None:
    """Returns when `holds` answers true; fails after the time limit."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while not await holds():
        assert loop.time() < end, "what was waited for did not come"
        await asyncio.sleep(0.01)


def order(external_id: str = "2345234", **changes: Any) -> dict[str, Any]:
    """An order that the sandbox takes after `Client.stock`."""
    line = {"discount_amount": 0, "tax_amount": 6.66, "quantity": 1, "currency": "EUR"}
    return {
        "external_id": external_id,
        "contact_id": CONTACT,
        "card_code": CARD,
        "store_external_id": "web-fr",
        "ordered_at": "2026-11-14 08:22:31",
        "discount_amount": 0,
        "shipping_amount": 4.9,
        "total_price": 64.85,
        "tax_amount": 10.81,
        "completed": True,
        "currency": "EUR",
        "products": [
            {**line, "product_id": "JKT-001-M", "unit_price": 39.95, "total_line_amount": 39.95},
            {**line, "product_id": "CAP-014-U", "unit_price": 20.0, "total_line_amount": 20.0},
        ],
        "custom_fields": [{"name": "scayle_public_key", "value": "FR-2345234"}],
        **changes,
    }


def credit(**changes: Any) -> dict[str, Any]:
    """A credit that the sandbox books."""
    return {
        "event_date": "2026-11-14 08:22:31",
        "nq_points_quantity": 177,
        "q_points_quantity": 0,
        "context": "main:earn:2345234",
        "is_final": True,
        "idempotency_key": "0f6f8f0e-5e0b-5d0a-9f55-2a1f6f9f2c11",
        **changes,
    }


def grant(**changes: Any) -> dict[str, Any]:
    """A grant that the sandbox makes of a reward whose price the card can pay."""
    return {
        "card_code": CARD,
        "quantity": 1,
        "reason_msg": "main:capture:splio_club:4bd1f0a97c2e",
        "grant_date": "2026-11-15 09:12:40",
        "idempotency_key": "b2b7d0a4-2f5b-5c58-8f4e-6a1d1f0a7f02",
        **changes,
    }


def points_query(card: str = CARD, **changes: str) -> dict[str, str]:
    """The query that finds a card's credits."""
    return {
        "card_code": json.dumps({"operator": "equals", "value": card}),
        "event_type": json.dumps({"operator": "equals", "value": "credit_points"}),
        **changes,
    }


def flat(key: str, slug: str, text: str) -> dict[str, Any]:
    """Splio's error body without an envelope, as grants and burns have it."""
    return {"error_key": key, "error": slug, "error_description": text}


def no_store(name: str) -> dict[str, Any]:
    """The error body of grants and burns for an unknown store, whose errors are an object."""
    text = f'extid "{name}" not found in splio3_ecommerce.universe_stores'
    errors = {"error_key": None, "error": "not_found", "error_description": text}
    return {"status": 404, "errors": errors}


def problem(key: str, slug: str, text: str, status: int = 400) -> dict[str, Any]:
    """Splio's usual error body with one entry."""
    entry = {"error_key": key, "error": slug, "error_description": text}
    return {"status": status, "errors": [entry]}
