"""The steady clock: a jump of the machine's clock does not move it."""

import asyncio
import time

import pytest

from service.domain.clock import SteadyClock, time_limit
from tests.fakes.clock import FakeClock
from tests.fakes.waiting import settle_down


class Machine:
    """The two clocks of a machine, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ns = 1_800_000_000_123_456_789
        self.monotonic_ns = 5_000_000_000
        monkeypatch.setattr(time, "time_ns", lambda: self.wall_ns)
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.monotonic_ns)
        monkeypatch.setattr(time, "monotonic", lambda: self.monotonic_ns / 1e9)

    def pass_ns(self, ns: int) -> None:
        self.wall_ns += ns
        self.monotonic_ns += ns


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_it_starts_at_the_wall_clock_and_goes_on(machine: Machine) -> None:
    clock = SteadyClock()
    assert clock.now_ms() == 1_800_000_000_123

    machine.pass_ns(1_500_000_000)

    assert clock.now_ms() == 1_800_000_001_623
    assert clock.monotonic_s() == 6.5
    assert clock.drift_s() == 0


@pytest.mark.parametrize("jump_s", [3600, -3600, 0.5])
def test_a_jump_of_the_wall_clock_is_only_reported(machine: Machine, jump_s: float) -> None:
    clock = SteadyClock()
    before_ms = clock.now_ms()

    machine.wall_ns += int(jump_s * 1e9)

    assert clock.now_ms() == before_ms
    assert clock.drift_s() == pytest.approx(jump_s)
    machine.pass_ns(2_000_000_000)
    assert clock.now_ms() == before_ms + 2_000
    assert clock.drift_s() == pytest.approx(jump_s)


def test_a_new_one_takes_the_jump_over(machine: Machine) -> None:
    SteadyClock()
    machine.wall_ns += 3_600_000_000_000

    assert SteadyClock().now_ms() == machine.wall_ns // 1_000_000
    assert SteadyClock().drift_s() == 0


async def test_time_limit_goes_by_the_clock_it_is_given() -> None:
    clock = FakeClock()
    limited = asyncio.create_task(_wait_for_ever(clock, 0.5))
    await settle_down()
    clock.advance(0.499)
    await settle_down()
    assert not limited.done()
    clock.advance(0.001)
    with pytest.raises(TimeoutError):
        await limited
    assert not clock.sleeping


async def test_time_limit_leaves_what_is_done_in_time_alone() -> None:
    clock = FakeClock()
    async with time_limit(clock, 0.5):
        await asyncio.sleep(0)
    await settle_down()
    assert not clock.sleeping
    cancelled = asyncio.create_task(_wait_for_ever(clock, 0.5))
    await settle_down()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await settle_down()
    assert not clock.sleeping


async def _wait_for_ever(clock: FakeClock, limit_s: float) -> None:
    async with time_limit(clock, limit_s):
        await asyncio.Event().wait()
