"""Embedded logs on real files, opened, filled and read for tests."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from prometheus_client import CollectorRegistry

from service.domain.clock import Clock, SteadyClock
from service.domain.ports import StepHook, no_step
from service.domain.records import NewRecord, Record, Stream, Topic
from service.eventlog.sqlite import SqliteEventLog, open_sqlite_log
from service.telemetry.metrics import Metrics

SHARED_METRICS = Metrics(CollectorRegistry())  # making them takes longer than opening a log


def open_log(
    path: Path,
    *,
    clock: Clock | None = None,
    step: StepHook = no_step,
    partitions: int = 4,
    max_queue: int = 10_000,
    metrics: Metrics = SHARED_METRICS,
) -> AbstractAsyncContextManager[SqliteEventLog]:
    return open_sqlite_log(
        path,
        metrics=metrics,
        clock=clock or SteadyClock(),
        step=step,
        partitions=partitions,
        max_queue=max_queue,
    )


def order(number: int, *, size: int = 2) -> NewRecord:
    return NewRecord(Topic.ORDERS, str(number), b"\xa5" * size)


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def size_of(path: Path) -> int:
    return path.stat().st_size


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


async def append_all(log: SqliteEventLog, records: Sequence[NewRecord]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for record in records:
            tasks.create_task(log.append(record))


async def from_the_beginning(streams: Sequence[Stream]) -> Mapping[Stream, int]:
    return {}


async def read_all(log: SqliteEventLog) -> list[Record]:
    reader = await log.open_reader(from_the_beginning)
    records: list[Record] = []
    while found := await reader.fetch(max_records=500, wait_s=0.0):
        records += found
    await reader.close()
    return records


async def keys_in(path: Path) -> list[str]:
    """The keys in the log at `path`, after a check that no stream has a gap or a double."""
    async with open_log(path) as log:
        records = await read_all(log)
    offsets: dict[Stream, list[int]] = defaultdict(list)
    for record in records:
        offsets[record.stream].append(record.offset)
    assert all(found == list(range(len(found))) for found in offsets.values())
    return [record.key or "" for record in records]
