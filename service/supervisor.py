"""Runs the workers and tells "asked to stop" from "died"."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

logger = logging.getLogger("relay.supervisor")


class Worker(Protocol):
    """A part of the service that runs until it is asked to stop."""

    @property
    def name(self) -> str: ...

    async def run(self, stop: asyncio.Event) -> None:
        """Return soon after `stop` is set; raise only when it cannot go on."""
        ...


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that ended without being asked to, and why."""

    worker: str
    reason: str


class Supervisor:
    """
    Runs all workers. When one dies the others are asked to stop, so that the process ends in
    order rather than going on as half a service.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self.death: Death | None = None

    async def run(self, stop: asyncio.Event) -> Death | None:
        """
        Run until `stop` is set or a worker dies; returns the death, None when all was asked for.

        `stop` is set when this returns.
        """
        tasks = [
            asyncio.create_task(self._watch(worker, stop), name=worker.name)
            for worker in self._workers
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return self.death

    async def _watch(self, worker: Worker, stop: asyncio.Event) -> None:
        reason = "returned without being asked to"
        try:
            await worker.run(stop)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled this worker: something it waited for was cancelled by mistake.
            logger.exception("worker.died", extra={"worker": worker.name})
            self._note(worker, "cancelled from within")
        except Exception as error:
            # Whatever it is, the process ends because of it; the traceback is logged once.
            reason = f"{type(error).__name__}: {error}"
            logger.exception("worker.died", extra={"worker": worker.name})
            self._note(worker, reason)
        else:
            if stop.is_set():
                logger.info("worker.stopped", extra={"worker": worker.name})
            else:
                logger.error("worker.died", extra={"worker": worker.name, "reason": reason})
                self._note(worker, reason)
        stop.set()

    def _note(self, worker: Worker, reason: str) -> None:
        if self.death is None:
            self.death = Death(worker.name, reason)
