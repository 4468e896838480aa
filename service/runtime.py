"""The composition root: opens every part in order, wires them, closes them in reverse."""

import asyncio
import logging
import random
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from consumers.book_points import BookPoints
from consumers.chores import Chores
from consumers.dispatcher import Dispatcher
from consumers.handlers import Handler
from consumers.intake import BRAKE_NAME, Intake
from consumers.look_up import LookUps
from consumers.planner import RecordPlanner
from consumers.post_order import PostOrder
from consumers.seen import SeenReader
from producers.events import EventPublisher
from service.configuration import (
    brake_rule,
    dispatcher_config,
    ledger_config,
    planning_policy,
    renderer,
    sandbox_settings,
    splio_config,
)
from service.domain.clock import SteadyClock
from service.domain.effects import Kind
from service.domain.errors import StartupError
from service.domain.planning import PointsFrom
from service.domain.ports import StepHook, no_step
from service.domain.records import Topic
from service.eventlog.sqlite import RETENTION_S, SqliteEventLog, open_sqlite_log
from service.ledger.config import LedgerConfig
from service.ledger.sqlite import SqliteLedger, open_sqlite_ledger
from service.operations import Operations
from service.sandbox.splio import SplioSandbox, open_splio_sandbox
from service.settings import Settings
from service.splio.client import SplioClient, open_splio_client
from service.supervisor import Death, Supervisor, Worker
from service.telemetry.metrics import Metrics
from service.web.authentication import BasicAuthentication, LoginThrottle
from service.web.dispatch import Router
from service.web.listeners import Listener, ListenerConfig, load_tls
from service.web.operations_door import OPERATOR, operations_router
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

    def set(self, obstacle: str, present: bool) -> None:
        """Note that `obstacle` is there, or gone."""
        self._obstacles[obstacle] = present
        self._metrics.ready.set(not self.reasons())

    def reasons(self) -> list[str]:
        """Why the process is not ready; empty when it is."""
        return [name for name, present in self._obstacles.items() if present]

    def accepts(self) -> bool:
        """Whether webhooks may be taken."""
        return not self.reasons()


@dataclass(frozen=True, slots=True)
class Listeners:
    """The two doors of the process."""

    public: Listener
    operations: Listener
    _scheme: str
    _public_host: str
    _operations_host: str

    @classmethod
    def of(cls, settings: Settings, *, public: Router, operations: Router) -> "Listeners":
        """Both listeners as the settings want them, not started yet."""
        tls = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            tls = load_tls(settings.tls_cert, settings.tls_key)
        return cls(
            Listener(
                ListenerConfig(
                    "public",
                    settings.http_host,
                    settings.http_port,
                    "RELAY_HTTP_PORT",
                    max_connections=settings.max_connections,
                    tls=tls,
                ),
                public,
            ),
            Listener(
                ListenerConfig(
                    "operations",
                    settings.operations_host,
                    settings.operations_port,
                    "RELAY_OPERATIONS_PORT",
                    tls=tls,
                ),
                operations,
            ),
            "https" if tls else "http",
            settings.http_host,
            settings.operations_host,
        )

    @property
    def public_url(self) -> str:
        """Base address of the public listener."""
        return f"{self._scheme}://{_bracketed(self._public_host)}:{self.public.port}"

    @property
    def operations_url(self) -> str:
        """Base address of the operations listener."""
        return f"{self._scheme}://{_bracketed(self._operations_host)}:{self.operations.port}"

    async def start(self) -> None:
        """Listen on both. Raises: StartupError."""
        await self.operations.start()
        await self.public.start()

    async def stop(self, grace_s: float) -> None:
        """Stop what still listens."""
        await self.public.stop(grace_s=grace_s)
        await self.operations.stop(grace_s=grace_s)


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
    log_retention_s: Mapping[Topic, float] = field(default_factory=lambda: RETENTION_S)


@dataclass(frozen=True, slots=True)
class Runtime:
    """A process that is wired and listens; `run` makes it work."""

    settings: Settings
    metrics: Metrics
    readiness: Readiness
    listeners: Listeners
    operations: Operations
    sandbox: SplioSandbox | None
    _log: SqliteEventLog
    _ledger: SqliteLedger
    _workers: Sequence[Worker]

    async def backlog(self) -> int:
        """Records in the log that are not planned yet."""
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
                "public": self.listeners.public_url,
                "operations": self.listeners.operations_url,
            },
        )
        try:
            await asyncio.wait((supervised, asked), return_when=asyncio.FIRST_COMPLETED)
            self.readiness.set("stopping", True)
            logger.info("service.stopping", extra={"asked": asked.done()})
            await self.listeners.public.stop(grace_s=self.settings.grace_s)
        finally:
            workers_stop.set()
            asked.cancel()
            death = await supervised
        logger.info("service.stopped", extra={"died": death.worker if death else None})
        return death


@asynccontextmanager
async def open_runtime(
    settings: Settings, *, step: StepHook = no_step, pace: Pace = Pace()
) -> AsyncIterator[Runtime]:
    """
    Open everything in order of dependency, and close it in reverse.

    `step` is called at every labelled step; the kill matrix passes one that kills the process,
    and a `pace` that brings every step soon.
    Raises: StartupError when a file, port or setting does not let the process start.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    async with AsyncExitStack() as stack:
        metrics = Metrics(_registry())
        clock = SteadyClock()
        readiness = Readiness(metrics)
        if settings.log_path is None:
            raise StartupError("no_kafka", "a log on Kafka cannot be opened by this command yet")
        log = await stack.enter_async_context(
            open_sqlite_log(
                settings.log_path,
                metrics=metrics,
                clock=clock,
                step=step,
                retention_s=pace.log_retention_s,
            )
        )
        ledger = await stack.enter_async_context(
            open_sqlite_ledger(
                settings.ledger_path,
                config=ledger_config(settings),
                clock=clock,
                metrics=metrics,
                step=step,
            )
        )
        sandbox: SplioSandbox | None = None
        splio_url = settings.splio_url
        if splio_url is None:
            sandbox = await stack.enter_async_context(
                open_splio_sandbox(sandbox_settings(settings))
            )
            splio_url = sandbox.url
        splio = await stack.enter_async_context(
            open_splio_client(
                splio_config(settings, url=splio_url), clock=clock, metrics=metrics, step=step
            )
        )
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
            log,
            ledger,
            planner,
            dispatcher,
            metrics=metrics,
            step=step,
            brake_rule=brake_rule(settings),
        )
        look_ups = LookUps(
            ledger,
            handlers,
            in_doubt=dispatcher.in_doubt,
            clock=clock,
            metrics=metrics,
            step=step,
            random_=random.Random(),
        )

        def on_storage(low: bool) -> None:
            readiness.set("storage_low", low)
            dispatcher.set_storage_low(low)

        chores = Chores(
            log,
            ledger,
            observe=dispatcher.observe,
            on_storage=on_storage,
            reserve_bytes=settings.disk_reserve,
            clock=clock,
            metrics=metrics,
            step=step,
            every_s=pace.chores_every_s,
            tidy_rounds=pace.tidy_rounds,
        )
        chores.check_storage()
        seen = SeenReader(
            ledger,
            splio,
            tenant=settings.tenant,
            step=step,
            every_s=pace.seen_every_s,
            idle_s=pace.seen_idle_s,
        )
        operations = Operations(
            ledger, ledger, planner, look_ups=look_ups, lanes=_Lanes(dispatcher, intake)
        )
        door = WebhookDoor(
            EventPublisher(log, metrics=metrics, tenant=settings.tenant, clock=clock),
            authentication=_webhook_logins(settings, clock),
            metrics=metrics,
            clock=clock,
            accepting=readiness.accepts,
            limits=WebhookLimits(settings.body_limit, settings.body_timeout_s),
            step=step,
        )
        listeners = Listeners.of(
            settings,
            public=public_router(door),
            operations=operations_router(
                operations,
                metrics=metrics.registry,
                authentication=_operator_login(settings, clock),
                not_ready=readiness.reasons,
            ),
        )
        stack.push_async_callback(listeners.stop, settings.grace_s)
        await listeners.start()
        workers = (intake, dispatcher, look_ups, seen, chores)
        yield Runtime(
            settings, metrics, readiness, listeners, operations, sandbox, log, ledger, workers
        )


@asynccontextmanager
async def open_offline(settings: Settings) -> AsyncIterator[Operations]:
    """
    An operator's use cases on the ledger file itself, while no service runs on it.

    Raises: StartupError `already_running` when one does.
    """
    async with _open_ledger_alone(settings, ledger_config(settings)) as ledger:
        planner = RecordPlanner(planning_policy(settings), renderer(settings))
        yield Operations(ledger, ledger, planner)


async def change_points_from(settings: Settings) -> None:
    """
    Let the ledger of a stopped service book points the way that the settings name.

    Raises: WrongStateError while a booking is open; StartupError.
    """
    config = replace(ledger_config(settings), points_from=None)
    async with _open_ledger_alone(settings, config) as ledger:
        await ledger.change_points_from(PointsFrom(settings.points_from))


def _open_ledger_alone(
    settings: Settings, config: LedgerConfig
) -> AbstractAsyncContextManager[SqliteLedger]:
    return open_sqlite_ledger(
        settings.ledger_path,
        config=config,
        clock=SteadyClock(),
        metrics=Metrics(CollectorRegistry()),
    )


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


def _webhook_logins(settings: Settings, clock: SteadyClock) -> BasicAuthentication:
    return BasicAuthentication(
        [(user, password.get_secret_value()) for user, password in settings.webhook_credentials],
        realm="webhooks",
        throttle=LoginThrottle(clock),
    )


def _operator_login(settings: Settings, clock: SteadyClock) -> BasicAuthentication | None:
    """None without a password: then nothing can be changed."""
    if settings.operations_password is None:
        return None
    return BasicAuthentication(
        [(OPERATOR, settings.operations_password.get_secret_value())],
        realm="operations",
        throttle=LoginThrottle(clock),
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry
