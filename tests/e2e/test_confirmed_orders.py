"""Webhooks in, orders and points at Splio: what the service does with each kind of order."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from service.domain.effects import State
from service.domain.errors import StartupError
from service.sandbox.deliveries import DeliveryPlan
from service.sandbox.scayle import Shares, generate_orders, respell
from tests.harness.account import earned_by_card, expected_order, points_by_card
from tests.harness.relay import Relay, running_relay, running_sandbox

_PLAIN: Final = Shares(
    guests=0, without_card=0, points_spent=0, meta=0, missing_fields=0, text_ids=0
)


def orders(
    count: int, *, seed: int = 3, shares: Shares = _PLAIN, **options: Any
) -> list[dict[str, Any]]:
    return list(generate_orders(seed, count, customers=3, products=4, shares=shares, **options))


def changed(envelope: Mapping[str, Any], **payload: Any) -> dict[str, Any]:
    """The envelope with other values in its payload."""
    return {**envelope, "payload": {**envelope["payload"], **payload}}


def with_points(envelope: Mapping[str, Any], points: int) -> dict[str, Any]:
    card = {**envelope["payload"]["loyaltyCard"], "points": points}
    return changed(envelope, loyaltyCard=card)


async def _take(relay: Relay, *envelopes: Mapping[str, Any]) -> None:
    for envelope in envelopes:
        answer = await relay.post(envelope)
        assert answer.status == 200, answer


async def test_confirmed_order_is_posted_and_its_points_are_booked(tmp_path: Path) -> None:
    """P2, P3: two requests in the common case, when Splio knows contact, store and products."""
    (first,) = orders(1)
    again = changed(first, id=first["payload"]["id"] + 1)
    async with running_sandbox(tmp_path) as sandbox, running_relay(tmp_path, sandbox) as relay:
        await _take(relay, first)
        await relay.rest()
        posts, credits_ = await relay.requests("order.create"), await relay.requests("credit")
        await _take(relay, again)
        await relay.rest()
        assert await relay.requests("order.create") == posts + 1
        assert await relay.requests("credit") == credits_ + 1
        (order, _), (credit, _) = await sandbox.orders(), await sandbox.credits()
        expected = expected_order(first)
        assert order["external_id"] == expected.order_id
        assert order["card_code"] == credit["card_code"] == expected.card
        assert credit["context"] == f"main:earn:{expected.order_id}"
        assert credit["nq_points"] == expected.points
        assert relay.metric("relay_points_booked_total") == 2 * expected.points


async def test_repeats_of_a_webhook_book_once(tmp_path: Path) -> None:
    """P2: for ever, so also after a restart; however the repeat is spelled."""
    (envelope,) = orders(1)
    async with running_sandbox(tmp_path) as sandbox:
        async with running_relay(tmp_path, sandbox) as relay:
            await _take(relay, envelope, envelope, respell(envelope))
            await relay.rest()
            repeated = relay.metric(
                "relay_records_consumed_total", consumer="intake", outcome="repeated"
            )
            assert repeated == 2
        async with running_relay(tmp_path, sandbox) as relay:
            await _take(relay, respell(envelope), envelope)
            await relay.rest()
            assert len(await sandbox.orders()) == len(await sandbox.credits()) == 1
            assert not await relay.dead_letters()
            assert (await relay.effects())[0]["duplicates_seen"] == 4


async def test_contradicting_repeat_becomes_a_dead_letter_and_the_first_stands(
    tmp_path: Path,
) -> None:
    (envelope,) = orders(1)
    points = envelope["payload"]["loyaltyCard"]["points"]
    async with running_sandbox(tmp_path) as sandbox, running_relay(tmp_path, sandbox) as relay:
        await _take(relay, envelope, with_points(envelope, points + 5))
        await relay.rest()
        (dead_letter,) = await relay.dead_letters()
        assert dead_letter["reason"] == "conflict"
        assert dead_letter["order_id"] == str(envelope["payload"]["id"])
        assert [credit["nq_points"] for credit in await sandbox.credits()] == [points]
        answer = await relay.operate(
            "POST", "/api/dead-letters/dismiss", {"ids": [dead_letter["id"]]}
        )
        assert answer.status == 200
        assert not await relay.dead_letters()


async def test_every_variety_and_currency_is_exact(tmp_path: Path) -> None:
    """JPY has no decimals, EUR two, KWD three; lines, totals and points agree with SCAYLE's."""
    envelopes = list(
        generate_orders(5, 80, customers=12, products=10, currencies=("EUR", "JPY", "KWD"))
    )
    # A yen is worth little, so its orders earn many points.
    settings = {"points_limit": "10000000"}
    async with (
        running_sandbox(tmp_path) as sandbox,
        running_relay(tmp_path, sandbox, settings) as relay,
    ):
        report = await relay.deliver(envelopes, DeliveryPlan(duplicates=0.4, reordering=12, seed=2))
        await relay.rest()
        (await relay.account(envelopes, report)).assert_balances()
        assert not await relay.dead_letters()
        assert points_by_card(await sandbox.credits()) == earned_by_card(envelopes)
        assert {order["currency"] for order in await sandbox.orders()} == {"EUR", "JPY", "KWD"}


@pytest.mark.parametrize(("setting", "posted"), [("post", 1), ("skip", 0)])
async def test_guest_without_a_card(setting: str, posted: int, tmp_path: Path) -> None:
    shares = Shares(guests=1, without_card=1, missing_fields=0)
    async with (
        running_sandbox(tmp_path) as sandbox,
        running_relay(tmp_path, sandbox, {"guest_orders": setting}) as relay,
    ):
        await _take(relay, *orders(1, shares=shares))
        await relay.rest()
        assert len(await sandbox.orders()) == posted
        assert not await sandbox.credits()
        ignored = relay.metric("relay_events_ignored_total", reason="guest_order")
        assert ignored == 1 - posted


async def test_test_customers_are_ignored(tmp_path: Path) -> None:
    (envelope,) = orders(1)
    customer = envelope["payload"]["customer"]
    status = {**customer["status"], "isTestCustomer": True}
    async with running_sandbox(tmp_path) as sandbox, running_relay(tmp_path, sandbox) as relay:
        await _take(relay, changed(envelope, customer={**customer, "status": status}))
        await relay.rest()
        assert not await sandbox.orders()
        assert relay.metric("relay_events_ignored_total", reason="test_customer") == 1


async def test_other_events_are_answered_and_ignored(tmp_path: Path) -> None:
    async with running_sandbox(tmp_path) as sandbox, running_relay(tmp_path, sandbox) as relay:
        answer = await relay.post({"type": "order-delegated", "payload": {"id": 1}})
        assert answer.status == 200
        assert await relay.runtime.backlog() == 0
        assert relay.metric("relay_webhooks_total", outcome="ignored") == 1


async def test_unreadable_event_is_kept_for_a_person(tmp_path: Path) -> None:
    """P3: answered 200, so that SCAYLE goes on; the bytes are kept whole."""
    body = b'{"type": "order-confirmed", "payload": {"id": {"odd": true}}}'
    async with running_sandbox(tmp_path) as sandbox, running_relay(tmp_path, sandbox) as relay:
        assert (await relay.post(body)).status == 200
        await relay.rest()
        (dead_letter,) = await relay.dead_letters()
        assert dead_letter["reason"] == "unreadable"
        kept = await relay.runtime.operations.show_dead_letter(dead_letter["id"])
        assert kept.record == body


@pytest.mark.parametrize(
    ("points", "reason"), [(100_001, "points_over_limit"), (2**53, "points_over_limit")]
)
async def test_held_points_wait_for_a_person(points: int, reason: str, tmp_path: Path) -> None:
    envelope = with_points(orders(1)[0], points)
    key = f"main:earn:{envelope['payload']['id']}"
    async with running_sandbox(tmp_path) as sandbox:
        async with running_relay(tmp_path, sandbox) as relay:
            await _take(relay, envelope)
            await relay.rest(held=1)
            (held,) = await relay.effects(State.HELD)
            assert (held["effect_key"], held["reason"]) == (key, reason)
            assert len(await sandbox.orders()) == 1
            assert not await sandbox.credits()
        async with running_relay(tmp_path, sandbox) as relay:
            answer = await relay.operate("POST", f"/api/effects/{key}/release")
            assert answer.status in (200, 204), answer
            await relay.rest()
            (credit,) = await sandbox.credits()
            assert credit["nq_points"] == points


async def test_points_off_scayles_rule_are_held_and_can_be_rejected(tmp_path: Path) -> None:
    right, wrong = orders(2)
    wrong = with_points(wrong, wrong["payload"]["loyaltyCard"]["points"] + 2)
    async with (
        running_sandbox(tmp_path) as sandbox,
        running_relay(tmp_path, sandbox, {"points_factor": "3"}) as relay,
    ):
        await _take(relay, right, wrong)
        await relay.rest(held=1)
        (held,) = await relay.effects(State.HELD)
        assert held["reason"] == "points_implausible"
        answer = await relay.operate("POST", f"/api/effects/{held['effect_key']}/reject")
        assert answer.status in (200, 204), answer
        await relay.rest()
        assert len(await sandbox.credits()) == 1
        assert len(await relay.dead_letters()) == 1


async def test_negative_points_are_set_aside_and_the_order_is_posted(tmp_path: Path) -> None:
    envelope = with_points(orders(1)[0], -3)
    async with running_sandbox(tmp_path) as sandbox, running_relay(tmp_path, sandbox) as relay:
        await _take(relay, envelope)
        await relay.rest()
        (dead_letter,) = await relay.dead_letters()
        assert (dead_letter["kind"], dead_letter["reason"]) == ("earn", "negative_points")
        assert len(await sandbox.orders()) == 1
        assert not await sandbox.credits()


async def test_rejected_order_is_replayed_after_the_settings_were_changed(
    tmp_path: Path,
) -> None:
    """An order without the configured contact key; its points need only the card."""
    (envelope,) = orders(1)
    customer = {**envelope["payload"]["customer"]}
    del customer["referenceKey"]
    envelope = changed(envelope, customer=customer)
    async with running_sandbox(tmp_path, unique_key="c0") as sandbox:
        async with running_relay(
            tmp_path, sandbox, {"splio_contact_key": "reference_key"}
        ) as relay:
            await _take(relay, envelope)
            await relay.rest()
            (dead_letter,) = await relay.dead_letters()
            assert dead_letter["reason"] == "contact_key_missing"
            assert len(await sandbox.credits()) == 1
            refused = await relay.operate(
                "POST", "/api/dead-letters/replay", {"ids": [dead_letter["id"]]}
            )
            assert refused.status == 200
            assert len(await relay.dead_letters()) == 1
        async with running_relay(tmp_path, sandbox, {"splio_contact_key": "customer_id"}) as relay:
            answer = await relay.operate("POST", "/api/dead-letters/replay", {"all": True})
            assert answer.status == 200
            await relay.rest()
            (order,) = await sandbox.orders()
            assert order["contact_id"] == str(customer["id"])
            assert len(await sandbox.credits()) == 1
            assert not await relay.dead_letters()


@pytest.mark.parametrize("points_from", ["collect", "rules"])
async def test_points_that_another_way_books_are_counted_only(
    points_from: str, tmp_path: Path
) -> None:
    envelopes = orders(3)
    async with (
        running_sandbox(tmp_path) as sandbox,
        running_relay(tmp_path, sandbox, {"points_from": points_from}) as relay,
    ):
        await _take(relay, *envelopes)
        await relay.rest()
        assert len(await sandbox.orders()) == 3
        assert not await sandbox.credits()
        counted = relay.metric("relay_points_booked_elsewhere_total")
        assert counted == sum(expected_order(envelope).points for envelope in envelopes)


async def test_points_from_cannot_change_under_a_used_ledger(tmp_path: Path) -> None:
    async with running_sandbox(tmp_path) as sandbox:
        async with running_relay(tmp_path, sandbox) as relay:
            await _take(relay, *orders(1))
            await relay.rest()
        with pytest.raises(StartupError, match="points_from"):
            async with running_relay(tmp_path, sandbox, {"points_from": "rules"}):
                pass


async def test_shops_give_store_and_time_zone(tmp_path: Path) -> None:
    (here,) = orders(1, app_id=1042)
    (there,) = orders(1, app_id=7, first_order_id=900)
    (nowhere,) = orders(1, first_order_id=901)
    del nowhere["locale"]
    shops = {"1042": {"store": "paris", "timezone": "Europe/Paris"}}
    async with running_sandbox(tmp_path) as sandbox:
        async with running_relay(tmp_path, sandbox, {"shops": json.dumps(shops)}) as relay:
            await _take(relay, here, there, nowhere)
            await relay.rest()
            (order,) = await sandbox.orders()
            assert order["store_external_id"] == "paris"
            # Confirmed at 08:00 UTC, which is 09:00 in Paris in November.
            assert order["ordered_at"] == "2026-11-02 09:00:00"
            assert relay.metric("relay_events_ignored_total", reason="unmapped_shop") == 1
            (dead_letter,) = await relay.dead_letters()
            assert (dead_letter["reason"], dead_letter["kind"]) == ("shop_missing", "event")
        async with running_relay(tmp_path, sandbox) as relay:
            answer = await relay.operate(
                "POST", "/api/dead-letters/replay", {"reason": "shop_missing"}
            )
            assert answer.status == 200
            await relay.rest()
            assert [order["external_id"] for order in await sandbox.orders()][1:] == ["901"]


async def test_restart_in_the_middle_of_the_work(tmp_path: Path) -> None:
    """P1, P2: what was open goes on, what was done stays done."""
    envelopes = list(generate_orders(9, 60, customers=6, products=6))
    async with running_sandbox(tmp_path, limits={"sales": 60, "other": 30}) as sandbox:
        limits = {"splio_limits": "sales=60,other=30"}
        async with running_relay(tmp_path, sandbox, limits) as relay:
            report = await relay.deliver(
                envelopes, DeliveryPlan(duplicates=0.3, reordering=8, seed=5)
            )
            assert await relay.stop() is None
            settled = len(await sandbox.credits())
        assert settled < sum(1 for each in envelopes if expected_order(each).points)
        async with running_relay(tmp_path, sandbox, limits) as relay:
            again = await relay.deliver(envelopes)
            assert not again.given_up
            await relay.rest()
            (await relay.account(envelopes, report)).assert_balances()
            assert (await sandbox.statement())["orders_posted_twice"] == 0
            assert not await relay.dead_letters()
