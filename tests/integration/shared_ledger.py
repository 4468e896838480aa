"""Several processes' ledgers on one PostgreSQL database, stopped where a test wants them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from service.domain.ledger import PlanResult, ReadyEffect
from service.domain.planning import Plan
from service.domain.ports import Step, StepHook, no_step
from service.ledger.postgres import open_postgres_ledger
from service.ledger.postgres_connection import LimitedConnection
from service.ledger.sql_ledger import SqlLedger
from service.telemetry.metrics import Metrics
from tests.contract.ledger_fixture import CONFIG, Records, ServerClock
from tests.harness.postgres_server import PostgresServer
from tests.harness.waiting import until

_PATIENCE_S = 10.0  # less than a server leaves a transaction open that does nothing


class CommitHold:
    """A step hook that holds a writer right before a commit, with its locks."""

    def __init__(self) -> None:
        self._is_armed = False
        self._reached = threading.Event()
        self._go_on = threading.Event()

    def __call__(self, step: Step) -> None:
        if step is Step.LEDGER_BEFORE_COMMIT and self._is_armed:
            self._is_armed = False
            self._reached.set()
            assert self._go_on.wait(_PATIENCE_S)

    def arm(self) -> None:
        """Hold the next commit."""
        self._reached.clear()
        self._go_on.clear()
        self._is_armed = True

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, _PATIENCE_S)

    def let_go(self) -> None:
        self._go_on.set()


@dataclass(frozen=True, slots=True)
class SharedHome:
    """A database that several processes open; its clock stands still until it is moved."""

    address: str
    clock: ServerClock

    def open(
        self, owner: str, *, step: StepHook = no_step, publishes_notices: bool = True
    ) -> AbstractAsyncContextManager[SqlLedger]:
        return open_postgres_ledger(
            self.address,
            config=replace(CONFIG, owner=owner, publishes_notices=publishes_notices),
            clock=self.clock,
            metrics=Metrics(CollectorRegistry()),
            step=step,
        )

    @asynccontextmanager
    async def two(self) -> AsyncIterator[tuple[SqlLedger, SqlLedger, CommitHold]]:
        """Two processes; the first can be held before its commit."""
        hold = CommitHold()
        async with self.open("one", step=hold) as one, self.open("two") as two:
            yield one, two, hold

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.address, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def end_backend(self, pid: int) -> None:
        """End a session of the server; returns once its transaction is over."""
        with psycopg.connect(self.address, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.address, autocommit=True) as connection:
            connection.execute(statement.encode())

    async def done_or_waiting(self, task: "asyncio.Task[object]") -> None:
        """Until `task` has ended, or waits for what another process has locked."""

        def stands() -> bool:
            return task.done() or bool(
                self.rows(
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
                    "AND wait_event_type = 'Lock'"
                )
            )

        await until(stands, what="the other process ended or waits")


class WriterBreaker:
    """
    Breaks the writer's connection at one of its statements, BEGIN and COMMIT included.

    Args:
        home: where the writer works.
        answered: the statement is carried out, and only its answer is lost.
    """

    def __init__(
        self, home: SharedHome, monkeypatch: pytest.MonkeyPatch, *, answered: bool
    ) -> None:
        self._home = home
        self._answered = answered
        self._left = -1
        self.has_broken = False
        execute = LimitedConnection.execute

        def breaking(raw: LimitedConnection, *arguments: Any, **options: Any) -> Any:
            if threading.current_thread().name != "ledger-writer" or self._left < 0:
                return execute(raw, *arguments, **options)
            self._left -= 1
            if self._left >= 0:
                return execute(raw, *arguments, **options)
            self.has_broken = True
            if self._answered:
                execute(raw, *arguments, **options)
                raw.close()
                raise psycopg.OperationalError("the connection is lost")
            self._home.end_backend(raw.info.backend_pid)
            return execute(raw, *arguments, **options)

        monkeypatch.setattr(LimitedConnection, "execute", breaking)

    def at(self, statement: int) -> None:
        """Break at the statement that comes after so many others."""
        self._left = statement
        self.has_broken = False

    def never(self) -> None:
        self._left = -1


@contextmanager
def shared_home(server: PostgresServer) -> Iterator[SharedHome]:
    address = server.new_ledger()
    with ServerClock(address) as clock:
        yield SharedHome(address, clock)


async def plan(ledger: SqlLedger, records: Records, *plans: Plan) -> Sequence[PlanResult]:
    """Plan without a position, as a replay or another stream would."""
    return await ledger.record_plans([records.planned(each) for each in plans], [])


async def plan_fresh(ledger: SqlLedger, records: Records, what: Plan) -> ReadyEffect:
    (result,) = await plan(ledger, records, what)
    (effect,) = result.fresh
    return effect
