"""What only the embedded ledger promises: its file, its lock, its commits and its disk."""

import asyncio
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from prometheus_client import CollectorRegistry

from service.domain.effects import Kind, Outcome, State
from service.domain.errors import (
    LedgerUnavailableError,
    NotFoundError,
    StartupError,
    WrongStateError,
)
from service.domain.ledger import LookUp, LookUpVerdict, Settlement
from service.domain.planning import PointsFrom
from service.domain.ports import Step, StepHook, no_step
from service.ledger import (
    brakes,
    checkout,
    chores,
    claims,
    collects,
    doubts,
    holds,
    operators,
    plans,
    reads,
    rows,
)
from service.ledger import sqlite_schema as schema
from service.ledger.config import LedgerConfig
from service.ledger.database import KeyStatement, Query
from service.ledger.migrations.load import Migration, load_migrations
from service.ledger.sqlite import SqliteLedger, SqliteWriterConnection, open_sqlite_ledger
from service.ledger.writer import Work, Writer
from service.telemetry.metrics import Metrics
from tests.contract.ledger_fixture import (
    APPLIED,
    CONFIG,
    LEASE_S,
    Records,
    claim,
    dead_letter_plan,
    earn_key,
    earn_only,
    in_doubt,
    order_and_earn,
    order_key,
    order_only,
    plan_one,
    planned_and_claimed,
    state_of,
)
from tests.fakes.clock import FakeClock

ROOT = Path(__file__).parents[2]
SECOND = replace(CONFIG, owner="second")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.db"


def opened(
    path: Path,
    *,
    config: LedgerConfig = CONFIG,
    clock: FakeClock | None = None,
    metrics: Metrics | None = None,
    step: StepHook = no_step,
) -> AbstractAsyncContextManager[SqliteLedger]:
    return open_sqlite_ledger(
        path,
        config=config,
        clock=clock or FakeClock(),
        metrics=metrics or Metrics(CollectorRegistry()),
        step=step,
    )


async def test_concurrent_operations_share_commits(path: Path) -> None:
    steps: list[Step] = []
    metrics = Metrics(CollectorRegistry())
    async with opened(path, step=steps.append, metrics=metrics) as ledger:
        results = await Records().write(ledger, *(order_only(str(n)) for n in range(200)))
        steps.clear()
        taken = await asyncio.gather(*(claim(ledger, result.fresh[0]) for result in results))
        await asyncio.gather(*(ledger.settle(item, APPLIED) for item in taken))
    commits = steps.count(Step.LEDGER_AFTER_COMMIT)
    assert commits == steps.count(Step.LEDGER_BEFORE_COMMIT)
    assert commits < 40
    registry = metrics.registry
    operations = registry.get_sample_value("relay_ledger_commit_operations_sum")
    assert operations is not None
    assert operations >= 400
    assert registry.get_sample_value("relay_ledger_queue_operations") == 0


async def test_steps_surround_the_commit(path: Path) -> None:
    steps: list[tuple[Step, int]] = []

    def step(label: Step) -> None:
        if not path.exists():
            return
        other = sqlite3.connect(path)
        steps.append((label, other.execute("SELECT count(*) FROM effects").fetchone()[0]))
        other.close()

    async with opened(path, step=step) as ledger:
        steps.clear()
        await Records().write(ledger, order_only("7"))
        assert steps == [(Step.LEDGER_BEFORE_COMMIT, 0), (Step.LEDGER_AFTER_COMMIT, 1)]
        steps.clear()
        await ledger.purge(limit=1)
        assert [label for label, _ in steps] == [
            Step.LEDGER_BEFORE_COMMIT,
            Step.LEDGER_AFTER_COMMIT,
            Step.LEDGER_PURGED,
        ]


async def test_a_batch_may_hold_several_operations_on_one_effect(path: Path) -> None:
    """Each finds what the one before it left, though the batch reads once."""
    hold, held = threading.Event(), threading.Event()
    is_holding = False

    def step(label: Step) -> None:
        if is_holding and label is Step.LEDGER_BEFORE_COMMIT:
            held.set()
            assert hold.wait(30)

    clock, records = FakeClock(), Records()
    async with opened(path, clock=clock, step=step) as ledger:
        first = await planned_and_claimed(ledger, records, order_only("1"))
        retry = Settlement(Outcome.RETRY, due_at_ms=clock.now_ms())
        other = await planned_and_claimed(ledger, records, order_only("2"))
        is_holding = True
        ping = asyncio.create_task(ledger.ping())
        await asyncio.to_thread(held.wait, 30)
        operations = [
            asyncio.ensure_future(operation)
            for operation in (
                ledger.claim(first.effect, lease_s=LEASE_S),
                ledger.settle(first, retry),
                ledger.claim(first.effect, lease_s=LEASE_S),
                ledger.settle(first, retry),
                ledger.settle(other, APPLIED),
                ledger.settle(other, APPLIED),
                ledger.claim(other.effect, lease_s=LEASE_S),
                ledger.dismiss(99, by="anna"),
                ledger.reject(order_key("2"), by="anna"),
                ledger.set_brake("sales", "why"),
            )
        ]
        await asyncio.sleep(0)
        is_holding = False
        hold.set()
        await ping
        results = await asyncio.gather(*operations, return_exceptions=True)
        claims_of_first = [results[0], results[2]]
        assert sum(result is not None for result in claims_of_first) == 1
        assert results[1:2] + results[3:7] == ["settled", "stale", "settled", "settled", None]
        assert isinstance(results[7], NotFoundError)
        assert isinstance(results[8], WrongStateError)
        assert await state_of(ledger, order_key("1")) == "attempting"
        assert await state_of(ledger, order_key("2")) == "applied"
        assert [brake.lane for brake in await ledger.brakes()] == ["sales"]


async def test_a_cancelled_caller_does_not_take_its_operation_back(path: Path) -> None:
    """The claim left behind tells the story."""
    async with opened(path) as ledger:
        effect = await plan_one(ledger, Records(), order_only("7"))
        task = asyncio.create_task(ledger.claim(effect, lease_s=LEASE_S))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ledger.ping()
        assert await state_of(ledger, order_key("7")) == "attempting"


async def test_a_file_belongs_to_one_process_at_a_time(path: Path) -> None:
    async with opened(path) as ledger:
        with pytest.raises(StartupError, match="in use by process") as refused:
            async with opened(path, config=SECOND):
                pytest.fail("opened twice")
        assert refused.value.reason == "already_running"
        await ledger.ping()
    async with opened(path, config=SECOND) as ledger:
        await ledger.ping()


async def test_a_closed_ledger_is_unavailable_and_leaves_one_file(path: Path) -> None:
    async with opened(path) as ledger:
        await Records().write(ledger, order_only("7"))
    with pytest.raises(LedgerUnavailableError):
        await ledger.ping()
    assert {entry.name for entry in path.parent.iterdir()} == {"ledger.db", "ledger.db.lock"}


async def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    async with opened(path):
        pass
    newest = load_migrations("sqlite")[-1].version
    _execute(path, f"PRAGMA user_version={newest + 1}")
    before = _read(path)
    with pytest.raises(StartupError, match=f"{newest + 1}.*{newest}") as refused:
        async with opened(path):
            pytest.fail("opened")
    assert refused.value.reason == "newer_schema"
    assert _read(path) == before


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 99, b"\0" * 9])
async def test_garbage_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    _write(path, content)
    with pytest.raises(StartupError, match=r"ledger\.db"):
        async with opened(path):
            pytest.fail("opened")
    assert _read(path) == content


async def test_a_database_of_something_else_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    _execute(path, "CREATE TABLE customers (id INTEGER)")
    before = _read(path)
    with pytest.raises(StartupError, match="something else") as refused:
        async with opened(path):
            pytest.fail("opened")
    assert refused.value.reason == "not_a_ledger"
    assert _read(path) == before


async def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    path.parent.mkdir()
    _write(path, b"")
    async with opened(path) as ledger:
        await ledger.ping()


async def test_a_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="cannot_open"):
        async with opened(tmp_path / "file" / "ledger.db"):
            pytest.fail("opened")


def test_migrations_are_numbered_and_say_what_and_when() -> None:
    migrations = load_migrations("sqlite")
    assert [migration.version for migration in migrations] == [*range(1, len(migrations) + 1)]
    for migration in migrations:
        head = [line for line in migration.sql.splitlines() if line.startswith("--")]
        for word in ("What:", "Why:", "When:"):
            assert any(word in line for line in head), (migration.name, word)


async def test_an_older_schema_is_brought_up(path: Path) -> None:
    async with opened(path) as ledger:
        await Records().write(ledger, order_only("7"))
    known = list(load_migrations("sqlite"))
    version = known[-1].version + 1
    sql = "-- What: a column.\nALTER TABLE effects ADD COLUMN colour TEXT;\nSELECT 1;\n"
    following = Migration(version, "later.sql", sql)
    connection = sqlite3.connect(path, isolation_level=None)
    assert schema.migrate(connection, [*known, following]) == ["later.sql"]
    assert schema.migrate(connection, [*known, following]) == []
    assert connection.execute("PRAGMA user_version").fetchone() == (version,)
    assert connection.execute("SELECT effect_key, colour FROM effects").fetchall() == [
        (order_key("7"), None)
    ]
    connection.close()


async def test_a_migration_that_fails_leaves_the_schema_before_it(path: Path) -> None:
    async with opened(path):
        pass
    known = list(load_migrations("sqlite"))
    version = known[-1].version
    good = Migration(version + 1, "good.sql", "CREATE TABLE one (id INTEGER);")
    bad = Migration(version + 2, "bad.sql", "CREATE TABLE two (id INTEGER);\nnonsense;")
    connection = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(StartupError, match=r"bad\.sql"):
        schema.migrate(connection, [*known, good, bad])
    assert connection.execute("PRAGMA user_version").fetchone() == (version + 1,)
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")}
    assert "one" in names
    assert "two" not in names
    connection.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tenant": "other"}, ["tenant", "'main'", "'other'", "RELAY_TENANT"]),
        ({"points_from": PointsFrom.RULES}, ["'webhook'", "'rules'", "RELAY_POINTS_FROM"]),
        ({"universe": "two"}, ["universe", "'one'", "'two'"]),
        (
            {"tenant": "other", "universe": "two"},
            ["RELAY_TENANT", "universe"],
        ),
    ],
    ids=["tenant", "points_from", "universe", "both"],
)
async def test_settings_that_do_not_fit_the_ledger_are_refused(
    path: Path, change: dict[str, str | PointsFrom], words: list[str]
) -> None:
    config = replace(CONFIG, universe="one")
    async with opened(path, config=config):
        pass
    with pytest.raises(StartupError) as refused:
        async with opened(path, config=replace(config, **change)):  # type: ignore[arg-type]
            pytest.fail("opened")
    assert refused.value.reason == "ledger_mismatch"
    for word in words:
        assert word in str(refused.value)
    async with opened(path, config=config) as ledger:
        await ledger.ping()


async def test_what_is_not_expected_is_not_compared(path: Path) -> None:
    async with opened(path, config=replace(CONFIG, universe="one")):
        pass
    async with opened(path, config=replace(CONFIG, points_from=None)) as ledger:
        await ledger.ping()


async def test_the_way_of_booking_changes_only_when_no_booking_is_open(path: Path) -> None:
    records = Records()
    async with opened(path) as ledger:
        taken = await planned_and_claimed(ledger, records, earn_only("7"))
        await records.write(ledger, order_only("8"))
    async with opened(path, config=replace(CONFIG, points_from=None)) as ledger:
        with pytest.raises(WrongStateError, match="bookings_open"):
            await ledger.change_points_from(PointsFrom.COLLECT)
        await ledger.settle(taken, APPLIED)
        await ledger.change_points_from(PointsFrom.COLLECT)
    with pytest.raises(StartupError, match="RELAY_POINTS_FROM"):
        async with opened(path):
            pytest.fail("opened")
    async with opened(path, config=replace(CONFIG, points_from=PointsFrom.COLLECT)) as ledger:
        await ledger.ping()


@contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond the size (the signal for it is ignored by Python)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_is_told_and_nothing_is_lost_by_it(path: Path) -> None:
    records = Records()
    async with opened(path) as ledger:
        taken = await planned_and_claimed(ledger, records, order_only("7"))
        effect = await plan_one(ledger, records, order_only("8"))
        wal = path.with_name(path.name + "-wal")
        with full_disk(wal.stat().st_size):
            attempts = await asyncio.gather(
                ledger.settle(taken, APPLIED),
                ledger.claim(effect, lease_s=LEASE_S),
                ledger.record_plans([records.planned(order_only("9"))], []),
                ledger.set_brake("sales", "full"),
                return_exceptions=True,
            )
            assert [type(error) for error in attempts] == [LedgerUnavailableError] * 4
            assert await state_of(ledger, order_key("7")) == "attempting", "reading goes on"
            assert await ledger.brakes() == []
        assert await ledger.settle(taken, APPLIED) == "settled"
        assert await ledger.claim(effect, lease_s=LEASE_S) is not None
        assert (await ledger.tally()).open_effects == {(Kind.ORDER, State.ATTEMPTING): 1}
    integrity = _execute(path, "PRAGMA integrity_check")
    assert integrity == [("ok",)]


@contextmanager
def process(path: Path, what: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process at work on the ledger, killed in the end."""
    path.parent.mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.integration.ledger_process", str(path), what],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()


async def test_a_claim_of_a_killed_process_is_in_doubt(path: Path) -> None:
    with process(path, "claim") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "claimed main:order:7\n"
    async with opened(path, config=SECOND) as ledger:
        (doubt,) = await ledger.doubts(limit=9)
        assert (doubt.effect.key, doubt.attempt) == (order_key("7"), 1)
        shown = await ledger.show_effect(order_key("7"))
        assert shown["attempts"][-1]["reason"] == "process_ended"


async def test_a_killed_process_loses_nothing_that_it_was_told_is_written(path: Path) -> None:
    told: dict[str, str] = {}
    with process(path, "work") as running:
        assert running.stdout is not None
        for _ in range(600):
            what, key = running.stdout.readline().split()
            told[key] = what
        running.send_signal(signal.SIGKILL)
        for line in running.stdout:
            if line.endswith("\n"):
                what, key = line.split()
                told[key] = what
    after = {
        "planned": {"due", "in_doubt", "applied"},
        "claimed": {"in_doubt", "applied"},
        "settled": {"applied"},
    }
    async with opened(path, config=SECOND) as ledger:
        page = await ledger.list_effects(limit=10_000)
        states = {item["effect_key"]: item["state"] for item in page.items}
    assert len(told) > 100
    for key, what in told.items():
        assert states[key] in after[what], (key, what)


def statements() -> Iterator[tuple[str, str]]:
    """Every statement that runs often or while others wait."""
    modules = (rows, plans, claims, doubts, operators, chores, reads)
    for module in (*modules, checkout, holds, collects):
        for name, value in vars(module).items():
            if isinstance(value, KeyStatement):
                yield f"{module.__name__}.{name}", value._texts[2]
            elif isinstance(value, Query):
                by_keys = value._json_by_keys
                yield f"{module.__name__}.{name}", by_keys._texts[2] if by_keys else value._json
            elif isinstance(value, str) and value.startswith(("SELECT", "UPDATE", "DELETE")):
                yield f"{module.__name__}.{name}", value


async def test_no_statement_reads_all_keys(path: Path) -> None:
    """Every one finds its rows by a key or by an index whose size follows the open work."""
    async with opened(path):
        pass
    connection = sqlite3.connect(path)
    seen = 0
    for name, text in statements():
        if "{condition}" in text or name.endswith(("._GUARD", "_COLUMNS")):
            continue
        parameters = [None] * max(text.count("?"), 3)
        count = _parameter_count(connection, text)
        plan = connection.execute(f"EXPLAIN QUERY PLAN {text}", parameters[:count]).fetchall()
        for *_, detail in plan:
            if detail.startswith(("SCAN effects", "SCAN e ")):
                assert "effects_un" in detail, (name, detail)
            for table in ("bodies", "records", "attempts", "orders", "balances"):
                assert not detail.startswith(f"SCAN {table}"), (name, detail)
            if detail.startswith("SCAN holds"):
                assert "holds_open" in detail, (name, detail)
        seen += 1
    connection.close()
    assert seen > 30


def _parameter_count(connection: sqlite3.Connection, text: str) -> int:
    for count in range(200):
        try:
            connection.execute(f"EXPLAIN {text}", [None] * count)
        except sqlite3.ProgrammingError:
            continue
        return count
    raise AssertionError(text)


async def test_ids_go_on_growing_when_the_clock_was_set_back(path: Path) -> None:
    """Also after purging: an effect must never take another one's request."""
    clock, records = FakeClock(), Records()
    async with opened(path, clock=clock) as ledger:
        first = await plan_one(ledger, records, order_only("1"))
        await records.write(ledger, dead_letter_plan("x"))
    earlier = FakeClock(clock.now_ms() - 86_400_000)
    async with opened(path, clock=earlier) as ledger:
        (result,) = await records.write(ledger, order_and_earn("2"))
        assert all(effect.request_id > first.request_id for effect in result.fresh)
        taken = await claim(ledger, result.fresh[1])
        await ledger.settle(taken, Settlement(Outcome.RETRY, due_at_ms=earlier.now_ms()))
        assert (await ledger.show_effect(earn_key("2")))["state"] == "due"


def _execute(path: Path, statement: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        found = connection.execute(statement).fetchall()
        connection.commit()
        return found
    finally:
        connection.close()


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def test_a_rollback_that_failed_with_the_disk_does_not_end_writing(tmp_path: Path) -> None:
    """P3: the transaction that it left open would refuse every later one."""

    class BadDisk(sqlite3.Connection):
        failing: ClassVar[set[str]] = set()

        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if sql in self.failing:
                self.failing.discard(sql)
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *parameters)

    connection = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None, factory=BadDisk)
    schema.migrate(connection, load_migrations("sqlite"))
    alone = SqliteWriterConnection(connection, FakeClock())
    writer = Writer(alone, config=CONFIG, step=no_step)
    work = Work(lambda tx: brakes.set_brake(tx, "sales", "20 in a row"))
    BadDisk.failing |= {"COMMIT", "ROLLBACK"}
    with pytest.raises(sqlite3.OperationalError):
        writer.commit([work])
    assert connection.in_transaction
    writer.commit([Work(lambda tx: brakes.set_brake(tx, "other", "20 in a row"))])
    assert [brake.lane for brake in brakes.read_brakes(alone)] == ["other"]
    connection.close()


async def test_absence_does_not_wait_for_a_clock_that_was_ahead(path: Path) -> None:
    """P3: the machine had the wrong year, and the service was started again with the right one."""
    ahead, records = FakeClock(), Records()
    async with opened(path, clock=ahead) as ledger:
        await in_doubt(ledger, records, order_only("1"))
        await planned_and_claimed(ledger, records, earn_only("2"))
    right = FakeClock(ahead.now_ms() - 365 * 86_400_000)
    async with opened(path, clock=right, config=SECOND) as ledger:
        right.advance(2 * 3_600)
        for key in (order_key("1"), earn_key("2")):
            doubt = await ledger.doubt(key)
            assert doubt is not None
            assert await ledger.record_look_up(doubt, LookUp(LookUpVerdict.ABSENT)) is State.DUE
