"""The spool's promises under outages, refusals and deaths in any order, and under SIGKILL."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from service.domain.errors import LogUnavailableError, PermanentError
from service.domain.ports import Step
from service.domain.records import NewRecord
from service.eventlog.spool import SpoolingWriter
from tests.fakes.clock import FakeClock
from tests.fakes.spool_target import FakeTarget, Fate
from tests.integration.spools import (
    PATIENCE_S,
    drained,
    event,
    open_spool,
    pass_time,
    running,
    time_passes_until,
)

ROOT = Path(__file__).parents[2]
KEYS = [f"k{number}" for number in range(6)]
RECORDS = 60  # of each key

Arrivals = Mapping[str | None, Sequence[bytes]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


def by_key(records: Sequence[NewRecord]) -> Arrivals:
    found: dict[str | None, list[bytes]] = defaultdict(list)
    for record in records:
        found[record.key].append(record.value)
    return found


def check_promises(acknowledged: Arrivals, arrived: Arrivals, refused: Arrivals) -> None:
    """Nothing that was acknowledged is missing, and a key's records arrive first in its order."""
    for key, values in acknowledged.items():
        firsts = dict.fromkeys(arrived[key])
        assert set(values) <= set(firsts)
        # What was ever set aside came late.
        late = set(refused[key])
        known = set(values) - late
        assert [each for each in firsts if each in known] == [v for v in values if v not in late]


class Senders:
    """One sender a key: it sends the next record when the one before was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: dict[str | None, list[bytes]] = {key: [] for key in KEYS}
        self._next = dict.fromkeys(KEYS, 0)

    @property
    def are_done(self) -> bool:
        return all(number == RECORDS for number in self._next.values())

    async def send(self, spool: SpoolingWriter, clock: FakeClock, key: str) -> None:
        """Go on where the process died; an unanswered record is sent again, as SCAYLE does."""
        while self._next[key] < RECORDS:
            content = str(self._next[key]).encode()
            try:
                await spool.append(event(key, content))
            except LogUnavailableError:
                await clock.sleep(1)
                continue
            except PermanentError:
                pass
            else:
                self.acknowledged[key].append(content)
            self._next[key] += 1


def fates(rng: random.Random) -> Callable[[NewRecord], Fate]:
    """Mostly one thing, or all of them."""
    weights = rng.choice(
        [(1, 0, 0, 0, 0), (0, 1, 0, 0, 0), (8, 1, 1, 1, 0), (8, 0, 0, 2, 1), (1, 3, 3, 0, 0)]
    )
    return lambda record: rng.choices(list(Fate), weights)[0]


@pytest.mark.parametrize("seed", range(25))
async def test_nothing_acknowledged_is_lost_and_keys_stay_in_order(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    clock = FakeClock()
    target = FakeTarget()
    senders = Senders()
    for _ in range(5):
        limit_bytes = rng.choice([200, 2_000, 1 << 20])
        async with open_spool(target, path, clock=clock, limit_bytes=limit_bytes) as spool:
            work = [spool.run(asyncio.Event())]
            work += [senders.send(spool, clock, key) for key in KEYS]
            tasks = [asyncio.create_task(each) for each in work]
            for _ in range(rng.randint(1, 6)):
                target.release(fates(rng))
                await pass_time(clock, rng.choice([0.25, 0.5, 2, 10]))
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
    target.release(Fate.TAKEN)
    async with (
        open_spool(target, path, clock=clock) as spool,
        running(spool),
        asyncio.TaskGroup() as last,
    ):
        for key in KEYS:
            last.create_task(senders.send(spool, clock, key))
        await time_passes_until(clock, lambda: senders.are_done)
        await drained(spool, clock)
        await time_passes_until(clock, lambda: not spool.set_aside)
        assert spool.size_bytes == 0
    check_promises(senders.acknowledged, by_key(target.arrived), by_key(target.refused))


CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from service.domain.clock import SteadyClock
from service.domain.errors import LogUnavailableError, PermanentError
from service.domain.records import NewRecord, Topic
from service.eventlog.spool import open_spooling_writer
from service.telemetry.metrics import Metrics

path, label, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
arrivals = os.open(path.with_name("arrivals"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
refusals = os.open(path.with_name("refusals"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def die_at(step):
    global times
    if step == label:
        times -= 1
        if times == 0:
            os.kill(os.getpid(), signal.SIGKILL)

class QuickClock(SteadyClock):
    async def sleep(self, seconds):
        await asyncio.sleep(seconds / 20)

class Target:
    is_away = True
    async def append(self, record):
        await asyncio.sleep(0)
        line = f"{record.key} {record.value.decode()}\\n".encode()
        if self.is_away:
            raise LogUnavailableError("not_connected")
        if record.value.endswith(b"77"):
            os.write(refusals, line)
            raise PermanentError("not_authorised")
        os.write(arrivals, line)

async def main():
    target = Target()
    metrics = Metrics(CollectorRegistry())
    async with open_spooling_writer(
        target, path, limit_bytes=1 << 30, metrics=metrics, clock=QuickClock(), step=die_at
    ) as spool:
        phase = 0

        async def send(key):
            nonlocal phase
            number = 0
            while True:
                try:
                    await spool.append(NewRecord(Topic.ORDERS, key, str(number).encode()))
                except PermanentError:
                    pass
                else:
                    os.write(1, f"{key} {number}\\n".encode())
                number += 1
                # Away for a while, then back until a while after the spool was left.
                phase += spool.is_spooling == target.is_away
                if phase == 300:
                    phase = 0
                    target.is_away = not target.is_away

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(spool.run(asyncio.Event()))
            for number in range(6):
                tasks.create_task(send(f"k{number}"))

asyncio.run(main())
"""


def start_child(path: Path, label: str, times: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), label, str(times)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def read_lines(content: bytes) -> dict[str | None, list[bytes]]:
    """Values by key, in order; a line that was cut off by the kill does not count."""
    found: dict[str | None, list[bytes]] = defaultdict(list)
    for line in content.splitlines(keepends=True):
        if line.endswith(b"\n"):
            key, content = line.split()
            found[key.decode()].append(content)
    return found


async def assert_survived(path: Path, printed: bytes) -> None:
    """A new process brings to the target what the killed one had acknowledged."""
    acknowledged = read_lines(printed)
    assert sum(map(len, acknowledged.values())) > 300
    refused = read_lines(path.with_name("refusals").read_bytes())
    target = FakeTarget()
    clock = FakeClock()
    async with open_spool(target, path, clock=clock) as spool, running(spool):
        await drained(spool, clock)
        await time_passes_until(clock, lambda: not spool.set_aside)
    arrived = read_lines(path.with_name("arrivals").read_bytes())
    for record in target.arrived:
        arrived[record.key].append(record.value)
    check_promises(acknowledged, arrived, refused)


@pytest.mark.parametrize(
    ("label", "times"),
    [
        (Step.LOG_BEFORE_COMMIT, 70),
        (Step.LOG_AFTER_COMMIT, 70),
        (Step.SPOOL_APPENDED, 500),
        (Step.SPOOL_FORWARDED, 2),
        (Step.SPOOL_FORWARDED, 5),
        (Step.LOG_TRIMMED, 2),
        (Step.SPOOL_ACKNOWLEDGED, 2),
        (Step.SPOOL_LEFT, 1),
        (Step.SPOOL_LEFT, 3),
    ],
)
async def test_sigkill_at_a_step_loses_nothing(path: Path, label: Step, times: int) -> None:
    with start_child(path, label, times) as child:
        assert child.stdout is not None
        printed = await asyncio.to_thread(child.stdout.read)
    assert child.returncode == -signal.SIGKILL
    await assert_survived(path, printed)


@pytest.mark.parametrize("lines", [1000, 2500, 4000])
async def test_sigkill_under_load_loses_nothing(path: Path, lines: int) -> None:
    with start_child(path, "never", 0) as child:
        stdout = child.stdout
        assert stdout is not None

        def read_and_kill() -> bytes:
            printed = b"".join(stdout.readline() for _ in range(lines))
            child.send_signal(signal.SIGKILL)
            return printed + stdout.read()

        printed = await asyncio.wait_for(asyncio.to_thread(read_and_kill), PATIENCE_S)
    assert child.returncode == -signal.SIGKILL
    await assert_survived(path, printed)
