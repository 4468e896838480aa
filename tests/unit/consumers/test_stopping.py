"""Waiting for work without missing the request to stop."""

import asyncio

import pytest

from consumers.stopping import first_of, pause, set_within
from tests.fakes.clock import FakeClock
from tests.fakes.waiting import until


async def test_work_that_ends_first_gives_its_result() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await first_of(asyncio.Event(), work()) == 7


async def test_stop_cancels_the_work_and_waits_for_its_end() -> None:
    stop, ended = asyncio.Event(), []

    async def work() -> int:
        try:
            await asyncio.Event().wait()
            return 7
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    waiting = asyncio.create_task(first_of(stop, work()))
    await asyncio.sleep(0)
    stop.set()

    assert await waiting is None
    assert ended == [True]


async def test_work_is_not_begun_after_stop() -> None:
    stop = asyncio.Event()
    stop.set()

    async def work() -> int:
        raise AssertionError("begun")

    assert await first_of(stop, work()) is None


@pytest.mark.parametrize("stopped", [False, True])
async def test_an_error_of_the_work_is_raised(stopped: bool) -> None:
    """Also one that comes while it is being cancelled: nothing is lost in silence."""
    stop = asyncio.Event()

    async def work() -> None:
        try:
            if stopped:
                await asyncio.Event().wait()
        finally:
            raise ValueError("boom")

    waiting = asyncio.create_task(first_of(stop, work()))
    await asyncio.sleep(0)
    if stopped:
        stop.set()

    with pytest.raises(ValueError, match="boom"):
        await waiting


async def test_cancellation_reaches_the_work() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    waiting = asyncio.create_task(first_of(asyncio.Event(), work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == [True]


async def test_a_pause_ends_by_time_or_by_stop() -> None:
    stop = asyncio.Event()
    await pause(stop, 0)

    stop.set()
    await pause(stop, 3_600)


async def test_waiting_for_an_event_ends_by_the_clock() -> None:
    clock, event = FakeClock(), asyncio.Event()

    waiting = asyncio.create_task(set_within(event, clock, 5))
    await until(lambda: clock.sleeping)
    clock.advance(4.9)
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(0.1)

    assert await waiting is False


async def test_waiting_for_an_event_ends_by_the_event() -> None:
    clock, event = FakeClock(), asyncio.Event()

    waiting = asyncio.create_task(set_within(event, clock, 5))
    await until(lambda: clock.sleeping)
    event.set()

    assert await waiting is True
    assert await set_within(event, clock, 5) is True
    await until(lambda: not clock.sleeping)
