"""The sandbox's SCAYLE Checkout asks, captures and refunds until each call is settled."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from service.sandbox.baskets import Basket, generate_baskets
from service.sandbox.checkout import CheckoutDoors, play_checkouts
from service.sandbox.checkout_plan import CheckoutPlan
from service.sandbox.checkout_report import CheckoutProgress, CheckoutReport
from service.sandbox.scayle import Shares
from service.sandbox.scayle_money import earnable_points

PLAIN = Shares(without_card=0)
BASKETS = list(generate_baskets(5, 12, customers=12, shares=PLAIN))
NO_REFUNDS = CheckoutPlan(refunds=0, longest_wait_s=0.01)
REFUNDS = CheckoutPlan(refunds=1.0, refund_within_s=0, longest_wait_s=0.01)

Answer = Callable[[dict[str, Any]], web.StreamResponse | None]


@dataclass
class Call:
    """A request of the checkout, with the fields of its query or body."""

    operation: str
    method: str
    fields: dict[str, Any]


def answered(document: Any, status: int = 200) -> Answer:
    return lambda fields: web.json_response(document, status=status)


@dataclass
class Adapter:
    """A loyalty adapter that answers what it is told to; None closes the connection."""

    calls: list[Call] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    answers: dict[str, Answer] = field(
        default_factory=lambda: {
            "points-rate": answered({"conversionFactor": 0.01}),
            "validate": answered({"valid": True}),
            "balance": answered({"balance": 500}),
            "register": answered({"cardKey": "2171700000011"}, 201),
            "capture": answered({}),
            "refund": answered({}),
        }
    )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        operation = request.path.rpartition("/")[2]
        body = await request.read()
        fields = json.loads(body) if body else dict(request.query)
        self.calls.append(Call(operation, request.method, fields))
        if operation == "scayle":
            return web.Response()
        self.tokens.add(request.headers["Authorization"])
        answer = self.answers[operation](fields)
        if answer is None and request.transport is not None:
            request.transport.close()
        return answer or web.Response()

    def of(self, operation: str) -> list[dict[str, Any]]:
        return [call.fields for call in self.calls if call.operation == operation]

    def order(self) -> dict[str, Any]:
        """The payload of the only order."""
        (envelope,) = self.of("scayle")
        payload: dict[str, Any] = envelope["payload"]
        return payload


@asynccontextmanager
async def open_adapter() -> AsyncIterator[tuple[Adapter, CheckoutDoors]]:
    adapter = Adapter()
    runner = web.ServerRunner(web.Server(adapter.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield adapter, CheckoutDoors(f"{url}/webhooks/scayle", "u", "p", f"{url}/loyalty", "t")
    finally:
        await runner.cleanup()


async def test_calls_of_a_checkout_come_in_its_order_and_words() -> None:
    seen: list[CheckoutProgress] = []
    async with open_adapter() as (adapter, doors):
        report = await play_checkouts(doors, BASKETS[:1], plan=NO_REFUNDS, on_progress=seen.append)
    assert [(call.operation, call.method) for call in adapter.calls] == [
        ("points-rate", "GET"),
        ("validate", "POST"),
        ("balance", "GET"),
        ("scayle", "POST"),
        ("capture", "PUT"),
    ]
    card = BASKETS[0].customer.card
    assert adapter.of("points-rate") == [{"currency": "EUR", "type": "splio_club"}]
    assert adapter.of("balance") == [{"cardKey": card, "type": "splio_club"}]
    (capture,) = adapter.of("capture")
    discount = adapter.order()["membershipDiscount"]
    assert re.fullmatch(r"[0-9a-f]{28}", capture.pop("transactionKey"))
    assert capture == {
        "amount": discount["pointsUsed"],
        "cardKey": card,
        "type": "splio_club",
        "currencyCode": "EUR",
        "orderId": BASKETS[0].order_id,
    }
    assert adapter.tokens == {"Bearer t"}
    assert seen == [CheckoutProgress(settled=1, paid_with_points=1)]
    assert (report.captured, report.balances) == (capture["amount"], 1)
    assert report.calls["capture"] == {"200": 1}


async def test_no_more_is_spent_than_the_balance_shows_or_the_goods_cost() -> None:
    for balance in (7, 10**9):
        async with open_adapter() as (adapter, doors):
            adapter.answers["balance"] = answered({"balance": balance})
            await play_checkouts(doors, BASKETS, plan=NO_REFUNDS)
        goods = {basket.order_id: basket.goods_total for basket in BASKETS}
        captures = adapter.of("capture")
        assert len(captures) == len(BASKETS)
        assert all(0 < each["amount"] <= min(balance, goods[each["orderId"]]) for each in captures)


async def test_points_are_earned_by_what_is_left_after_the_reduction() -> None:
    async with open_adapter() as (adapter, doors):
        report = await play_checkouts(doors, BASKETS[:1], plan=NO_REFUNDS)
    payload = adapter.order()
    reduction = payload["membershipDiscount"]["reductionValue"]
    assert reduction == payload["membershipDiscount"]["pointsUsed"] > 0
    points = earnable_points(BASKETS[0].goods_total - reduction, "EUR", Decimal(3))
    assert payload["loyaltyCard"]["points"] == points == report.orders[0].points


@pytest.mark.parametrize(
    ("failure", "repeats"),
    [
        (lambda: web.Response(status=503, headers={"Retry-After": "60"}), {"503": 3}),
        (lambda: web.Response(status=429), {"429": 3}),
        # Of a lost PUT the HTTP client has a second try of its own.
        (lambda: None, {"lost": 1}),
    ],
    ids=["503", "429", "lost"],
)
async def test_capture_is_repeated_until_it_is_settled(
    failure: Callable[[], web.StreamResponse | None], repeats: dict[str, int]
) -> None:
    async with open_adapter() as (adapter, doors):
        adapter.answers["capture"] = lambda fields: (
            failure() if len(adapter.of("capture")) < 4 else web.Response()
        )
        report = await play_checkouts(doors, BASKETS[:1], plan=NO_REFUNDS)
    captures = adapter.of("capture")
    assert len(captures) == 4
    assert all(each == captures[0] for each in captures)
    assert report.calls["capture"] == {"200": 1, **repeats}
    assert (report.captured, report.given_up) == (captures[0]["amount"], ())


async def test_refused_capture_is_final_and_nothing_of_it_is_given_back() -> None:
    async with open_adapter() as (adapter, doors):
        adapter.answers["capture"] = answered({}, 409)
        report = await play_checkouts(doors, BASKETS[:1], plan=REFUNDS)
    (capture,) = adapter.of("capture")
    assert adapter.of("refund") == []
    assert (report.captured, report.refused) == (0, capture["amount"])


async def test_capture_that_is_never_settled_is_given_up() -> None:
    async with open_adapter() as (adapter, doors):
        adapter.answers["capture"] = answered({}, 500)
        plan = CheckoutPlan(refunds=0, attempts=3, longest_wait_s=0.01)
        report = await play_checkouts(doors, BASKETS[:1], plan=plan)
    assert report.calls["capture"] == {"500": 3}
    assert report.given_up == (f"capture of {BASKETS[0].order_id}",)
    assert (report.captured, report.refused) == (0, 0)


async def test_refunds_come_by_parts_and_never_beyond_the_capture() -> None:
    async with open_adapter() as (adapter, doors):
        report = await play_checkouts(doors, BASKETS, plan=REFUNDS)
    by_order: Counter[int] = Counter()
    for refund in adapter.of("refund"):
        assert set(refund) == set(adapter.of("capture")[0])
        by_order[refund["orderId"]] += refund["amount"]
    assert len(adapter.of("refund")) > len(by_order) > 0
    captured = {each["orderId"]: each["amount"] for each in adapter.of("capture")}
    assert all(points <= captured[order_id] for order_id, points in by_order.items())
    assert {int(each.order_id): each.given_back for each in report.spent} == {
        order_id: by_order[order_id] for order_id in captured
    }


async def test_second_calls_repeat_the_first_and_count_once() -> None:
    async with open_adapter() as (adapter, doors):
        plan = CheckoutPlan(refunds=1.0, refund_within_s=0, duplicates=1.0)
        report = await play_checkouts(doors, BASKETS, plan=plan)
    for operation, points in (("capture", report.captured), ("refund", report.given_back)):
        times = Counter(json.dumps(fields, sort_keys=True) for fields in adapter.of(operation))
        assert set(times.values()) == {2}
        assert sum(json.loads(fields)["amount"] for fields in times) == points
    assert set(report.deliveries.values()) == {2}


async def test_refund_may_overtake_its_capture() -> None:
    async with open_adapter() as (adapter, doors):
        plan = CheckoutPlan(refunds=1.0, refund_within_s=0, early_refunds=1.0)
        report = await play_checkouts(doors, BASKETS[:1], plan=plan)
    operations = [call.operation for call in adapter.calls]
    assert operations.index("refund") < operations.index("capture")
    assert 0 < report.given_back <= report.captured


async def test_who_has_no_card_registers_and_uses_the_new_one() -> None:
    (basket,) = generate_baskets(5, 1, customers=1, shares=Shares(without_card=1))
    async with open_adapter() as (adapter, doors):
        report = await play_checkouts(doors, [basket], plan=NO_REFUNDS)
    (registration,) = adapter.of("register")
    assert registration == {"type": "splio_club", "customer": basket.customer_document()}
    assert adapter.order()["loyaltyCard"]["cardNumber"] == "2171700000011"
    assert report.registered == ("2171700000011",)


@pytest.mark.parametrize("answer", [answered({"valid": False}), answered({}, 404)])
async def test_card_that_is_not_good_is_not_used(answer: Answer) -> None:
    async with open_adapter() as (adapter, doors):
        adapter.answers["validate"] = answer
        report = await play_checkouts(doors, BASKETS[:1], plan=NO_REFUNDS)
    assert "loyaltyCard" not in adapter.order()
    assert (adapter.of("balance"), report.spent) == ([], ())


async def test_who_earned_points_waits_until_the_balance_shows_them() -> None:
    baskets = list(generate_baskets(5, 2, customers=1, shares=PLAIN))
    async with open_adapter() as (adapter, doors):
        adapter.answers["balance"] = lambda fields: web.json_response(
            {"balance": 0 if len(adapter.of("balance")) < 5 else 80}
        )
        plan = CheckoutPlan(refunds=0, balance_every_s=0.01)
        report = await play_checkouts(doors, baskets, plan=plan)
    assert report.balances == 5
    # The first order earns, as nobody waits for points that were never earned.
    assert [int(each.order_id) for each in report.spent] == [baskets[1].order_id]


async def test_nothing_is_spent_while_the_rate_is_not_known() -> None:
    async with open_adapter() as (adapter, doors):
        adapter.answers["points-rate"] = answered({}, 404)
        report = await play_checkouts(doors, BASKETS[:1], plan=NO_REFUNDS)
    assert "membershipDiscount" not in adapter.order()
    assert report.spent == ()


async def test_the_rate_is_asked_again_every_while() -> None:
    async with open_adapter() as (adapter, doors):
        adapter.answers["balance"] = lambda fields: web.json_response(
            {"balance": 80 if len(adapter.of("points-rate")) > 2 else 0}
        )
        plan = CheckoutPlan(refunds=0, rate_every_s=0.01, balance_every_s=0.01)
        earned = {BASKETS[0].customer.card}
        report = await play_checkouts(doors, BASKETS[:1], plan=plan, earned_before=earned)
    assert report.captured > 0


async def test_checkouts_begin_no_faster_than_the_rate() -> None:
    async with open_adapter() as (_, doors):
        report = await play_checkouts(doors, BASKETS, plan=CheckoutPlan(refunds=0, rate=50.0))
    assert report.duration_s >= 11 / 50


async def test_same_seed_and_answers_give_the_same_calls() -> None:
    async def calls(seed: int, baskets: list[Basket]) -> tuple[Counter[str], CheckoutReport]:
        async with open_adapter() as (adapter, doors):
            plan = CheckoutPlan(seed=seed, refund_within_s=0, duplicates=0.5, early_refunds=0.5)
            report = await play_checkouts(doors, baskets, plan=plan)
        lines = (f"{call.operation} {json.dumps(call.fields)}" for call in adapter.calls)
        return Counter(lines), report

    (first, report), (second, again) = await calls(3, BASKETS), await calls(3, BASKETS)
    assert first == second
    assert sorted(report.spent, key=str) == sorted(again.spent, key=str)
    assert (await calls(4, BASKETS))[0] != first
