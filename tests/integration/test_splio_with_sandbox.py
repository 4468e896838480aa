"""The Splio client against the sandbox: what it concludes is what stands in the books."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.domain.clock import SteadyClock
from service.domain.effects import Kind, Lane, RenderedRequest, effect_key
from service.domain.errors import InDoubtError, RelayError
from service.domain.events import Customer, LoyaltyCard, OrderConfirmed, OrderItem
from service.domain.planning import ContactKey, Shop
from service.domain.ports import Accepted, AlreadyExists, Answer, Missing, OrderMatch, UnknownCard
from service.sandbox.faults import FaultRule
from service.sandbox.splio import SplioSandbox, SplioSandboxSettings, open_splio_sandbox
from service.splio.client import SplioClient, open_splio_client
from service.splio.config import SplioConfig
from service.splio.requests import SplioRenderer
from service.telemetry.metrics import Metrics
from tests.integration.sandbox_client import FAULTS

CARD = "2171707962088"
SHOP = Shop(store="web-fr", program=None, timezone="Europe/Paris")


def confirmed(order_id: str, *, card: str | None = CARD) -> OrderConfirmed:
    return OrderConfirmed(
        order_id=order_id,
        app_id=None,
        language="fr",
        currency="EUR",
        confirmed_at=datetime(2026, 11, 14, 8, 22, 31, tzinfo=UTC),
        total_minor=6485,
        tax_minor=1081,
        shipping_minor=490,
        discount_minor=0,
        points_base_minor=5995,
        items=(
            OrderItem("1", "JKT-001-M", "Rain jacket", 3995, 666, 0),
            OrderItem("2", "CAP/014 U", "Wool cap", 1000, 166, 0),
            OrderItem("3", "CAP/014 U", "Wool cap", 1000, 167, 0),
        ),
        card=LoyaltyCard(card, 177, None) if card else None,
        customer=Customer(
            "48213", None, "Camille@example.com", None, "Camille", "Roux", False, False
        ),
    )


class Bench:
    """A client and the sandbox that it talks to."""

    def __init__(self, client: SplioClient, sandbox: SplioSandbox) -> None:
        self.client = client
        self.sandbox = sandbox
        self.clock = SteadyClock()
        self.renderer = SplioRenderer(contact_key=ContactKey.EMAIL)

    def order(self, order_id: str, *, card: str | None = CARD) -> RenderedRequest:
        return self.renderer.order(
            confirmed(order_id, card=card),
            contact_id="camille@example.com",
            shop=SHOP,
        )

    def points(self, order_id: str, *, card: str = CARD) -> RenderedRequest:
        return self.renderer.earned_points(
            confirmed(order_id),
            key=effect_key("main", Kind.EARN, order_id),
            card=card,
            points=177,
            shop=SHOP,
        )

    async def post(self, request: RenderedRequest, *, time_s: float = 5.0) -> Answer:
        permit = await self.client.permit(Lane.SALES)
        return await self.client.post_order(
            request, permit=permit, deadline_s=self.clock.monotonic_s() + time_s, traceparent=""
        )

    async def book(self, request: RenderedRequest, *, time_s: float = 5.0) -> Answer:
        permit = await self.client.permit(Lane.OTHER)
        return await self.client.credit(
            request, permit=permit, deadline_s=self.clock.monotonic_s() + time_s, traceparent=""
        )

    async def post_creating(self, request: RenderedRequest) -> Answer:
        """Post an order, creating what Splio says is missing."""
        for _ in range(2 + len(request.prerequisites)):
            answer = await self.post(request)
            if not isinstance(answer, Missing):
                return answer
            (needed,) = [
                p for p in request.prerequisites if p.kind is answer.kind and p.name == answer.name
            ]
            await self.client.create(needed, traceparent="")
        raise AssertionError("it never ends")


@asynccontextmanager
async def open_bench(path: Path, **settings: Any) -> AsyncIterator[Bench]:
    sandbox_settings = {"limits": None, "points_visible_after_s": 0.0} | settings
    limits = sandbox_settings["limits"] or {}
    async with open_splio_sandbox(
        SplioSandboxSettings(path=str(path / "splio.db"), **sandbox_settings)
    ) as sandbox:
        config = SplioConfig(
            url=sandbox.url,
            api_key="sandbox-api-key",
            limits={Lane(lane): limit for lane, limit in limits.items()},
            breaker_failures=1000,
        )
        async with open_splio_client(
            config, clock=SteadyClock(), metrics=Metrics(CollectorRegistry())
        ) as client:
            yield Bench(client, sandbox)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(tmp_path) as bench:
        yield bench


async def test_first_order_creates_what_it_needs(bench: Bench) -> None:
    request = bench.order("7")

    assert await bench.post_creating(request) == Accepted(201)

    (stored,) = await bench.sandbox.orders()
    assert stored["external_id"] == "7"
    statement = await bench.sandbox.statement()
    assert (statement["contacts"], statement["products"], statement["stores"]) == (1, 2, 1)
    assert await bench.post(bench.order("8")) == Accepted(201)


async def test_order_posted_again_exists_and_is_ours(bench: Bench) -> None:
    request = bench.order("7")
    await bench.post_creating(request)

    assert await bench.post(request) == AlreadyExists(400)
    assert (await bench.client.compare_order(request, traceparent="")).match is OrderMatch.EQUAL
    absent = await bench.client.compare_order(bench.order("8"), traceparent="")
    assert absent.match is OrderMatch.ABSENT


async def test_other_order_under_the_same_id_is_told_apart(bench: Bench) -> None:
    await bench.post_creating(bench.order("7"))
    other = bench.order("7")
    other = replace(other, body=other.body.replace(b'"total_price":64.85', b'"total_price":64.84'))

    compared = await bench.client.compare_order(other, traceparent="")

    assert (compared.match, compared.detail) == (OrderMatch.DIFFERENT, "total_price")


async def test_cart_becomes_the_order(bench: Bench) -> None:
    request = bench.order("7")
    await bench.post_creating(bench.order("6"))
    cart = request.body.replace(b'"completed":true', b'"completed":false')
    cart = cart.replace(b"64.85", b"1.00")
    assert await bench.post(replace(request, body=cart)) == Accepted(201)
    assert (await bench.client.compare_order(request, traceparent="")).match is OrderMatch.CART

    await bench.client.complete_cart(request, traceparent="")

    assert (await bench.client.compare_order(request, traceparent="")).match is OrderMatch.EQUAL


async def test_cart_without_the_card_cannot_get_it(bench: Bench) -> None:
    await bench.post_creating(bench.order("6"))
    cart = bench.order("7", card=None)
    await bench.post(
        replace(cart, body=cart.body.replace(b'"completed":true', b'"completed":false'))
    )

    compared = await bench.client.compare_order(bench.order("7"), traceparent="")

    assert compared.match is OrderMatch.CART_WITHOUT_CARD


async def test_booked_points_are_found_by_their_key(bench: Bench) -> None:
    for order_id in ("7", "70", "8"):
        assert await bench.book(bench.points(order_id)) == Accepted(202)

    async def count(order_id: str) -> int:
        key = effect_key("main", Kind.EARN, order_id)
        return await bench.client.count_credits(bench.points(order_id), key=key, traceparent="")

    assert [await count(order_id) for order_id in ("7", "8", "9")] == [1, 1, 0]
    bench.sandbox.change_settings(repeated_key="book")
    await bench.book(bench.points("7"))
    assert await count("7") == 2


async def test_unknown_card_is_told(bench: Bench) -> None:
    assert await bench.book(bench.points("7", card="0000000000001")) == UnknownCard(404)


async def test_credits_are_read_on_from_where_the_last_page_ended(bench: Bench) -> None:
    first = await bench.client.list_credits(after=None)
    assert (first.contexts, first.is_last) == ((), True)
    await bench.book(bench.points("1"))
    await bench.book(bench.points("2"))

    second = await bench.client.list_credits(after=first.cursor)
    await bench.book(bench.points("3"))
    third = await bench.client.list_credits(after=second.cursor)

    assert second.contexts == ("main:earn:1", "main:earn:2")
    assert third.contexts == ("main:earn:3",)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", [Kind.ORDER, Kind.EARN])
async def test_conclusion_agrees_with_the_books(bench: Bench, kind: Kind, fault: str) -> None:
    """P2, P4: "applied" is in the books, "nothing took effect" is not, doubt may be either."""
    await bench.post_creating(bench.order("1"))
    operation = "order.create" if kind is Kind.ORDER else "credit"
    bench.sandbox.add_fault(FaultRule(operation, fault, count=1, **FAULTS[fault]))
    applied: bool | None
    try:
        if kind is Kind.ORDER:
            answer = await bench.post(bench.order("7"), time_s=1.0)
        else:
            answer = await bench.book(bench.points("7"), time_s=1.0)
        assert isinstance(answer, Accepted)
        applied = True
    except InDoubtError:
        applied = None
    except RelayError:
        applied = False
    bench.sandbox.clear_faults()

    if kind is Kind.ORDER:
        held = sum(order["external_id"] == "7" for order in await bench.sandbox.orders())
        compared = await bench.client.compare_order(bench.order("7"), traceparent="")
        seen = int(compared.match is OrderMatch.EQUAL)
    else:
        held = len(await bench.sandbox.credits())
        key = effect_key("main", Kind.EARN, "7")
        seen = await bench.client.count_credits(bench.points("7"), key=key, traceparent="")

    assert held <= 1
    assert applied in (None, bool(held))
    assert seen == held


async def test_busy_lanes_stay_within_the_limits(tmp_path: Path) -> None:
    """
    P6: against a window as strict as can be.

    A stalled event loop can push two requests closer together than they were written: hence
    the one that is allowed.
    """
    limits = {"contacts": 20.0, "sales": 20.0, "other": 10.0}
    async with open_bench(tmp_path, limits=limits) as bench:
        await bench.post_creating(bench.order("0"))
        answers = await asyncio.gather(
            *(bench.post(bench.order(f"{n}"), time_s=20) for n in range(1, 50)),
            *(bench.book(bench.points(f"{n}"), time_s=20) for n in range(1, 25)),
            return_exceptions=True,
        )
        statement = await bench.sandbox.statement()
        assert statement["rate_limited"] <= 1
        assert sum(isinstance(answer, Accepted) for answer in answers) >= len(answers) - 1
