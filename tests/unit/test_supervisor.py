"""The supervisor: tells "asked to stop" from "died", and ends the others in order."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from service.supervisor import Death, Supervisor
from tests.fakes.waiting import until


class Patient:
    """A worker that runs until it is asked to stop, and takes its time to finish."""

    def __init__(self, name: str = "patient") -> None:
        self.name = name
        self.began = False
        self.finished = False

    async def run(self, stop: asyncio.Event) -> None:
        self.began = True
        await stop.wait()
        await asyncio.sleep(0)
        self.finished = True


class Scripted:
    """A worker that does what it is told."""

    def __init__(self, name: str, run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
        self.name = name
        self._run = run

    async def run(self, stop: asyncio.Event) -> None:
        await self._run(stop)


async def fail(_: asyncio.Event) -> None:
    await asyncio.sleep(0)
    raise ValueError("boom")


async def leave(_: asyncio.Event) -> None:
    await asyncio.sleep(0)


async def test_asked_to_stop_is_no_death(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay.supervisor")
    stop, workers = asyncio.Event(), [Patient("one"), Patient("two")]
    supervisor = Supervisor(workers)
    running = asyncio.create_task(supervisor.run(stop))
    await until(lambda: all(worker.began for worker in workers))

    stop.set()

    assert await running is None
    assert supervisor.death is None
    assert all(worker.finished for worker in workers)
    assert [record.getMessage() for record in caplog.records] == ["worker.stopped"] * 2


async def test_the_death_of_one_stops_the_others_in_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop, other = asyncio.Event(), Patient()
    supervisor = Supervisor([other, Scripted("intake", fail)])

    death = await supervisor.run(stop)

    assert death == supervisor.death == Death("intake", "ValueError: boom")
    assert other.finished  # asked, not cancelled
    assert stop.is_set()
    died = [record for record in caplog.records if record.getMessage() == "worker.died"]
    assert len(died) == 1 and died[0].exc_info


async def test_returning_without_being_asked_is_a_death() -> None:
    stop, other = asyncio.Event(), Patient()

    death = await Supervisor([Scripted("chores", leave), other]).run(stop)

    assert death == Death("chores", "returned without being asked to")
    assert other.finished and stop.is_set()


async def test_an_error_while_stopping_is_a_death() -> None:
    stop = asyncio.Event()

    async def fail_late(stop: asyncio.Event) -> None:
        await stop.wait()
        raise ValueError("late")

    running = asyncio.create_task(Supervisor([Scripted("dispatcher", fail_late)]).run(stop))
    await asyncio.sleep(0)
    stop.set()

    assert await running == Death("dispatcher", "ValueError: late")


async def test_the_first_death_is_the_reason() -> None:
    async def fail_after(stop: asyncio.Event) -> None:
        await stop.wait()
        raise KeyError("because of the first")

    workers = [Scripted("second", fail_after), Scripted("first", fail)]

    death = await Supervisor(workers).run(asyncio.Event())

    assert death is not None and death.worker == "first"


async def test_a_cancellation_that_nobody_asked_for_is_a_death() -> None:
    """A worker that waits for a task which somebody cancelled must not vanish in silence."""

    async def wait_for_cancelled(_: asyncio.Event) -> None:
        inner = asyncio.create_task(asyncio.sleep(3_600))
        await asyncio.sleep(0)
        inner.cancel()
        await inner

    other = Patient()

    death = await Supervisor([Scripted("seen", wait_for_cancelled), other]).run(asyncio.Event())

    assert death is not None and death.worker == "seen"
    assert other.finished


async def test_cancelling_the_supervisor_ends_all_workers() -> None:
    ended = []

    async def cancelled(_: asyncio.Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    workers = [Scripted("one", cancelled), Scripted("two", cancelled)]
    running = asyncio.create_task(Supervisor(workers).run(asyncio.Event()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == [True, True]
