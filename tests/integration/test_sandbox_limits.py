"""The sandbox keeps Splio's rate limits strictly and tells them in its headers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.integration.sandbox_client import open_client


async def test_request_over_the_limit_is_refused_as_documented(tmp_path: Path) -> None:
    async with open_client(tmp_path, limits={"other": 3}) as client:
        replies = [await client.call("GET", "/ping") for _ in range(3)]
        # The sign-in took the first of the three.
        assert [reply.status for reply in replies] == [200, 200, 429]
        refused = replies[-1]
        assert refused.json == {"message": "API rate limit exceeded"}
        assert (
            refused.headers.items()
            >= {
                "rateLimit-limit": "3",
                "rateLimit-remaining": "0",
                "rateLimit-reset": "1",
                "x-rateLimit-limit-minute": "180",
                "x-rateLimit-remaining-minute": "177",
            }.items()
        )
        assert replies[0].headers["rateLimit-remaining"] == "1"
        statement = await client.sandbox.statement()
    assert statement["rate_limited"] == 1
    assert statement["peak_requests_in_one_second"]["other"] == 4


async def test_categories_have_allowances_of_their_own(tmp_path: Path) -> None:
    limits = {"contacts": 1, "sales": 1, "other": 10}
    async with open_client(tmp_path, limits=limits) as client:
        paths = ("/data/contacts/x", "/data/v2/orders/x", "/data/contacts/y", "/data/v1/stores/x")
        statuses = [(await client.call("GET", path)).status for path in paths]
    assert statuses == [404, 404, 429, 429]


async def test_never_more_than_the_limit_within_any_second(tmp_path: Path) -> None:
    """
    A request was counted between its start and its answer, so 21 of them that the limit of 20
    let pass took more than one second from the first start to the last answer.
    """
    admitted: list[tuple[float, float]] = []
    async with open_client(tmp_path, limits={"sales": 20}) as client:

        async def press() -> None:
            while len(admitted) < 45:
                began = time.monotonic()
                reply = await client.call("GET", "/data/v1/orders/x")
                if reply.status != 429:
                    admitted.append((began, time.monotonic()))

        await asyncio.gather(*(press() for _ in range(4)))
    admitted.sort(key=lambda each: each[1])
    for first in range(len(admitted) - 20):
        some = admitted[first : first + 21]
        assert some[-1][1] - min(began for began, _ in some) > 1.0
