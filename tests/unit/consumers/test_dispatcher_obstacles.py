"""What holds a lane, and how the dispatcher ends: pause, brake, stop, death."""

import asyncio
import logging

import pytest

from consumers.brake import BrakeRule
from service.domain.effects import Kind, Lane, State
from service.domain.errors import (
    InDoubtError,
    LanePausedError,
    PermanentError,
    PoisonMessageError,
    RetryableError,
)
from service.domain.ports import Accepted, Missing, Operation, Step
from tests.fakes.waiting import settle_down, until
from tests.unit.builders import CONTACT, STORE
from tests.unit.consumers.dispatching import Bench

WRONG_KEY = LanePausedError("authentication_failed", status=401)


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage() == event]


async def test_an_undocumented_refusal_pauses_the_lane(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong key must not empty the queue into dead letters."""
    bench.splio.default[Operation.CREDIT] = WRONG_KEY
    bench.splio.go.clear()

    async with bench.running():
        rows = [bench.plan(str(n)) for n in range(100)]
        await until(lambda: bench.splio.under_way == 32)
        bench.splio.go.set()
        await until(lambda: bench.steps.count(Step.OUTCOME_RECORDED) == 32)
        await settle_down()
        assert bench.splio.count(Operation.CREDIT) == 32
        assert len(lines(caplog, "lane.paused")) == 1

        bench.clock.advance(5)
        await until(lambda: bench.steps.count(Step.OUTCOME_RECORDED) == 33)
        await settle_down()
        assert bench.splio.count(Operation.CREDIT) == 33  # one probe
        bench.clock.advance(5)
        await settle_down()
        assert bench.splio.count(Operation.CREDIT) == 33  # the next waits twice as long

        bench.splio.default[Operation.CREDIT] = Accepted(202)
        for _ in range(8):
            await bench.poll(5)
        await bench.settled(*rows)

    assert bench.ledger.states() == {State.APPLIED: 100}
    assert bench.count("relay_dead_letters_total", consumer="dispatcher", reason="refused") == 0


async def test_a_pause_of_one_lane_is_no_pause_of_the_other(bench: Bench) -> None:
    bench.splio.default[Operation.CREDIT] = WRONG_KEY

    async with bench.running():
        bench.plan("1")
        await until(lambda: bench.dispatcher.gates[Lane.OTHER].paused)
        await bench.settled(bench.plan("1", Kind.ORDER))


async def test_a_refused_effect_that_was_in_doubt_is_looked_up(bench: Bench) -> None:
    """The refusal may be Splio's way to say that it has this already."""
    bench.splio.answer(Operation.CREDIT, WRONG_KEY)

    async with bench.running():
        row = bench.plan("1", offered=False)
        row.was_in_doubt = True
        bench.dispatcher.offer([row.effect])
        await bench.settled(row, state=State.IN_DOUBT)
        await until(bench.dispatcher.in_doubt.is_set)
        assert bench.dispatcher.gates[Lane.OTHER].paused == "authentication_failed"


@pytest.mark.parametrize("error", [RetryableError("not_connected"), InDoubtError("no_reply")])
async def test_a_probe_without_an_answer_leaves_the_lane_paused(
    bench: Bench, error: Exception
) -> None:
    bench.splio.answer(Operation.CREDIT, WRONG_KEY, error)

    async with bench.running():
        rows = [bench.plan("1")]
        await until(lambda: bench.dispatcher.gates[Lane.OTHER].paused)
        rows += [bench.plan(str(n)) for n in range(2, 9)]
        await until(lambda: bench.clock.sleeping >= 9)
        bench.clock.advance(5)
        await until(lambda: bench.splio.count(Operation.CREDIT) == 2)
        await settle_down()
        assert bench.splio.count(Operation.CREDIT) == 2  # not one probe after the other
        bench.clock.advance(5)
        await until(bench.dispatcher.gates[Lane.OTHER].is_open)
        await until(lambda: bench.ledger.states()[State.APPLIED] >= 6)


async def test_a_documented_refusal_of_the_probe_ends_the_pause(bench: Bench) -> None:
    bench.splio.answer(Operation.CREDIT, WRONG_KEY, PermanentError("refused", status=400))

    async with bench.running():
        bench.plan("1")
        await until(lambda: bench.dispatcher.gates[Lane.OTHER].paused)
        refused, row = bench.plan("2"), bench.plan("3")
        await until(lambda: bench.clock.sleeping >= 4)
        bench.clock.advance(5)
        await bench.settled(refused, state=State.REJECTED)
        await bench.settled(row)


async def test_a_probe_that_cannot_be_claimed_leaves_its_place(bench: Bench) -> None:
    bench.splio.answer(Operation.CREDIT, WRONG_KEY)

    async with bench.running():
        bench.plan("1")
        await until(lambda: bench.dispatcher.gates[Lane.OTHER].paused)
        gone, row = bench.plan("2"), bench.plan("3")
        gone.state = State.REJECTED  # by an operator
        await until(lambda: bench.clock.sleeping >= 4)
        bench.clock.advance(5)
        await bench.settled(row)
        assert bench.splio.handed_back[Lane.OTHER] == 1


async def test_a_person_ends_a_pause(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.splio.answer(Operation.CREDIT, WRONG_KEY)

    async with bench.running():
        bench.plan("1")
        await until(lambda: bench.dispatcher.gates[Lane.OTHER].paused)
        row = bench.plan("2")
        await settle_down()
        assert row.state is State.DUE
        bench.dispatcher.release("other")
        await bench.settled(row)


async def test_a_pause_for_ever_makes_no_dead_letters_until_the_greatest_age(
    bench: Bench,
) -> None:
    bench.splio.default[Operation.CREDIT] = WRONG_KEY

    async with bench.running():
        row = bench.plan("1")
        await until(lambda: row.settlements)
        while bench.clock.monotonic_s() < 13.9 * 86_400:
            await bench.poll(3_600)
        assert row.state is State.DUE and row.attempt > 100
        await bench.poll(3 * 3_600)
        await bench.poll(3_600)
        await bench.settled(row, state=State.REJECTED)

    assert row.settlements[-1].reason == "too_old"


BRAKED = BrakeRule(run=20, share=0.1)


async def test_a_run_of_dead_letters_brakes_the_lane_until_a_person_releases_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.build(brake_rule=BRAKED, concurrency=1)
    bench.splio.default[Operation.CREDIT] = PermanentError("refused", status=400)

    async with bench.running():
        rows = [bench.plan(str(n)) for n in range(30)]
        order = bench.plan("1", Kind.ORDER)
        await until(lambda: "other" in bench.ledger.braked)
        await bench.settled(order)
        for _ in range(20):
            await bench.poll(3_600)
        assert bench.ledger.states()[State.REJECTED] == 21
        assert bench.ledger.braked["other"].reason == "21 rejections in a row"
        assert len(lines(caplog, "lane.braked")) == 1

        bench.splio.default[Operation.CREDIT] = Accepted(202)
        bench.dispatcher.release("other")
        await bench.settled(*rows[21:])


async def test_a_brake_is_recorded_when_the_ledger_is_back(bench: Bench) -> None:
    bench.build(brake_rule=BrakeRule(run=0, share=1), concurrency=1)
    bench.splio.default[Operation.CREDIT] = PermanentError("refused")
    bench.ledger.unavailable["set_brake"] = 2

    async with bench.running():
        bench.plan("1")
        await until(lambda: bench.ledger.called["set_brake"] == 1)
        assert bench.dispatcher.gates[Lane.OTHER].braked  # at once
        await until(lambda: bench.clock.sleeping >= 3)
        bench.clock.advance(0.5)
        await until(lambda: bench.ledger.called["set_brake"] == 2)
        await until(lambda: bench.clock.sleeping >= 3)
        bench.clock.advance(0.5)
        await until(lambda: bench.ledger.braked)


async def test_duplicates_and_retries_do_not_brake(bench: Bench) -> None:
    bench.build(brake_rule=BrakeRule(run=3, share=1))
    bench.splio.answer(Operation.CREDIT, *[RetryableError("rate_limited")] * 20)

    async with bench.running():
        rows = [bench.plan(str(n)) for n in range(20)]
        await until(lambda: bench.steps.count(Step.OUTCOME_RECORDED) == 20)
        await bench.poll(3)
        await bench.settled(*rows)

    assert not bench.ledger.braked


async def test_stop_finishes_what_is_in_hand_and_begins_nothing(bench: Bench) -> None:
    bench.splio.held[Operation.CREDIT] = go = asyncio.Event()
    async with bench.running() as stop:
        rows = [bench.plan(str(n)) for n in range(50)]
        await until(lambda: bench.splio.under_way == 32)

        stop.set()
        await settle_down()
        go.set()

    assert bench.ledger.states() == {State.APPLIED: 32, State.DUE: 18}
    assert len(rows) == 50 and bench.splio.permits_out == 0


async def test_stop_waits_for_an_outcome_that_cannot_be_written_yet(bench: Bench) -> None:
    bench.ledger.unavailable["settle"] = 1
    async with bench.running() as stop:
        row = bench.plan("1")
        await until(lambda: bench.ledger.called["settle"] == 1)
        stop.set()
        await settle_down()
        bench.clock.advance(0.5)

    assert row.state is State.APPLIED


async def test_stop_finishes_a_creation_that_is_in_hand(bench: Bench) -> None:
    bench.splio.answer(Operation.POST_ORDER, Missing(CONTACT.kind, CONTACT.name, 400))
    bench.splio.held[Operation.CREATE_CONTACT] = go = asyncio.Event()

    async with bench.running() as stop:
        row = bench.plan("1", Kind.ORDER, CONTACT)
        await until(lambda: bench.splio.count(Operation.CREATE_CONTACT))
        stop.set()
        await settle_down()
        go.set()

    assert Step.PREREQUISITE_CREATED in bench.steps
    assert (row.state, row.due_at_ms) == (State.DUE, bench.clock.now_ms())
    assert bench.splio.count(Operation.POST_ORDER) == 1


async def test_what_is_still_missing_at_the_end_is_left_for_the_next_run(bench: Bench) -> None:
    bench.splio.answer(Operation.POST_ORDER, Missing(CONTACT.kind, CONTACT.name, 400))
    bench.splio.held[Operation.POST_ORDER] = go = asyncio.Event()

    async with bench.running() as stop:
        row = bench.plan("1", Kind.ORDER, CONTACT)
        await until(lambda: bench.splio.under_way)
        stop.set()
        await settle_down()
        go.set()

    assert (row.state, row.rounds) == (State.DUE, 0)
    assert bench.splio.count(Operation.CREATE_CONTACT) == 0


async def test_past_the_grace_period_the_claim_stays(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The next run sees it as in doubt and looks it up."""
    bench.build(grace_s=0)
    bench.splio.go.clear()
    before = asyncio.all_tasks()

    async with bench.running():
        row = bench.plan("1")
        await until(lambda: bench.splio.under_way)

    assert row.state is State.ATTEMPTING and row.settlements == []
    assert len(lines(caplog, "attempt.abandoned")) == 1
    await settle_down(3)
    assert asyncio.all_tasks() == before


async def test_past_the_grace_period_an_outcome_is_given_up(bench: Bench) -> None:
    """Nobody writes to a ledger that is about to close."""
    bench.build(grace_s=0)
    bench.ledger.unavailable["settle"] = 10**6
    before = asyncio.all_tasks()

    async with bench.running():
        row = bench.plan("1")
        await until(lambda: bench.ledger.called["settle"])

    assert row.state is State.ATTEMPTING
    await settle_down(3)
    assert asyncio.all_tasks() == before


async def test_a_bug_ends_the_dispatcher_after_what_is_in_hand(bench: Bench) -> None:
    """Its own effect keeps its claim; nothing new is begun meanwhile."""
    bench.splio.held[Operation.POST_ORDER] = go = asyncio.Event()
    bench.splio.answer(Operation.CREDIT, ZeroDivisionError())
    running = asyncio.create_task(bench.dispatcher.run(asyncio.Event()))
    await until(lambda: bench.clock.sleeping >= 2)
    orders = [bench.plan(str(n), Kind.ORDER) for n in range(40)]
    await until(lambda: bench.splio.under_way == 32)
    broken = bench.plan("1")
    await until(lambda: bench.splio.count(Operation.CREDIT) == 1)
    await settle_down()
    go.set()

    with pytest.raises(ZeroDivisionError):
        await running

    assert broken.state is State.ATTEMPTING
    assert sum(row.state is State.APPLIED for row in orders) == 32
    assert sum(row.attempt for row in orders) == 32


async def test_several_bugs_at_once_lose_no_traceback(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.splio.answer(Operation.CREDIT, ZeroDivisionError(), KeyError("x"))
    bench.splio.go.clear()
    running = asyncio.create_task(bench.dispatcher.run(asyncio.Event()))
    await until(lambda: bench.clock.sleeping >= 2)
    bench.plan("1")
    bench.plan("2")
    await until(lambda: bench.splio.under_way == 2)
    bench.splio.go.set()

    with pytest.raises(ZeroDivisionError):
        await running

    (line,) = lines(caplog, "attempt.failed")
    assert line.exc_info is not None and line.exc_info[0] is KeyError


async def test_a_bug_while_creating_ends_the_dispatcher(bench: Bench) -> None:
    bench.splio.answer(Operation.POST_ORDER, Missing(STORE.kind, None, 400))
    bench.splio.answer(Operation.CREATE_STORE, ZeroDivisionError())
    running = asyncio.create_task(bench.dispatcher.run(asyncio.Event()))
    await until(lambda: bench.clock.sleeping >= 2)
    bench.plan("1", Kind.ORDER, STORE)

    with pytest.raises(ZeroDivisionError):
        await running


async def test_an_error_that_no_attempt_may_raise_ends_the_dispatcher(bench: Bench) -> None:
    bench.splio.answer(Operation.CREDIT, PoisonMessageError("not_of_this_port"))
    running = asyncio.create_task(bench.dispatcher.run(asyncio.Event()))
    await until(lambda: bench.clock.sleeping >= 2)
    row = bench.plan("1")

    with pytest.raises(PoisonMessageError):
        await running

    assert row.state is State.ATTEMPTING


async def test_a_bug_while_polling_ends_the_dispatcher(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.ledger, "ready", broken)

    with pytest.raises(ZeroDivisionError):
        await bench.dispatcher.run(asyncio.Event())


async def test_cancelling_the_dispatcher_waits_for_what_is_in_hand(bench: Bench) -> None:
    bench.splio.go.clear()
    running = asyncio.create_task(bench.dispatcher.run(asyncio.Event()))
    await until(lambda: bench.clock.sleeping >= 2)
    row = bench.plan("1")
    await until(lambda: bench.splio.under_way)

    running.cancel()
    await settle_down()
    bench.splio.go.set()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert row.state is State.APPLIED


async def test_a_refused_new_token_pauses_the_lane_and_costs_no_effect(bench: Bench) -> None:
    """P6: a backlog would otherwise ask for tokens as fast as the limiter lets it."""
    refused = RetryableError("unauthorized", status=401)
    bench.splio.answer(Operation.CREDIT, *[refused] * 3)
    bench.dispatcher = bench.build(concurrency=1)

    async with bench.running():
        rows = [bench.plan(str(number)) for number in range(9)]
        await until(lambda: bench.dispatcher.gates[Lane.OTHER].paused == "unauthorized")
        await settle_down()
        assert bench.splio.count(Operation.CREDIT) == 1
        for seconds in (5, 10, 20):
            await until(lambda: bench.clock.sleeping >= 3)
            bench.clock.advance(seconds)
            await settle_down()
        await until(bench.dispatcher.gates[Lane.OTHER].is_open)
        await until(lambda: bench.ledger.states()[State.APPLIED] >= 6)

    assert all(row.state in (State.APPLIED, State.DUE) for row in rows)
