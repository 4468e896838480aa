"""Waiting for work without missing the request to stop."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from service.domain.clock import Clock
from service.domain.errors import LedgerUnavailableError, LogUnavailableError

T = TypeVar("T")

logger = logging.getLogger("relay.workers")


async def first_of(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """
    The result of `work`, or None when `stop` was set first; `work` is then cancelled and over.

    For work that leaves nothing behind when it is cancelled. An error of `work` is raised, also
    one that it ends with when it is cancelled.
    """
    if stop.is_set():
        work.close()
        return None
    task = asyncio.create_task(work, name="work")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        stopped.cancel()
        await asyncio.wait((task, stopped))
    return None if task.cancelled() else task.result()


async def set_within(event: asyncio.Event, clock: Clock, seconds: float) -> bool:
    """Wait until `event` is set, but no longer than `seconds` of `clock`; whether it is set."""
    if event.is_set():
        return True
    waiting = asyncio.create_task(event.wait(), name="event")
    sleeping = asyncio.create_task(clock.sleep(seconds), name="sleep")
    try:
        await asyncio.wait((waiting, sleeping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        sleeping.cancel()
    return event.is_set()


async def once_available(
    stop: asyncio.Event, ask: Callable[[], Coroutine[Any, Any, T]], *, every_s: float = 1.0
) -> T | None:
    """What `ask` brings, asked again while log or ledger are away; None when `stop` was set."""
    while not stop.is_set():
        try:
            return await first_of(stop, ask())
        except (LedgerUnavailableError, LogUnavailableError) as error:
            logger.warning("worker.waits", extra={"reason": error.reason})
            await pause(stop, every_s)
    return None


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait `seconds`, or until `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
