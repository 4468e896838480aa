"""The probe over real sockets: what it reads, and how it tells that something is wrong."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from email.utils import formatdate

import pytest

from service.domain.effects import Lane
from service.splio.config import SplioConfig
from service.splio.probe import ProbeError, Program, Reward, SplioProbe, open_probe
from tests.fakes.splio_server import (
    Action,
    SplioServer,
    closed_port,
    cut_short,
    disconnect,
    hang,
    open_splio_server,
    problem,
    reply,
)

Ask = Callable[[SplioProbe], Awaitable[object]]

ASKS: dict[str, Ask] = {
    "ping": SplioProbe.ping,
    "unique_key": SplioProbe.unique_key,
    "programs": SplioProbe.programs,
    "has_store": lambda probe: probe.has_store("online"),
    "reward": lambda probe: probe.reward("PT100"),
}


def config(url: str, *, timeout_s: float = 10.0) -> SplioConfig:
    return SplioConfig(url=url, api_key="key", request_timeout_s=timeout_s, reply_limit_bytes=1000)


async def outcome(server: SplioServer, ask: Ask, *actions: Action) -> object:
    server.then(*actions)
    async with open_probe(config(server.url)) as probe:
        await probe.authenticate()
        return await ask(probe)


async def test_the_probe_only_reads() -> None:
    async with open_splio_server() as server:
        server.then(
            reply(200, {"user_id": 1}),
            reply(200, {"unique_key": "c0"}),
            reply(200, {"elements": []}),
            reply(200, {"external_id": "online"}),
            reply(200, {"external_id": "PT100"}),
        )
        async with open_probe(config(server.url)) as probe:
            await probe.authenticate()
            for ask in ASKS.values():
                await ask(probe)
        assert server.paths() == [
            "GET /ping",
            "GET /universes/unique-key",
            "GET /loyalty/programs?per_page=1000&page_number=1",
            "GET /data/v1/stores/online",
            "GET /loyalty/v1/rewards/PT100",
        ]


async def test_each_request_carries_the_token_and_an_exact_path() -> None:
    async with open_splio_server() as server:
        server.then(reply(200, {"external_id": "a/b é"}))
        async with open_probe(config(server.url)) as probe:
            await probe.authenticate()
            assert await probe.has_store("a/b é")
        asked = server.received[-1]
        assert (asked.method, asked.path) == ("GET", "/data/v1/stores/a%2Fb%20%C3%A9")
        assert asked.headers["Authorization"].startswith("Bearer ")
        assert "Authorization" not in server.received[0].headers


async def test_programmes_are_read_whatever_their_id_is_written_as() -> None:
    elements = [
        {"id": "2", "name": "B", "status": "draft", "auto_generated_card_code": False},
        {"id": 1, "name": "A", "status": "running", "automatic_subscription": True},
    ]
    async with open_splio_server() as server:
        programs = await outcome(server, SplioProbe.programs, reply(200, {"elements": elements}))
    assert programs == (
        Program(1, "A", True, True, makes_card_codes=True),
        Program(2, "B", False, False, makes_card_codes=False),
    )


async def test_an_unknown_store_is_told_from_a_wrong_address() -> None:
    missing = problem(404, "ext_id", "wrong_value", "Store not found for given identifier.")
    async with open_splio_server() as server:
        assert await outcome(server, ASKS["has_store"], missing) is False
        with pytest.raises(ProbeError) as caught:
            await outcome(server, ASKS["has_store"], reply(404, b"<html>no</html>"))
    assert caught.value.reason == "refused"


@pytest.mark.parametrize(
    ("document", "price"),
    [
        ({"nqp_value": 100}, 100),
        ({"nqp_value": "100"}, 100),
        ({"nqp_value": 100.0}, 100),
        ({"nqp_value": None}, None),
        ({}, None),
    ],
)
async def test_price_of_a_reward_is_read_however_it_is_written(
    document: dict[str, object], price: int | None
) -> None:
    async with open_splio_server() as server:
        reward = await outcome(server, ASKS["reward"], reply(200, document))
    assert reward == Reward(None if price is None else Decimal(price), is_limited=False)


async def test_limits_and_clock_are_read_from_the_headers() -> None:
    headers = {"rateLimit-limit": "7", "Date": formatdate(0, usegmt=True)}
    async with open_splio_server() as server, open_probe(config(server.url)) as probe:
        server.authentications.append(reply(200, {"token": "t"}, headers))
        await probe.authenticate()
        assert probe.limits == {Lane.OTHER: 7.0}
        assert probe.clock_offset_s is not None
        assert probe.clock_offset_s > 1_000_000
        server.then(reply(200, {"external_id": "online"}, {"rateLimit-limit": "many"}))
        await probe.has_store("online")
        assert probe.limits == {Lane.OTHER: 7.0}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (disconnect, "no_answer"),
        (cut_short(b"{}"), "no_answer"),
        (reply(200, b"<html>a page</html>"), "unreadable"),
        (reply(200, []), "unreadable"),
        (reply(200, b"x" * 2000), "unreadable"),
        (reply(429, {"message": "API rate limit exceeded"}), "rate_limited"),
        (reply(500, b""), "refused"),
        (reply(302, b"", {"Location": "http://127.0.0.1:9/"}), "refused"),
        (problem(403, "", "", "jane@example.com may not"), "refused"),
    ],
)
async def test_every_question_says_what_went_wrong(ask: Ask, action: Action, reason: str) -> None:
    async with open_splio_server() as server:
        with pytest.raises(ProbeError) as caught:
            await outcome(server, ask, action, action)
    assert caught.value.reason == reason
    assert "jane@example.com" not in str(caught.value)


async def test_a_wrong_key_is_named_as_such() -> None:
    refusal = problem(400, "username", "authentication.failed", "User authentication failed.")
    async with open_splio_server() as server, open_probe(config(server.url)) as probe:
        server.authentications.append(refusal)
        with pytest.raises(ProbeError) as caught:
            await probe.authenticate()
    assert caught.value.reason == "key_refused"


async def test_time_limits_hold() -> None:
    released = asyncio.Event()
    async with (
        open_splio_server() as server,
        open_probe(config(server.url, timeout_s=0.2)) as probe,
    ):
        server.authentications.append(hang(released))
        with pytest.raises(ProbeError) as caught:
            await probe.authenticate()
        released.set()
    assert (caught.value.reason, caught.value.detail) == ("no_answer", "time-out")


async def test_nobody_there_is_not_connected() -> None:
    async with open_probe(config(f"http://127.0.0.1:{closed_port()}")) as probe:
        with pytest.raises(ProbeError) as caught:
            await probe.authenticate()
    assert (caught.value.reason, caught.value.detail) == ("not_connected", "connection refused")
