"""The embedded ledger: one SQLite file, one writer thread that commits in groups, two readers."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from service.domain.clock import Clock
from service.domain.effects import EffectKey, Kind, Lane, Outcome, State
from service.domain.errors import LedgerUnavailableError, StartupError
from service.domain.ledger import (
    Brake,
    Claim,
    DeadLetter,
    Doubt,
    LookUp,
    Page,
    PlannedRecord,
    PlanResult,
    PurgeReport,
    ReadyEffect,
    Settlement,
    SettleResult,
    Tally,
)
from service.domain.planning import OrderFacts, PointsFrom
from service.domain.ports import Step, StepHook, no_step
from service.domain.records import Advance, Stream
from service.ledger import (
    brakes,
    chores,
    claims,
    dead_letters,
    doubts,
    operators,
    reads,
    replays,
    schema,
)
from service.ledger.claims import ClaimRequest, SettleRequest
from service.ledger.config import LedgerConfig
from service.ledger.transaction import Tx
from service.ledger.writer import Operation, PlansRequest, Work, Writer
from service.sqlite import (
    FileLock,
    GroupCommitter,
    QueueFullError,
    StorageError,
    connect,
    free_bytes,
)
from service.telemetry.metrics import Metrics

R = TypeVar("R")

_MAX_BATCH: Final = 512  # operations in one commit
_MAX_QUEUE: Final = 20_000  # operations that may wait
_WRITER_CACHE_KIB: Final = 16_384  # pages of the open work and of the keys' growing end
_CHECKPOINT_PAGES: Final = 4_000  # 16 MiB of WAL; written back by the writer after a commit
_WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024  # a WAL that grew beyond is cut back when it is reset


class SqliteLedger:
    """The `Ledger` port on one SQLite file; see the port for what each method promises."""

    def __init__(
        self,
        path: Path,
        *,
        config: LedgerConfig,
        clock: Clock,
        committer: GroupCommitter[Operation, Any],
        hot_reads: "Reader",
        slow_reads: "Reader",
    ) -> None:
        self._path = path
        self._config = config
        self._clock = clock
        self._committer = committer
        self._hot_reads = hot_reads
        self._slow_reads = slow_reads
        self._purge = chores.Purge()

    # -- planning

    async def positions(self, streams: Sequence[Stream]) -> Mapping[Stream, int]:
        known = await self._hot_reads.run(reads.read_positions)
        return {stream: known[stream] for stream in streams if stream in known}

    async def order_facts(self, order_keys: Sequence[str]) -> Mapping[str, OrderFacts]:
        return await self._hot_reads.run(partial(reads.read_order_facts, order_keys=order_keys))

    async def record_plans(
        self, planned: Sequence[PlannedRecord], advances: Sequence[Advance]
    ) -> Sequence[PlanResult]:
        results: Sequence[PlanResult] = await self._submit(PlansRequest(planned, advances))
        return results

    # -- dispatching

    async def ready(
        self,
        lane: Lane,
        *,
        limit: int,
        due_before_ms: int,
        excluding: Collection[EffectKey] = frozenset(),
    ) -> Sequence[ReadyEffect]:
        return await self._hot_reads.run(
            partial(
                reads.read_ready,
                lane=lane,
                limit=limit,
                due_before_ms=due_before_ms,
                excluding=excluding,
            )
        )

    async def claim(self, effect: ReadyEffect, *, lease_s: float) -> Claim | None:
        claim: Claim | None = await self._submit(ClaimRequest(effect, round(lease_s * 1000)))
        return claim

    async def settle(self, claim: Claim, settlement: Settlement) -> SettleResult:
        if settlement.outcome is Outcome.RETRY and settlement.due_at_ms is None:
            raise ValueError("a retry needs due_at_ms")
        result: SettleResult = await self._submit(SettleRequest(claim, settlement))
        return result

    async def make_due(self, key: EffectKey, attempt: int) -> bool:
        return await self._work(lambda tx: claims.make_due(tx, key, attempt))

    # -- looking up

    async def expire_leases(self) -> int:
        return await self._work(doubts.expire_leases)

    async def doubts(self, *, limit: int) -> Sequence[Doubt]:
        return await self._hot_reads.run(
            partial(doubts.read_due_doubts, now_ms=self._clock.now_ms(), limit=limit)
        )

    async def doubt(self, key: EffectKey) -> Doubt | None:
        return await self._hot_reads.run(partial(doubts.read_doubt, key=key))

    async def record_look_up(self, doubt: Doubt, look_up: LookUp) -> State | None:
        return await self._work(lambda tx: doubts.write_look_up(tx, doubt, look_up))

    async def credits_cursor(self) -> str | None:
        return await self._hot_reads.run(doubts.read_cursor)

    async def mark_seen(self, keys: Sequence[str], cursor: str | None) -> int:
        return await self._work(lambda tx: doubts.mark_seen(tx, keys, cursor))

    # -- brakes

    async def brakes(self) -> Sequence[Brake]:
        return await self._hot_reads.run(brakes.read_brakes)

    async def set_brake(self, lane: str, reason: str) -> None:
        await self._work(lambda tx: brakes.set_brake(tx, lane, reason))

    async def release_brake(self, lane: str, *, by: str) -> bool:
        return await self._work(lambda tx: brakes.release_brake(tx, lane, by=by))

    # -- chores

    async def tally(self) -> Tally:
        return await self._slow_reads.run(chores.read_tally)

    async def purge(self, *, limit: int) -> PurgeReport:
        return await self._work(
            lambda tx: self._purge.bite(tx, limit), after_commit=Step.LEDGER_PURGED
        )

    def free_bytes(self) -> int | None:
        return free_bytes(self._path)

    async def ping(self) -> None:
        await self._work(lambda tx: None)

    # -- operators

    async def list_effects(
        self,
        *,
        states: Sequence[State] = (),
        kind: Kind | None = None,
        order_id: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        return await self._slow_reads.run(
            partial(
                operators.list_effects,
                tenant=self._config.tenant,
                states=states,
                kind=kind,
                order_id=order_id,
                limit=limit,
                after=after,
            )
        )

    async def show_effect(self, key: EffectKey) -> Mapping[str, Any]:
        return await self._slow_reads.run(partial(operators.show_effect, key=key))

    async def show_order(self, order_id: str) -> Mapping[str, Any]:
        return await self._slow_reads.run(
            partial(operators.show_order, tenant=self._config.tenant, order_id=order_id)
        )

    async def release(self, key: EffectKey, *, by: str) -> None:
        await self._work(lambda tx: operators.release(tx, key, by=by))

    async def reject(self, key: EffectKey, *, by: str) -> None:
        await self._work(lambda tx: operators.reject(tx, key, by=by))

    async def list_dead_letters(
        self,
        *,
        reason: str | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        only_open: bool = False,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        return await self._slow_reads.run(
            partial(
                dead_letters.list_dead_letters,
                reason=reason,
                since_ms=since_ms,
                until_ms=until_ms,
                only_open=only_open,
                limit=limit,
                after=after,
            )
        )

    async def dead_letter(self, dead_letter_id: int) -> DeadLetter:
        return await self._slow_reads.run(
            partial(dead_letters.read_dead_letter, dead_letter_id=dead_letter_id)
        )

    async def replay(self, dead_letter_id: int, planned: PlannedRecord, *, by: str) -> PlanResult:
        return await self._work(lambda tx: replays.write_replay(tx, dead_letter_id, planned, by=by))

    async def dismiss(self, dead_letter_id: int, *, by: str) -> None:
        await self._work(lambda tx: dead_letters.mark_dismissed(tx, dead_letter_id, by=by))

    # -- beyond the port

    async def change_points_from(self, points_from: PointsFrom) -> None:
        """
        Write another way of booking points; for the offline command, with no `points_from` set
        in the configuration.

        Raises: WrongStateError while a booking is open: two ways would book it twice.
        """
        await self._work(lambda tx: schema.change_points_from(tx, points_from))

    async def _work(self, run: Callable[[Tx], R], *, after_commit: Step | None = None) -> R:
        return cast(R, await self._submit(Work(run, after_commit)))

    async def _submit(self, operation: Operation) -> Any:
        try:
            return await self._committer.submit(operation)
        except (StorageError, QueueFullError) as error:
            raise LedgerUnavailableError(error.reason, error.detail) from error


class Reader:
    """A connection that only reads, with the thread that uses it."""

    def __init__(self, path: Path, *, name: str) -> None:
        self._connection = connect(path, what=schema.WHAT, read_only=True)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, read: Callable[[sqlite3.Connection], R]) -> R:
        """
        Run `read` in one read transaction, so that all its statements see the same.

        Raises: LedgerUnavailableError.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._read, read)
        except sqlite3.Error as error:
            raise LedgerUnavailableError("not_readable", str(error)) from error

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    def _read(self, read: Callable[[sqlite3.Connection], R]) -> R:
        self._connection.execute("BEGIN")
        try:
            return read(self._connection)
        finally:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")


@asynccontextmanager
async def open_sqlite_ledger(
    path: Path,
    *,
    config: LedgerConfig,
    clock: Clock,
    metrics: Metrics,
    step: StepHook = no_step,
) -> AsyncIterator[SqliteLedger]:
    """
    Open, or make, the ledger in the file at `path`; it belongs to this process until closed.

    What another process instance was attempting is in doubt from now on, and what waited for a
    creation by it is due.
    Raises: StartupError: in use, not a ledger, a newer schema, another tenant, universe or way
    of booking points.
    """
    async with AsyncExitStack() as stack:
        lock = FileLock(path, what=schema.WHAT)
        stack.callback(lock.release)
        connection = await asyncio.to_thread(_open_writer, path, config)
        # Closing writes the rest of the WAL back, which may take a while.
        stack.push_async_callback(asyncio.to_thread, connection.close)
        writer = Writer(connection, config=config, clock=clock, step=step)

        def on_batch(size: int, waiting: int) -> None:
            metrics.ledger_commit_operations.observe(size)
            metrics.ledger_queue.set(waiting)

        committer: GroupCommitter[Operation, Any] = GroupCommitter(
            writer.commit,
            name="ledger-writer",
            max_batch=_MAX_BATCH,
            max_queue=_MAX_QUEUE,
            on_batch=on_batch,
        )
        stack.push_async_callback(committer.close)
        readers = []
        for name in ("ledger-hot-reads", "ledger-slow-reads"):
            reader = Reader(path, name=name)
            stack.push_async_callback(reader.close)
            readers.append(reader)
        ledger = SqliteLedger(
            path,
            config=config,
            clock=clock,
            committer=committer,
            hot_reads=readers[0],
            slow_reads=readers[1],
        )
        await ledger._work(doubts.expire_foreign_claims)
        await ledger._work(claims.wake_up)
        yield ledger


def _open_writer(path: Path, config: LedgerConfig) -> sqlite3.Connection:
    migrations = schema.load_migrations()
    schema.check_file(path, migrations[-1].version)
    connection = connect(path, what=schema.WHAT)
    try:
        connection.execute(f"PRAGMA cache_size=-{_WRITER_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={_WAL_LIMIT_BYTES}")
        schema.migrate(connection, migrations)
        schema.check_meta(connection, config)
    except sqlite3.Error as error:
        connection.close()
        raise StartupError("cannot_open", f"{schema.WHAT} {path}: {error}") from error
    except StartupError:
        connection.close()
        raise
    return connection
