"""What only the embedded log promises: its file, its commits, its trimming, its WAL."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.domain.errors import LogUnavailableError, StartupError
from service.domain.ports import LogReader, Step
from service.domain.records import NewRecord, Stream, Topic
from service.eventlog.sqlite import RETENTION_S, SqliteEventLog
from service.eventlog.sqlite_file import LogFile
from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.integration.sqlite_log import (
    append_all,
    content_of,
    from_the_beginning,
    keys_in,
    open_log,
    order,
    read_all,
    size_of,
    wal_of,
    write,
)

PATIENCE_S = 20.0
DAY_S = 86400.0
ORDERS = Stream(Topic.ORDERS, 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "log.db"


# Opening


async def test_a_second_process_is_told_who_holds_the_file(path: Path) -> None:
    async with open_log(path):
        with pytest.raises(StartupError, match=rf"in use by process {os.getpid()};"):
            async with open_log(path):
                pass
    async with open_log(path) as log:
        await log.append(order(1))


async def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    async with open_log(path) as log:
        await log.append(order(1))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=7")
    connection.close()
    before = content_of(path)
    with pytest.raises(StartupError, match="schema version 7, this program knows 2"):
        async with open_log(path):
            pass
    assert content_of(path) == before


VERSION_1 = """
    CREATE TABLE streams (
        id INTEGER PRIMARY KEY,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        first_offset INTEGER NOT NULL DEFAULT 0,
        UNIQUE (topic, partition)
    ) STRICT;
    CREATE TABLE records (
        position INTEGER PRIMARY KEY,
        appended_at_ms INTEGER NOT NULL,
        key TEXT,
        headers TEXT NOT NULL,
        value BLOB NOT NULL
    ) STRICT;
    PRAGMA application_id=1380732743;
    PRAGMA user_version=1;
    INSERT INTO streams VALUES
        (1, 'scayle.orders.v1', 0, 1), (2, 'scayle.unreadable.v1', 0, 0);
    INSERT INTO records VALUES
        (281474976710657, 1800000000000, 'a', '{"name":"one"}', x'01'),
        (281474976710658, 1800000000000, 'b', '{}', x'02');
"""


async def test_a_file_of_version_1_is_brought_up_when_opened(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)
    connection.close()
    async with open_log(path) as log:
        assert not await log.acknowledged()
        records = await read_all(log)
        assert [(r.offset, r.key, r.value) for r in records] == [(1, "a", b"\1"), (2, "b", b"\2")]
        reader = await log.open_reader(from_the_beginning)
        await reader.acknowledge({ORDERS: 2})
    async with open_log(path) as log:
        assert await log.acknowledged() == {ORDERS: 2}
        await log.append(order(1))
        assert [record.offset for record in await read_all(log)] == [1, 2, 3]


async def test_another_database_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE effects (effect_key TEXT)")
    connection.close()
    before = content_of(path)
    with pytest.raises(StartupError, match="not a log"):
        async with open_log(path):
            pass
    assert content_of(path) == before


@pytest.mark.parametrize("content", [b"x", b"not a database" * 10, bytes(range(256)) * 64])
async def test_a_file_of_another_kind_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    write(path, content)
    with pytest.raises(StartupError, match="not a database"):
        async with open_log(path):
            pass
    assert content_of(path) == content


async def test_an_empty_file_becomes_a_log(path: Path) -> None:
    write(path, b"")
    async with open_log(path) as log:
        await log.append(order(1))
    assert await keys_in(path) == ["1"]


async def test_a_directory_that_cannot_be_written_is_a_clear_error(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o500)
    try:
        with not_root(), pytest.raises(StartupError, match="Permission denied"):
            async with open_log(path):
                pass
    finally:
        path.parent.chmod(0o700)


@contextmanager
def not_root() -> Iterator[None]:
    """File modes mean nothing to root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


async def test_a_file_keeps_its_number_of_partitions(path: Path) -> None:
    async with open_log(path, partitions=3) as log:
        ends = await log.end_positions()
        assert len(ends) == 3 * len(Topic)
    async with open_log(path, partitions=8) as log:
        assert await log.end_positions() == ends


@pytest.mark.parametrize("position", [-1, 3, 1000])
async def test_a_ledger_of_another_log_is_refused(path: Path, position: int) -> None:
    """P3: a log that was lost or replaced must not let the ledger skip what comes next."""

    async def ledger(streams: Sequence[Stream]) -> Mapping[Stream, int]:
        return {Stream(Topic.ORDERS, 0): position}

    async with open_log(path, partitions=1) as log:
        await append_all(log, [order(1), order(2)])
        with pytest.raises(StartupError, match=f"from offset {position}, the log has 0 to 2"):
            await log.open_reader(ledger)


# Committing


async def test_every_commit_is_synced(path: Path) -> None:
    file = LogFile.open(path, partitions=1)
    assert file.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert file.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    file.close()


async def test_what_is_ready_together_is_one_commit(path: Path) -> None:
    registry = CollectorRegistry()
    async with open_log(path, metrics=Metrics(registry)) as log:
        await append_all(log, [order(number) for number in range(300)])
    assert registry.get_sample_value("relay_log_commit_records_sum") == 300
    assert registry.get_sample_value("relay_log_commit_records_count") == 1
    assert registry.get_sample_value("relay_log_queue_records") == 0
    assert len(await keys_in(path)) == 300


class Gate:
    """Stops the writing thread before its first commit until it is opened."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self, step: Step) -> None:
        if step is Step.LOG_BEFORE_COMMIT:
            self._reached.set()
            assert self._opened.wait(PATIENCE_S)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, PATIENCE_S)

    def open(self) -> None:
        self._opened.set()


async def test_a_full_queue_refuses_at_once(path: Path) -> None:
    gate = Gate()
    async with open_log(path, step=gate, max_queue=5) as log, asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(log.append(order(number)))
        await gate.reached()
        with pytest.raises(LogUnavailableError, match="queue_full") as refused:
            await log.append(order(5))
        assert refused.value.retry_after_s > 0
        gate.open()
    assert sorted(await keys_in(path)) == ["0", "1", "2", "3", "4"]


async def test_a_queue_of_large_records_is_full_sooner(path: Path) -> None:
    gate = Gate()
    async with open_log(path, step=gate) as log, asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(log.append(order(number, size=16 * 1024 * 1024)))
        await gate.reached()
        with pytest.raises(LogUnavailableError, match="queue_full"):
            await log.append(order(4))
        gate.open()
    assert len(await keys_in(path)) == 4


async def test_closing_commits_what_waits_and_refuses_the_rest(path: Path) -> None:
    gate = Gate()
    async with open_log(path, step=gate) as log:
        waiting = [asyncio.create_task(log.append(order(number))) for number in range(3)]
        await gate.reached()
        waiting.append(asyncio.create_task(log.append(order(3))))
        await asyncio.sleep(0)
        gate.open()
    await asyncio.gather(*waiting)
    with pytest.raises(LogUnavailableError, match="closed"):
        await log.append(order(4))
    assert sorted(await keys_in(path)) == ["0", "1", "2", "3"]


async def test_an_append_that_was_given_up_does_no_harm(path: Path) -> None:
    gate = Gate()
    async with open_log(path, step=gate) as log:
        given_up = asyncio.create_task(log.append(order(1)))
        await gate.reached()
        given_up.cancel()
        gate.open()
        await asyncio.wait([given_up])
        await log.append(order(2))
    assert sorted(await keys_in(path)) == ["1", "2"]


async def test_a_commit_that_fails_before_its_end_leaves_nothing(path: Path) -> None:
    failures = iter([OSError("before commit"), None])

    def fail_once(step: Step) -> None:
        if step is Step.LOG_BEFORE_COMMIT and (failure := next(failures)):
            raise failure

    async with open_log(path, step=fail_once) as log:
        with pytest.raises(OSError, match="before commit"):
            await log.append(order(1))
        await log.append(order(2))
    assert await keys_in(path) == ["2"]


# Acknowledging


async def acknowledged_after_a_crash(path: Path) -> Mapping[Stream, int]:
    """What is known from the files as a power cut would leave them now."""
    crashed = path.with_name("crashed.db")
    write(crashed, content_of(path))
    write(wal_of(crashed), content_of(wal_of(path)))
    async with open_log(crashed) as log:
        return await log.acknowledged()


async def test_acknowledging_costs_no_commit_but_goes_along_with_one(path: Path) -> None:
    clock = FakeClock()
    async with open_log(path, clock=clock, partitions=1) as log:
        await append_all(log, [order(number) for number in range(10)])
        reader = await log.open_reader(from_the_beginning)
        before = content_of(wal_of(path))
        await reader.acknowledge({ORDERS: 4})
        assert await log.acknowledged() == {ORDERS: 4}
        assert content_of(wal_of(path)) == before
        assert not await acknowledged_after_a_crash(path)

        clock.advance(1)
        await log.append(order(10))
        assert await acknowledged_after_a_crash(path) == {ORDERS: 4}

        await reader.acknowledge({ORDERS: 7})
        assert await log.trim(limit=100) == 0
        assert await acknowledged_after_a_crash(path) == {ORDERS: 7}

        before = content_of(wal_of(path))
        assert await log.trim(limit=100) == 0
        assert content_of(wal_of(path)) == before


async def test_a_ledger_put_back_from_a_copy_is_what_counts_from_then_on(path: Path) -> None:
    async def older_ledger(streams: Sequence[Stream]) -> Mapping[Stream, int]:
        return {ORDERS: 2}

    async with open_log(path, partitions=1) as log:
        await append_all(log, [order(number) for number in range(10)])
        reader = await log.open_reader(from_the_beginning)
        await reader.acknowledge({ORDERS: 8})
    async with open_log(path) as log:
        reader = await log.open_reader(older_ledger)
        assert await log.acknowledged() == {ORDERS: 8}
        await reader.acknowledge({ORDERS: 3})
    async with open_log(path) as log:
        assert await log.acknowledged() == {ORDERS: 3}


# Trimming


async def ack_all(log: SqliteEventLog, reader: LogReader) -> None:
    await reader.acknowledge(await log.end_positions())


async def trim_all(log: SqliteEventLog, *, limit: int = 100) -> int:
    total = 0
    while removed := await log.trim(limit=limit):
        assert removed <= limit
        total += removed
    return total


async def test_only_what_is_old_and_acknowledged_is_trimmed(path: Path) -> None:
    clock = FakeClock()
    steps: list[Step] = []
    async with open_log(path, clock=clock, step=steps.append) as log:
        reader = await log.open_reader(from_the_beginning)
        await append_all(log, [order(number) for number in range(50)])
        clock.advance(6 * DAY_S)
        await append_all(log, [order(number) for number in range(50, 60)])
        ends = await log.end_positions()
        await ack_all(log, reader)
        await append_all(log, [order(number) for number in range(60, 70)])

        assert await trim_all(log) == 0
        clock.advance(1 * DAY_S + 1)
        assert await trim_all(log, limit=7) == 50
        assert steps.count(Step.LOG_TRIMMED) == 8
        clock.advance(6 * DAY_S)
        assert await trim_all(log) == 10
        clock.advance(365 * DAY_S)
        assert await trim_all(log) == 0

        assert {r.key for r in await read_all(log)} == set(map(str, range(60, 70)))
        await ack_all(log, reader)
        assert await trim_all(log) == 10
        after = await log.end_positions()
    assert sum(after.values()) == sum(ends.values()) + 10
    async with open_log(path) as log:
        assert await log.end_positions() == after
        await append_all(log, [order(70)])
        (record,) = await read_all(log)
        assert record.offset == after[record.stream]


def test_every_topic_has_a_retention() -> None:
    assert set(RETENTION_S) == set(Topic)


async def test_unreadable_bodies_are_kept_for_three_days(path: Path) -> None:
    clock = FakeClock()
    async with open_log(path, clock=clock) as log:
        reader = await log.open_reader(from_the_beginning)
        await append_all(log, [order(1), NewRecord(Topic.UNREADABLE, None, b"Anna Example")])
        await ack_all(log, reader)
        clock.advance(3 * DAY_S + 1)
        assert await trim_all(log) == 1
        assert [record.key for record in await read_all(log)] == ["1"]


async def test_the_slowest_reader_holds_trimming_and_without_one_nothing_is_trimmed(
    path: Path,
) -> None:
    clock = FakeClock()
    async with open_log(path, clock=clock) as log:
        await append_all(log, [order(number) for number in range(10)])
        clock.advance(8 * DAY_S)
        assert await trim_all(log) == 0
        fast = await log.open_reader(from_the_beginning)
        slow = await log.open_reader(from_the_beginning)
        await ack_all(log, fast)
        assert await trim_all(log) == 0
        await slow.close()
        assert await trim_all(log) == 10


async def test_trimmed_bytes_are_gone_from_the_files(path: Path) -> None:
    """P7: personal data does not stay in free pages."""
    clock = FakeClock()
    async with open_log(path, clock=clock) as log:
        reader = await log.open_reader(from_the_beginning)
        for number in range(30):
            await log.append(NewRecord(Topic.ORDERS, str(number), b"Anna Example " * 100 * number))
        await ack_all(log, reader)
        clock.advance(8 * DAY_S)
        assert await trim_all(log, limit=8) == 30
    assert b"Anna Example" not in content_of(path)


async def test_trimmed_room_is_used_again(path: Path) -> None:
    clock = FakeClock()
    async with open_log(path, clock=clock) as log:
        reader = await log.open_reader(from_the_beginning)
        sizes = []
        for _ in range(6):
            await append_all(log, [order(number, size=3000) for number in range(1000)])
            await ack_all(log, reader)
            clock.advance(8 * DAY_S)
            assert await trim_all(log, limit=500) == 1000
            sizes.append(size_of(path))
    assert sizes[-1] <= 1.2 * sizes[1]


async def test_a_ledger_behind_what_was_trimmed_is_refused(path: Path) -> None:
    """An older copy of the ledger was put back: what it lacks is no longer in the log."""
    clock = FakeClock()

    async def older_ledger(streams: Sequence[Stream]) -> Mapping[Stream, int]:
        return {Stream(Topic.ORDERS, 0): 4}

    async with open_log(path, clock=clock, partitions=1) as log:
        reader = await log.open_reader(from_the_beginning)
        await append_all(log, [order(number) for number in range(10)])
        await ack_all(log, reader)
        clock.advance(8 * DAY_S)
        await trim_all(log)
        with pytest.raises(StartupError, match="from offset 4, the log has 10 to 10"):
            await log.open_reader(older_ledger)
        with pytest.raises(ValueError, match="from offset 4"):
            await reader.seek(await older_ledger([]))


# The write-ahead log


async def test_readers_do_not_let_the_wal_grow(path: Path) -> None:
    async with open_log(path) as log:
        reader = await log.open_reader(from_the_beginning)
        read = 0

        async def keep_reading() -> None:
            nonlocal read
            while read < 4000:
                read += len(await reader.fetch(max_records=20, wait_s=PATIENCE_S))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_reading())
            for batch in range(40):
                await append_all(log, [order(batch, size=10_000) for _ in range(100)])
        assert size_of(wal_of(path)) < 20 * 1024 * 1024


async def test_the_wal_shrinks_once_a_foreign_reader_is_gone(path: Path) -> None:
    async with open_log(path) as log:
        await log.append(order(1))
        with sqlite3.connect(path, isolation_level=None) as foreign:
            foreign.execute("BEGIN")
            foreign.execute("SELECT count(*) FROM records").fetchone()
            for _ in range(5):
                await append_all(log, [order(number, size=50_000) for number in range(100)])
            grown = size_of(wal_of(path))
            assert grown > 20 * 1024 * 1024
        foreign.close()
        await append_all(log, [order(number, size=50_000) for number in range(50)])
        assert size_of(wal_of(path)) < grown / 4
