"""Cases that mostly wait, run a few at a time although pytest asks for one after the other."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

Case = Callable[[], Coroutine[Any, Any, None]]


class SideBySide:
    """An event loop on a thread of its own; at most `at_once` cases run on it."""

    def __init__(self, *, at_once: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._limit = asyncio.Semaphore(at_once)
        self._thread = threading.Thread(target=self._loop.run_forever, name="side-by-side")
        self._thread.start()

    def submit(self, case: Case) -> Future[None]:
        """Run `case` once it is its turn, in the order of submission."""
        return asyncio.run_coroutine_threadsafe(self._run(case), self._loop)

    def close(self) -> None:
        """Cancel what still runs or waits, and end the thread."""
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _run(self, case: Case) -> None:
        async with self._limit:
            await case()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()


@contextmanager
def side_by_side(*, at_once: int) -> Iterator[SideBySide]:
    """A runner that is closed at the end."""
    runner = SideBySide(at_once=at_once)
    try:
        yield runner
    finally:
        runner.close()
