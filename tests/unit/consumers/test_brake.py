"""The dead-letter brake: when a run or a share of rejections is one too many."""

import asyncio
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from consumers.brake import BrakeRule, BrakeWatch, DeadLetterBrake
from consumers.lane import LaneGate
from service.domain.effects import Lane
from tests.fakes.clock import FakeClock
from tests.fakes.ledger import FakeLedger
from tests.fakes.waiting import until

RULE = BrakeRule(run=20, share=0.1)


def note(brake: DeadLetterBrake, *outcomes: bool) -> list[str | None]:
    return [brake.note(rejected=rejected) for rejected in outcomes]


def test_one_more_than_the_run_brakes() -> None:
    brake = DeadLetterBrake(RULE)

    said = note(brake, *[True] * 21)

    assert said == [None] * 20 + ["21 rejections in a row"]


def test_a_success_ends_the_run() -> None:
    brake = DeadLetterBrake(RULE)

    assert not any(note(brake, *[True] * 20, False, *[True] * 20))


def test_the_share_is_judged_over_200_outcomes() -> None:
    brake = DeadLetterBrake(BrakeRule(run=1_000, share=0.1))
    pattern = [index % 9 == 0 for index in range(200)]  # 23 of 200

    said = note(brake, *pattern)

    assert not any(said[:199])
    assert said[199] == "23 of the last 200 were rejected"


def test_exactly_the_share_does_not_brake() -> None:
    brake = DeadLetterBrake(RULE)

    assert not any(note(brake, *[index % 10 == 0 for index in range(1_000)]))


def test_old_outcomes_leave_the_window() -> None:
    brake = DeadLetterBrake(BrakeRule(run=1_000, share=0.1))
    note(brake, *[True] * 20, *[False] * 180)

    assert brake.note(rejected=True) is None  # the first of the 20 left as this came
    assert not any(note(brake, *[False] * 199))
    assert brake.note(rejected=True) is None


def test_off_never_brakes() -> None:
    assert not any(note(DeadLetterBrake(None), *[True] * 500))


def test_reset_begins_anew() -> None:
    brake = DeadLetterBrake(RULE)
    note(brake, *[True] * 21)

    brake.reset()

    assert not any(note(brake, *[True] * 20))
    assert brake.note(rejected=True)


@given(
    outcomes=st.lists(st.booleans(), max_size=450),
    run=st.integers(0, 30),
    share=st.floats(0, 1),
)
def test_it_judges_as_the_rule_says(outcomes: list[bool], run: int, share: float) -> None:
    brake = DeadLetterBrake(BrakeRule(run=run, share=share))

    for count, rejected in enumerate(outcomes, start=1):
        braked = brake.note(rejected=rejected)
        seen = outcomes[:count]
        in_a_row = next((n for n, each in enumerate(reversed(seen)) if not each), len(seen))
        too_many = count >= 200 and sum(seen[-200:]) > share * 200
        assert (braked is not None) == (in_a_row > run or too_many)


class Braked:
    """What a brake stops, as `BrakeWatch` tells it."""

    def __init__(self) -> None:
        self.told: list[tuple[dict[str, str], float]] = []

    def follow_brakes(self, brakes: Mapping[str, str], *, asked_at_s: float) -> None:
        self.told.append((dict(brakes), asked_at_s))


async def test_brakes_of_the_ledger_are_told_to_all_again_and_again(
    ledger: FakeLedger, clock: FakeClock
) -> None:
    one, two = Braked(), Braked()
    stop = asyncio.Event()
    watching = asyncio.create_task(BrakeWatch(ledger, [one, two], clock=clock).run(stop))
    await until(lambda: clock.sleeping)
    await ledger.set_brake("sales", "too many")
    clock.advance(5)
    await until(lambda: len(two.told) == 2 and clock.sleeping)
    ledger.unavailable["brakes"] = 1
    clock.advance(5)
    await until(lambda: ledger.unavailable["brakes"] == 0 and clock.sleeping)
    clock.advance(5)
    await until(lambda: len(two.told) == 3)
    stop.set()
    await watching
    assert [brakes for brakes, _ in one.told] == [{}, {"sales": "too many"}, {"sales": "too many"}]
    assert one.told == two.told


def braked(gate: LaneGate) -> str | None:
    return gate.braked


def test_a_lane_follows_the_ledger_but_not_what_it_said_before(clock: FakeClock) -> None:
    """A brake that was set or released here is younger than the ledger's word of before."""
    gate = LaneGate(Lane.SALES, clock=clock, brake_rule=None)
    clock.advance(1)
    gate.follow_brake("elsewhere", asked_at_s=1.0)
    assert braked(gate) == "elsewhere"
    clock.advance(1)
    gate.follow_brake(None, asked_at_s=2.0)
    assert braked(gate) is None
    asked_at_s = clock.monotonic_s()
    clock.advance(1)
    gate.set_brake("here")
    gate.follow_brake(None, asked_at_s=asked_at_s)
    assert braked(gate) == "here"
    clock.advance(1)
    asked_at_s = clock.monotonic_s()
    gate.release()
    gate.follow_brake("here", asked_at_s=asked_at_s)
    assert braked(gate) is None
