"""Use cases of an operator: selections, what is refused, and who did it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from service.domain.effects import EffectKey, State
from service.domain.errors import NotFoundError, RelayError, WrongStateError
from service.domain.ledger import DeadLetter, LookUpVerdict, Page, PlannedRecord
from service.domain.planning import Plan, Reason
from service.operations import Changed, Operations, Selection
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.ledger import FakeLedger
from tests.unit.builders import TRACEPARENT, key_of, make_ready, make_record


class Planner:
    """Plans nothing, of the very letter it is given."""

    def plan_again(self, dead_letter: DeadLetter) -> PlannedRecord:
        return PlannedRecord(
            record=make_record(dead_letter.offset),
            plan=Plan(ignored=Reason.TEST_CUSTOMER),
            event_id=dead_letter.event_id,
            event_type=dead_letter.event_type,
            received_at_ms=START_MS,
            traceparent=TRACEPARENT,
        )


class LookUps:
    async def look_up_now(self, key: EffectKey) -> LookUpVerdict:
        return LookUpVerdict.FOUND


class Lanes:
    def __init__(self) -> None:
        self.released: list[str] = []

    def describe(self) -> Sequence[Mapping[str, Any]]:
        return [{"lane": "other", "braked": None}]

    def release(self, lane: str) -> None:
        if lane not in ("other", "sales", "intake"):
            raise NotFoundError("unknown_lane", lane)
        self.released.append(lane)


class Holds:
    """One hold; `ended` says by whom."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    async def list_holds(self, *, only_open: bool, limit: int, after: str | None) -> Page:
        return Page([{"effect_key": "main:capture:club:1", "open": only_open}], after)

    async def show_hold(self, key: EffectKey) -> Mapping[str, Any]:
        return {"effect_key": key}

    async def end_hold(self, key: EffectKey, *, by: str) -> None:
        self.ended.append((key, by))


@pytest.fixture
def ledger() -> FakeLedger:
    return FakeLedger(FakeClock())


@pytest.fixture
def lanes() -> Lanes:
    return Lanes()


@pytest.fixture
def operations(ledger: FakeLedger, lanes: Lanes) -> Operations:
    return Operations(ledger, ledger, Planner(), holds=Holds(), look_ups=LookUps(), lanes=lanes)


@pytest.fixture
def offline(ledger: FakeLedger) -> Operations:
    return Operations(ledger, ledger, Planner(), holds=Holds())


def put_letter(ledger: FakeLedger, number: int, reason: str = "refused", *, at_ms: int = 0) -> None:
    ledger.dead[number] = DeadLetter(
        id=number,
        kind="event",
        effect_key=None,
        order_id="1001",
        event_id=f"e{number}",
        event_type="order-confirmed",
        reason=reason,
        detail="",
        topic="scayle.orders.v1",
        partition=0,
        offset=number,
        headers={},
        record=b"{}",
        at_ms=at_ms,
        times_seen=1,
        replayed_at_ms=None,
        dismissed_at_ms=None,
    )


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(ids=(2, 9)), [2, 9]),
        (Selection(reason="mismatch"), [2, 4]),
        (Selection(since_ms=300), [3, 4]),
        (Selection(until_ms=300), [1, 2]),
        (Selection(since_ms=200, until_ms=400, reason="mismatch"), [2]),
        (Selection(everything=True), [1, 2, 3, 4]),
        (Selection(reason="unheard of"), []),
    ],
)
async def test_a_selection_names_dead_letters(
    operations: Operations, ledger: FakeLedger, selection: Selection, chosen: list[int]
) -> None:
    for number in range(1, 5):
        put_letter(ledger, number, ["mismatch", "refused"][number % 2], at_ms=number * 100)
    put_letter(ledger, 9, "mismatch", at_ms=900)
    ledger.closed_by[9] = "somebody"

    changed = await operations.dismiss(selection, by="ada")

    assert [each.id for each in changed] == chosen
    assert {each.id for each in changed if each.problem} == {9} & set(chosen)


async def test_a_selection_is_walked_page_by_page(
    operations: Operations, ledger: FakeLedger
) -> None:
    for number in range(1, 451):
        put_letter(ledger, number)

    changed = await operations.dismiss(Selection(everything=True), by="ada")

    assert [each.id for each in changed] == list(range(1, 451))
    assert set(ledger.closed_by.values()) == {"ada"}


@pytest.mark.parametrize("change", ["replay", "dismiss"])
async def test_an_empty_selection_changes_nothing(
    operations: Operations, ledger: FakeLedger, change: str
) -> None:
    put_letter(ledger, 1)

    with pytest.raises(RelayError, match="nothing_selected"):
        await getattr(operations, change)(Selection(), by="ada")

    assert not ledger.closed_by


async def test_each_replay_says_for_itself_what_hindered_it(
    operations: Operations, ledger: FakeLedger
) -> None:
    put_letter(ledger, 1)
    put_letter(ledger, 2)
    ledger.closed_by[2] = "somebody"

    changed = await operations.replay(Selection(ids=(1, 2, 3)), by="ada")

    assert changed[0] == Changed(1)
    assert "closed_before" in changed[1].problem
    assert "unknown_dead_letter" in changed[2].problem
    assert [planned.event_id for planned in ledger.planned] == ["e1"]


async def test_effects_are_released_and_rejected(
    operations: Operations, ledger: FakeLedger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "relay.operations")
    held = ledger.add(make_ready("1"), state=State.HELD)
    doubt = ledger.add(make_ready("2"), state=State.IN_DOUBT)
    ledger.add(make_ready("3"))

    await operations.release(key_of("1"), by="ada")
    await operations.reject(key_of("2"), by="ada")
    with pytest.raises(WrongStateError):
        await operations.release(key_of("3"), by="ada")
    with pytest.raises(NotFoundError):
        await operations.reject(key_of("4"), by="ada")

    assert (held.state, doubt.state) == (State.DUE, State.REJECTED)
    said = [(record.getMessage(), vars(record)["by"]) for record in caplog.records]
    assert said == [("effect.released", "ada"), ("effect.rejected", "ada")]


async def test_a_look_up_needs_the_running_service(
    operations: Operations, offline: Operations
) -> None:
    assert await operations.look_up(key_of("1"), by="ada") is LookUpVerdict.FOUND
    with pytest.raises(WrongStateError, match="not_running"):
        await offline.look_up(key_of("1"), by="ada")


@pytest.mark.parametrize("lane", ["other", "intake"])
async def test_a_lane_is_released_in_ledger_and_process(
    operations: Operations, ledger: FakeLedger, lanes: Lanes, lane: str
) -> None:
    await ledger.set_brake(lane, "21 rejections in a row")

    await operations.release_lane(lane, by="ada")

    assert lanes.released == [lane] and not ledger.braked
    with pytest.raises(NotFoundError):
        await operations.release_lane("fast", by="ada")


async def test_offline_only_brakes_are_known(offline: Operations, ledger: FakeLedger) -> None:
    await ledger.set_brake("other", "21 rejections in a row")
    assert await offline.lanes() == [
        {"lane": "other", "braked": "21 rejections in a row", "braked_since": START_MS}
    ]

    await offline.release_lane("other", by="ada")

    assert await offline.lanes() == []
    with pytest.raises(WrongStateError, match="not_braked"):
        await offline.release_lane("other", by="ada")


async def test_lists_pass_through(operations: Operations, ledger: FakeLedger) -> None:
    ledger.add(make_ready("1"))
    ledger.add(make_ready("2"), state=State.HELD)
    put_letter(ledger, 1)

    page = await operations.list_effects(states=(State.HELD,))
    assert [row["effect_key"] for row in page.items] == [key_of("2")]
    assert (await operations.show_effect(key_of("1")))["state"] == "due"
    assert (await operations.show_order("1"))["order_id"] == "1"
    assert (await operations.show_dead_letter(1)).id == 1
    letters = await operations.list_dead_letters(only_open=True)
    assert [letter["id"] for letter in letters.items] == [1]
    assert await operations.lanes() == [{"lane": "other", "braked": None}]
