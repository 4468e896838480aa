"""The stage: an event loop that runs until nothing moves by itself, the same way every time."""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class IdleSelector(selectors.DefaultSelector):
    """Asks `on_idle`, when the loop has nothing left to do but wait, whether there is more."""

    def __init__(self, on_idle: Callable[[], bool]) -> None:
        super().__init__()
        self._on_idle = on_idle

    def select(self, timeout: float | None = None) -> Any:
        if (timeout is None or timeout > 0) and self._on_idle():
            timeout = 0
        return super().select(timeout)


class Turn:
    """Leave to begin work on another thread; `group` are those that begin together."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, may_share: bool) -> None:
        self.may_share = may_share
        self.begins: asyncio.Future[list[Turn]] = loop.create_future()


class Stage:
    """
    An event loop on which threads cannot decide who comes first.

    Work for a thread waits for its turn, and a turn begins only when all else stands still: one
    at a time, or, with `is_sharing`, those that may share one together.
    """

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop(IdleSelector(self._on_idle))
        self.is_sharing = False
        self._waiter: asyncio.Future[None] | None = None
        self._turns: deque[Turn] = deque()
        self._on_turn = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop; other tasks go on meanwhile."""
        return self.loop.run_until_complete(work)

    async def until_idle(self) -> None:
        """Return when every task waits for something that only the test can bring."""
        self._waiter = self.loop.create_future()
        await self._waiter

    async def turn(self, *, may_share: bool) -> list[Turn]:
        """Wait for a turn; returns all that begin with it. Each must call `turn_over`."""
        turn = Turn(self.loop, may_share=may_share)
        self._turns.append(turn)
        return await turn.begins

    def turn_over(self) -> None:
        self._on_turn -= 1

    async def end_all_tasks(self) -> None:
        """Cancel every task but this one, as the end of a process does."""
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
            for task in others:
                if not task.cancelled():
                    task.exception()  # taken note of: the process it belonged to is gone
        self._turns.clear()
        self._on_turn = 0

    def close(self) -> None:
        self.loop.close()

    def _on_idle(self) -> bool:
        if self._on_turn:
            return False
        if group := self._next_group():
            self._on_turn = len(group)
            for turn in group:
                turn.begins.set_result(group)
            return True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
            return True
        return False

    def _next_group(self) -> list[Turn]:
        group: list[Turn] = []
        while self._turns:
            turn = self._turns[0]
            if turn.begins.done():  # who waited for it is gone
                self._turns.popleft()
                continue
            if group and not (self.is_sharing and group[0].may_share and turn.may_share):
                break
            group.append(self._turns.popleft())
        return group
