"""What the sandbox answered stays in its books."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from service.sandbox.splio import SplioSandboxSettings, open_splio_sandbox
from tests.integration.sandbox_client import (
    CARD,
    Client,
    open_client,
    order,
    points_query,
)

SERVE = """
import asyncio, sys
from service.sandbox.splio import SplioSandboxSettings, open_splio_sandbox

async def main():
    settings = SplioSandboxSettings(path=sys.argv[1], limits=None)
    async with open_splio_sandbox(settings) as sandbox:
        print(sandbox.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_restart_keeps_books_and_tokens(tmp_path: Path) -> None:
    async with open_client(tmp_path) as client:
        await client.stock()
        await client.call("POST", "/data/v1/orders", order())
        await client.call("POST", "/data/v1/orders", order())
        await client.credit()
        await client.credit()
        [code] = (await client.grant()).json[0]["external_ids"]
        await client.grant()
        await client.burn(code)
        await client.call("PATCH", f"/loyalty/members/{CARD}", {"birthday": "1991-06-18"})
        await client.call("POST", f"/loyalty/members/{CARD}/optout")
        member = (await client.call("GET", f"/loyalty/members/{CARD}")).json
        rows = (await client.sandbox.attributions(), await client.sandbox.accounts())
        token = client.token
        before = await client.sandbox.statement()
    async with open_client(tmp_path) as client:
        after = await client.sandbox.statement()
        since_the_start = ("requests", "peak_requests_in_one_second")
        assert {name: after[name] for name in after if name not in since_the_start} == {
            name: before[name] for name in before if name not in since_the_start
        }
        assert (after["orders_posted_twice"], after["credits_suppressed"]) == (1, 1)
        read = await client.call("GET", "/data/v2/orders/2345234", token=token)
        assert read.status == 200
        listed = await client.call("GET", "/loyalty/points", query=points_query(), token=token)
        assert listed.json["count_element"] == 1
        assert after["grants"] == {"count": 1, "attributions": 1, "nq_points": 10, "burned": 1}
        assert (after["grants_suppressed"], after["grant_doubles"]) == (1, [])
        assert after["points"] == {"earned": 177, "spent": 10, "balance": 167}
        assert (await client.sandbox.attributions(), await client.sandbox.accounts()) == rows
        assert (await client.call("GET", f"/loyalty/members/{CARD}")).json == member
        assert (await client.burn(code)).json["error"] == "external_id_already_burned"


async def test_books_from_before_rewards_are_taken_on(tmp_path: Path) -> None:
    async with open_client(tmp_path) as client:
        await client.stock()
        await client.credit()
    with closing(sqlite3.connect(tmp_path / "splio.db")) as db:
        for table in ("rewards", "grants", "attributions", "member_details"):
            db.execute(f"DROP TABLE {table}")
    async with open_client(tmp_path) as client:
        assert (await client.grant()).status == 200
        assert await client.usable() == 167


async def test_rewards_keep_the_price_they_have_in_the_books(tmp_path: Path) -> None:
    async with open_client(tmp_path, rewards={"PT1": 1}):
        pass
    async with open_client(tmp_path, rewards={"PT1": 7, "CAKE": 3}) as client:
        listed = (await client.call("GET", "/loyalty/v2/rewards")).json["elements"]
    assert {row["external_id"]: row["nqp_value"] for row in listed} == {"PT1": 1, "CAKE": 3}


async def test_books_of_another_unique_key_are_refused(tmp_path: Path) -> None:
    async with open_client(tmp_path):
        pass
    settings = SplioSandboxSettings(path=str(tmp_path / "splio.db"), unique_key="c0")
    with pytest.raises(ValueError, match="unique key email"):
        async with open_splio_sandbox(settings):
            pass


async def test_sigkill_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVE,
        str(tmp_path / "splio.db"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    answered: list[str] = []
    enough = asyncio.Event()
    async with aiohttp.ClientSession() as session:
        url = (await process.stdout.readline()).decode().strip()
        client = Client(_Remote(url), session)  # type: ignore[arg-type]  # its url is all it needs
        await client.sign_in()
        await client.stock()

        async def post(worker: int) -> None:
            for number in range(10_000):
                external_id = f"{worker}-{number}"
                try:
                    reply = await client.call("POST", "/data/v1/orders", order(external_id))
                except aiohttp.ClientError:
                    return
                assert reply.status == 201
                answered.append(external_id)
                if len(answered) >= 100:
                    enough.set()

        workers = [asyncio.create_task(post(worker)) for worker in range(8)]
        await enough.wait()
        process.send_signal(signal.SIGKILL)
        await asyncio.gather(*workers)
    await process.wait()
    async with open_client(tmp_path) as client:
        kept = {row["external_id"] for row in await client.sandbox.orders()}
    assert set(answered) <= kept
    # One request of each worker may have been booked without an answer.
    assert len(kept) <= len(answered) + 8


class _Remote:
    def __init__(self, url: str) -> None:
        self.url = url


async def test_many_at_once_are_all_booked(tmp_path: Path) -> None:
    async with open_client(tmp_path) as client:
        await client.stock()
        replies = await asyncio.gather(
            *(
                client.call("POST", "/data/v1/orders", order(str(number % 50)))
                for number in range(100)
            )
        )
        statuses = sorted(reply.status for reply in replies)
        assert statuses == [201] * 50 + [400] * 50
        statement = await client.sandbox.statement()
        assert (statement["orders"], statement["orders_posted_twice"]) == (50, 50)
