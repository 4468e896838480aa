"""A signed-in client of the sandbox's Splio, for what its books do not tell."""

import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

START_CONTEXT: Final = "start:"
_ANSWER_S: Final = 30.0


class SandboxAccount:
    """Made by `sandbox_account`."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def give(self, cards: Collection[str], *, points: int) -> None:
        """Book a starting credit on each card."""
        for card in cards:
            await self._call(
                "POST",
                f"/loyalty/v1/members/{card}/credit",
                {
                    "event_date": "2026-01-02 08:00:00",
                    "nq_points_quantity": points,
                    "q_points_quantity": 0,
                    "context": f"{START_CONTEXT}{card}",
                    "is_final": True,
                    "idempotency_key": str(uuid.uuid4()),
                },
            )

    async def cards_of(self, contact: str) -> list[str]:
        """The cards of a contact, by its unique key."""
        document = await self._call("GET", f"/data/contacts/{contact}")
        return [card["card_code"] for card in document["loyalty"]]

    async def _call(self, method: str, path: str, document: Any = None) -> Any:
        async with self._session.request(method, path, json=document) as response:
            return await response.json() if response.content_type.endswith("json") else None


@asynccontextmanager
async def sandbox_account(url: str) -> AsyncIterator[SandboxAccount]:
    """Signed in with the sandbox's key; every refusal raises."""
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    async with aiohttp.ClientSession(url, raise_for_status=True, timeout=timeout) as session:
        async with session.post("/authenticate", json={"api_key": "sandbox-api-key"}) as response:
            token = (await response.json())["token"]
        session.headers["Authorization"] = f"Bearer {token}"
        yield SandboxAccount(session)
