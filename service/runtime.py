"""The composition root: opens every part in order, wires them, closes them in reverse."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from consumers.intake import refuse_behind
from producers.events import EventPublisher
from service.checkout.desk import CheckoutDesk
from service.configuration import (
    sandbox_settings,
)
from service.consumer_setup import NORMAL, Basis, Consumers, Pace, wire_chores, wire_consumers
from service.desk_setup import make_desk
from service.domain.clock import SteadyClock
from service.domain.errors import LedgerUnavailableError, LogUnavailableError
from service.domain.ledger import Ledger
from service.domain.ports import EventLog, StepHook, no_step
from service.doors import (
    Listeners,
    loyalty_config,
    loyalty_tokens,
    operator_login,
    webhook_logins,
)
from service.late_desk import LateDesk
from service.operations import Operations
from service.readiness import Readiness
from service.sandbox.splio import SplioSandbox, open_splio_sandbox
from service.settings import Settings
from service.stores import (
    Role,
    make_clock,
    open_ledger,
    open_log,
    open_splio,
)
from service.supervisor import Death, Supervisor, Worker
from service.telemetry.metrics import Metrics
from service.web.loyalty import LoyaltyDoor
from service.web.operations_door import operations_router
from service.web.public_door import public_router
from service.web.shape_keeping import ShapeKeeper
from service.web.shapes import ShapeLog
from service.web.webhooks import WebhookDoor, WebhookLimits

# CPython hands the interpreter lock over after this long when another thread asks for it. The
# committing threads ask once a statement; the default of 5 ms would be most of a commit's time.
SWITCH_INTERVAL_S: Final = 0.0005

logger = logging.getLogger("relay.runtime")


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


@asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    role: Role = Role.SERVE,
    step: StepHook = no_step,
    pace: Pace = NORMAL,
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
        basis = Basis(settings, metrics, clock, readiness, step, pace)
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
        consumers: Consumers | None = None
        desks: Callable[[], CheckoutDesk | None] | None = None
        shape_log = ShapeLog(clock)
        shapes = ShapeKeeper(shape_log, every_s=pace.shapes_every_s)
        workers: list[Worker] = []
        sandbox: SplioSandbox | None = None
        if role.consumes:
            opened = open_ledger(settings, metrics=metrics, clock=clock, step=step)
            ledger = own = await stack.enter_async_context(opened)
            await _refuse_ledger_behind(log.log, own)
            if settings.splio_url is None:
                sandbox = await stack.enter_async_context(
                    open_splio_sandbox(sandbox_settings(settings))
                )
            url = sandbox.url if sandbox is not None else settings.splio_url
            assert url is not None
            splio = await stack.enter_async_context(
                open_splio(settings, url=url, metrics=metrics, clock=clock, step=step)
            )
            consumers = wire_consumers(basis, log, own, splio)
            stack.enter_context(shapes.kept_in(own))
            if role.receives:
                workers.append(shapes)
                if settings.loyalty_tokens:
                    desk = make_desk(
                        settings,
                        own,
                        splio,
                        splio.loyalty,
                        offer=consumers.dispatcher.offer,
                        clock=clock,
                        metrics=metrics,
                        step=step,
                    )
                    stack.push_async_callback(desk.close)
                    desks = _always(desk)
            workers += consumers.workers
        elif settings.loyalty_tokens:
            late = LateDesk(
                settings, metrics=metrics, shapes=shapes, step=step, again_s=pace.desk_again_s
            )
            readiness.ask_also(late.degraded)
            workers.append(late)
            desks = late.desk
        chores = wire_chores(basis, log.log, ledger, consumers)
        door = None
        if role.receives:
            door = WebhookDoor(
                EventPublisher(log.writer, metrics=metrics, tenant=settings.tenant, clock=clock),
                authentication=webhook_logins(settings, clock),
                metrics=metrics,
                clock=clock,
                accepting=readiness.accepts,
                limits=WebhookLimits(settings.body_limit, settings.body_timeout_s),
                shapes=shape_log,
                step=step,
            )
        loyalty = None
        if desks is not None:
            loyalty = LoyaltyDoor(
                desks,
                authentication=loyalty_tokens(settings, clock),
                metrics=metrics,
                clock=clock,
                accepting=readiness.accepts,
                config=loyalty_config(settings),
                shapes=shape_log,
                step=step,
            )
        operations = consumers.operations if consumers else None
        listeners = Listeners.of(
            settings,
            public=public_router(door, loyalty) if door else None,
            operations=operations_router(
                operations,
                metrics=metrics.registry,
                authentication=operator_login(settings, clock),
                not_ready=readiness.reasons,
                degraded=readiness.degraded,
                shapes=shapes,
            ),
        )
        stack.push_async_callback(listeners.stop, settings.grace_s)
        await listeners.start()
        workers += [chores, *log.workers]
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


def _always(desk: CheckoutDesk) -> Callable[[], CheckoutDesk | None]:
    return lambda: desk


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry
