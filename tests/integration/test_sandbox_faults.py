"""Each fault does what its name says, to each operation it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.sandbox.faults import KINDS, FaultRule
from service.sandbox.routes import OPERATIONS, ROUTES
from tests.integration.sandbox_client import (
    CARD,
    Client,
    Reply,
    credit,
    grant,
    open_client,
    order,
    wait_until,
)

LOST = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with open_client(tmp_path) as opened:
        await opened.stock()
        yield opened


async def post_order(client: Client) -> Reply:
    return await client.call("POST", "/data/v1/orders", order())


async def orders_in_the_books(client: Client) -> int:
    count = (await client.sandbox.statement())["orders"]
    assert isinstance(count, int)
    return count


def set_fault(client: Client, fault: str, operation: str = "order.create", **more: Any) -> None:
    client.sandbox.add_fault(FaultRule(operation, fault, **{"count": 1, **more}))


@pytest.mark.parametrize("fault", ["lost_reply", "lost_request", "reset"])
async def test_lost_answer_tells_nothing_of_the_books(client: Client, fault: str) -> None:
    set_fault(client, fault)
    with pytest.raises(LOST):
        await post_order(client)
    assert await orders_in_the_books(client) == (1 if fault == "lost_reply" else 0)
    statement = await client.sandbox.statement()
    assert statement["faults"] == {"order.create": {fault: 1}}
    assert statement["requests"]["order.create"] == {"lost": 1}
    # Once, as asked: a repeat meets the books.
    assert (await post_order(client)).status == (400 if fault == "lost_reply" else 201)


@pytest.mark.parametrize(("fault", "acts"), [("status", False), ("status_after", True)])
@pytest.mark.parametrize("status", [418, 503])
async def test_undocumented_status(client: Client, fault: str, acts: bool, status: int) -> None:
    set_fault(client, fault, status=status)
    reply = await post_order(client)
    assert (reply.status, "errors" in reply.json) == (status, False)
    assert await orders_in_the_books(client) == acts


@pytest.mark.parametrize("fault", ["lost_reply", "lost_request", "status", "status_after"])
async def test_answer_to_a_grant_that_fails_tells_nothing_of_the_books(
    client: Client, fault: str
) -> None:
    await client.credit()
    set_fault(client, fault, "reward.grant")
    with pytest.raises(LOST) if _loses(fault) else nullcontext():
        assert (await client.grant()).status == 503
    acted = fault in ("lost_reply", "status_after")
    assert await client.usable() == 177 - 10 * acted
    # A repeat under the same key makes the grant, or finds it made.
    again = await client.grant()
    assert (again.status, len(again.json)) == (200, 0 if acted else 1)
    assert await client.usable() == 167


@pytest.mark.parametrize("fault", ["lost_reply", "lost_request"])
async def test_lost_burn_is_told_by_its_repeat(client: Client, fault: str) -> None:
    await client.credit()
    [code] = (await client.grant()).json[0]["external_ids"]
    set_fault(client, fault, "reward.burn")
    with pytest.raises(LOST):
        await client.burn(code)
    again = await client.burn(code)
    if fault == "lost_reply":
        assert again.json["error"] == "external_id_already_burned"
    else:
        assert again.json["status"] == "burned"


async def test_rate_limit_on_demand(client: Client) -> None:
    set_fault(client, "429", retry_after=7)
    reply = await post_order(client)
    assert (reply.status, reply.json) == (429, {"message": "API rate limit exceeded"})
    assert (reply.headers["rateLimit-remaining"], reply.headers["rateLimit-reset"]) == ("0", "7")
    assert await orders_in_the_books(client) == 0
    assert (await client.sandbox.statement())["rate_limited"] == 0


async def test_unauthorized_on_demand(client: Client) -> None:
    set_fault(client, "unauthorized")
    reply = await post_order(client)
    assert (reply.status, reply.text) == (401, "Authentication failed.")
    assert await orders_in_the_books(client) == 0


async def test_garbage_hides_that_it_acted(client: Client) -> None:
    set_fault(client, "garbage")
    reply = await post_order(client)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert await orders_in_the_books(client) == 1


@pytest.mark.parametrize("fault", ["delay", "delay_before"])
async def test_client_that_gives_up_waiting_does_not_stop_the_effect(
    client: Client, fault: str
) -> None:
    set_fault(client, fault, seconds=0.3)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(post_order(client), 0.1)
    assert await orders_in_the_books(client) == (1 if fault == "delay" else 0)

    async def booked() -> bool:
        return await orders_in_the_books(client) == 1

    await wait_until(booked)


@pytest.mark.parametrize("path", ["order", "credit"])
async def test_slow_drip_arrives_whole(client: Client, path: str) -> None:
    set_fault(client, "slow_drip", "*", seconds=0.2)
    reply = await (post_order(client) if path == "order" else client.credit())
    assert reply.status == (201 if path == "order" else 202)
    assert (reply.text == "") == (path == "credit")


async def test_outage_resets_everything_until_it_ends(client: Client) -> None:
    set_fault(client, "outage", seconds=3600)
    for _ in range(3):
        with pytest.raises(LOST):
            await post_order(client)
    with pytest.raises(LOST):
        await client.call("GET", "/ping")
    client.sandbox.clear_faults()
    assert (await post_order(client)).status == 201
    faults = (await client.sandbox.statement())["faults"]
    assert faults == {"order.create": {"outage": 3}, "ping": {"outage": 1}}


async def test_outage_can_refuse_connections(client: Client) -> None:
    set_fault(client, "outage", seconds=0.3, refuse=True)
    with pytest.raises(LOST):
        await post_order(client)
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.call("GET", "/ping")
    await wait_until(partial(_is_up, client))
    assert (await post_order(client)).status == 201


async def _is_up(client: Client) -> bool:
    try:
        await client.call("GET", "/ping")
    except aiohttp.ClientError:
        return False
    return True


async def test_rule_skips_counts_and_is_taken_out(client: Client) -> None:
    rule = {"operation": "ping", "fault": "status", "status": 500, "skip": 1, "count": 2}
    made = await client.call("POST", "/_sandbox/faults", rule, token="")
    assert made.status == 201
    statuses = [(await client.call("GET", "/ping")).status for _ in range(4)]
    assert statuses == [200, 500, 500, 200]
    listed = (await client.call("GET", "/_sandbox/faults", token="")).json
    assert [(each["id"], each["injected"]) for each in listed["rules"]] == [(1, 2)]
    assert set(listed["kinds"]) == set(KINDS)
    assert (await client.call("DELETE", "/_sandbox/faults/1", token="")).status == 204
    assert (await client.call("DELETE", "/_sandbox/faults/1", token="")).status == 404
    assert (await client.call("GET", "/_sandbox/faults", token="")).json["rules"] == []


async def test_probability_is_drawn_from_the_seed(client: Client) -> None:
    async def draw(seed: int) -> list[int]:
        rule = FaultRule("ping", "status", probability=0.5, seed=seed)
        client.sandbox.add_fault(rule)
        statuses = [(await client.call("GET", "/ping")).status for _ in range(30)]
        client.sandbox.clear_faults()
        return statuses

    first = await draw(1)
    assert first == await draw(1)
    assert set(first) == {200, 503}
    assert first != await draw(2)


SAMPLES = {
    "authenticate": {"api_key": "sandbox-api-key"},
    "order.create": order("9"),
    "credit": credit(),
    "contact.create": {"email": "new@example.com"},
    "reward.create": {
        "external_id": "R",
        "name": "R",
        "nqp_value": 0,
        "holding_days": 0,
        "auto_generated": True,
    },
    "reward.grant": grant(),
    "reward.burn": {"card_code": CARD},
}
# What stands for the variable part of a path; a card among members, else nothing known.
NAMES = {"reward.grant": "PT1", "reward.read": "PT1"}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_every_operation_can_fail_in_every_way(client: Client, operation: str) -> None:
    route = next(route for route in ROUTES if route.operation == operation)
    name = CARD if "members" in route.path else NAMES.get(operation, "x")
    path = "/" + route.path.replace("{}", name)
    document = SAMPLES.get(operation, {}) if route.method in ("POST", "PATCH") else None
    for fault in KINDS:
        set_fault(client, fault, operation, seconds=0.01)
        with pytest.raises(LOST) if _loses(fault) else nullcontext():
            await client.call(route.method, path, document)
        client.sandbox.clear_faults()
    met = (await client.sandbox.statement())["faults"][operation]
    assert met == dict.fromkeys(sorted(KINDS), 1)


def _loses(fault: str) -> bool:
    return fault in ("lost_reply", "lost_request", "reset", "outage")
