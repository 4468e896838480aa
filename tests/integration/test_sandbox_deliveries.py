"""The sandbox's SCAYLE delivers until it is answered 200, and reports what it did."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from service.sandbox.deliveries import DeliveryPlan, DeliveryProgress, deliver
from service.sandbox.scayle import generate_orders

ORDERS = list(generate_orders(11, 40))


class Receiver:
    """A webhook that answers what it is told to."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.logins: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.answer: Callable[[int], web.StreamResponse | None] = lambda number: web.Response()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.received.append(json.loads(await request.read()))
        self.logins.add(request.headers["Authorization"])
        self.at_once -= 1
        answer = self.answer(len(self.received))
        if answer is None and request.transport is not None:
            request.transport.close()
        return answer or web.Response()

    def times(self) -> Counter[int]:
        return Counter(int(each["payload"]["id"]) for each in self.received)


@asynccontextmanager
async def open_receiver() -> AsyncIterator[tuple[Receiver, str]]:
    receiver = Receiver()
    runner = web.ServerRunner(web.Server(receiver.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield receiver, f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks/scayle"
    finally:
        await runner.cleanup()


async def test_each_order_is_delivered_and_expected_once() -> None:
    seen: list[DeliveryProgress] = []
    async with open_receiver() as (receiver, url):
        plan = DeliveryPlan(concurrency=4)
        report = await deliver(
            url, ORDERS, user="scayle", password="p:ß", plan=plan, on_progress=seen.append
        )
    assert (report.sent, report.by_status, report.given_up) == (40, {"200": 40}, ())
    expected = {int(each["payload"]["id"]): each["payload"].get("loyaltyCard") for each in ORDERS}
    assert {int(each.order_id): each.points for each in report.accepted} == {
        number: card["points"] if card else 0 for number, card in expected.items()
    }
    assert any(each.card is None for each in report.accepted)
    assert receiver.most_at_once <= 4
    assert receiver.logins == {"Basic " + base64.b64encode("scayle:p:ß".encode()).decode()}
    assert seen[-1] == DeliveryProgress(settled=40, accepted=40, sent=40)
    latency = report.latency
    assert 0 < latency.p50_s <= latency.p95_s <= latency.p99_s <= latency.longest_s


async def test_duplicates_are_counted_per_order() -> None:
    async with open_receiver() as (receiver, url):
        plan = DeliveryPlan(duplicates=1.0, reordering=8, concurrency=2)
        report = await deliver(url, ORDERS, user="u", password="p", plan=plan)
    assert report.sent == 80
    assert set(report.deliveries.values()) == {2}
    assert len(report.accepted) == 40
    assert set(receiver.times().values()) == {2}


@pytest.mark.parametrize(
    ("failure", "status"),
    [(lambda: web.Response(status=503), "503"), (lambda: None, "lost")],
    ids=["503", "lost"],
)
async def test_unanswered_delivery_is_repeated(
    failure: Callable[[], web.StreamResponse | None], status: str
) -> None:
    async with open_receiver() as (receiver, url):
        receiver.answer = lambda number: failure() if number % 3 == 0 else web.Response()
        plan = DeliveryPlan(longest_wait_s=0.01)
        report = await deliver(url, ORDERS, user="u", password="p", plan=plan)
    assert report.by_status["200"] == 40
    assert report.by_status[status] == report.sent - 40 > 0
    assert len(report.accepted) == 40


async def test_delivery_is_given_up_after_its_attempts() -> None:
    async with open_receiver() as (receiver, url):
        receiver.answer = lambda number: web.Response(status=500, headers={"Retry-After": "9"})
        plan = DeliveryPlan(attempts=3, longest_wait_s=0.01)
        report = await deliver(url, ORDERS[:2], user="u", password="p", plan=plan)
    assert (report.sent, report.by_status) == (6, {"500": 6})
    assert (report.accepted, len(report.given_up), report.latency.longest_s) == ((), 2, 0.0)


async def test_nobody_listening_is_a_lost_delivery() -> None:
    async with open_receiver() as (_, url):
        pass
    plan = DeliveryPlan(attempts=2, longest_wait_s=0.01)
    report = await deliver(url, ORDERS[:1], user="u", password="p", plan=plan)
    assert (report.by_status, len(report.given_up)) == ({"lost": 2}, 1)


async def test_rate_is_not_exceeded() -> None:
    async with open_receiver() as (_, url):
        plan = DeliveryPlan(rate=200.0)
        report = await deliver(url, ORDERS, user="u", password="p", plan=plan)
    # The last of 40 begins 39 steps after the first.
    assert report.duration_s >= 39 / 200


async def test_other_events_are_delivered_without_an_expectation() -> None:
    event = {"key": "evt-1", "type": "customer-created", "payload": {"email": "a@example.com"}}
    async with open_receiver() as (_, url):
        report = await deliver(url, [event], user="u", password="p")
    assert (report.accepted, report.deliveries) == ((), {"evt-1": 1})
