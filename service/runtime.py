"""The composition root: opens every part in order, wires them, closes them in reverse."""

import asyncio
import logging
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from consumers.book_points import BookPoints
from consumers.brake import BrakeWatch
from consumers.chores import Chores
from consumers.dispatcher import Dispatcher
from consumers.duties import Duty, LeasedDuty
from consumers.handlers import Handler
from consumers.intake import BRAKE_NAME, Intake, refuse_behind
from consumers.look_up import LookUps
from consumers.outbox import OutboxPublisher
from consumers.planner import RecordPlanner
from consumers.post_order import PostOrder
from consumers.seen import SeenReader
from producers.events import EventPublisher
from service.configuration import (
    brake_rule,
    dispatcher_config,
    planning_policy,
    renderer,
    sandbox_settings,
    splio_config,
)
from service.domain.clock import SteadyClock
from service.domain.effects import Kind
from service.domain.errors import LedgerUnavailableError, LogUnavailableError
from service.domain.ledger import Chore, Ledger
from service.domain.ports import EventLog, StepHook, no_step
from service.domain.records import Topic
from service.doors import Listeners, operator_login, webhook_logins
from service.operations import Operations
from service.sandbox.splio import SplioSandbox, open_splio_sandbox
from service.settings import Settings
from service.splio.client import SplioClient, open_splio_client
from service.stores import (
    DEFAULT_RETENTION_S,
    Log,
    Role,
    make_clock,
    open_ledger,
    open_log,
    open_schedule,
)
from service.supervisor import Death, Supervisor, Worker
from service.telemetry.metrics import Metrics
from service.web.operations_door import operations_router
from service.web.public_door import public_router
from service.web.webhooks import WebhookDoor, WebhookLimits

# CPython hands the interpreter lock over after this long when another thread asks for it. The
# committing threads ask once a statement; the default of 5 ms would be most of a commit's time.
SWITCH_INTERVAL_S: Final = 0.0005

logger = logging.getLogger("relay.runtime")


class Readiness:
    """Whether the process can take and process events, and if not, why not."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._obstacles = {"starting": True}
        self._away: set[str] = set()
        self._bridged: list[Callable[[], list[str]]] = []

    def set(self, obstacle: str, present: bool) -> None:
        """Note that `obstacle` is there, or gone."""
        self._obstacles[obstacle] = present
        self._metrics.ready.set(not self.reasons())

    def reasons(self) -> list[str]:
        """Why the process is not ready; empty when it is."""
        return [name for name, present in self._obstacles.items() if present]

    def set_away(self, what: str, away: bool) -> None:
        """Note that something is away whose absence is borne for a while."""
        (self._away.add if away else self._away.discard)(what)

    def ask_also(self, degraded: Callable[[], list[str]]) -> None:
        """Somebody who tells what is away and bridged."""
        self._bridged.append(degraded)

    def degraded(self) -> list[str]:
        """What is away while the process works on."""
        return [*sorted(self._away), *(each for ask in self._bridged for each in ask())]

    def accepts(self) -> bool:
        """Whether webhooks may be taken."""
        return not self.reasons()


@dataclass(frozen=True, slots=True)
class Pace:
    """
    How often is done what nothing waits for.

    Args:
        seen_every_s: between pages of Splio's points ledger; at most 0.2 requests/s of the lane
            that bookings use (DESIGN, "Splio").
        seen_idle_s: the same after the last page.
        chores_every_s: between two rounds of chores.
        tidy_rounds: rounds from one purge and trim to the next.
        log_retention_s: how long records that were read stay in the log, by topic.
    """

    seen_every_s: float = 5.0
    seen_idle_s: float = 60.0
    chores_every_s: float = 1.0
    tidy_rounds: int = 60
    log_retention_s: Mapping[Topic, float] = field(default_factory=lambda: DEFAULT_RETENTION_S)


@dataclass(frozen=True, slots=True)
class Runtime:
    """A process that is wired and listens; `run` makes it work."""

    settings: Settings
    metrics: Metrics
    readiness: Readiness
    listeners: Listeners
    _operations: Operations | None
    sandbox: SplioSandbox | None
    _log: EventLog
    _ledger: Ledger | None
    _workers: Sequence[Worker]

    @property
    def operations(self) -> Operations:
        """What an operator can do, in a process that has a ledger."""
        assert self._operations is not None
        return self._operations

    async def backlog(self) -> int:
        """Records in the log that are not planned yet."""
        assert self._ledger is not None, "who only receives does not know"
        ends = await self._log.end_positions()
        positions = await self._ledger.positions(list(ends))
        return sum(end - positions.get(stream, 0) for stream, end in ends.items())

    async def run(self, stop: asyncio.Event) -> Death | None:
        """
        Work until `stop` is set or a worker dies; returns the death.

        Order of stopping: refuse new webhooks, stop fetching, finish what is in hand within the
        grace period, write outcomes. Closing log and ledger is left to `open_runtime`.
        """
        workers_stop = asyncio.Event()
        supervisor = Supervisor(self._workers)
        supervised = asyncio.create_task(supervisor.run(workers_stop), name="supervisor")
        asked = asyncio.create_task(stop.wait(), name="stop-requested")
        self.readiness.set("starting", False)
        logger.info(
            "service.ready",
            extra={
                "public": self.listeners.public_url if self.listeners.public else None,
                "operations": self.listeners.operations_url,
            },
        )
        try:
            await asyncio.wait((supervised, asked), return_when=asyncio.FIRST_COMPLETED)
            self.readiness.set("stopping", True)
            logger.info("service.stopping", extra={"asked": asked.done()})
            await self.listeners.stop_public(self.settings.grace_s)
        finally:
            workers_stop.set()
            asked.cancel()
            death = await supervised
        logger.info("service.stopped", extra={"died": death.worker if death else None})
        return death


@dataclass(frozen=True, slots=True)
class _Basis:
    """What every part of one process is made with."""

    settings: Settings
    metrics: Metrics
    clock: SteadyClock
    readiness: Readiness
    step: StepHook
    pace: Pace


@dataclass(frozen=True, slots=True)
class _Consumers:
    """The parts that act on the log and the ledger."""

    operations: Operations
    dispatcher: Dispatcher
    workers: Sequence[Worker]


@asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    role: Role = Role.SERVE,
    step: StepHook = no_step,
    pace: Pace = Pace(),
) -> AsyncIterator[Runtime]:
    """
    Open everything in order of dependency, and close it in reverse.

    `step` is called at every labelled step; the kill matrix passes one that kills the process,
    and a `pace` that brings every step soon.
    Raises: StartupError when a file, server, port or setting does not let the process start.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    async with AsyncExitStack() as stack:
        metrics = Metrics(_registry())
        # Who only receives needs no ledger, and starts while its server is away.
        clock = await make_clock(settings) if role.consumes else SteadyClock()
        readiness = Readiness(metrics)
        basis = _Basis(settings, metrics, clock, readiness, step, pace)
        log = await stack.enter_async_context(
            open_log(
                settings,
                metrics=metrics,
                clock=clock,
                receives=role.receives,
                step=step,
                retention_s=pace.log_retention_s,
            )
        )
        readiness.ask_also(log.degraded)
        ledger: Ledger | None = None
        consumers: _Consumers | None = None
        sandbox: SplioSandbox | None = None
        if role.consumes:
            opened = open_ledger(settings, metrics=metrics, clock=clock, step=step)
            ledger = own = await stack.enter_async_context(opened)
            await _refuse_ledger_behind(log.log, own)
            if settings.splio_url is None:
                sandbox = await stack.enter_async_context(
                    open_splio_sandbox(sandbox_settings(settings))
                )
            splio = await stack.enter_async_context(_open_splio(basis, sandbox))
            consumers = _wire_consumers(basis, log, own, splio)
        chores = _wire_chores(basis, log.log, ledger, consumers)
        door = None
        if role.receives:
            door = WebhookDoor(
                EventPublisher(log.writer, metrics=metrics, tenant=settings.tenant, clock=clock),
                authentication=webhook_logins(settings, clock),
                metrics=metrics,
                clock=clock,
                accepting=readiness.accepts,
                limits=WebhookLimits(settings.body_limit, settings.body_timeout_s),
                step=step,
            )
        operations = consumers.operations if consumers else None
        listeners = Listeners.of(
            settings,
            public=public_router(door) if door else None,
            operations=operations_router(
                operations,
                metrics=metrics.registry,
                authentication=operator_login(settings, clock),
                not_ready=readiness.reasons,
                degraded=readiness.degraded,
            ),
        )
        stack.push_async_callback(listeners.stop, settings.grace_s)
        await listeners.start()
        workers = (*(consumers.workers if consumers else ()), chores, *log.workers)
        if ledger is not None:
            # Before the ledger is closed, and after the workers are done with them.
            stack.push_async_callback(_release_duties, ledger)
        yield Runtime(
            settings, metrics, readiness, listeners, operations, sandbox, log.log, ledger, workers
        )


async def _refuse_ledger_behind(log: EventLog, ledger: Ledger) -> None:
    """Raises: StartupError `ledger_behind_log`. Intake looks again where the log is away now."""
    try:
        acknowledged = await log.acknowledged()
    except LogUnavailableError:
        return
    refuse_behind(acknowledged, await ledger.horizon(list(acknowledged)))


async def _release_duties(ledger: Ledger) -> None:
    try:
        await ledger.release_duties()
    except LedgerUnavailableError as error:
        # Their leases run out in a few seconds.
        logger.warning("duties.not_released", extra={"reason": error.reason})


@asynccontextmanager
async def _open_splio(basis: _Basis, sandbox: SplioSandbox | None) -> AsyncIterator[SplioClient]:
    settings = basis.settings
    url = sandbox.url if sandbox is not None else settings.splio_url
    assert url is not None
    async with (
        open_schedule(settings, basis.clock) as schedule,
        open_splio_client(
            splio_config(settings, url=url),
            clock=basis.clock,
            metrics=basis.metrics,
            schedule=schedule,
            step=basis.step,
        ) as splio,
    ):
        yield splio


def _wire_consumers(basis: _Basis, log: Log, ledger: Ledger, splio: SplioClient) -> _Consumers:
    settings, metrics, clock, step = basis.settings, basis.metrics, basis.clock, basis.step
    handlers = _handlers(settings, splio, clock)
    dispatcher = Dispatcher(
        ledger,
        splio,
        handlers,
        config=dispatcher_config(settings),
        clock=clock,
        metrics=metrics,
        step=step,
        random_=random.Random(),
    )
    planner = RecordPlanner(planning_policy(settings), renderer(settings))
    intake = Intake(
        log.log,
        ledger,
        planner,
        dispatcher,
        clock=clock,
        metrics=metrics,
        step=step,
        brake_rule=brake_rule(settings),
    )
    look_ups = LookUps(
        ledger,
        handlers,
        in_doubt=dispatcher.in_doubt,
        duty=_duty(basis, ledger, Chore.LOOK_UP),
        clock=clock,
        metrics=metrics,
        step=step,
        random_=random.Random(),
    )
    seen = SeenReader(
        ledger,
        splio,
        duty=_duty(basis, ledger, Chore.SEEN),
        tenant=settings.tenant,
        step=step,
        every_s=basis.pace.seen_every_s,
        idle_s=basis.pace.seen_idle_s,
    )
    brakes = BrakeWatch(ledger, [dispatcher, intake], clock=clock)
    workers: list[Worker] = [intake, dispatcher, look_ups, seen, brakes]
    if log.public is not None:
        workers.append(
            OutboxPublisher(
                ledger,
                log.public,
                duty=_duty(basis, ledger, Chore.OUTBOX),
                tenant=settings.tenant,
                clock=clock,
                metrics=metrics,
                step=step,
            )
        )
    operations = Operations(
        ledger, ledger, planner, look_ups=look_ups, lanes=_Lanes(dispatcher, intake)
    )
    return _Consumers(operations, dispatcher, workers)


def _wire_chores(
    basis: _Basis, log: EventLog, ledger: Ledger | None, consumers: _Consumers | None
) -> Chores:
    dispatcher = consumers.dispatcher if consumers else None

    def on_storage(low: bool) -> None:
        basis.readiness.set("storage_low", low)
        if dispatcher is not None:
            dispatcher.set_storage_low(low)

    def on_ledger(away: bool) -> None:
        basis.readiness.set_away("ledger_away", away)

    chores = Chores(
        log,
        ledger,
        duty=_duty(basis, ledger, Chore.PURGE) if ledger is not None else None,
        observe=dispatcher.observe if dispatcher is not None else _nothing,
        on_storage=on_storage,
        on_ledger=on_ledger,
        reserve_bytes=basis.settings.disk_reserve,
        clock=basis.clock,
        metrics=basis.metrics,
        step=basis.step,
        every_s=basis.pace.chores_every_s,
        tidy_rounds=basis.pace.tidy_rounds,
    )
    chores.check_storage()
    return chores


def _duty(basis: _Basis, ledger: Ledger, chore: Chore) -> Duty:
    return LeasedDuty(ledger, chore, clock=basis.clock, metrics=basis.metrics)


def _nothing() -> None:
    """Nobody is there to be observed."""


class _Lanes:
    """The lanes of the dispatcher, and intake, which a brake can stop as well."""

    def __init__(self, dispatcher: Dispatcher, intake: Intake) -> None:
        self._dispatcher = dispatcher
        self._intake = intake

    def describe(self) -> list[dict[str, object]]:
        return [*self._dispatcher.describe(), self._intake.describe()]

    def release(self, lane: str) -> None:
        if lane == BRAKE_NAME:
            self._intake.release()
        else:
            self._dispatcher.release(lane)


def _handlers(settings: Settings, splio: SplioClient, clock: SteadyClock) -> dict[Kind, Handler]:
    return {
        Kind.ORDER: PostOrder(
            splio,
            clock,
            # A creation lasts no longer than an attempt's lease would.
            missing_retry_ms=int((settings.request_timeout_s + settings.lease_margin_s) * 1000),
        ),
        Kind.EARN: BookPoints(
            splio, clock, card_patience_s=settings.card_patience_s, random_=random.Random()
        ),
    }


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry
