"""The gate of a lane: open, paused with one probe at a time, braked, or short of disk."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.brake import BrakeRule
from consumers.lane import LaneGate
from service.domain.effects import Lane
from tests.fakes.clock import FakeClock
from tests.fakes.waiting import settle_down, until


class Crowd:
    """Many workers that wait at one gate; counts who got through, and how."""

    def __init__(self, gate: LaneGate, size: int) -> None:
        self.probes = 0
        self.through = 0
        self.tasks = [asyncio.create_task(self._pass(gate)) for _ in range(size)]

    async def _pass(self, gate: LaneGate) -> None:
        if await gate.passed():
            self.probes += 1
        else:
            self.through += 1

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


def make_gate(clock: FakeClock) -> LaneGate:
    return LaneGate(Lane.OTHER, clock=clock, brake_rule=BrakeRule(20, 0.1))


async def probe_after(gate: LaneGate, clock: FakeClock, wait_s: float) -> None:
    """Assert that the next probe goes after `wait_s` and not before; it is then out."""
    waiting = asyncio.create_task(gate.passed())
    await until(lambda: clock.sleeping)
    clock.advance(wait_s - 0.001)
    await settle_down()
    assert not waiting.done()
    clock.advance(0.001)
    assert await waiting is True


async def test_an_open_gate_lets_everybody_through() -> None:
    gate = make_gate(FakeClock())

    assert gate.is_open()
    assert await gate.passed() is False
    assert gate.lets_through(is_probe=False)


async def test_a_paused_lane_lets_one_probe_through() -> None:
    clock = FakeClock()
    gate = make_gate(clock)
    assert gate.pause("wrong_key", is_probe=False) is True
    crowd = Crowd(gate, 32)
    await until(lambda: clock.sleeping == 32)

    clock.advance(5)
    await settle_down()

    assert (crowd.probes, crowd.through) == (1, 0)
    assert gate.paused == "wrong_key"
    clock.advance(3_600)
    await settle_down()
    assert (crowd.probes, crowd.through) == (1, 0)  # while it is out, no other
    await crowd.leave()


async def test_an_answered_probe_opens_the_lane_for_all() -> None:
    clock = FakeClock()
    gate = make_gate(clock)
    gate.pause("wrong_key", is_probe=False)
    crowd = Crowd(gate, 8)
    await until(lambda: clock.sleeping == 8)
    clock.advance(5)
    await settle_down()

    assert gate.answered() is True

    await until(lambda: crowd.through == 7)
    assert gate.is_open()
    assert gate.answered() is False


async def test_probes_become_rarer_up_to_five_minutes() -> None:
    clock = FakeClock()
    gate = make_gate(clock)
    gate.pause("wrong_key", is_probe=False)

    for wait_s in (5, 10, 20, 40, 80, 160, 300, 300):
        await probe_after(gate, clock, wait_s)
        assert gate.pause("wrong_key", is_probe=True) is False


async def test_a_pause_after_a_good_answer_begins_with_short_waits() -> None:
    clock = FakeClock()
    gate = make_gate(clock)
    gate.pause("wrong_key", is_probe=False)
    await probe_after(gate, clock, 5)
    gate.pause("wrong_key", is_probe=True)
    await probe_after(gate, clock, 10)
    gate.answered()

    assert gate.pause("wrong_key", is_probe=False) is True

    await probe_after(gate, clock, 5)


async def test_attempts_under_way_do_not_make_probes_rarer() -> None:
    """32 requests that were out when the lane paused all come back with the same refusal."""
    clock = FakeClock()
    gate = make_gate(clock)

    assert [gate.pause("wrong_key", is_probe=False) for _ in range(32)] == [True] + [False] * 31

    await probe_after(gate, clock, 5)


async def test_attempts_under_way_do_not_let_a_second_probe_out() -> None:
    clock = FakeClock()
    gate = make_gate(clock)
    gate.pause("wrong_key", is_probe=False)
    await probe_after(gate, clock, 5)
    crowd = Crowd(gate, 4)
    await settle_down()

    gate.inconclusive(is_probe=False)
    gate.skipped(is_probe=False)
    gate.pause("wrong_key", is_probe=False)
    clock.advance(3_600)
    await settle_down()

    assert crowd.probes == 0
    await crowd.leave()


async def test_a_probe_that_did_not_take_place_is_followed_at_once() -> None:
    clock = FakeClock()
    gate = make_gate(clock)
    gate.pause("wrong_key", is_probe=False)
    await probe_after(gate, clock, 5)
    crowd = Crowd(gate, 4)
    await settle_down()

    gate.skipped(is_probe=True)

    await until(lambda: crowd.probes == 1)
    await settle_down()
    assert crowd.probes == 1
    await crowd.leave()


async def test_a_probe_that_told_nothing_is_followed_after_the_same_wait() -> None:
    """Splio away: a probe without an answer must not become a stream of probes."""
    clock = FakeClock()
    gate = make_gate(clock)
    gate.pause("wrong_key", is_probe=False)
    await probe_after(gate, clock, 5)

    gate.inconclusive(is_probe=True)

    await probe_after(gate, clock, 5)


async def test_a_person_releases_pause_and_brake() -> None:
    clock = FakeClock()
    gate = make_gate(clock)
    gate.pause("wrong_key", is_probe=False)
    gate.set_brake("21 rejections in a row")
    crowd = Crowd(gate, 8)
    await settle_down()
    clock.advance(3_600)
    await settle_down()
    assert (crowd.probes, crowd.through) == (0, 0)  # no probe passes a brake

    gate.release()

    await until(lambda: crowd.through == 8)
    assert (gate.paused, gate.braked, gate.is_open()) == (None, None, True)


async def test_a_brake_set_while_a_pause_waits_stops_the_probe() -> None:
    clock = FakeClock()
    gate = make_gate(clock)
    gate.pause("wrong_key", is_probe=False)
    crowd = Crowd(gate, 4)
    await until(lambda: clock.sleeping == 4)

    gate.set_brake("21 rejections in a row")
    clock.advance(3_600)
    await settle_down()

    assert crowd.probes == 0
    await crowd.leave()


@pytest.mark.parametrize("obstacle", ["brake", "storage"])
async def test_a_probe_that_waits_for_its_permit_does_not_pass_a_new_obstacle(
    obstacle: str,
) -> None:
    clock = FakeClock()
    gate = make_gate(clock)
    gate.pause("wrong_key", is_probe=False)
    await probe_after(gate, clock, 5)
    assert gate.lets_through(is_probe=True)
    assert not gate.lets_through(is_probe=False)

    if obstacle == "brake":
        gate.set_brake("21 rejections in a row")
    else:
        gate.set_storage_low(True)

    assert not gate.lets_through(is_probe=True)


async def test_low_storage_holds_the_lane_until_there_is_room() -> None:
    clock = FakeClock()
    gate = make_gate(clock)
    gate.set_storage_low(True)
    crowd = Crowd(gate, 4)
    await settle_down()
    assert not gate.is_open() and crowd.through == 0

    gate.release()  # a person cannot make room this way
    await settle_down()
    assert crowd.through == 0
    gate.set_storage_low(False)

    await until(lambda: crowd.through == 4)


async def test_low_storage_does_not_end_a_pause() -> None:
    gate = make_gate(FakeClock())
    gate.pause("wrong_key", is_probe=False)
    gate.set_storage_low(True)

    gate.set_storage_low(False)

    assert gate.paused == "wrong_key" and not gate.is_open()


async def test_a_cancelled_waiter_leaves_no_sleeper() -> None:
    clock = FakeClock()
    gate = make_gate(clock)
    gate.pause("wrong_key", is_probe=False)
    crowd = Crowd(gate, 4)
    await until(lambda: clock.sleeping == 4)

    await crowd.leave()

    await until(lambda: not clock.sleeping)


EVENTS = st.lists(
    st.sampled_from(
        [
            "pause",
            "old_pause",
            "old_inconclusive",
            "answered",
            "inconclusive",
            "skipped",
            "brake",
            "low",
            "room",
            "release",
            "advance",
        ]
    ),
    max_size=25,
)


@given(events=EVENTS)
def test_never_two_probes_and_nobody_waits_at_an_open_gate(events: list[str]) -> None:
    async def play() -> None:
        clock = FakeClock()
        gate = make_gate(clock)
        gate.pause("begin", is_probe=False)
        crowd = Crowd(gate, 3)
        out = 0  # probes that have not ended
        for event in events:
            probes = crowd.probes
            match event:
                case "pause" if out:
                    gate.pause("x", is_probe=True)
                    out = 0
                case "old_pause":
                    out = 0 if gate.paused is None else out
                    gate.pause("x", is_probe=False)
                case "old_inconclusive":
                    gate.inconclusive(is_probe=False)
                case "answered":
                    gate.answered()
                    out = 0
                case "inconclusive" if out:
                    gate.inconclusive(is_probe=True)
                    out = 0
                case "skipped" if out:
                    gate.skipped(is_probe=True)
                    out = 0
                case "brake":
                    gate.set_brake("x")
                case "low" | "room":
                    gate.set_storage_low(event == "low")
                case "release":
                    gate.release()
                    out = 0
                case "advance":
                    clock.advance(7)
            await settle_down(12)
            out += crowd.probes - probes
            assert out <= 1
            if gate.is_open():
                assert all(task.done() for task in crowd.tasks)
        gate.set_storage_low(False)
        gate.release()
        await settle_down(12)
        assert all(task.done() for task in crowd.tasks)

    asyncio.run(play())
