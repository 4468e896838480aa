"""
A SCAYLE Checkout whose shoppers pay with points: what it asks of a loyalty adapter, and when.

For each order, in the words of SCAYLE's pages:

    [register] ─▶ validate ─▶ balance … ─▶ webhook order-confirmed ─▶ capture ─▶ [refund …]

A shopper without a card registers first. Balances are asked again and again while a shopper is
in the checkout. Captures are queued after the confirmation, so a refusal stops no order. Refunds
come by parts, and one may overtake its capture. The points-rate is asked every while.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import aiohttp

from service.sandbox.baskets import Basket
from service.sandbox.checkout_calls import CallAnswer, CheckoutCalls
from service.sandbox.checkout_plan import CheckoutPlan, Intent, draw_intent
from service.sandbox.checkout_report import CheckoutProgress, CheckoutReport, Spent
from service.sandbox.deliveries import AcceptedOrder, DeliveryPlan, DeliveryReport, deliver
from service.sandbox.scayle_money import CURRENCIES, PaidByPoints

_ROUND = 100  # points
_LEAST_SHARE = Decimal("0.2")  # of what can be spent: so little the most careful shopper spends


@dataclass(frozen=True, slots=True)
class CheckoutDoors:
    """Where a loyalty adapter takes webhooks, with HTTP Basic, and calls, with a token."""

    webhook_url: str
    user: str
    password: str
    loyalty_url: str
    token: str


@dataclass(slots=True)
class _Run:
    doors: CheckoutDoors
    plan: CheckoutPlan
    calls: CheckoutCalls
    earners: set[str]
    on_progress: Callable[[CheckoutProgress], None] | None
    factor: Decimal | None = None
    shoppers: dict[int, asyncio.Lock] = field(default_factory=dict)
    webhooks: Counter[str] = field(default_factory=Counter)
    deliveries: Counter[str] = field(default_factory=Counter)
    orders: list[AcceptedOrder] = field(default_factory=list)
    spent: list[Spent] = field(default_factory=list)
    balances: int = 0
    registered: dict[str, None] = field(default_factory=dict)
    given_up: list[str] = field(default_factory=list)
    settled: int = 0

    async def call(self, operation: str, order_id: int, **fields: Any) -> CallAnswer:
        """A call, noted when it is given up."""
        answer = await self.calls.call(operation, **fields)
        if answer.status is None:
            self.given_up.append(f"{operation} of {order_id}")
        return answer

    def take(self, report: DeliveryReport) -> None:
        """Note how an order's webhook was answered."""
        self.webhooks.update(report.by_status)
        self.deliveries.update(report.deliveries)
        self.orders += report.accepted
        self.given_up += (f"order {name}" for name in report.given_up)


async def play_checkouts(
    doors: CheckoutDoors,
    baskets: Iterable[Basket],
    *,
    plan: CheckoutPlan | None = None,
    earned_before: Collection[str] = (),
    on_progress: Callable[[CheckoutProgress], None] | None = None,
) -> CheckoutReport:
    """
    Takes each basket through a checkout; a shopper is in one at a time.

    The same baskets, plan and answers give the same calls; who is served first may differ.

    Args:
        earned_before: cards with points that show soon; of others the first balance is believed,
            until they earn some.
        on_progress: called on the event loop after each checkout that is settled.
    """
    plan = CheckoutPlan() if plan is None else plan
    loop = asyncio.get_running_loop()
    began = loop.time()
    queue: asyncio.Queue[tuple[int, Basket] | None] = asyncio.Queue(maxsize=plan.concurrency)
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=plan.timeout_s),
    ) as session:
        calls = CheckoutCalls(
            session,
            doors.loyalty_url,
            token=doors.token,
            program=plan.program,
            attempts=plan.attempts,
            longest_wait_s=plan.longest_wait_s,
            draw=random.Random(plan.seed),
        )
        run = _Run(doors, plan, calls, set(earned_before), on_progress)
        await _ask_rate(run)
        async with asyncio.TaskGroup() as beside:
            asking = beside.create_task(_ask_rates(run), name="points-rate")
            async with asyncio.TaskGroup() as group:
                for worker in range(plan.concurrency):
                    group.create_task(_work(run, queue), name=f"checkout-{worker}")
                for place, basket in enumerate(baskets):
                    if plan.rate is not None:
                        await asyncio.sleep(began + place / plan.rate - loop.time())
                    await queue.put((place, basket))
                for _ in range(plan.concurrency):
                    await queue.put(None)
            asking.cancel()
    return _report(run, loop.time() - began)


def _report(run: _Run, duration_s: float) -> CheckoutReport:
    return CheckoutReport(
        calls=run.calls.by_status(),
        webhooks=dict(sorted(run.webhooks.items())),
        orders=tuple(run.orders),
        deliveries=dict(run.deliveries),
        spent=tuple(run.spent),
        balances=run.balances,
        registered=tuple(run.registered),
        given_up=tuple(run.given_up),
        duration_s=duration_s,
    )


async def _ask_rates(run: _Run) -> None:
    while True:
        await asyncio.sleep(run.plan.rate_every_s)
        await _ask_rate(run)


async def _ask_rate(run: _Run) -> None:
    """The answer holds the factor, under a name that is not documented."""
    answer = await run.calls.call("points-rate", currency=run.plan.currency)
    numbers = [value for value in answer.document.values() if type(value) in (int, float)]
    if answer.is_done and numbers and numbers[0] > 0:
        run.factor = Decimal(str(numbers[0]))


async def _work(run: _Run, queue: asyncio.Queue[tuple[int, Basket] | None]) -> None:
    while (item := await queue.get()) is not None:
        place, basket = item
        async with run.shoppers.setdefault(basket.customer.number, asyncio.Lock()):
            intent = draw_intent(run.plan, place=place, order_id=basket.order_id)
            await _check_out(run, basket, intent)
        run.settled += 1
        if run.on_progress is not None:
            run.on_progress(CheckoutProgress(run.settled, len(run.spent)))


async def _check_out(run: _Run, basket: Basket, intent: Intent) -> None:
    card = await _card(run, basket)
    paid = await _points(run, basket, card, intent) if card is not None else None
    report = await deliver(
        run.doors.webhook_url,
        [basket.confirmed(card, paid)],
        user=run.doors.user,
        password=run.doors.password,
        plan=DeliveryPlan(
            concurrency=1,
            duplicates=run.plan.duplicates,
            seed=intent.delivery_seed,
            attempts=run.plan.attempts,
            longest_wait_s=run.plan.longest_wait_s,
            timeout_s=run.plan.timeout_s,
        ),
    )
    run.take(report)
    if card is not None and any(order.points for order in report.accepted):
        run.earners.add(card)
    if card is not None and paid is not None:
        run.spent.append(await _spend(run, basket, card, paid.points, intent))


async def _card(run: _Run, basket: Basket) -> str | None:
    """The shopper's card, once it was found good; without one the order is confirmed as well."""
    card = basket.customer.card
    if not basket.customer.has_card:
        answer = await run.call("register", basket.order_id, customer=basket.customer_document())
        if not answer.is_done:
            return None
        card = str(answer.document.get("cardKey"))
        run.registered[card] = None
    answer = await run.call("validate", basket.order_id, cardKey=card)
    return card if answer.is_done and answer.document.get("valid") is True else None


async def _points(run: _Run, basket: Basket, card: str, intent: Intent) -> PaidByPoints | None:
    """What is paid with points: of the balance, a part that this shopper likes, up to the goods."""
    balance = await _balance(run, basket, card)
    if run.factor is None:
        return None
    worth = run.factor * 10 ** CURRENCIES[basket.currency][0]
    share = _LEAST_SHARE + (1 - _LEAST_SHARE) * Decimal(basket.share)
    points = int(min(Decimal(balance), basket.goods_total // worth) * share)
    if intent.rounds and points > _ROUND:
        points -= points % _ROUND
    reduction = int((points * worth).to_integral_value(ROUND_HALF_UP))
    return PaidByPoints(points, reduction) if reduction else None


async def _balance(run: _Run, basket: Basket, card: str) -> int:
    """As SCAYLE shows it to a shopper; 0 when there is no answer."""
    loop = asyncio.get_running_loop()
    until = loop.time() + run.plan.points_within_s
    while True:
        answer = await run.call("balance", basket.order_id, cardKey=card)
        shown = answer.document.get("balance") if answer.is_done else None
        balance = shown if isinstance(shown, int) else 0
        run.balances += shown is not None
        if balance > 0 or card not in run.earners or loop.time() >= until:
            return balance
        await asyncio.sleep(run.plan.balance_every_s)


async def _spend(run: _Run, basket: Basket, card: str, points: int, intent: Intent) -> Spent:
    """The capture and the refunds of one order, in the order that the shopper's luck wants."""
    sums: Counter[str] = Counter()
    fields = {
        "cardKey": card,
        "currencyCode": basket.currency,
        "orderId": basket.order_id,
    }

    async def send(operation: str, amount: int, key: str, *, twice: bool) -> bool:
        """Whether it was taken, by one of two calls where there are two."""
        call = {**fields, "amount": amount, "transactionKey": key}
        times = 1 + twice
        if intent.at_once:
            answers = await asyncio.gather(
                *(run.call(operation, basket.order_id, **call) for _ in range(times))
            )
        else:
            answers = [await run.call(operation, basket.order_id, **call) for _ in range(times)]
        is_done = any(answer.is_done for answer in answers)
        if not is_done and all(answer.status is not None for answer in answers):
            sums["refused"] += amount
        sums[operation] += amount * is_done
        return is_done

    refunds = [(int(points * part.share), part) for part in intent.refunds]
    refunds = [(amount, part) for amount, part in refunds if amount]
    if intent.is_early and refunds:
        amount, part = refunds.pop(0)
        await send("refund", amount, part.key, twice=part.twice)
    is_captured = await send("capture", points, intent.capture_key, twice=intent.twice)
    for amount, part in refunds if is_captured else ():
        await asyncio.sleep(part.after_s)
        await send("refund", amount, part.key, twice=part.twice)
    return Spent(str(basket.order_id), card, sums["capture"], sums["refund"], sums["refused"])
