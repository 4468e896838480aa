"""One thread that commits what concurrent tasks submit, all that waits in one commit."""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from service.domain.errors import RelayError

I = TypeVar("I")  # noqa: E741  what is committed
R = TypeVar("R")  # what its commit returns
_Waiting = tuple[I, asyncio.Future[R]]


class StorageError(RelayError):
    """Nothing of the batch was committed: disk full, read only, or broken; try again later."""


class QueueFullError(RelayError):
    """Too much waits for the next commit; try again later."""


class GroupCommitter(Generic[I, R]):
    """
    One thread that commits what concurrent tasks submit, everything that waits in one commit.

    `commit` runs on the thread with a batch and returns, per item, its result or the error of
    that item alone; when it raises, the whole batch failed and every item gets that error, a
    `storage_error` as StorageError.
    Items reach the thread once per turn of the event loop: what became ready together is
    committed together, and the two threads do not fight over the interpreter for each item.
    The thread takes the next batch by itself, so the disk never waits for the event loop.
    `on_batch` runs on the event loop with the sizes of batch and queue, before the results are
    given out; `after_batch` runs on the thread once they are on their way (checkpoints).
    """

    def __init__(
        self,
        commit: Callable[[Sequence[I]], Sequence[R | RelayError]],
        *,
        name: str,
        max_batch: int,
        max_queue: int,
        on_batch: Callable[[int, int], None] = lambda size, waiting: None,
        after_batch: Callable[[], None] = lambda: None,
        storage_error: type[Exception] = sqlite3.Error,
    ) -> None:
        self._commit = commit
        self._storage_error = storage_error
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._after_batch = after_batch
        self._loop = asyncio.get_running_loop()
        self._submitted: list[_Waiting[I, R]] = []
        self._unanswered: set[asyncio.Future[R]] = set()
        # One list per turn of the event loop, None at the end.
        self._handed_over: queue.SimpleQueue[list[_Waiting[I, R]] | None] = queue.SimpleQueue()
        self._closing = False
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: I) -> asyncio.Future[R]:
        """
        Queue `item` for the next commit; the future ends when it is committed or failed.

        Cancelling the future does not take the item back. Raises: QueueFullError at once.
        """
        if self._closing:
            raise StorageError("closed")
        if len(self._unanswered) >= self._max_queue:
            raise QueueFullError("queue_full", f"{self._max_queue} items wait already")
        future: asyncio.Future[R] = self._loop.create_future()
        self._unanswered.add(future)
        self._submitted.append((item, future))
        if len(self._submitted) == 1:
            self._loop.call_soon(self._hand_over)
        return future

    @property
    def waiting(self) -> int:
        """Items without an answer yet, those in the commit under way included."""
        return len(self._unanswered)

    async def close(self) -> None:
        """Commit what waits, then end the thread."""
        if not self._closing:
            self._closing = True
            self._hand_over()
            self._handed_over.put(None)
        await asyncio.shield(self._stopped)
        self._thread.join()

    def _hand_over(self) -> None:
        if self._submitted:
            self._handed_over.put(self._submitted)
            self._submitted = []

    def _run(self) -> None:
        try:
            self._commit_batches()
        finally:
            # Also when a bug ended the thread: nobody may wait for it for ever.
            self._loop.call_soon_threadsafe(self._end)

    def _commit_batches(self) -> None:
        waiting: list[_Waiting[I, R]] = []
        more = True
        while more or waiting:
            while more and (not waiting or not self._handed_over.empty()):
                handed_over = self._handed_over.get()
                if handed_over is None:
                    more = False
                else:
                    waiting += handed_over
            if waiting:
                self._commit_batch(waiting[: self._max_batch])
                del waiting[: self._max_batch]

    def _commit_batch(self, batch: Sequence["_Waiting[I, R]"]) -> None:
        results: Sequence[R | BaseException]
        try:
            results = self._commit([item for item, _ in batch])
        except self._storage_error as error:
            failure = StorageError("not_committed", str(error))
            failure.__cause__ = error
            results = [failure] * len(batch)
        except BaseException as error:  # noqa: BLE001  handed to every waiting task
            results = [error] * len(batch)
        self._loop.call_soon_threadsafe(self._resolve, batch, results)
        self._after_batch()

    def _resolve(
        self, batch: Sequence["_Waiting[I, R]"], results: Sequence[R | BaseException]
    ) -> None:
        self._unanswered.difference_update(future for _, future in batch)
        self._on_batch(len(batch), len(self._unanswered))
        for (_, future), result in zip(batch, results, strict=True):
            if future.cancelled():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _end(self) -> None:
        self._closing = True
        for future in self._unanswered:
            if not future.cancelled():
                future.set_exception(StorageError("closed"))
        self._unanswered.clear()
        self._stopped.set_result(None)
