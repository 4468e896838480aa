"""Intake: every record becomes a plan, and its position moves with it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest

import consumers.intake
from consumers.brake import BrakeRule
from consumers.intake import BRAKE_NAME, Intake
from consumers.planner import RecordPlanner
from service.domain.effects import Kind, Lane, State, effect_key, fingerprint
from service.domain.errors import StartupError
from service.domain.ledger import Disposition, PlannedRecord, PlanResult, ReadyEffect
from service.domain.planning import Plan, PlannedEffect, Reason
from service.domain.ports import Step
from service.domain.records import Record, Stream, Topic
from service.telemetry.metrics import Metrics
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.ledger import FakeLedger
from tests.fakes.log import FakeLog
from tests.fakes.metrics import value
from tests.fakes.waiting import settle_down, until
from tests.unit.builders import STREAM, TRACEPARENT, make_ready, make_record

OTHER_STREAM = Stream(Topic.ORDERS, 1)
RULE = BrakeRule(run=3, share=1.0)


class Planner:
    """Plans what the bytes of a record say: the name of a reason, or else an order."""

    def plan(self, record: Record) -> PlannedRecord:
        text = record.value.decode()
        order_key = str(record.offset)
        if text in (Reason.TEST_CUSTOMER, Reason.UNMAPPED_SHOP, Reason.GUEST_ORDER):
            plan = Plan(order_key, ignored=Reason(text))
        elif text in (Reason.PLANNING_FAILED, Reason.UNREADABLE, Reason.SHOP_MISSING):
            plan = Plan(order_key, dead_letter=Reason(text))
        else:
            plan = Plan(order_key, (self._effect(order_key, text),), points_elsewhere=5)
        return PlannedRecord(
            record=record,
            plan=plan,
            event_id=f"{record.stream.partition}-{record.offset}",
            event_type="order-confirmed",
            received_at_ms=START_MS,
            traceparent=TRACEPARENT,
        )

    @staticmethod
    def _effect(order_key: str, text: str) -> PlannedEffect:
        is_rejected = text == Reason.CONTACT_KEY_MISSING
        return PlannedEffect(
            key=effect_key("main", Kind.ORDER, order_key),
            kind=Kind.ORDER,
            lane=Lane.SALES,
            order_key=order_key,
            fingerprint=fingerprint([order_key]),
            state=State.REJECTED if is_rejected else State.DUE,
            request=None,
            reason=text if is_rejected else None,
        )


class Dispatcher:
    def __init__(self) -> None:
        self.offered: list[str] = []

    def offer(self, effects: Sequence[ReadyEffect]) -> None:
        self.offered += [effect.order_key for effect in effects]


class IntakeBench:
    """Intake over its fakes."""

    def __init__(self, log: FakeLog, ledger: FakeLedger, metrics: Metrics) -> None:
        self.log, self.ledger, self.metrics = log, ledger, metrics
        self.dispatcher = Dispatcher()
        self.steps: list[Step] = []
        self.stop = asyncio.Event()
        self.intake = Intake(
            log,
            ledger,
            cast(RecordPlanner, Planner()),
            self.dispatcher,
            clock=FakeClock(),
            metrics=metrics,
            step=self.steps.append,
            brake_rule=RULE,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.intake.run(self.stop))
        try:
            yield
        finally:
            self.stop.set()
            await task
            assert all(reader.is_closed for reader in self.log.opened)

    def put(self, *texts: str, first: int = 0, stream: Stream = STREAM) -> None:
        self.log.put(
            *(
                make_record(first + number, text.encode(), stream=stream)
                for number, text in enumerate(texts)
            )
        )

    async def read(self, position: int, stream: Stream = STREAM) -> None:
        await until(lambda: self.ledger.at.get(stream) == position)

    def planned(self, stream: Stream = STREAM) -> list[int]:
        return [item.record.offset for item in self.ledger.planned if item.record.stream == stream]

    def count(self, name: str, **labels: str) -> float:
        return value(self.metrics, name, **labels)


@pytest.fixture
def bench(
    log: FakeLog, ledger: FakeLedger, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> IntakeBench:
    monkeypatch.setattr(consumers.intake, "_RETRY_S", 0)
    return IntakeBench(log, ledger, metrics)


async def test_records_are_planned_and_their_position_moves(bench: IntakeBench) -> None:
    bench.put("a", "b", "c")

    async with bench.running():
        await bench.read(3)
        bench.put("d", first=3)
        await bench.read(4)
        await until(lambda: bench.log.acknowledgements == {STREAM: 4})

    assert bench.planned() == [0, 1, 2, 3]
    assert bench.steps[:3] == [
        Step.RECORDS_FETCHED,
        Step.RECORDS_PLANNED,
        Step.PLANS_COMMITTED,
    ]
    assert bench.count("relay_effects_planned_total", effect="order") == 4
    assert bench.count("relay_points_booked_elsewhere_total") == 20


async def test_it_goes_on_where_the_ledger_is(bench: IntakeBench) -> None:
    bench.put("a", "b", "c")
    bench.ledger.at[STREAM] = 2

    async with bench.running():
        await bench.read(3)

    assert bench.planned() == [2]


async def test_fresh_effects_are_offered_at_once(bench: IntakeBench) -> None:
    bench.ledger.results["0-1"] = PlanResult(Disposition.PLANNED, (make_ready("77"),))
    bench.put("a", "b")

    async with bench.running():
        await until(lambda: bench.dispatcher.offered == ["77"])


async def test_nothing_is_offered_that_is_not_committed(bench: IntakeBench) -> None:
    bench.ledger.results["0-0"] = PlanResult(Disposition.PLANNED, (make_ready("77"),))
    bench.ledger.unavailable["record_plans"] = 10**9
    bench.put("a")

    async with bench.running():
        await until(lambda: bench.ledger.called["record_plans"] >= 3)

    assert bench.dispatcher.offered == [] and bench.log.acknowledgements == {}


async def test_a_failed_commit_is_tried_again_from_the_ledgers_position(
    bench: IntakeBench,
) -> None:
    """P3: nothing is skipped, and nothing planned twice."""
    bench.ledger.unavailable["record_plans"] = 3
    bench.put("a", "b", "c")

    async with bench.running():
        await bench.read(3)

    assert bench.planned() == [0, 1, 2]
    assert bench.log.opened[0].sought == [{STREAM: 0}] * 3


async def test_a_failed_commit_of_several_streams_seeks_all_of_them(bench: IntakeBench) -> None:
    bench.ledger.at.update({STREAM: 1, OTHER_STREAM: 0})
    bench.put("a", "b")
    bench.put("c", "d", stream=OTHER_STREAM)
    bench.ledger.unavailable["record_plans"] = 1

    async with bench.running():
        await bench.read(2)
        await bench.read(2, OTHER_STREAM)

    assert bench.planned() == [1] and bench.planned(OTHER_STREAM) == [0, 1]
    assert bench.log.opened[0].sought == [{STREAM: 1, OTHER_STREAM: 0}]


async def test_gaps_between_offsets_are_no_obstacle(bench: IntakeBench) -> None:
    """The ledger's position is compared, not the offset of the next record."""
    bench.ledger.at[STREAM] = 2
    bench.log.put(make_record(5, b"a"), make_record(9, b"b"))

    async with bench.running():
        await bench.read(10)

    assert bench.planned() == [5, 9]


async def test_a_position_that_moved_is_taken_over(bench: IntakeBench) -> None:
    bench.put("a")

    async with bench.running():
        await bench.read(1)
        bench.ledger.at[STREAM] = 3  # another process went on here
        bench.put("b", "c", "d", first=1)
        await bench.read(4)

    assert bench.planned() == [0, 3]
    assert bench.log.opened[0].sought == [{STREAM: 3}]


async def test_a_position_that_moved_loses_no_record_of_another_stream(
    bench: IntakeBench,
) -> None:
    """Not even of a stream that the ledger does not know yet."""
    bench.put("a")

    async with bench.running():
        await bench.read(1)
        bench.ledger.at[STREAM] = 2
        bench.log.put(
            make_record(1, b"b"),
            make_record(0, b"c", stream=OTHER_STREAM),
            make_record(1, b"d", stream=OTHER_STREAM),
        )
        await bench.read(2, OTHER_STREAM)

    assert bench.planned() == [0]
    assert bench.planned(OTHER_STREAM) == [0, 1]


async def test_an_acknowledgement_that_fails_ends_nothing(bench: IntakeBench) -> None:
    bench.log.acknowledging_fails = 1
    bench.put("a")

    async with bench.running():
        await bench.read(1)
        bench.put("b", first=1)
        await bench.read(2)
        await until(lambda: bench.log.acknowledgements == {STREAM: 2})


async def test_a_log_that_is_away_at_the_start_is_waited_for(
    bench: IntakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.log.opening_fails = 2
    bench.put("a")

    async with bench.running():
        await bench.read(1)

    assert len(bench.log.opened) == 1
    assert [r.message for r in caplog.records].count("records.not_fetched") == 2


async def test_a_log_that_goes_away_is_waited_for(bench: IntakeBench) -> None:
    bench.put("a")
    async with bench.running():
        await bench.read(1)
        bench.log.fetching_fails = 3
        bench.put("b", first=1)
        await bench.read(2)

    assert bench.log.fetching_fails == 0
    assert bench.planned() == [0, 1]
    assert len(bench.log.opened) == 1


async def test_stopping_while_the_log_is_away_ends(
    bench: IntakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers.intake, "_RETRY_S", 3600)
    bench.log.opening_fails = 1

    async with bench.running():
        await until(lambda: not bench.log.opening_fails)

    assert not bench.log.opened


async def test_every_disposition_is_counted(
    bench: IntakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.ledger.results["0-6"] = PlanResult(Disposition.REPEATED)
    bench.ledger.results["0-7"] = PlanResult(Disposition.CONFLICT)
    bench.put(
        "order",
        "test_customer",
        "unmapped_shop",
        "guest_order",
        "unreadable",
        "shop_missing",
        "repeat",
        "contradiction",
        "contact_key_missing",
    )

    async with bench.running():
        await bench.read(9)
        await until(lambda: bench.count("relay_effects_planned_total", effect="order") == 2)

    consumed = {
        outcome: bench.count("relay_records_consumed_total", consumer="intake", outcome=outcome)
        for outcome in ("planned", "repeated", "conflict", "dead_letter", "ignored")
    }
    assert consumed == {
        "planned": 2,
        "repeated": 1,
        "conflict": 1,
        "dead_letter": 2,
        "ignored": 3,
    }
    for reason in ("test_customer", "unmapped_shop", "guest_order"):
        assert bench.count("relay_events_ignored_total", reason=reason) == 1
    for reason in ("unreadable", "shop_missing", "conflict", "contact_key_missing"):
        made = bench.count("relay_dead_letters_total", consumer="intake", reason=reason)
        assert made == 1
    assert bench.count("relay_points_booked_elsewhere_total") == 10  # not for the repeat
    set_aside = [vars(r) for r in caplog.records if r.getMessage() == "record.dead_lettered"]
    assert [line["offset"] for line in set_aside] == [4, 5, 7, 8]
    assert set_aside[-1]["effect"] == "main:order:8"


async def test_a_run_of_failed_plans_brakes_intake_until_a_person_releases_it(
    bench: IntakeBench,
) -> None:
    """The one broad except must not turn a bad deploy into a heap of dead letters."""
    bench.put(*["planning_failed"] * 4)

    async with bench.running():
        await until(lambda: bench.ledger.braked)
        assert bench.ledger.braked[BRAKE_NAME].reason == "4 rejections in a row"
        assert bench.intake.describe() == {"lane": "intake", "braked": "4 rejections in a row"}
        bench.put("planning_failed", "b", first=4)
        await settle_down()
        assert bench.ledger.at[STREAM] == 4
        bench.intake.release()
        await bench.read(6)
        bench.put(*["planning_failed"] * 3, first=6)  # the run begins anew
        bench.put("a", first=9)
        await bench.read(10)

    assert bench.intake.describe()["braked"] is None
    assert bench.count("relay_dead_letters_total", consumer="intake", reason="planning_failed") == 8


async def test_other_dead_letters_do_not_brake(bench: IntakeBench) -> None:
    bench.put(*["unreadable"] * 20)

    async with bench.running():
        await bench.read(20)
        await settle_down()

    assert not bench.ledger.braked


async def test_a_restart_keeps_the_brake(bench: IntakeBench) -> None:
    await bench.ledger.set_brake("other", "not mine")
    await bench.ledger.set_brake(BRAKE_NAME, "4 rejections in a row")
    bench.put("a")

    async with bench.running():
        await settle_down()
        assert bench.ledger.planned == []
        bench.intake.release()
        await bench.read(1)


async def test_the_brake_of_a_lane_is_not_that_of_intake(bench: IntakeBench) -> None:
    await bench.ledger.set_brake("other", "not mine")
    bench.put("a")

    async with bench.running():
        await bench.read(1)


async def test_a_brake_is_recorded_when_the_ledger_is_back(bench: IntakeBench) -> None:
    bench.ledger.unavailable["set_brake"] = 3
    bench.put(*["planning_failed"] * 4)

    async with bench.running():
        await until(lambda: bench.ledger.braked)

    assert bench.ledger.called["set_brake"] == 4


@pytest.mark.parametrize("braked", [False, True])
async def test_stop_ends_it_while_it_waits(bench: IntakeBench, braked: bool) -> None:
    if braked:
        await bench.ledger.set_brake(BRAKE_NAME, "x")

    async with bench.running():
        await settle_down()


async def test_stop_ends_it_while_the_ledger_is_away(bench: IntakeBench) -> None:
    bench.ledger.unavailable["record_plans"] = 10**9
    bench.ledger.unavailable["set_brake"] = 10**9
    bench.put("a")

    async with bench.running():
        await until(lambda: bench.ledger.called["record_plans"])


async def test_a_brake_that_cannot_be_recorded_does_not_hold_the_stop_up(
    bench: IntakeBench,
) -> None:
    bench.ledger.unavailable["set_brake"] = 10**9
    bench.put(*["planning_failed"] * 4)

    async with bench.running():
        await until(lambda: bench.ledger.called["set_brake"] >= 2)


async def test_a_bug_in_the_ledger_ends_the_worker_and_closes_the_reader(
    bench: IntakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.ledger, "record_plans", broken)
    bench.put("a")

    with pytest.raises(ZeroDivisionError):
        await bench.intake.run(asyncio.Event())

    assert bench.log.opened[0].is_closed


async def test_a_record_that_can_never_be_written_becomes_a_dead_letter(
    bench: IntakeBench,
) -> None:
    """P3: it does not stall its stream, and the records beside it are planned as ever."""
    bench.put("a", "b", "c", "d")
    bench.ledger.not_storable = {1}

    async with bench.running():
        await bench.read(4)

    assert bench.planned() == [0, 1, 2, 3]
    reasons = [item.plan.dead_letter for item in bench.ledger.planned]
    assert reasons == [None, Reason.PLANNING_FAILED, None, None]
    kept = bench.ledger.planned[1]
    assert (kept.record.value, kept.record.key, kept.event_id) == (b"b", None, "")


async def test_nothing_is_skipped_when_the_ledger_goes_away_beside_such_a_record(
    bench: IntakeBench,
) -> None:
    """P3: the records after one that was not written are read again, not passed over."""
    bench.put("a", "b", "c", "d")
    bench.ledger.not_storable = {3}
    bench.ledger.fails_at[1] = 2

    async with bench.running():
        await bench.read(4)

    assert bench.planned() == [0, 1, 2, 3]


async def test_a_ledger_behind_what_the_log_was_told_is_refused(bench: IntakeBench) -> None:
    """P2: planned as if nothing had happened, its effects would be sent a second time."""
    bench.put("a", "b", "c")
    bench.ledger.at[STREAM] = 1
    bench.log.acknowledgements[STREAM] = 3

    with pytest.raises(StartupError) as caught:
        await bench.intake.run(bench.stop)

    assert caught.value.reason == "ledger_behind_log"
    assert "loyalty-relay recover --since" in str(caught.value)
    assert bench.planned() == []


async def test_a_ledger_that_was_recovered_reads_again_from_where_it_is(bench: IntakeBench) -> None:
    """What lies before `recover_until` is planned in doubt, so it may be planned again."""
    bench.put("a", "b", "c")
    bench.ledger.at[STREAM] = 1
    bench.ledger.recover_until[STREAM] = 3
    bench.log.acknowledgements[STREAM] = 3

    async with bench.running():
        await bench.read(3)

    assert bench.planned() == [1, 2]
