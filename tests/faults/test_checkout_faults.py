"""Splio, the ledger or a reply is away while a checkout calls: nothing is lost or taken twice."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from service.domain.effects import State
from service.sandbox.faults import FaultRule
from service.sandbox.scayle import Shares, generate_orders
from service.sandbox.splio import SplioSandbox
from service.stores import Role
from tests.harness.account import earned_by_card
from tests.harness.checkout_account import EARNED, assert_one_card_each, assert_points_add_up
from tests.harness.checkout_calls import ask
from tests.harness.checkout_life import Checkout
from tests.harness.checkout_plan import (
    LOYALTY_SETTINGS,
    PROGRAM,
    START_POINTS,
    own_card,
    plan_checkout,
)
from tests.harness.crash import LOST_REPLIES
from tests.harness.files import LedgerView, SqliteView, count_holds, count_open
from tests.harness.fleet import running_fleet
from tests.harness.kafka_server import KafkaServer
from tests.harness.place import make_place
from tests.harness.postgres_server import PostgresServer
from tests.harness.relay import BRISK, Answer, Relay, running_relay, running_sandbox
from tests.harness.sandbox_account import sandbox_account
from tests.harness.waiting import until

CARD: Final = own_card(1)
OTHER_CARD: Final = own_card(2)
# No answer may be late here, however busy the machine is.
_PATIENT: Final = {**LOYALTY_SETTINGS, "RELAY_LOYALTY_TIMEOUT": "5s"}
_SETTINGS: Final = {
    **{name.removeprefix("RELAY_").lower(): value for name, value in _PATIENT.items()},
    "request_timeout": "500ms",
    "lease_margin": "1s",
    "visible_after": "orders=300ms,credits=500ms,grants=500ms",
    "balance_fresh": "0s",
}
_LOOK_S: Final = 0.2  # between two looks into a ledger that others write
_KNOWN_FOR_MS: Final = 15 * 60_000
_ALL_HAVE_CARDS: Final = Shares(guests=0, without_card=0)
_BRISK: Final = replace(BRISK, holds_every_s=0.01, holds_idle_s=0.1)
_REFUSALS: Final = ("flat", "listed", "stock")  # of too few points, which Splio does not document


def spending(points: int, key: str, card: str = CARD) -> dict[str, Any]:
    return {
        "type": PROGRAM,
        "cardKey": card,
        "amount": points,
        "orderId": f"order-{key}",
        "transactionKey": key,
    }


class Till:
    """A checkout at one service."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def ask(self, operation: str, document: Mapping[str, Any]) -> Answer:
        return await ask(self._session, self._url, operation, document)

    async def capture(self, points: int, key: str, card: str = CARD) -> int:
        """The status of the answer."""
        return (await self.ask("capture", spending(points, key, card))).status

    async def balance(self, card: str = CARD) -> Answer:
        return await self.ask("balance", {"type": PROGRAM, "cardKey": card})

    async def has(self, points: int, card: str = CARD) -> bool:
        """Whether the balance is `points`."""
        answer = await self.balance(card)
        return answer.status == HTTPStatus.OK and answer.json == {"balance": points}


def till_of(relay: Relay, session: aiohttp.ClientSession) -> Till:
    url = relay.runtime.listeners.public_url
    assert url is not None
    return Till(session, url)


async def granted(sandbox: SplioSandbox) -> Counter[str]:
    """Points that grants took, by card."""
    points: Counter[str] = Counter()
    for row in await sandbox.attributions():
        points[row["card_code"]] += row["nq_points"]
    return points


async def test_captures_are_taken_and_kept_while_splio_is_away(tmp_path: Path) -> None:
    """
    P3: the balance is the last that is known, less what was captured since, and after a quarter
    of an hour it is not answered any more. What was captured is taken when Splio is back.
    """
    ledger = SqliteView(tmp_path / "ledger.db")
    async with (
        running_sandbox(tmp_path, repeated_grant_key="book") as sandbox,
        sandbox_account(sandbox.url) as account,
        running_relay(tmp_path, sandbox, _SETTINGS, pace=_BRISK) as relay,
        aiohttp.ClientSession() as session,
    ):
        till = till_of(relay, session)
        await account.give([CARD, OTHER_CARD], points=1000)
        await until(lambda: till.has(1000), what="the starting points are shown")
        sandbox.add_fault(FaultRule("*", "outage", count=1, seconds=3600))
        for _ in range(2):
            assert await till.capture(321, "k1") == HTTPStatus.OK
        answer = await till.balance()
        assert answer.json == {"balance": 679}, answer
        assert await till.capture(79, "k2") == HTTPStatus.OK
        assert (await till.ask("refund", spending(20, "k1"))).status == HTTPStatus.OK
        # Whether Splio had the first debit is not known: the refund is credited later.
        await until(lambda: till.has(600), what="the last known balance is answered")
        assert relay.metric("relay_balance_answers_total", answer="last_known") >= 1
        never_asked = await till.balance(OTHER_CARD)
        assert never_asked.status == HTTPStatus.SERVICE_UNAVAILABLE
        # As if it had been read a quarter of an hour ago.
        ledger.change(f"UPDATE balances SET asked_at = asked_at - {_KNOWN_FOR_MS + 1000}")
        too_old = await till.balance()
        assert too_old.status == HTTPStatus.SERVICE_UNAVAILABLE
        assert int(too_old.headers["Retry-After"]) >= 1
        assert await till.capture(7, "k3") == HTTPStatus.OK
        assert not await sandbox.attributions()
        sandbox.clear_faults()
        await relay.rest(timeout_s=40)
        await _no_holds(ledger)
        await until(lambda: till.has(613), what="the balance is exact")
        accounts = {row["card_code"]: row for row in await sandbox.accounts()}
        assert accounts[CARD]["balance"] == 613
        assert (await sandbox.statement())["grant_doubles"] == []


async def test_captures_are_refused_while_the_ledger_is_away_and_taken_once(
    private_postgres: PostgresServer, tmp_path: Path
) -> None:
    """P1, P2: nothing is answered 200 that no ledger has."""
    place = await make_place(tmp_path, log="sqlite", ledger="postgres", postgres=private_postgres)
    async with (
        running_fleet(
            tmp_path, place, grants_visible_after_s=0.1, repeated_grant_key="book"
        ) as fleet,
        sandbox_account(fleet.sandbox.url) as account,
        aiohttp.ClientSession() as session,
    ):
        process = await fleet.started(Role.SERVE, settings=_PATIENT)
        till = Till(session, process.public_url)
        await account.give([CARD], points=1000)
        await until(lambda: till.has(1000), what="the starting points are shown")
        assert await till.capture(100, "before") == HTTPStatus.OK
        await asyncio.to_thread(private_postgres.stop)
        for operation in ("capture", "refund"):
            refused = await till.ask(operation, spending(50, f"{operation}-away"))
            assert refused.status == HTTPStatus.SERVICE_UNAVAILABLE, refused
            assert int(refused.headers["Retry-After"]) >= 1
        await asyncio.to_thread(private_postgres.start)

        async def is_taken() -> bool:
            return await till.capture(50, "capture-away") == HTTPStatus.OK

        await until(is_taken, what="the ledger is back", timeout_s=30)
        assert await is_taken()
        await _no_holds(place.ledger)
        assert await granted(fleet.sandbox) == {CARD: 150}
        assert (await fleet.sandbox.statement())["grant_doubles"] == []
        await until(lambda: till.has(850), what="the balance is exact")
        await fleet.stop()


async def test_customer_gets_one_card_from_two_processes_though_replies_are_lost(
    kafka_server: KafkaServer, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """P2: however often, and wherever, the registration is asked for."""
    place = await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=kafka_server, postgres=postgres_server
    )
    customers = [f"customer-{number}@example.com" for number in range(4)]
    cards: dict[str, set[str]] = {email: set() for email in customers}
    async with (
        running_fleet(tmp_path, place) as fleet,
        sandbox_account(fleet.sandbox.url) as account,
        aiohttp.ClientSession() as session,
    ):
        processes = [await fleet.started(Role.SERVE, settings=LOYALTY_SETTINGS) for _ in range(2)]
        tills = [Till(session, process.public_url) for process in processes]
        fleet.sandbox.add_fault(FaultRule("member.create", "lost_reply", count=2))
        fleet.sandbox.add_fault(FaultRule("member.create", "status_after", count=1))
        fleet.sandbox.add_fault(FaultRule("contact.create", "lost_reply", count=2))

        async def register(till: Till, email: str) -> None:
            async def is_registered() -> bool:
                answer = await till.ask("register", {"type": PROGRAM, "email": email})
                if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                    return False
                assert answer.status in {HTTPStatus.OK, HTTPStatus.CREATED}, answer
                cards[email].add(answer.json["cardKey"])
                return True

            await until(is_registered, what=f"{email} is registered", timeout_s=40, every_s=0.1)

        async with asyncio.TaskGroup() as group:
            for email in customers:
                for till in (*tills, *tills):
                    group.create_task(register(till, email))
        for email in customers:
            assert await account.cards_of(email) == list(cards[email])
        assert (await fleet.sandbox.statement())["members"] == len(customers)
        await fleet.stop()


async def test_calls_that_come_to_two_processes_at_once_count_once(
    kafka_server: KafkaServer, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """P2: the same captures, refunds and registrations at both, while replies of Splio are lost."""
    place = await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=kafka_server, postgres=postgres_server
    )
    plan = plan_checkout(list(generate_orders(4, 6)), seed=4, purchases=16, collects=False)
    async with (
        running_fleet(
            tmp_path, place, grants_visible_after_s=0.2, repeated_grant_key="book"
        ) as fleet,
        sandbox_account(fleet.sandbox.url) as account,
        aiohttp.ClientSession() as session,
    ):
        await account.give(plan.cards, points=START_POINTS)
        for rule in LOST_REPLIES:
            fleet.sandbox.add_fault(rule)
        checkouts = [
            Checkout(process.public_url, plan, session, seed=number)
            for number in range(2)
            for process in [await fleet.started(Role.SERVE, settings=LOYALTY_SETTINGS)]
        ]
        async with asyncio.TaskGroup() as group:
            playing = [group.create_task(checkout.play()) for checkout in checkouts]
        await until(
            lambda: not count_open(place.ledger) and not count_holds(place.ledger),
            what="everything is settled",
            timeout_s=60,
            every_s=_LOOK_S,
        )
        for checkout in checkouts:
            await checkout.rest({})
        await assert_points_add_up(place.ledger, fleet.sandbox, plan, earned={})
        for task in playing:
            await assert_one_card_each(account, task.result(), plan)
        await fleet.stop()


@pytest.mark.parametrize("refusal", _REFUSALS)
async def test_refusal_that_nobody_documented_holds_that_capture_only(
    refusal: str, tmp_path: Path
) -> None:
    """P5, P3: others are taken, orders are posted, and a person can let the held one go on."""
    envelopes = list(generate_orders(3, 6, customers=2, products=3, shares=_ALL_HAVE_CARDS))
    async with (
        running_sandbox(
            tmp_path, too_few_points=refusal, grants_visible_after_s=0.1, repeated_grant_key="book"
        ) as sandbox,
        sandbox_account(sandbox.url) as account,
        running_relay(tmp_path, sandbox, _SETTINGS, pace=_BRISK) as relay,
        aiohttp.ClientSession() as session,
    ):
        till = till_of(relay, session)
        await account.give([CARD], points=50)
        await account.give([OTHER_CARD], points=1000)
        await until(lambda: till.has(50), what="the starting points are shown")
        assert await till.capture(120, "too-much") == HTTPStatus.OK
        await until(lambda: _is_held(relay, 1), what="the first debit is held")
        assert await till.capture(345, "others", OTHER_CARD) == HTTPStatus.OK
        await relay.deliver(envelopes)
        await until(lambda: _has_taken(sandbox, 345), what="the other capture is taken")
        answer = await till.balance(OTHER_CARD)
        assert answer.json == {"balance": 655}, answer
        await until(lambda: _are_booked(sandbox, envelopes), what="the orders' points are booked")
        assert relay.metric("relay_captures_over_balance_total") == 1
        lanes = await relay.runtime.operations.lanes()
        assert not [lane for lane in lanes if lane.get("paused") or lane.get("braked")]
        assert await granted(sandbox) == {OTHER_CARD: 345}
        await until(lambda: till.has(0), what="no points are left beside the hold")
        ((key, attempt),) = [
            (item["effect_key"], item["attempt"]) for item in await relay.effects(State.HELD)
        ]
        assert attempt == 1
        await account.give([CARD], points=100)
        await until(lambda: till.has(30), what="the new points are shown, less the hold")
        await relay.runtime.operations.release(key, by="anna")
        await relay.rest()
        assert await granted(sandbox) == {OTHER_CARD: 345, CARD: 120}
        await until(lambda: till.has(30), what="the balance is exact")


async def _no_holds(ledger: LedgerView) -> None:
    await until(
        lambda: not count_holds(ledger), what="every hold ended", timeout_s=40, every_s=_LOOK_S
    )


async def _is_held(relay: Relay, count: int) -> bool:
    return len(await relay.effects(State.HELD)) == count


async def _has_taken(sandbox: SplioSandbox, points: int) -> bool:
    return (await granted(sandbox)).total() == points


async def _are_booked(sandbox: SplioSandbox, envelopes: list[dict[str, Any]]) -> bool:
    booked: Counter[str] = Counter()
    for row in await sandbox.credits():
        if row["context"].startswith(EARNED):
            booked[row["card_code"]] += row["nq_points"]
    return booked == earned_by_card(envelopes)
