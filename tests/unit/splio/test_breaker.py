"""The breaker: opens after failures in a row, probes, closes on an answer."""

import asyncio

from service.splio.breaker import Breaker
from tests.fakes.clock import FakeClock


class Bench:
    """A breaker on a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.changes: list[bool] = []
        self.breaker = Breaker(
            self.clock,
            failures=3,
            first_pause_s=1.0,
            longest_pause_s=4.0,
            on_change=self.changes.append,
        )

    def fail(self, times: int, *, is_probe: bool = False) -> None:
        for _ in range(times):
            self.breaker.failed(is_probe=is_probe)

    async def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.01)):
            self.clock.advance(0.01)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def probe(self) -> float:
        """Wait for the probe; returns the seconds that it took."""
        began = self.clock.monotonic_s()
        task = asyncio.create_task(self.breaker.wait())
        while not task.done():
            await self.run(0.01)
        assert await task
        return self.clock.monotonic_s() - began


async def test_it_opens_after_failures_in_a_row_only() -> None:
    bench = Bench()
    bench.fail(2)
    bench.breaker.answered()
    bench.fail(2)
    assert bench.changes == []
    assert await bench.breaker.wait() is False

    bench.fail(1)

    assert bench.breaker.is_open
    assert bench.changes == [True]


async def test_one_probe_goes_after_the_pause_and_the_others_wait() -> None:
    bench = Bench()
    bench.fail(3)
    waiters = [asyncio.create_task(bench.breaker.wait()) for _ in range(3)]
    await bench.run(0.9)
    assert not any(waiter.done() for waiter in waiters)

    await bench.run(0.3)

    assert [waiter.result() for waiter in waiters if waiter.done()] == [True]
    bench.breaker.answered()
    await bench.run(0.1)
    assert sorted(waiter.result() for waiter in waiters) == [False, False, True]
    assert bench.changes == [True, False]


async def test_pause_grows_with_every_failed_probe_up_to_the_longest() -> None:
    bench = Bench()
    bench.fail(3)
    pauses = []
    for _ in range(5):
        pauses.append(await bench.probe())
        bench.fail(1, is_probe=True)

    assert [round(pause) for pause in pauses] == [1, 2, 4, 4, 4]


async def test_failures_of_what_was_under_way_do_not_lengthen_the_pause() -> None:
    bench = Bench()
    bench.fail(20)

    assert round(await bench.probe()) == 1


async def test_late_answer_closes_it() -> None:
    bench = Bench()
    bench.fail(3)
    bench.breaker.answered()

    assert await bench.breaker.wait() is False
    assert bench.breaker.retry_in_s == 0


async def test_pause_begins_short_again_after_an_answer() -> None:
    bench = Bench()
    bench.fail(3)
    await bench.probe()
    bench.fail(1, is_probe=True)
    await bench.probe()
    bench.breaker.answered()
    bench.fail(3)

    assert round(await bench.probe()) == 1


async def test_probe_that_was_not_sent_is_given_to_another() -> None:
    bench = Bench()
    bench.fail(3)
    await bench.probe()
    bench.breaker.give_up_probe()

    assert await bench.probe() < 0.2


async def test_probe_that_nobody_reports_back_on_is_given_up() -> None:
    bench = Bench()
    bench.fail(3)
    await bench.probe()

    assert 55 < await bench.probe() < 65
