"""What breaks under the embedded log: a full disk, a torn file, a process killed with SIGKILL."""

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import pytest

from service.domain.errors import LogUnavailableError
from service.domain.ports import Step
from tests.integration.sqlite_log import (
    append_all,
    content_of,
    keys_in,
    open_log,
    order,
    read_all,
    size_of,
    wal_of,
    write,
)

ROOT = Path(__file__).parents[2]
WAL_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
PAGE_BYTES = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "log.db"


async def test_a_full_disk_refuses_and_recovers_by_itself(path: Path) -> None:
    """P1: no acknowledgement without the record on disk; P3: none that was given is lost."""
    acknowledged: list[str] = []
    async with open_log(path) as log:
        await log.append(order(0))
        with files_limited_to(size_of(wal_of(path)) + 256 * 1024):
            for number in count(1):
                try:
                    await log.append(order(number, size=10_000))
                except LogUnavailableError:
                    break
                acknowledged.append(str(number))
            with pytest.raises(LogUnavailableError, match="not_writable"):
                await log.append(order(1000, size=10_000))
            assert {record.key for record in await read_all(log)} == {"0", *acknowledged}
        await log.append(order(2000))
    assert acknowledged
    assert set(await keys_in(path)) == {"0", *acknowledged, "2000"}


@contextmanager
def files_limited_to(size_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond `size_bytes`: writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@asynccontextmanager
async def log_with_commits(path: Path, sizes: Sequence[int]) -> AsyncIterator[list[int]]:
    """A log with one commit per size; yields the WAL's length before and after each of them."""
    wal = wal_of(path)
    async with open_log(path, partitions=2) as log:
        lengths = [size_of(wal)]
        for number, size in enumerate(sizes):
            await log.append(order(number, size=size))
            lengths.append(size_of(wal))
        yield lengths


def interesting_cuts(lengths: Sequence[int]) -> list[int]:
    """Lengths at, around and inside every frame of the WAL behind its first commit."""
    frame = FRAME_HEADER_BYTES + PAGE_BYTES
    cuts: set[int] = set()
    for start in range(WAL_HEADER_BYTES, lengths[-1] + 1, frame):
        inside = [0, 1, FRAME_HEADER_BYTES - 1, FRAME_HEADER_BYTES, frame // 2, frame - 1]
        cuts.update(start + offset for offset in inside)
    return sorted(cut for cut in cuts if lengths[0] <= cut <= lengths[-1])


async def test_a_torn_wal_keeps_every_record_whose_commit_ended_before(path: Path) -> None:
    sizes = [10, 3000, 9000, 0, 4000, 50]
    torn = path.with_name("torn.db")
    async with log_with_commits(path, sizes) as lengths:
        database = content_of(path)
        wal = content_of(wal_of(path))
    cuts = interesting_cuts(lengths)
    assert len(cuts) > 6 * len(sizes)
    for cut in cuts:
        for tail in (b"", b"\x00" * 5000, wal[WAL_HEADER_BYTES:][:5000]):
            if cut == lengths[-1] and tail:
                continue
            left = wal[:cut] + tail
            write(torn, database)
            write(wal_of(torn), left)
            whole = sum(left.startswith(wal[:length]) for length in lengths[1:])
            assert sorted(await keys_in(torn)) == [str(number) for number in range(whole)], cut


async def test_a_wal_with_a_wrong_byte_keeps_what_was_committed_before(path: Path) -> None:
    torn = path.with_name("torn.db")
    async with log_with_commits(path, [10, 3000, 9000, 4000]) as lengths:
        database = content_of(path)
        wal = content_of(wal_of(path))
    for position in interesting_cuts(lengths)[:-1]:
        broken = wal[:position] + bytes([wal[position] ^ 0xFF]) + wal[position + 1 :]
        write(torn, database)
        write(wal_of(torn), broken)
        whole = sum(length <= position for length in lengths[1:])
        assert sorted(await keys_in(torn)) == [str(number) for number in range(whole)], position


async def test_a_torn_log_goes_on(path: Path) -> None:
    torn = path.with_name("torn.db")
    async with log_with_commits(path, [10, 10, 10]):
        shutil.copy(path, torn)
        write(wal_of(torn), content_of(wal_of(path))[:-1])
    async with open_log(torn) as log:
        await append_all(log, [order(number) for number in range(10, 20)])
    assert set(await keys_in(torn)) == {"0", "1", *map(str, range(10, 20))}


WRITER = """
import asyncio, os, signal, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from service.domain.clock import SteadyClock
from service.domain.ports import Step
from service.domain.records import NewRecord, Topic
from service.eventlog.sqlite import open_sqlite_log
from service.telemetry.metrics import Metrics

path, label, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def die_at(step):
    global times
    if step == label:
        times -= 1
        if times == 0:
            os.kill(os.getpid(), signal.SIGKILL)

async def append_for_ever(log, task):
    number = 0
    while True:
        key = f"{task}-{number}"
        await log.append(NewRecord(Topic.ORDERS, key, os.urandom(1200)))
        os.write(1, key.encode() + b"\\n")
        number += 1

async def main():
    metrics = Metrics(CollectorRegistry())
    async with open_sqlite_log(path, metrics=metrics, clock=SteadyClock(), step=die_at) as log:
        async with asyncio.TaskGroup() as tasks:
            for task in range(32):
                tasks.create_task(append_for_ever(log, task))

asyncio.run(main())
"""


def start_writer(path: Path, label: str, times: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), label, str(times)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )


async def test_sigkill_under_load_loses_no_acknowledged_record(path: Path) -> None:
    """P1, with whatever the killed process had in hand."""
    with start_writer(path, "never", 0) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline() for _ in range(3000)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    keys = {line.decode().strip() for line in acknowledged if line.endswith(b"\n")}
    found = await keys_in(path)
    assert keys <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("label", [Step.LOG_BEFORE_COMMIT, Step.LOG_AFTER_COMMIT])
async def test_sigkill_around_a_commit_loses_no_acknowledged_record(
    path: Path, label: Step
) -> None:
    with start_writer(path, label, 5) as writer:
        assert writer.stdout is not None
        keys = {line.decode().strip() for line in writer.stdout}
    assert writer.returncode == -signal.SIGKILL
    found = await keys_in(path)
    assert keys <= set(found)
    # The commit it died at was of 32 records that nobody was told about.
    assert len(found) - len(keys) == (32 if label is Step.LOG_AFTER_COMMIT else 0)
