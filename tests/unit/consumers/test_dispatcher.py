"""The dispatcher: permit, claim, attempt, outcome; nothing is sent without a claim."""

import asyncio
import logging

import pytest

import consumers.dispatcher
from service.domain.effects import Kind, Lane, State
from service.domain.errors import (
    InDoubtError,
    NotFoundError,
    PermanentError,
    RetryableError,
)
from service.domain.ledger import ReadyEffect
from service.domain.ports import Accepted, Missing, Operation, Step, UnknownCard
from tests.fakes.clock import START_MS
from tests.fakes.ledger import Row
from tests.fakes.waiting import settle_down, until
from tests.unit.builders import CONTACT, PRODUCT, STORE
from tests.unit.consumers.dispatching import LEASE_MARGIN_S, REQUEST_TIMEOUT_S, Bench


async def test_fresh_effects_are_applied_once(bench: Bench) -> None:
    async with bench.running():
        rows = [bench.plan(str(n), kind) for n in range(50) for kind in (Kind.ORDER, Kind.EARN)]
        await bench.settled(*rows)

    assert all(times == 1 for times in bench.splio.booked.values())
    assert len(bench.splio.calls) == 100
    assert bench.splio.permits_out == 0
    assert bench.count("relay_attempts_total", effect="earn", outcome="applied") == 50
    assert bench.count("relay_points_booked_total") == 50 * 177
    assert bench.count("relay_last_applied_timestamp_seconds", consumer="dispatcher") == (
        START_MS / 1_000
    )


async def test_debit_that_another_one_releases_is_attempted_at_once(bench: Bench) -> None:
    """Nobody plans it then, and the next look into the ledger would be half a second away."""
    rows: list[Row] = []

    def release(step: Step) -> None:
        if step is Step.ATTEMPT_ENDED and len(rows) == 1:
            rows.append(bench.plan("2", Kind.DEBIT, offered=False))

    bench.on_step = release
    async with bench.running():
        rows.append(bench.plan("1", Kind.DEBIT))
        await until(lambda: len(rows) == 2)
        await bench.settled(*rows)
    assert bench.count("relay_points_taken_total") == 2 * 177


async def test_the_steps_of_an_attempt_come_in_order(bench: Bench) -> None:
    async with bench.running():
        await bench.settled(bench.plan("1"))
        await until(lambda: Step.OUTCOME_RECORDED in bench.steps)

    assert bench.steps == [
        Step.PERMIT_TAKEN,
        Step.EFFECT_CLAIMED,
        Step.ATTEMPT_ENDED,
        Step.OUTCOME_RECORDED,
    ]


async def test_effects_are_attempted_in_plan_order(bench: Bench) -> None:
    bench.build(concurrency=1)

    async with bench.running():
        rows = [bench.plan(str(n)) for n in range(20)]
        await bench.settled(*rows)

    assert [call.body for call in bench.splio.calls] == [row.effect.request.body for row in rows]


async def test_nothing_is_claimed_before_there_is_a_permit(bench: Bench) -> None:
    bench.splio.permits_left = 0

    async with bench.running():
        rows = [bench.plan(str(n)) for n in range(10)]
        await settle_down()
        assert bench.ledger.called["claim"] == 0
        bench.splio.give_permits(3)
        await until(lambda: bench.ledger.states()[State.APPLIED] == 3)
        await settle_down()
        assert bench.ledger.called["claim"] == 3
        bench.splio.give_permits(7)
        await bench.settled(*rows)


async def test_what_cannot_be_claimed_gives_its_permit_back(bench: Bench) -> None:
    bench.splio.permits_left = 1

    async with bench.running():
        taken = bench.plan("1", offered=False)
        taken.state = State.ATTEMPTING  # by another process
        bench.dispatcher.offer([taken.effect])
        await until(lambda: bench.splio.handed_back[Lane.OTHER] == 1)
        await bench.settled(bench.plan("2"))

    assert bench.splio.permits_out == 0
    assert len(bench.splio.calls) == 1


async def test_the_ledger_away_while_claiming_costs_nothing(bench: Bench) -> None:
    async with bench.running():
        bench.ledger.unavailable["claim"] = 1
        row = bench.plan("1")
        await until(lambda: bench.splio.handed_back[Lane.OTHER] == 1)
        assert bench.splio.calls == []
        await bench.poll(1)
        await bench.poll()
        await bench.settled(row)

    assert row.attempt == 1


async def test_an_outcome_is_written_until_it_is_written(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench.running():
        bench.ledger.unavailable["settle"] = 5
        row = bench.plan("1")
        for number in range(1, 6):
            await until(lambda n=number: bench.ledger.called["settle"] == n)  # type: ignore[misc]
            assert row.state is State.ATTEMPTING
            await until(lambda: bench.clock.sleeping >= 3)
            bench.clock.advance(0.5)
        await bench.settled(row)

    assert bench.splio.count(Operation.CREDIT) == 1
    assert row.lease_until_ms > bench.clock.now_ms()
    said = [record for record in caplog.records if record.getMessage() == "outcome.not_recorded"]
    assert len(said) == 5


async def test_a_retry_is_sent_again_when_it_is_due(bench: Bench) -> None:
    bench.splio.answer(Operation.CREDIT, RetryableError("rate_limited", retry_after_s=10.0))

    async with bench.running():
        row = bench.plan("1")
        await bench.settled(row, state=State.DUE)
        assert row.due_at_ms >= START_MS + 10_000
        await bench.poll(9.9)
        await bench.poll(0.9)
        assert bench.splio.count(Operation.CREDIT) == 1
        await bench.poll(2)
        await bench.settled(row)

    assert row.attempt == 2
    labels = {"effect": "earn", "reason": "rate_limited"}
    assert bench.count("relay_retries_total", **labels) == 1


async def test_a_doubt_is_not_sent_again(bench: Bench) -> None:
    """P4."""
    bench.splio.answer(Operation.CREDIT, InDoubtError("no_reply"))

    async with bench.running():
        row = bench.plan("1")
        await bench.settled(row, state=State.IN_DOUBT)
        await until(bench.dispatcher.in_doubt.is_set)
        for _ in range(5):
            await bench.poll(600)

    assert bench.splio.count(Operation.CREDIT) == 1


async def test_a_documented_refusal_is_a_dead_letter(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.splio.answer(Operation.POST_ORDER, PermanentError("refused", status=400))

    async with bench.running():
        row = bench.plan("1", Kind.ORDER)
        await bench.settled(row, state=State.REJECTED)

    made = bench.count("relay_dead_letters_total", consumer="dispatcher", reason="refused")
    assert made == 1
    (line,) = [record for record in caplog.records if record.getMessage() == "effect.attempted"]
    assert line.levelno == logging.ERROR
    assert vars(line)["outcome"] == "rejected" and vars(line)["status"] == 400


async def test_an_unknown_card_is_waited_for_by_its_effect_alone(bench: Bench) -> None:
    bench.splio.answer(Operation.CREDIT, UnknownCard(404))

    async with bench.running():
        row, other = bench.plan("1"), bench.plan("2")
        await bench.settled(other)
        await bench.settled(row, state=State.DUE)
        await bench.poll(62)
        await bench.settled(row)


async def test_what_a_former_run_left_is_polled(bench: Bench) -> None:
    left = [bench.plan(str(n), offered=False) for n in range(5)]
    bench.clock.advance(1)

    async with bench.running():
        await bench.settled(*left)


async def test_what_does_not_fit_stays_due_and_is_polled(bench: Bench) -> None:
    bench.build(queue_size=4, concurrency=2)
    async with bench.running():
        rows = [bench.plan(str(n)) for n in range(40)]
        await settle_down()
        assert bench.ledger.states()[State.DUE] > 0
        bench.clock.advance(1)
        await bench.settled(*rows)

    assert all(times == 1 for times in bench.splio.booked.values())
    assert len(bench.splio.booked) == 40


async def test_the_ledger_away_while_polling_is_waited_out(bench: Bench) -> None:
    row = bench.plan("1", offered=False)
    bench.clock.advance(1)
    bench.ledger.unavailable["ready"] = 2

    async with bench.running():
        await bench.poll()
        await bench.settled(row)


async def test_a_request_that_cannot_begin_in_time_is_not_begun(bench: Bench) -> None:
    """The time counts from the permit, so that a slow claim cannot outlive its lease."""
    async with bench.running():
        bench.ledger.claims_go.clear()
        row = bench.plan("1")
        await until(lambda: bench.steps == [Step.PERMIT_TAKEN])
        await settle_down()
        bench.clock.advance(REQUEST_TIMEOUT_S)
        bench.ledger.claims_go.set()
        await bench.settled(row, state=State.DUE)

    assert bench.splio.calls == []
    assert row.settlements[0].reason == "deadline_passed"


async def test_the_lease_outlives_the_request_by_the_margin(bench: Bench) -> None:
    bench.splio.go.clear()
    async with bench.running():
        row = bench.plan("1")
        await until(lambda: bench.splio.under_way)
        assert row.lease_until_ms == START_MS + (REQUEST_TIMEOUT_S + LEASE_MARGIN_S) * 1_000
        bench.splio.go.set()
        await bench.settled(row)


async def test_lanes_do_not_wait_for_each_other(bench: Bench) -> None:
    bench.splio.answer(Operation.POST_ORDER, *[PermanentError("refused")] * 3)
    bench.dispatcher.gates[Lane.SALES].set_brake("by hand")

    async with bench.running():
        orders = [bench.plan(str(n), Kind.ORDER) for n in range(3)]
        await bench.settled(*(bench.plan(str(n)) for n in range(3)))
        await settle_down()

    assert all(row.state is State.DUE for row in orders)


async def test_low_storage_stops_claiming_but_not_outcomes(bench: Bench) -> None:
    bench.splio.go.clear()

    async with bench.running():
        first = bench.plan("1")
        await until(lambda: bench.splio.under_way)
        bench.dispatcher.set_storage_low(True)
        second = bench.plan("2")
        bench.splio.go.set()
        await bench.settled(first)
        await settle_down()
        assert (second.state, bench.ledger.called["claim"]) == (State.DUE, 1)
        bench.dispatcher.set_storage_low(False)
        await bench.settled(second)


async def test_storage_that_runs_low_while_a_permit_is_awaited_holds_the_effect(
    bench: Bench,
) -> None:
    bench.splio.permits_left = 0

    async with bench.running():
        row = bench.plan("1")
        await settle_down()
        bench.dispatcher.set_storage_low(True)
        bench.splio.give_permits(1)
        await until(lambda: bench.splio.handed_back[Lane.OTHER] == 1)
        assert bench.ledger.called["claim"] == 0
        bench.dispatcher.set_storage_low(False)
        await bench.settled(row)


async def test_a_late_success_of_a_lost_claim_is_counted(bench: Bench) -> None:
    bench.splio.go.clear()
    async with bench.running():
        late, double, stale = (bench.plan(str(n)) for n in (1, 2, 3))
        await until(lambda: bench.splio.under_way == 3)
        late.state = State.IN_DOUBT  # its lease ran out
        double.state, double.applied_attempt = State.APPLIED, 7  # another attempt was first
        stale.state = State.IN_DOUBT
        bench.splio.answer(
            Operation.CREDIT, Accepted(202), Accepted(202), PermanentError("refused")
        )
        bench.splio.go.set()
        await until(lambda: bench.steps.count(Step.OUTCOME_RECORDED) == 3)

    assert (late.state, stale.state) == (State.APPLIED, State.IN_DOUBT)
    assert bench.count("relay_suspected_doubles_total", effect="earn") == 1
    assert bench.count("relay_late_outcomes_total", effect="earn") == 3
    made = bench.count("relay_dead_letters_total", consumer="dispatcher", reason="refused")
    assert made == 0  # only the attempt was noted


async def test_an_effect_planned_anew_is_not_sent_with_old_bytes(bench: Bench) -> None:
    bench.splio.permits_left = 0
    async with bench.running():
        row = bench.plan("1")
        await settle_down()
        row.effect = ReadyEffect(
            **{name: getattr(row.effect, name) for name in ReadyEffect.__slots__}
            | {"request_id": 2}
        )
        bench.splio.give_permits(1)
        await until(lambda: bench.splio.handed_back[Lane.OTHER] == 1)
        await settle_down()
        assert bench.splio.calls == []


async def test_what_is_missing_is_created_and_the_order_posted(bench: Bench) -> None:
    needs = (CONTACT, STORE, PRODUCT)
    bench.splio.answer(
        Operation.POST_ORDER, *(Missing(need.kind, need.name, 400) for need in needs)
    )

    async with bench.running():
        row = bench.plan("1", Kind.ORDER, *needs)
        await bench.settled(row)

    assert [call.operation for call in bench.splio.calls] == [
        Operation.POST_ORDER,
        Operation.CREATE_CONTACT,
        Operation.POST_ORDER,
        Operation.CREATE_STORE,
        Operation.POST_ORDER,
        Operation.CREATE_PRODUCT,
        Operation.POST_ORDER,
    ]
    assert (row.rounds, row.attempt) == (3, 4)
    assert bench.clock.monotonic_s() == 0  # it waited for nothing but the creations
    assert bench.steps.count(Step.PREREQUISITE_CREATED) == 3


async def test_a_creation_that_fails_is_tried_again_with_the_order(bench: Bench) -> None:
    missing = Missing(CONTACT.kind, CONTACT.name, 400)
    bench.splio.answer(Operation.POST_ORDER, missing, missing)
    bench.splio.answer(Operation.CREATE_CONTACT, InDoubtError("no_reply"))

    async with bench.running():
        row = bench.plan("1", Kind.ORDER, CONTACT, STORE)
        await until(lambda: bench.splio.count(Operation.CREATE_CONTACT) == 1)
        await settle_down()
        assert row.due_at_ms == START_MS + 30_000
        await bench.poll(31)
        await bench.settled(row)

    assert bench.splio.count(Operation.CREATE_CONTACT) == 2


async def test_only_so_many_creations_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other orders are due again by themselves."""
    monkeypatch.setattr(consumers.dispatcher, "_CREATIONS", 16)
    missing = Missing(CONTACT.kind, CONTACT.name, 400)
    bench.splio.answer(Operation.POST_ORDER, *[missing] * 20)
    bench.splio.held[Operation.CREATE_CONTACT] = go = asyncio.Event()

    async with bench.running():
        rows = [bench.plan(str(number), Kind.ORDER, CONTACT) for number in range(20)]
        await until(lambda: bench.steps.count(Step.OUTCOME_RECORDED) == 20)
        await settle_down()
        assert bench.splio.count(Operation.CREATE_CONTACT) == 16
        go.set()
        await bench.settled(*rows[:16])
        assert bench.ledger.states()[State.DUE] == 4
        await bench.poll(31)
        await bench.settled(*rows)


async def test_rows_for_people_and_metrics(bench: Bench) -> None:
    bench.splio.permits_left = 0
    async with bench.running():
        for number in range(40):
            bench.plan(str(number))
        await settle_down()
        bench.dispatcher.gates[Lane.OTHER].pause("wrong_key", is_probe=False)
        bench.dispatcher.gates[Lane.SALES].set_brake("by hand")
        bench.dispatcher.observe()
        by_lane = {row["lane"]: row for row in bench.dispatcher.describe()}
        bench.dispatcher.release("sales")

    assert set(by_lane) == {"contacts", "sales", "other"}
    assert by_lane["other"]["paused"] == "wrong_key" and not by_lane["other"]["open"]
    assert by_lane["other"]["queued"] == 8  # 32 wait for their permit
    assert by_lane["sales"]["braked"] == "by hand"
    assert by_lane["contacts"]["open"]
    assert bench.count("relay_lane_queue_effects", lane="other") == 8
    assert bench.count("relay_lane_paused", lane="other") == 1
    assert bench.count("relay_lane_braked", lane="sales") == 1
    assert bench.dispatcher.gates[Lane.SALES].is_open()


def test_releasing_what_is_no_lane_is_told(bench: Bench) -> None:
    with pytest.raises(NotFoundError):
        bench.dispatcher.release("fast")


async def test_a_restart_keeps_the_brakes(bench: Bench) -> None:
    await bench.ledger.set_brake("other", "21 rejections in a row")
    await bench.ledger.set_brake("intake", "not mine")

    async with bench.running():
        row = bench.plan("1")
        await settle_down()
        assert row.state is State.DUE
        bench.dispatcher.release("other")
        await bench.settled(row)


async def test_nothing_is_under_way_after_it_stopped(bench: Bench) -> None:
    before = asyncio.all_tasks()
    async with bench.running():
        await bench.settled(*(bench.plan(str(n)) for n in range(5)))
    await settle_down(3)

    assert asyncio.all_tasks() == before


async def test_points_that_a_look_up_found_first_are_counted_once(bench: Bench) -> None:
    """The reply came after the lease; the look-up has counted the booking already."""
    async with bench.running():
        bench.splio.go.clear()
        row = bench.plan("1")
        await until(lambda: bench.splio.under_way == 1)
        row.state = State.APPLIED
        bench.splio.go.set()
        await until(lambda: row.settlements)

    assert bench.count("relay_points_booked_total") == 0
    assert bench.count("relay_suspected_doubles_total", effect="earn") == 0
