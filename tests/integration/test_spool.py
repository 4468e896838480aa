"""The spool: what stands in for the broker's log is as durable, in order, and given back."""

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest

from service.domain.clock import SteadyClock
from service.domain.errors import LogUnavailableError, PermanentError, StartupError
from service.domain.ports import LogWriter, Step
from service.domain.records import NewRecord, Topic
from service.eventlog.spool import SpoolingWriter
from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.metrics import value
from tests.fakes.spool_target import FakeTarget, Fate
from tests.fakes.waiting import settle_down, until
from tests.integration.spools import (
    PATIENCE_S,
    drained,
    event,
    open_spool,
    pass_time,
    running,
    time_passes_until,
)
from tests.integration.sqlite_log import content_of, keys_in, size_of, wal_of
from tests.integration.test_sqlite_log_crashes import files_limited_to

FIVE_MINUTES_S = 300.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "volume" / "spool.db"


async def append_all(writer: LogWriter, records: Sequence[NewRecord]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for record in records:
            tasks.create_task(writer.append(record))


class CommitGate:
    """Holds the spool's commits while it is closed."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()
        self._opened.set()

    def __call__(self, step: Step) -> None:
        if step is Step.LOG_BEFORE_COMMIT:
            self.reached.set()
            assert self._opened.wait(PATIENCE_S)

    def close(self) -> None:
        self._opened.clear()
        self.reached.clear()

    def open(self) -> None:
        self._opened.set()


# Going over to the spool


async def test_a_target_that_takes_gets_everything_directly(path: Path, clock: FakeClock) -> None:
    target = FakeTarget()
    async with open_spool(target, path, clock=clock) as spool:
        await append_all(spool, [event(str(number)) for number in range(50)])
        assert not spool.is_spooling
    assert len(target.arrived) == 50
    assert not await keys_in(path)


async def test_the_first_failure_switches_and_its_record_is_on_disk(
    path: Path, clock: FakeClock, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """P1: the answer waits for the spool's fsync."""
    target = FakeTarget()
    steps: list[Step] = []
    async with open_spool(target, path, clock=clock, metrics=metrics, step=steps.append) as spool:
        await spool.append(event("1"))
        assert value(metrics, "relay_spooling") == 0
        target.fate = Fate.AWAY
        with caplog.at_level(logging.WARNING, "relay.spool"):
            await spool.append(event("2"))
        assert spool.is_spooling
        assert [record.message for record in caplog.records] == ["spool.entered"]
        assert steps[-3:] == [Step.LOG_BEFORE_COMMIT, Step.LOG_AFTER_COMMIT, Step.SPOOL_APPENDED]
        attempts = target.attempts
        clock.advance(7)
        await spool.append(event("3"))
        assert target.attempts == attempts, "later ones do not ask the target"
        assert value(metrics, "relay_spooling") == 1
        assert value(metrics, "relay_spool_records") == 2
        assert value(metrics, "relay_spool_bytes") == spool.size_bytes == 2 * (2 + 32)
        oldest_s = clock.now_ms() / 1000 - 7
        assert value(metrics, "relay_spool_oldest_timestamp_seconds") == oldest_s
    assert await keys_in(path) == ["2", "3"]


async def test_what_is_in_flight_when_the_target_goes_away_is_spooled(
    path: Path, clock: FakeClock
) -> None:
    target = FakeTarget(Fate.HANGS)
    async with open_spool(target, path, clock=clock) as spool, asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(spool.append(event(str(number))))
        await until(lambda: target.in_flight == 10)
        target.release(Fate.LANDED_BUT_AWAY)
    assert sorted(await keys_in(path)) == sorted(map(str, range(10)))


async def test_a_commit_that_is_not_made_is_not_acknowledged(path: Path, clock: FakeClock) -> None:
    gate = CommitGate()
    async with open_spool(FakeTarget(Fate.AWAY), path, clock=clock, step=gate) as spool:
        gate.close()
        appending = asyncio.create_task(spool.append(event("1")))
        assert await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
        await settle_down()
        assert not appending.done()
        gate.open()
        await appending


async def test_what_is_refused_for_good_directly_is_the_callers(
    path: Path, clock: FakeClock
) -> None:
    async with open_spool(FakeTarget(Fate.REFUSED), path, clock=clock) as spool:
        with pytest.raises(PermanentError, match="not_authorised"):
            await spool.append(event("1"))
        assert not spool.is_spooling
        assert not spool.set_aside
    assert not await keys_in(path)


async def test_text_that_is_not_unicode_is_refused_and_takes_no_room(
    path: Path, clock: FakeClock
) -> None:
    async with open_spool(FakeTarget(Fate.AWAY), path, clock=clock) as spool:
        for record in (event("\ud800"), NewRecord(Topic.ORDERS, "1", b"", {"name": "\udfff"})):
            with pytest.raises(PermanentError):
                await spool.append(record)
        assert spool.size_bytes == 0


async def test_a_failure_of_before_the_last_outage_starts_no_new_one(
    path: Path, clock: FakeClock
) -> None:
    """It began when the target was away; by now it is back, and takes the record directly."""
    slow = event("slow")
    target = FakeTarget(lambda record: Fate.HANGS if record is slow else Fate.AWAY)
    async with open_spool(target, path, clock=clock) as spool, running(spool):
        appending = asyncio.create_task(spool.append(slow))
        await until(lambda: target.in_flight == 1)
        await spool.append(event("1"))
        target.fate = lambda record: Fate.HANGS if record is slow else Fate.TAKEN
        await drained(spool, clock)
        fates = iter([Fate.AWAY, Fate.TAKEN])
        target.release(lambda record: next(fates))
        await appending
        assert not spool.is_spooling
        assert target.arrived[-1] is slow


# Draining


async def test_what_was_spooled_is_forwarded_in_order_and_its_room_given_back(
    path: Path, clock: FakeClock, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    target = FakeTarget(Fate.AWAY)
    steps: list[Step] = []
    async with open_spool(target, path, clock=clock, metrics=metrics, step=steps.append) as spool:
        for number in range(60):
            await append_all(spool, [event(f"k{key}", f"{number}") for key in range(15)])
        await spool.append(NewRecord(Topic.UNREADABLE, None, b"Anna Example"))
        target.fate = Fate.TAKEN
        with caplog.at_level(logging.INFO, "relay.spool"):
            async with running(spool):
                await drained(spool, clock)
        left = next(record for record in caplog.records if record.message == "spool.left")
        assert vars(left)["forwarded"] == 901
        assert vars(left)["duration_s"] > 0
        assert steps[-1] is Step.SPOOL_LEFT
        first = steps.index(Step.SPOOL_FORWARDED)
        assert Step.SPOOL_ACKNOWLEDGED in steps[first:]
        assert spool.size_bytes == 0
        assert value(metrics, "relay_spool_records") == 0
        assert value(metrics, "relay_spool_bytes") == 0
        assert value(metrics, "relay_spool_oldest_timestamp_seconds") == 0
        assert value(metrics, "relay_spool_forwarded_total") == 901
        assert value(metrics, "relay_spooling") == 0
        await spool.append(event("direct"))
    found: dict[str | None, list[bytes]] = defaultdict(list)
    for record in target.arrived:
        found[record.key].append(record.value)
        assert record.headers == ({} if record.key is None else {"event_type": "order-confirmed"})
    in_order = [str(number).encode() for number in range(60)]
    assert all(found[f"k{key}"] == in_order for key in range(15))
    assert found[None] == [b"Anna Example"]
    assert not await keys_in(path)
    assert b"Anna Example" not in content_of(path)


async def test_a_restart_goes_on_in_spool_mode_where_it_stopped(
    path: Path, clock: FakeClock
) -> None:
    target = FakeTarget(Fate.AWAY)
    async with open_spool(target, path, clock=clock) as spool:
        for number in range(300):
            await spool.append(event("k", str(number)))
    first = FakeTarget(lambda record: Fate.TAKEN if record.value != b"280" else Fate.AWAY)
    async with open_spool(first, path, clock=clock) as spool, running(spool):
        assert spool.is_spooling
        await until(lambda: len(first.arrived) == 280, timeout_s=PATIENCE_S)
    assert first.values == [str(number).encode() for number in range(280)]
    second = FakeTarget()
    async with open_spool(second, path, clock=clock) as spool:
        await spool.append(event("k", "300"))
        assert not second.arrived, "nothing overtakes what was spooled before the restart"
        async with running(spool):
            await drained(spool, clock)
    # The first batch was acknowledged, the second was in hand.
    assert second.values == [str(number).encode() for number in range(256, 301)]


async def test_a_target_that_is_away_is_asked_by_one_record_at_a_time(
    path: Path, clock: FakeClock
) -> None:
    target = FakeTarget(Fate.AWAY)
    async with open_spool(target, path, clock=clock) as spool:
        await append_all(spool, [event(str(number)) for number in range(100)])
        target.attempts = target.most_in_flight = 0
        async with running(spool):
            await time_passes_until(clock, lambda: target.attempts == 8)
            assert target.most_in_flight == 1
            assert clock.monotonic_s() > 20, "once every five to ten seconds at last"
            target.release(Fate.HANGS)
            await time_passes_until(clock, lambda: target.in_flight)
            await settle_down()
            assert target.in_flight == 1
            target.release(Fate.TAKEN)
            await drained(spool, clock)
        assert target.most_in_flight > 50
    assert len(target.arrived) == 100


async def test_a_target_that_goes_away_again_is_asked_by_one_record_again(
    path: Path, clock: FakeClock
) -> None:
    target = FakeTarget(Fate.AWAY)
    async with open_spool(target, path, clock=clock) as spool, running(spool):
        await append_all(spool, [event(str(number)) for number in range(100)])
        target.fate = lambda _: Fate.TAKEN if len(target.arrived) < 50 else Fate.HANGS
        await time_passes_until(clock, lambda: target.in_flight == 50)
        target.release(Fate.AWAY)
        await until(lambda: target.in_flight == 0)
        target.most_in_flight = 0
        attempts = target.attempts
        await time_passes_until(clock, lambda: target.attempts > attempts + 3)
        assert target.most_in_flight == 1
        target.fate = Fate.TAKEN
        await drained(spool, clock)
    assert len(target.arrived) == 100


async def test_nothing_more_of_a_key_is_sent_once_one_of_it_failed(
    path: Path, clock: FakeClock
) -> None:
    target = FakeTarget(Fate.AWAY)
    async with open_spool(target, path, clock=clock) as spool:
        for number in range(4):
            await append_all(spool, [event("a", str(number)), event("b", str(number))])
        fails = event("a", "1")
        target.fate = lambda record: Fate.AWAY if record == fails else Fate.TAKEN
        async with running(spool):
            await time_passes_until(clock, lambda: len(target.arrived) == 5)
            attempts = target.attempts
            await time_passes_until(clock, lambda: target.attempts > attempts + 3)
            assert [r.value for r in target.arrived if r.key == "a"] == [b"0"]
            assert [r.value for r in target.arrived if r.key == "b"] == [b"0", b"1", b"2", b"3"]
            target.fate = Fate.TAKEN
            await drained(spool, clock)
    assert [r.value for r in target.arrived if r.key == "a"] == [b"0", b"1", b"2", b"3"]


# Going back


class LastMoment:
    """Has a record appended, and its commit held, when the forwarder has just emptied the spool."""

    def __init__(self, record: NewRecord) -> None:
        self.gate = CommitGate()
        self.spool: SpoolingWriter | None = None
        self.appending: asyncio.Task[None] | None = None
        self._record = record

    def __call__(self, step: Step) -> None:
        self.gate(step)
        if step is Step.SPOOL_ACKNOWLEDGED and self.appending is None:
            assert self.spool is not None
            self.gate.close()
            self.appending = asyncio.create_task(self.spool.append(self._record))

    async def reached(self, clock: FakeClock) -> asyncio.Task[None]:
        """The append, once it is in its commit."""
        await time_passes_until(clock, lambda: self.appending and self.gate.reached.is_set())
        await settle_down()
        assert self.appending is not None and self.spool is not None
        assert self.spool._log.records == 0
        return self.appending


async def test_no_append_overtakes_one_that_is_on_its_way_into_the_spool(
    path: Path, clock: FakeClock
) -> None:
    """
    The barrier: the spool looks empty while a record of the key is in its commit.

    Without it the writer would be direct by then, and the record stay in the spool.
    """
    target = FakeTarget(Fate.AWAY)
    last = LastMoment(event("k", "1"))
    async with open_spool(target, path, clock=clock, step=last) as spool:
        last.spool = spool
        await spool.append(event("k", "0"))
        target.fate = Fate.TAKEN
        async with running(spool):
            first = await last.reached(clock)
            assert spool.is_spooling
            second = asyncio.create_task(spool.append(event("k", "2")))
            await pass_time(clock, 1)
            assert target.values == [b"0"], "it waits for the one before it"
            last.gate.open()
            await asyncio.gather(first, second)
            await drained(spool, clock)
            await spool.append(event("k", "3"))
    assert target.values == [b"0", b"1", b"2", b"3"]
    assert not await keys_in(path)


async def test_an_append_that_was_given_up_in_its_commit_is_not_left_behind(
    path: Path, clock: FakeClock
) -> None:
    target = FakeTarget(Fate.AWAY)
    last = LastMoment(event("k", "1"))
    async with open_spool(target, path, clock=clock, step=last) as spool:
        last.spool = spool
        await spool.append(event("k", "0"))
        target.fate = Fate.TAKEN
        async with running(spool):
            given_up = await last.reached(clock)
            given_up.cancel()
            await pass_time(clock, 1)
            assert spool.is_spooling
            last.gate.open()
            await drained(spool, clock)
            assert spool.size_bytes == 0
    assert target.values == [b"0", b"1"]


async def test_it_goes_back_while_appends_never_pause(path: Path) -> None:
    target = FakeTarget(Fate.AWAY)
    acknowledged: dict[str, list[bytes]] = defaultdict(list)
    left = asyncio.Event()

    def note(step: Step) -> None:
        if step is Step.SPOOL_LEFT:
            left.set()

    async def keep_appending(spool: SpoolingWriter, key: str) -> None:
        number = 0
        while not left.is_set():
            content = str(number).encode()
            await spool.append(event(key, content))
            acknowledged[key].append(content)
            number += 1

    # In real time, as the moment that appends may wait has to be enough for a commit.
    async with (
        open_spool(target, path, clock=SteadyClock(), step=note) as spool,
        running(spool),
        asyncio.TaskGroup() as tasks,
    ):
        for number in range(8):
            tasks.create_task(keep_appending(spool, str(number)))
        await until(lambda: spool._log.records > 100)
        target.fate = Fate.TAKEN
        await left.wait()
    arrived: dict[str | None, list[bytes]] = defaultdict(list)
    for record in target.arrived:
        arrived[record.key].append(record.value)
    for key, contents in acknowledged.items():
        assert list(dict.fromkeys(arrived[key])) == contents


async def test_appends_wait_no_longer_than_a_moment_for_the_way_back(
    path: Path, clock: FakeClock
) -> None:
    target = FakeTarget(Fate.AWAY)
    async with open_spool(target, path, clock=clock) as spool:
        await append_all(spool, [event(str(number)) for number in range(300)])
        # Takes the first batch; the rest, with which it would be empty, hangs.
        target.fate = lambda _: Fate.TAKEN if len(target.arrived) < 256 else Fate.HANGS
        async with running(spool):
            await time_passes_until(clock, lambda: target.arrived)
            await until(lambda: target.in_flight == 44, timeout_s=PATIENCE_S)
            appending = asyncio.create_task(spool.append(event("late")))
            await settle_down()
            assert spool._log.waiting == 0, "it waits at the gate"
            assert not appending.done()
            clock.advance(0.25)
            await asyncio.wait_for(appending, PATIENCE_S)
            target.release(Fate.TAKEN)
            await drained(spool, clock)
    assert target.arrived[-1].key == "late"


async def test_a_spool_that_took_nothing_lets_the_next_append_ask_the_target(
    path: Path, clock: FakeClock
) -> None:
    target = FakeTarget(Fate.AWAY)
    async with open_spool(target, path, clock=clock, limit_bytes=10) as spool, running(spool):
        with pytest.raises(LogUnavailableError, match="spool_full"):
            await spool.append(event("1"))
        await settle_down()
        assert spool.is_spooling, "not before a while has passed"
        await drained(spool, clock)
        target.fate = Fate.TAKEN
        await spool.append(event("2"))
    assert [record.key for record in target.arrived] == ["2"]


async def test_the_worker_ends_soon_whatever_it_waits_for(path: Path, clock: FakeClock) -> None:
    target = FakeTarget()
    async with open_spool(target, path, clock=clock) as spool:
        async with running(spool):
            await settle_down()
        target.fate = Fate.AWAY
        await spool.append(event("1"))
        async with running(spool):
            await settle_down()
        async with running(spool):
            await pass_time(clock, 20)
    assert await keys_in(path) == ["1"]


# Refused for good


def refuse(*keys: str) -> FakeTarget:
    return FakeTarget(lambda record: Fate.REFUSED if record.key in keys else Fate.TAKEN)


async def spool_some(path: Path, clock: FakeClock, keys: Sequence[str]) -> None:
    async with open_spool(FakeTarget(Fate.AWAY), path, clock=clock) as spool:
        for key in keys:
            await spool.append(event(key, f"Anna {key}"))


async def test_refused_records_are_set_aside_and_hold_nothing_up(
    path: Path, clock: FakeClock, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    await spool_some(path, clock, ["a", "secret", "b", "secret", "c"])
    target = refuse("secret")
    with caplog.at_level(logging.INFO):
        async with open_spool(target, path, clock=clock, metrics=metrics) as spool:
            async with running(spool):
                await drained(spool, clock)
            assert [record.key for record in target.arrived] == ["a", "b", "c"]
            assert spool.set_aside == value(metrics, "relay_spool_set_aside_records") == 2
            assert spool.size_bytes == value(metrics, "relay_spool_bytes") == 2 * (11 + 32)
    lines = [record for record in caplog.records if record.message == "record.set_aside"]
    assert [line.levelno for line in lines] == [logging.ERROR] * 2
    assert {vars(line)["reason"] for line in lines} == {"not_authorised"}
    assert {vars(line)["offset"] for line in lines} == {1, 3}
    assert "secret" not in str([vars(record) for record in caplog.records])
    async with open_spool(target, path, clock=clock, metrics=metrics) as spool:
        assert not spool.is_spooling
        assert spool.set_aside == value(metrics, "relay_spool_set_aside_records") == 2
        assert spool.size_bytes == 2 * (11 + 32)


async def test_what_was_set_aside_is_tried_again_every_five_minutes(
    path: Path, clock: FakeClock
) -> None:
    await spool_some(path, clock, ["a", "b"])
    target = refuse("a", "b")
    async with open_spool(target, path, clock=clock) as spool, running(spool):
        await drained(spool, clock)
        # At the start, which was a moment ago, and then every five minutes.
        await until(lambda: len(target.refused) == 4, timeout_s=PATIENCE_S)
        await pass_time(clock, FIVE_MINUTES_S - 10)
        assert len(target.refused) == 4
        target.fate = lambda record: Fate.REFUSED if record.key == "b" else Fate.TAKEN
        # Counted from the end of the round before, which was written at leisure.
        await time_passes_until(clock, lambda: spool.set_aside == 1)
        target.fate = Fate.AWAY
        await pass_time(clock, FIVE_MINUTES_S)
        assert spool.set_aside == 1
        assert not spool.is_spooling
        target.fate = Fate.TAKEN
        await time_passes_until(clock, lambda: spool.set_aside == 0)
        assert spool.size_bytes == 0
    assert target.arrived == [event("a", "Anna a"), event("b", "Anna b")]
    assert b"Anna" not in content_of(path)


async def test_what_was_set_aside_is_tried_again_when_the_process_starts(
    path: Path, clock: FakeClock
) -> None:
    await spool_some(path, clock, [f"k{number % 7}" for number in range(100)])
    refusing = FakeTarget(Fate.REFUSED)
    async with open_spool(refusing, path, clock=clock) as spool, running(spool):
        await drained(spool, clock)
        assert spool.set_aside == 100
    target = FakeTarget()
    async with open_spool(target, path, clock=clock) as spool, running(spool):
        assert not spool.is_spooling
        await until(lambda: spool.set_aside == 0, timeout_s=PATIENCE_S)
    assert len(target.arrived) == 100


async def test_a_record_refused_again_after_a_crash_is_set_aside_once(
    path: Path, clock: FakeClock
) -> None:
    """The process died between setting it aside and going on behind it."""

    class Died(BaseException):
        pass

    def die(step: Step) -> None:
        if step is Step.SPOOL_FORWARDED:
            raise Died

    await spool_some(path, clock, ["a", "b"])
    with pytest.raises(BaseExceptionGroup):
        async with open_spool(refuse("a"), path, clock=clock, step=die) as spool, running(spool):
            await until(lambda: False, timeout_s=PATIENCE_S)
    async with open_spool(refuse("a"), path, clock=clock) as spool, running(spool):
        assert spool.set_aside == 1
        await drained(spool, clock)
        assert spool.set_aside == 1
        assert spool.size_bytes == 6 + 32


# Bounds


async def test_beyond_its_limit_the_spool_refuses_and_room_comes_back(
    path: Path, clock: FakeClock
) -> None:
    target = FakeTarget(Fate.AWAY)
    size = 100 + len(b'{"event_type":"order-confirmed"}')
    limit = 10 * size
    record = event("k", b"x" * 100)

    async def fill(spool: SpoolingWriter) -> int:
        """Everything at once, so that what is on its way counts too; how many were taken."""
        results = await asyncio.gather(
            *[spool.append(record) for _ in range(20)], return_exceptions=True
        )
        refusals = [result for result in results if result is not None]
        for refusal in refusals:
            assert isinstance(refusal, LogUnavailableError)
            assert refusal.reason == "spool_full"
            assert refusal.retry_after_s >= 1
        return 20 - len(refusals)

    async with open_spool(target, path, clock=clock, limit_bytes=limit) as spool:
        assert await fill(spool) == 10
        assert spool.size_bytes == limit
    async with open_spool(target, path, clock=clock, limit_bytes=limit) as spool:
        assert spool.size_bytes == limit
        assert await fill(spool) == 0
        target.fate = Fate.REFUSED
        async with running(spool):
            await drained(spool, clock)
        assert spool.size_bytes == limit, "what is set aside counts"
        target.fate = Fate.AWAY
        assert await fill(spool) == 0
        async with running(spool):
            target.fate = Fate.TAKEN
            await drained(spool, clock)
            await pass_time(clock, FIVE_MINUTES_S + 1)
            await until(lambda: spool.size_bytes == 0, timeout_s=PATIENCE_S)
        target.fate = Fate.AWAY
        assert await fill(spool) == 10


async def test_a_full_disk_refuses_and_recovers_by_itself(path: Path, clock: FakeClock) -> None:
    """P1, P3: also the forwarder meets the full disk, and goes on afterwards."""
    target = FakeTarget(Fate.AWAY)
    acknowledged: list[str] = []
    async with open_spool(target, path, clock=clock) as spool:
        await spool.append(event("0"))
        with files_limited_to(size_of(wal_of(path)) + 256 * 1024):
            for number in count(1):
                try:
                    await spool.append(event(str(number), b"x" * 10_000))
                except LogUnavailableError:
                    break
                acknowledged.append(str(number))
            size = spool.size_bytes
            target.fate = lambda record: Fate.REFUSED if record.key == "3" else Fate.TAKEN
            async with running(spool):
                await time_passes_until(clock, lambda: len(target.refused) > 3)
            assert spool.size_bytes == size
            assert spool.set_aside == 0
        assert acknowledged
        async with running(spool):
            await drained(spool, clock)
        assert spool.set_aside == 1
        assert spool.size_bytes == 10_000 + 32
    assert {record.key for record in target.arrived} == {"0", *acknowledged} - {"3"}


async def test_a_disk_that_is_full_for_a_while_loses_no_refused_record(
    path: Path, clock: FakeClock
) -> None:
    await spool_some(path, clock, ["a", "b"])
    target = refuse("b")
    async with open_spool(target, path, clock=clock) as spool, running(spool):
        with files_limited_to(1):
            await time_passes_until(clock, lambda: len(target.refused) > 2)
        await drained(spool, clock)
        assert spool.set_aside == 1


async def test_a_spool_belongs_to_one_process(path: Path, clock: FakeClock) -> None:
    async with open_spool(FakeTarget(), path, clock=clock):
        with pytest.raises(StartupError, match="already_running"):
            async with open_spool(FakeTarget(), path, clock=clock):
                pass
