"""P6: processes that share one address' budget through PostgreSQL, in real time."""

import asyncio
import time
from contextlib import AsyncExitStack
from statistics import median

import pytest

from service.domain.clock import SteadyClock
from service.domain.effects import Lane
from service.ledger.postgres_schedule import open_postgres_schedule
from service.splio.limiter import RESERVED_SHARE, Limiter
from service.splio.schedule import rate_of
from tests.harness.postgres_server import PostgresServer
from tests.harness.waiting import until

_LANE = Lane.OTHER
_LIMIT = 20.0
_FAR_S = 1e9
_CHECKOUT_INTERVAL_S = rate_of(_LIMIT).interval_s / RESERVED_SHARE


async def written_by(address: str, *, seconds: float, server: PostgresServer | None) -> list[float]:
    """When two limiters, each with schedule and connection of its own, wrote their requests."""
    written: list[float] = []
    clock = SteadyClock()
    ends_s = time.monotonic() + seconds
    async with AsyncExitStack() as stack:

        async def keep_busy() -> None:
            schedule = await stack.enter_async_context(
                open_postgres_schedule(address, {_LANE: rate_of(_LIMIT).interval_s}, clock)
            )
            limiter = Limiter({_LANE: _LIMIT}, clock, schedule=schedule)

            async def send() -> None:
                while time.monotonic() < ends_s:
                    grant = await limiter.grant(_LANE)
                    await limiter.pass_gate(grant, deadline_s=_FAR_S)
                    written.append(time.monotonic())

            await asyncio.gather(*(send() for _ in range(4)))

        async def disturb() -> None:
            if server is None:
                return
            frozen_s = ends_s - seconds * 2 / 3
            await until(lambda: time.monotonic() >= frozen_s, what="some were sent")
            server.freeze()
            await until(lambda: time.monotonic() >= frozen_s + seconds / 6, what="a pause")
            server.thaw()

        await asyncio.gather(keep_busy(), keep_busy(), disturb())
    return written


def most_in_a_second(written: list[float]) -> int:
    return max(sum(1 for at in written if start <= at < start + 1.0) for start in written)


async def test_two_processes_keep_the_limit_and_use_it(postgres_server: PostgresServer) -> None:
    address = postgres_server.new_ledger()
    written = await written_by(address, seconds=4.0, server=None)
    assert most_in_a_second(written) <= _LIMIT
    # 96 % where nothing else runs, as slots are a little further apart; machines differ.
    assert len(written) >= 0.5 * _LIMIT * 4.0, len(written)


async def test_a_database_that_stands_still_lets_no_burst_through(
    private_postgres: PostgresServer,
) -> None:
    address = private_postgres.new_ledger()
    written = await written_by(address, seconds=6.0, server=private_postgres)
    assert most_in_a_second(written) <= _LIMIT
    assert len(written) >= 0.4 * _LIMIT * 5.0, len(written)


async def test_checkouts_of_one_process_go_before_the_bookings_of_another(
    postgres_server: PostgresServer,
) -> None:
    """P6: and together they keep the limit, of which the bookings have what is left."""
    address = postgres_server.new_ledger()
    written: list[float] = []
    waits_s: list[float] = []
    seconds = 3.0
    clock = SteadyClock()
    intervals = {_LANE: rate_of(_LIMIT).interval_s}
    ends_s = time.monotonic() + seconds
    async with AsyncExitStack() as stack:
        books, checks = [
            Limiter(
                {_LANE: _LIMIT},
                clock,
                schedule=await stack.enter_async_context(
                    open_postgres_schedule(address, intervals, clock)
                ),
                reserved=(_LANE,),
            )
            for _ in range(2)
        ]

        async def send(limiter: Limiter, *, reserved: bool, pause_s: float) -> None:
            while (asked_s := time.monotonic()) < ends_s:
                grant = await limiter.grant(_LANE, reserved=reserved)
                if reserved:
                    waits_s.append(time.monotonic() - asked_s)
                await limiter.pass_gate(grant, deadline_s=_FAR_S)
                written.append(time.monotonic())
                await clock.sleep(pause_s)

        await asyncio.gather(
            *(send(books, reserved=False, pause_s=0.0) for _ in range(4)),
            send(checks, reserved=True, pause_s=0.25),
        )
    assert most_in_a_second(written) <= _LIMIT
    # Within one interval where nothing else runs; machines differ.
    assert median(waits_s) <= 3 * _CHECKOUT_INTERVAL_S, waits_s
    bookings = len(written) - len(waits_s)
    assert bookings >= 0.5 * _LIMIT * seconds - len(waits_s), bookings


async def test_a_slot_too_far_ahead_is_not_taken(postgres_server: PostgresServer) -> None:
    """It is told when it is, and stays where it was for who may take it."""
    address = postgres_server.new_ledger()
    async with open_postgres_schedule(address, {_LANE: 100.0}, SteadyClock()) as schedule:
        first = await schedule.reserve(_LANE, ahead_s=1.0)
        told = await schedule.reserve(_LANE, ahead_s=1.0)
        taken = await schedule.reserve(_LANE)
    assert (first.is_taken, told.is_taken, taken.is_taken) == (True, False, True)
    assert told.first_s == pytest.approx(first.first_s + 100.0, abs=0.5)
    assert taken.first_s == pytest.approx(told.first_s, abs=0.5)


async def test_rights_of_way_are_saved_up_for_a_while(postgres_server: PostgresServer) -> None:
    address = postgres_server.new_ledger()
    async with open_postgres_schedule(address, {_LANE: 1.0}, SteadyClock()) as schedule:
        now = time.monotonic()
        rights = [
            await schedule.right_of_way(_LANE, interval_s=100.0, saved_s=300.0) for _ in range(5)
        ]
        slot = await schedule.reserve(_LANE, ahead_s=1.0)
    assert [right.first_s - now for right in rights] == pytest.approx(
        [-300.0, -200.0, -100.0, 0.0, 100.0], abs=1.0
    )
    assert slot.is_taken, "a right is no slot"
