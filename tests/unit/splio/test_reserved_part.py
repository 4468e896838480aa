"""P6: the checkout's part of a limit goes first, is lent while idle, and starves nobody."""

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.effects import Lane
from service.splio.limiter import RESERVED_SHARE, Grant, Limiter
from service.splio.schedule import MemorySchedule, rate_of
from tests.unit.splio.test_limiter import (
    FAR_S,
    LANE,
    STEP_S,
    Bench,
    SharedSchedule,
    gather_all,
    settle,
    start,
)

LIMIT = 10.0
CHECKOUT_INTERVAL_S = rate_of(LIMIT).interval_s / RESERVED_SHARE
COMMITS_S = (0.01, 0.02, 0.005)  # between a permit and its write
NEVER_S = -1.0  # instead of a delay: the grant is handed back


class MixedBench(Bench):
    """
    Bookings and checkouts of one process, or of several that share a schedule.

    Args:
        processes: None for one whose schedule is its own.
    """

    def __init__(self, processes: int | None = None, *, limit: float = LIMIT) -> None:
        super().__init__(limit)
        rates = {LANE: rate_of(limit)}
        slots = MemorySchedule(rates, self.clock)
        self.limiters = [
            Limiter(
                {LANE: limit},
                self.clock,
                schedule=SharedSchedule(self, slots, 0.004, (-0.002, 0.002)[number % 2])
                if processes
                else slots,
                reserved=(LANE,),
            )
            for number in range(processes or 1)
        ]
        self.bookings: list[float] = []
        self.checkouts: list[float] = []
        self.waits_s: list[float] = []  # of checkouts
        self.tasks: list[asyncio.Task[None]] = []

    async def call(self, number: int = 0, *, reserved: bool, delay_s: float = 0.0) -> None:
        """One request of the process `number`, from asking to writing."""
        limiter = self.limiters[number % len(self.limiters)]
        await self._finish(limiter, await self._ask(limiter, reserved), delay_s, reserved)

    async def keep_busy(self, number: int, *, reserved: bool) -> None:
        """As many waiters as there are permits, each with its commit before it writes."""
        limiter = self.limiters[number]
        count = 0
        while True:
            grant = await self._ask(limiter, reserved)
            delay_s = COMMITS_S[count % len(COMMITS_S)]
            self.tasks.append(start(self._finish(limiter, grant, delay_s, reserved)))
            count += 1

    def saturate(self, *, reserved: bool) -> None:
        """Every process has a backlog."""
        for number in range(len(self.limiters)):
            self.tasks += [start(self.keep_busy(number, reserved=reserved)) for _ in range(3)]

    async def measure(self, seconds: float) -> None:
        """Let it settle, count for `seconds`, and end."""
        await self.run(2.0)
        for counted in (self.written, self.bookings, self.checkouts, self.waits_s):
            counted.clear()
        await self.run(seconds)

    async def end(self) -> None:
        await gather_all(self.tasks)

    async def _ask(self, limiter: Limiter, reserved: bool) -> Grant:
        asked_s = self.clock.monotonic_s()
        grant = await limiter.grant(LANE, reserved=reserved)
        if reserved:
            self.waits_s.append(self.clock.monotonic_s() - asked_s)
        return grant

    async def _finish(self, limiter: Limiter, grant: Grant, delay_s: float, reserved: bool) -> None:
        if delay_s == NEVER_S:
            grant.hand_back()
            return
        await self.clock.sleep(delay_s)
        await limiter.pass_gate(grant, deadline_s=FAR_S)
        self.written.append(self.clock.monotonic_s())
        (self.checkouts if reserved else self.bookings).append(self.written[-1])


PROCESSES = pytest.mark.parametrize("processes", [None, 2, 5])


@settings(max_examples=50, deadline=None)
@given(
    processes=st.sampled_from([None, 2, 3]),
    limit=st.sampled_from([1.0, 2.5, 4.0, 10.0]),
    calls=st.lists(
        st.tuples(
            st.floats(0, 0.4),  # pause before it
            st.booleans(),  # a checkout
            st.sampled_from([0.0, 0.01, 0.09, 0.5, NEVER_S]),  # its commit
            st.sampled_from([None, None, 0.0, 0.003, 0.11, 0.6]),  # cancelled after
        ),
        min_size=1,
        max_size=40,
    ),
)
def test_never_more_than_the_limit_whatever_the_mix(
    processes: int | None,
    limit: float,
    calls: list[tuple[float, bool, float, float | None]],
) -> None:
    """Late writes, hand-backs and cancellations included; and who was not cancelled is served."""

    async def scenario() -> None:
        bench = MixedBench(processes, limit=limit)
        calling, leaving = [], []
        for number, (pause_s, reserved, delay_s, leaves_s) in enumerate(calls):
            await bench.run(pause_s)
            task = start(bench.call(number, reserved=reserved, delay_s=delay_s))
            if leaves_s is None:
                calling.append((task, delay_s))
            else:
                leaving.append(task)
                bench.tasks.append(start(cancel_after(bench, task, leaves_s)))
        await bench.run(len(calls) * 1.04 / RESERVED_SHARE / limit + 4)
        assert all(task.done() for task, _ in calling)
        assert len(bench.written) >= sum(1 for _, delay_s in calling if delay_s != NEVER_S)
        capacity = rate_of(limit).capacity
        for first, last in zip(bench.written, bench.written[capacity:], strict=False):
            assert last - first >= capacity / limit
        await gather_all([*bench.tasks, *leaving])

    asyncio.run(scenario())


async def cancel_after(bench: MixedBench, task: "asyncio.Task[None]", seconds: float) -> None:
    await bench.clock.sleep(seconds)
    task.cancel()


@PROCESSES
async def test_bookings_alone_use_the_whole_limit(processes: int | None) -> None:
    bench = MixedBench(processes)
    bench.saturate(reserved=False)
    await bench.measure(20)
    await bench.end()

    assert len(bench.written) >= 0.95 * LIMIT * 20
    assert bench.most_in_a_second() <= LIMIT


@PROCESSES
@pytest.mark.parametrize("seed", range(3))
async def test_checkout_does_not_wait_behind_a_backlog(processes: int | None, seed: int) -> None:
    """Within an interval of its own part, in however many processes bookings wait."""
    random = Random(seed)
    bench = MixedBench(processes)
    bench.saturate(reserved=False)
    await bench.run(2)
    for number in range(20):
        await bench.run(random.uniform(CHECKOUT_INTERVAL_S, 1.5))
        bench.tasks.append(start(bench.call(number, reserved=True)))
    await bench.run(1)
    await bench.end()

    assert len(bench.checkouts) == 20
    assert max(bench.waits_s) <= CHECKOUT_INTERVAL_S
    assert bench.most_in_a_second() <= LIMIT


@PROCESSES
async def test_both_saturated_get_their_parts(processes: int | None) -> None:
    bench = MixedBench(processes)
    bench.saturate(reserved=False)
    bench.saturate(reserved=True)
    await bench.measure(20)
    await bench.end()

    assert len(bench.bookings) >= 0.95 * (1 - RESERVED_SHARE) * LIMIT * 20
    assert len(bench.checkouts) >= 0.95 * RESERVED_SHARE * LIMIT * 20
    assert bench.most_in_a_second() <= LIMIT


async def test_checkouts_of_one_process_leave_the_bookings_of_another_their_part() -> None:
    bench = MixedBench(2)
    bench.tasks += [start(bench.keep_busy(0, reserved=False)) for _ in range(3)]
    bench.tasks += [start(bench.keep_busy(1, reserved=True)) for _ in range(3)]
    await bench.measure(20)
    await bench.end()

    assert len(bench.bookings) >= 0.95 * (1 - RESERVED_SHARE) * LIMIT * 20
    assert len(bench.checkouts) >= 0.95 * RESERVED_SHARE * LIMIT * 20
    assert bench.most_in_a_second() <= LIMIT


@PROCESSES
async def test_some_checkouts_at_once_take_the_next_slots(processes: int | None) -> None:
    """An idle part is saved up for a window: a call that needs several requests is not held up."""
    bench = MixedBench(processes)
    bench.saturate(reserved=False)
    await bench.run(3)
    burst = round(RESERVED_SHARE * LIMIT)
    bench.tasks += [start(bench.call(reserved=True)) for _ in range(burst + 1)]
    await bench.run(3)
    await bench.end()

    *first, last = bench.waits_s
    slots_s = rate_of(LIMIT).interval_s
    assert max(first) <= CHECKOUT_INTERVAL_S + (burst - 1) * slots_s
    assert last >= CHECKOUT_INTERVAL_S
    assert bench.most_in_a_second() <= LIMIT


@PROCESSES
@pytest.mark.parametrize("leaves_s", [0.0, 0.05, 0.12])
async def test_checkouts_that_give_up_cost_no_slot(processes: int | None, leaves_s: float) -> None:
    bench = MixedBench(processes)
    bench.saturate(reserved=False)

    async def give_up(number: int) -> None:
        while True:
            task = start(bench.call(number, reserved=True, delay_s=NEVER_S))
            bench.tasks.append(task)
            await bench.clock.sleep(leaves_s)
            task.cancel()
            await bench.clock.sleep(0.2)

    bench.tasks.append(start(give_up(1)))
    await bench.measure(20)
    await call_checkout(bench)
    await bench.end()

    assert len(bench.bookings) >= 0.95 * LIMIT * 20
    assert bench.waits_s[-1] <= CHECKOUT_INTERVAL_S
    assert bench.most_in_a_second() <= LIMIT


async def call_checkout(bench: MixedBench) -> None:
    task = start(bench.call(reserved=True))
    while not task.done():
        await bench.run(STEP_S)
    await task


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_right_of_way_that_was_not_used_goes_to_the_next(is_cancelled: bool) -> None:
    """Whether its waiter gave up or its grant was handed back."""
    bench = MixedBench()
    (limiter,) = bench.limiters
    bench.saturate(reserved=False)
    await bench.run(2)
    for _ in range(20):
        task = asyncio.create_task(limiter.grant(LANE, reserved=True))
        await settle()
        if is_cancelled:
            task.cancel()
        while not task.done():
            await bench.run(STEP_S)
        if not task.cancelled():
            (await task).hand_back()
    await call_checkout(bench)
    await bench.end()

    assert bench.waits_s[-1] <= CHECKOUT_INTERVAL_S


@PROCESSES
async def test_429_holds_checkouts_and_bookings(processes: int | None) -> None:
    bench = MixedBench(processes)
    bench.saturate(reserved=False)
    bench.saturate(reserved=True)
    await bench.run(2)
    bench.tasks.append(start(bench.limiters[0].obey_reset(LANE, seconds=3)))
    await bench.run(0.3)  # other processes have slots already
    bench.written.clear()
    await bench.run(2.6)
    held = len(bench.written)
    await bench.run(1)
    await bench.end()

    assert held == 0
    assert bench.written
    assert bench.most_in_a_second() <= LIMIT


@PROCESSES
async def test_checkouts_that_wait_for_a_held_lane_starve_no_booking_then(
    processes: int | None,
) -> None:
    """However many have come meanwhile, their part is no larger once it opens."""
    bench = MixedBench(processes)
    bench.tasks.append(start(bench.limiters[0].obey_reset(LANE, seconds=30)))
    bench.saturate(reserved=False)
    bench.tasks += [start(bench.call(number, reserved=True)) for number in range(100)]
    await bench.run(30)
    bench.bookings.clear()
    await bench.run(10)
    await bench.end()

    more = RESERVED_SHARE * LIMIT + (processes or 1)  # saved up, and one that each has in hand
    assert len(bench.bookings) >= 0.95 * (1 - RESERVED_SHARE) * LIMIT * 10 - more
    assert bench.most_in_a_second() <= LIMIT


async def test_less_left_than_our_own_count_slows_both_down() -> None:
    bench = MixedBench()
    (limiter,) = bench.limiters
    await bench.call(reserved=False)
    await limiter.compare_left(LANE, left=4, asked_at_s=bench.clock.monotonic_s())
    bench.tasks += [start(bench.call(reserved=reserved)) for reserved in (True, False)]
    await bench.run(0.45)
    held = len(bench.written)
    await bench.run(0.5)
    await bench.end()

    assert held == 1
    assert len(bench.written) == 3


async def test_without_a_reserved_part_all_stand_in_one_line() -> None:
    bench = Bench()

    async def call(number: int) -> None:
        grant = await bench.limiter.grant(LANE, reserved=number % 2 == 1)
        await bench.limiter.pass_gate(grant, deadline_s=FAR_S)
        bench.order.append(number)

    tasks = [start(call(number)) for number in range(12)]
    await bench.run(2)
    await asyncio.gather(*tasks)

    assert bench.order == list(range(12))


async def test_lane_without_a_limit_grants_its_reserved_part_at_once() -> None:
    bench = Bench()
    limiter = Limiter({LANE: None, Lane.SALES: 1.0}, bench.clock, reserved=(LANE,))

    for _ in range(1000):
        await asyncio.wait_for(limiter.grant(LANE, reserved=True), timeout=5)
