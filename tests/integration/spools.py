"""Spools on real files, opened and run for tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from service.domain.clock import Clock
from service.domain.ports import LogWriter, StepHook, no_step
from service.domain.records import NewRecord, Topic
from service.eventlog.spool import SpoolingWriter, open_spooling_writer
from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock

SHARED_METRICS = Metrics(CollectorRegistry())  # making them takes longer than opening a spool
PATIENCE_S = 20.0


def open_spool(
    target: LogWriter,
    path: Path,
    *,
    clock: Clock,
    limit_bytes: int = 1 << 30,
    metrics: Metrics = SHARED_METRICS,
    step: StepHook = no_step,
) -> AbstractAsyncContextManager[SpoolingWriter]:
    return open_spooling_writer(
        target, path, limit_bytes=limit_bytes, metrics=metrics, clock=clock, step=step
    )


@asynccontextmanager
async def running(spool: SpoolingWriter) -> AsyncIterator[asyncio.Event]:
    """The worker at work; asked to stop, and waited for, at the end."""
    stop = asyncio.Event()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(spool.run(stop), name=spool.name)
        try:
            yield stop
        finally:
            stop.set()


async def pass_time(clock: FakeClock, seconds: float) -> None:
    """Let time pass in small steps, and others run in between."""
    for _ in range(round(seconds / 0.25)):
        clock.advance(0.25)
        for _ in range(10):
            await asyncio.sleep(0)


async def time_passes_until(clock: FakeClock, condition: Callable[[], object]) -> None:
    """Let time pass until `condition` holds; a test that waits in vain fails."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await pass_time(clock, 0.25)


async def drained(spool: SpoolingWriter, clock: FakeClock) -> None:
    """Let time pass until the writer is back to direct."""
    await time_passes_until(clock, lambda: not spool.is_spooling)


def event(key: str | None, value: bytes | str = b"{}") -> NewRecord:
    content = value if isinstance(value, bytes) else value.encode()
    return NewRecord(Topic.ORDERS, key, content, {"event_type": "order-confirmed"})
