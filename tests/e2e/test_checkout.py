"""SCAYLE Checkout's calls through the real doors: what is answered, and what Splio ends up with."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from service.domain.effects import State
from service.sandbox.faults import FaultRule
from service.sandbox.scayle import generate_orders
from service.sandbox.splio import SplioSandbox
from tests.harness.place import make_place
from tests.harness.relay import Answer, Relay, running_relay, running_sandbox
from tests.harness.waiting import until

CARD: Final = "2171707962088"
OTHER_CARD: Final = "4006381333931"
PROGRAM: Final = "splio_club"
SPENT: Final[Mapping[str, Any]] = {
    "amount": 1000,
    "cardKey": CARD,
    "type": PROGRAM,
    "currencyCode": "EUR",
    "orderId": 2345388,
    "transactionKey": "4bd1f0a97c2e5518d3aa06e9b7c1",
}
CUSTOMER: Final = {"id": 48213, "email": "Camille@Example.com", "firstName": "Camille"}


@pytest.fixture(params=["embedded", "servers"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, str]:
    """The settings of log and ledger: two files, or Kafka and PostgreSQL."""
    if request.param == "embedded":
        return {}
    place = await make_place(
        tmp_path,
        log="kafka",
        ledger="postgres",
        kafka=request.getfixturevalue("kafka_server"),
        postgres=request.getfixturevalue("postgres_server"),
    )
    return {name.removeprefix("RELAY_").lower(): value for name, value in place.environment.items()}


@asynccontextmanager
async def checkout(
    directory: Path,
    settings: Mapping[str, str] = {},
    *,
    points: int = 2500,
    unset: Collection[str] = (),
    **sandbox: Any,
) -> AsyncIterator[tuple[Relay, SplioSandbox]]:
    """A service whose answers are never cached, and a sandbox in which `CARD` has points."""
    async with (
        running_sandbox(directory, grants_visible_after_s=0.1, **sandbox) as splio,
        running_relay(directory, splio, {"balance_fresh": "0s", **settings}, unset=unset) as relay,
    ):
        if points:
            await give(splio, CARD, points)
            await until_balance(relay, points)
        yield relay, splio


async def give(splio: SplioSandbox, card: str, points: int) -> None:
    """Points by another way than ours."""
    async with aiohttp.ClientSession(splio.url) as session:
        async with session.post("/authenticate", json={"api_key": "sandbox-api-key"}) as reply:
            token = (await reply.json())["token"]
        body = {
            "nq_points_quantity": points,
            "q_points_quantity": 0,
            "context": "gift",
            "is_final": True,
        }
        async with session.post(
            f"/loyalty/v1/members/{card}/credit",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
        ) as reply:
            assert reply.status == 202


async def balance(relay: Relay, card: str = CARD) -> int:
    answer = await relay.call("GET", "balance", {"cardKey": card, "type": PROGRAM})
    assert answer.status == 200, answer
    points: int = answer.json["balance"]
    return points


async def until_balance(relay: Relay, points: int) -> None:
    async def is_there() -> bool:
        return await balance(relay) == points

    await until(is_there, what=f"the balance is {points}", timeout_s=10)


async def no_holds(relay: Relay) -> None:
    async def are_ended() -> bool:
        return not (await relay.runtime.operations.list_holds(only_open=True)).items

    await until(are_ended, what="all holds ended", timeout_s=10)


def spent(**changes: Any) -> dict[str, Any]:
    return {**SPENT, **changes}


def problem(answer: Answer) -> str:
    """The kind of a problem document."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    kind: str = answer.json["type"]
    return kind.removeprefix("urn:loyalty-relay:problem:")


# -- documented examples


async def test_rate_stands_under_every_name_that_the_setting_lists(tmp_path: Path) -> None:
    async with checkout(tmp_path, {"loyalty_rate_fields": "rate,value"}, points=0) as (relay, _):
        answer = await relay.call("GET", "points-rate", {"currency": "EUR", "type": PROGRAM})
        assert (answer.status, answer.body) == (200, b'{"rate":0.01,"value":0.01}')


async def test_rate_that_no_setting_names_is_asked_of_splio(tmp_path: Path) -> None:
    async with checkout(tmp_path, points=0) as (relay, _):
        answer = await relay.call("GET", "points-rate", {"currency": "USD", "type": PROGRAM})
        ratio = b'{"conversionFactor":10,"conversionRate":10,"factor":10,"rate":10}'
        assert (answer.status, answer.body) == (200, ratio)
        unknown = await relay.call("GET", "points-rate", {"currency": "EUR", "type": "club"})
        assert (unknown.status, problem(unknown)) == (404, "unknown-program")


async def test_balance_is_what_splio_says_less_what_is_held(
    tmp_path: Path, stores: Mapping[str, str]
) -> None:
    """Without rewards a capture is a hold until a person ends it."""
    async with checkout(tmp_path, {**stores, "debit_by": "hold"}) as (relay, splio):
        answer = await relay.call("PUT", "capture", SPENT)
        assert (answer.status, answer.body) == (200, b"{}")
        assert await balance(relay) == 1500
        assert await relay.requests("reward.grant") == 0
        over = await relay.call("POST", "capture", spent(transactionKey="k2", amount="1600.0"))
        assert over.status == 200
        assert await balance(relay) == 0
        assert relay.metric("relay_captures_over_balance_total") == 1
        assert (await splio.statement())["requests"].get("reward.grant") is None


async def test_captured_points_are_taken_by_rewards_and_count_once(
    tmp_path: Path, stores: Mapping[str, str]
) -> None:
    async with checkout(tmp_path, stores) as (relay, splio):
        await relay.call("PUT", "capture", spent(amount=1234))
        seen = set()
        for _ in range(40):
            seen.add(await balance(relay))
            await asyncio.sleep(0.02)
        await relay.rest()
        await no_holds(relay)
        assert seen == {1266}
        assert await balance(relay) == 1266
        grants = [row["reason_msg"] for row in await splio.attributions()]
        assert sorted(set(grants)) == sorted(
            f"main:debit:{PROGRAM}:{SPENT['transactionKey']}:1:{worth}"
            for worth in (1, 10, 100, 1000)
        )
        assert len(grants) == 1 + 2 + 3 + 4
        assert relay.metric("relay_points_taken_total") == 1234


async def test_capture_of_another_amount_under_a_known_key_is_a_conflict(
    tmp_path: Path, stores: Mapping[str, str]
) -> None:
    async with checkout(tmp_path, {**stores, "debit_by": "hold"}) as (relay, _):
        for _ in range(3):
            assert (await relay.call("PUT", "capture", SPENT)).status == 200
        other = await relay.call("PUT", "capture", spent(amount=999))
        assert (other.status, problem(other)) == (409, "conflict")
        assert await balance(relay) == 1500
        (letter,) = await relay.dead_letters()
        assert (letter["reason"], letter["event_type"]) == ("conflict", "loyalty-capture")
        operator = {"ids": [letter["id"]]}
        replay = await relay.operate("POST", "/api/dead-letters/replay", operator)
        assert "not planned again" in replay.body.decode()


async def test_refund_of_a_debited_capture_is_credited_once(
    tmp_path: Path, stores: Mapping[str, str]
) -> None:
    async with checkout(tmp_path, stores) as (relay, splio):
        await relay.call("PUT", "capture", SPENT)
        await relay.rest()
        for _ in range(3):
            answer = await relay.call("POST", "refund", spent(amount=400, transactionKey="r1"))
            assert (answer.status, answer.body) == (200, b"{}")
        too_much = await relay.call("PUT", "refund", spent(amount=601, transactionKey="r2"))
        assert (too_much.status, problem(too_much)) == (409, "more-than-captured")
        await relay.rest()
        await no_holds(relay)
        await until_balance(relay, 1900)
        ours = [row for row in await splio.credits() if row["context"].startswith("main:")]
        assert [(row["context"], row["nq_points"]) for row in ours] == [
            (f"main:refund:{PROGRAM}:r1", 400)
        ]


async def test_refund_before_its_capture_waits_for_it(
    tmp_path: Path, stores: Mapping[str, str]
) -> None:
    async with checkout(tmp_path, stores) as (relay, splio):
        early = await relay.call("POST", "refund", spent(amount=400, transactionKey="r1"))
        assert early.status == 200
        assert await balance(relay) == 2500
        await relay.call("PUT", "capture", SPENT)
        await relay.rest()
        await no_holds(relay)
        await until_balance(relay, 1900)
        assert len(await splio.credits()) == 1  # the gift


# -- cards and customers


async def test_card_is_taken_under_every_name(tmp_path: Path) -> None:
    async with checkout(tmp_path, points=0) as (relay, _):
        for name in ("cardKey", "cardNumber", "loyaltyNumber", "number"):
            for number in (CARD, int(CARD)):
                answer = await relay.call("POST", "validate", {name: number, "type": PROGRAM})
                assert (answer.status, answer.json) == (200, {"valid": True}), name


async def test_card_that_is_not_good_is_told_with_the_status_set(tmp_path: Path) -> None:
    settings = {"loyalty_invalid_status": "404", "loyalty_card_form": "ean13"}
    async with checkout(tmp_path, settings, points=0) as (relay, _):
        for number in ("2171707962081", "abc"):
            answer = await relay.call("POST", "validate", {"cardKey": number, "type": PROGRAM})
            assert (answer.status, answer.json) == (404, {"valid": False})
        assert await relay.requests("member.read") == 0  # the form told it


async def test_same_customer_gets_the_same_card_however_often_asked(
    tmp_path: Path, stores: Mapping[str, str]
) -> None:
    async with checkout(tmp_path, stores, points=0) as (relay, splio):
        asked = [
            relay.call("POST", "register", {"type": PROGRAM, "customer": CUSTOMER}),
            relay.call("POST", "register", {"type": PROGRAM, **CUSTOMER}),
            relay.call(
                "POST", "register", {"type": PROGRAM, **CUSTOMER, "email": "camille@example.COM"}
            ),
        ]
        answers = await asyncio.gather(*asked)
        assert {answer.status for answer in answers} <= {200, 201, 503}
        assert [answer.status for answer in answers].count(201) == 1
        again = await relay.call("POST", "register", {"type": PROGRAM, "customer": CUSTOMER})
        cards = {answer.json["cardKey"] for answer in (*answers, again) if answer.status < 300}
        assert again.status == 200
        assert len(cards) == 1
        (card,) = cards
        verified = {"cardNumber": card, "type": PROGRAM, "email": "CAMILLE@example.com"}
        assert (await relay.call("POST", "verify", verified)).json == {"valid": True}
        verified["email"] = "ada@example.com"
        assert (await relay.call("POST", "verify", verified)).json == {"valid": False}
        assert await relay.requests("member.create") == 1
        del splio


async def test_lost_reply_of_a_registration_makes_no_second_card(
    tmp_path: Path, stores: Mapping[str, str]
) -> None:
    async with checkout(tmp_path, stores, points=0) as (relay, splio):
        splio.add_fault(FaultRule("member.create", "lost_reply", count=1))
        lost = await relay.call("POST", "register", {"type": PROGRAM, "customer": CUSTOMER})
        assert (lost.status, problem(lost)) == (503, "unavailable")
        again = await relay.call("POST", "register", {"type": PROGRAM, "customer": CUSTOMER})
        assert again.status == 200
        await relay.rest()
        assert await relay.requests("member.create") == 1


# -- collects


async def test_collect_books_once_with_the_webhook_of_its_order(
    tmp_path: Path, stores: Mapping[str, str]
) -> None:
    (order,) = generate_orders(3, 1, customers=1, products=1)
    payload = order["payload"]
    payload["loyaltyCard"] = {"cardNumber": CARD, "points": 177, "provider": PROGRAM}
    fields = {"cardKey": CARD, "type": PROGRAM, "points": 177, "orderId": payload["id"]}
    async with checkout(tmp_path, {**stores, "points_from": "collect"}, points=0) as (relay, splio):
        await relay.post(order)
        for _ in range(2):
            assert (await relay.call("POST", "collect", fields)).status == 200
        other = await relay.call("POST", "collect", {**fields, "points": 178})
        assert (other.status, problem(other)) == (409, "conflict")
        assert len(await relay.dead_letters()) == 1
        counted = relay.metric("relay_dead_letters_total", consumer="checkout", reason="conflict")
        assert counted == 1
        await relay.rest()
        (credit,) = await splio.credits()
        assert (credit["context"], credit["nq_points"]) == (
            f"main:earn:{payload['id']}",
            177,
        )


async def test_collect_is_counted_where_another_way_books(tmp_path: Path) -> None:
    fields = {"cardKey": CARD, "type": PROGRAM, "amount": 177, "orderId": 7}
    async with checkout(tmp_path, points=0) as (relay, _):
        for _ in range(2):
            answer = await relay.call("POST", "collect", fields)
            assert (answer.status, answer.body) == (200, b"{}")
        assert not await relay.effects()
        calls = {"operation": "collect", "outcome": "counted"}
        assert relay.metric("relay_loyalty_calls_total", **calls) == 2
        # Webhooks name the same points, and count them.
        assert relay.metric("relay_points_booked_elsewhere_total") == 0


# -- what cannot be answered


async def test_amounts_without_their_unit_are_not_taken_and_the_answer_says_why(
    tmp_path: Path,
) -> None:
    """SCAYLE repeats a 503 for two days: time for a person to ask which it is."""
    async with checkout(tmp_path, points=0, unset=["loyalty_amount_unit"]) as (relay, _):
        for operation in ("capture", "refund"):
            answer = await relay.call("POST", operation, SPENT)
            assert (answer.status, problem(answer)) == (503, "unavailable")
            assert "RELAY_LOYALTY_AMOUNT_UNIT" in answer.json["detail"]
            assert int(answer.headers["Retry-After"]) >= 1
        assert not await relay.effects()


async def test_amounts_of_money_are_points_by_their_rate(tmp_path: Path) -> None:
    money = {"loyalty_amount_unit": "money", "loyalty_rates": f"{PROGRAM}:EUR=0.01"}
    async with checkout(tmp_path, money, points=0) as (relay, _):
        await relay.call("PUT", "capture", spent(amount=1500))
        (effect,) = [item for item in await relay.effects() if item["kind"] == "capture"]
        assert effect["points"] == 1500  # 15.00 EUR at 0.01
        other = spent(transactionKey="k2", currencyCode="USD", amount=4000)
        assert (await relay.call("PUT", "capture", other)).status == 200
        captures = [item for item in await relay.effects() if item["kind"] == "capture"]
        # What no setting names is at the ratio of Splio's programme, 10, whatever the currency.
        assert sorted(item["points"] for item in captures) == [4, 1500]


async def test_money_given_back_in_parts_is_never_more_points_than_were_captured(
    tmp_path: Path,
) -> None:
    """5.00 in points of 1.00, given back as 1.67 + 1.67 + 1.66, each of which rounds up."""
    money = {"loyalty_amount_unit": "money", "loyalty_rates": f"{PROGRAM}:EUR=1"}
    async with checkout(tmp_path, money) as (relay, _):
        assert (await relay.call("PUT", "capture", spent(amount=500))).status == 200
        for key, cents in (("r1", 167), ("r2", 167), ("r3", 166)):
            part = spent(amount=cents, transactionKey=key)
            assert (await relay.call("POST", "refund", part)).status == 200
        await until_balance(relay, 2500)
        one_more = await relay.call("POST", "refund", spent(amount=100, transactionKey="r4"))
        assert one_more.status == 409


async def test_amounts_are_positive_whole_numbers(tmp_path: Path) -> None:
    async with checkout(tmp_path, points=12) as (relay, _):
        for amount in (0, -1, 1.5, "1,5", "ten", True, 10**19, None):
            answer = await relay.call("PUT", "capture", spent(amount=amount))
            assert answer.status == (400 if amount is None else 422), amount
            assert answer.json["parameter"] == "amount"
        assert not await relay.effects()
        for key, amount in (("k1", "12.0"), ("k2", 10**18)):
            answer = await relay.call("PUT", "capture", spent(amount=amount, transactionKey=key))
            assert answer.status == 200, amount
        held = await relay.effects(State.HELD)
        assert [(item["points"], item["reason"]) for item in held] == [
            (10**18, "points_over_limit")
        ]


async def test_money_of_more_points_than_can_be_kept_is_refused(tmp_path: Path) -> None:
    money = {"loyalty_amount_unit": "money", "loyalty_rates": f"{PROGRAM}:EUR=0.000001"}
    async with checkout(tmp_path, money, points=0) as (relay, _):
        for method, operation in (("PUT", "capture"), ("POST", "refund")):
            answer = await relay.call(method, operation, spent(amount=10**18))
            assert (answer.status, problem(answer)) == (422, "amount-too-large")


async def test_call_that_cannot_be_understood_names_what_is_missing(tmp_path: Path) -> None:
    settings = {"loyalty_programs": f"{PROGRAM}=1,other=2"}
    calls = (
        (b"", "type"),
        (b"nonsense", "body"),
        (b"[]", "body"),
        ({"type": PROGRAM}, "cardKey"),
        ({"type": PROGRAM, "cardKey": CARD, "cardNumber": OTHER_CARD}, "cardNumber"),
    )
    async with checkout(tmp_path, settings, points=0) as (relay, _):
        for body, names in calls:
            answer = await relay.call("POST", "validate", body)
            assert (answer.status, problem(answer)) == (400, "not-understood"), body
            assert answer.json["parameter"] == names
        answer = await relay.call("POST", "validate", {"type": PROGRAM, "cardKey": "../admin"})
        assert (answer.status, answer.json) == (200, {"valid": False})


async def test_wrong_tokens_and_tokens_of_other_operations_are_refused(tmp_path: Path) -> None:
    settings = {"loyalty_tokens": "balance=one,capture=two,capture=three"}
    async with checkout(tmp_path, settings, points=0) as (relay, _):
        for headers in (
            {"Authorization": "Bearer two"},
            {"Authorization": "three"},
            {"Authorization": "", "X-Access-Token": "two"},
        ):
            answer = await relay.call("PUT", "capture", SPENT, **headers)
            assert answer.status == 200
        for token in ("one", "four", ""):
            wrong = await relay.call("PUT", "capture", SPENT, Authorization=f"Bearer {token}")
            assert (wrong.status, problem(wrong)) == (401, "unauthorized")


async def test_unknown_card_and_splio_away(tmp_path: Path, stores: Mapping[str, str]) -> None:
    async with checkout(tmp_path, {**stores, "balance_fresh": "0s"}) as (relay, splio):
        unknown = await relay.call("GET", "balance", {"cardKey": "123", "type": PROGRAM})
        assert (unknown.status, problem(unknown)) == (404, "unknown-card")
        splio.add_fault(FaultRule("member.balance", "status", count=1000, status=503))
        assert await balance(relay) == 2500  # the last known value
        new = await relay.call("GET", "balance", {"cardKey": OTHER_CARD, "type": PROGRAM})
        assert (new.status, problem(new)) == (503, "unavailable")
        assert int(new.headers["Retry-After"]) >= 1
        assert (await relay.call("PUT", "capture", SPENT)).status == 200
        assert await balance(relay) == 1500


async def test_contact_that_the_programme_subscribes_by_itself_gets_one_card(
    tmp_path: Path,
) -> None:
    async with checkout(tmp_path, points=0, automatic_subscription=True) as (relay, _):
        first = await relay.call("POST", "register", {"type": PROGRAM, "customer": CUSTOMER})
        assert first.status == 201, first
        again = await relay.call("POST", "register", {"type": PROGRAM, "customer": CUSTOMER})
        assert (again.status, again.json) == (200, first.json)
        assert await relay.requests("member.create") == 0


async def test_splio_that_hangs_costs_a_call_its_time_and_not_its_answer(tmp_path: Path) -> None:
    settings = {"balance_fresh": "0s", "loyalty_timeout": "1s"}
    async with checkout(tmp_path, settings) as (relay, splio):
        await give(splio, CARD, 100)
        splio.add_fault(FaultRule("member.balance", "delay_before", seconds=3))

        async def is_answered() -> bool:
            answer = await relay.call("GET", "balance", {"cardKey": CARD, "type": PROGRAM})
            assert answer.status == 503 or answer.json == {"balance": 2500}
            return answer.status == 200

        await until(is_answered, what="the last known balance is told")
        assert relay.metric("relay_balance_answers_total", answer="last_known") == 1


@pytest.mark.parametrize(
    ("method", "operation"),
    [
        ("GET", "points-rate"),
        ("GET", "balance"),
        ("POST", "validate"),
        ("POST", "verify"),
        ("POST", "register"),
        ("POST", "collect"),
        ("PUT", "capture"),
        ("POST", "refund"),
    ],
)
async def test_unknown_programme_is_not_found(tmp_path: Path, method: str, operation: str) -> None:
    fields = spent(type="nobody", currency="EUR", email=CUSTOMER["email"])
    async with checkout(tmp_path, points=0) as (relay, _):
        answer = await relay.call(method, operation, fields)
        assert (answer.status, problem(answer)) == (404, "unknown-program")
        assert not await relay.effects()


async def test_collect_without_an_order_cannot_be_booked(tmp_path: Path) -> None:
    fields = {"cardKey": CARD, "type": PROGRAM, "points": 177}
    async with checkout(tmp_path, {"points_from": "collect"}, points=0) as (relay, _):
        answer = await relay.call("POST", "collect", fields)
        assert (answer.status, problem(answer)) == (422, "not-understood")
        assert answer.json["parameter"] == "orderId"
        assert not await relay.effects()


async def test_amount_far_beyond_any_balance_is_taken_as_a_hold(tmp_path: Path) -> None:
    async with checkout(tmp_path, {"debit_by": "hold"}) as (relay, _):
        answer = await relay.call("PUT", "capture", spent(amount=10**18))
        assert (answer.status, answer.body) == (200, b"{}")
        assert await balance(relay) == 0
        assert relay.metric("relay_captures_over_balance_total") == 1


# -- the limit of a whole call


@pytest.mark.parametrize(
    ("method", "operation", "request_"),
    [
        ("POST", "validate", "read_member"),
        ("POST", "verify", "read_member"),
        ("POST", "register", "read_contact"),
        ("GET", "points-rate", "read_program"),
    ],
)
async def test_splio_that_hangs_is_told_and_counted(
    tmp_path: Path, method: str, operation: str, request_: str
) -> None:
    fields = spent(currencyCode="USD", email=CUSTOMER["email"])
    async with checkout(tmp_path, {"loyalty_timeout": "400ms"}, points=0) as (relay, splio):
        splio.add_fault(FaultRule("*", "delay_before", skip=1, seconds=5))
        answer = await relay.call(method, operation, fields)
        assert (answer.status, problem(answer)) == (503, "unavailable")
        assert answer.json["detail"].startswith("no_answer")

        def is_counted() -> bool:
            labels = {"operation": request_, "answer": "none"}
            return relay.metric("relay_splio_requests_total", **labels) == 1

        await until(is_counted, what="the request is counted as not answered")


async def test_splio_that_hangs_is_left_in_peace(tmp_path: Path) -> None:
    """Calls count for the breaker as bookings do, its probes too."""
    async with checkout(tmp_path, {"loyalty_timeout": "400ms"}, points=0) as (relay, splio):
        splio.add_fault(FaultRule("*", "delay_before", skip=1, seconds=5))
        for _ in range(5):
            assert (await relay.call("POST", "validate", SPENT)).status == 503
        assert relay.metric("relay_breaker_open") == 1


async def test_call_that_waits_for_a_permit_ends_in_time(tmp_path: Path) -> None:
    settings = {"loyalty_timeout": "300ms", "splio_limits": "other=0.01"}
    async with checkout(tmp_path, settings, points=0) as (relay, _):
        await relay.call("POST", "validate", SPENT)  # it has the permit that there is
        answer = await relay.call("POST", "validate", SPENT)
        assert (answer.status, problem(answer)) == (503, "unavailable")
        assert answer.json["detail"].startswith("took_too_long")
        assert int(answer.headers["Retry-After"]) >= 1


async def test_call_whose_body_does_not_come_ends_in_time(tmp_path: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"type": '
        await asyncio.Event().wait()

    async with (
        checkout(tmp_path, {"loyalty_timeout": "300ms"}, points=0) as (relay, _),
        asyncio.timeout(5),
    ):
        answer = await relay.call("PUT", "capture", body())
        assert (answer.status, problem(answer)) == (503, "unavailable")
        assert answer.json["detail"].startswith("took_too_long")
        assert answer.headers["Connection"] == "close"
        assert int(answer.headers["Retry-After"]) >= 1
