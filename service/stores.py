"""The outer parts of a process, as the settings name them: log, spool, ledger, Splio."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from service.configuration import kafka_config, ledger_config, splio_config, splio_rates
from service.domain.clock import SteadyClock
from service.domain.ports import EventLog, LogWriter, PublicLog, StepHook, no_step
from service.domain.records import Topic
from service.eventlog.kafka import open_kafka_log
from service.eventlog.spool import SpoolingWriter, open_spooling_writer
from service.eventlog.sqlite import RETENTION_S, open_sqlite_log
from service.ledger.config import LedgerConfig
from service.ledger.postgres import open_postgres_ledger, server_clock
from service.ledger.postgres_schedule import open_postgres_schedule
from service.ledger.sql_ledger import SqlLedger
from service.ledger.sqlite import open_sqlite_ledger
from service.settings import Settings
from service.splio.client import SplioClient, open_splio_client
from service.splio.schedule import Schedule
from service.supervisor import Worker
from service.telemetry.metrics import Metrics


class Role(StrEnum):
    """What a process does: take webhooks, consume the log, or both."""

    SERVE = "serve"
    RECEIVE = "receive"
    CONSUME = "consume"

    @property
    def receives(self) -> bool:
        return self is not Role.CONSUME

    @property
    def consumes(self) -> bool:
        return self is not Role.RECEIVE


# What the log keeps of old records, where it is this process that removes them.
DEFAULT_RETENTION_S: Final[Mapping[Topic, float]] = RETENTION_S


@dataclass(frozen=True, slots=True)
class Log:
    """
    The log as a process uses it.

    Args:
        writer: where events are published: the log itself, or the spool before it.
        public: None where downstream services cannot read the log.
        workers: what must run besides.
        degraded: tells what is away and bridged.
    """

    log: EventLog
    writer: LogWriter
    public: PublicLog | None
    workers: Sequence[Worker]
    degraded: Callable[[], list[str]]


@asynccontextmanager
async def open_log(
    settings: Settings,
    *,
    metrics: Metrics,
    clock: SteadyClock,
    receives: bool,
    step: StepHook = no_step,
    retention_s: Mapping[Topic, float] = DEFAULT_RETENTION_S,
) -> AsyncIterator[Log]:
    """
    The log that the settings name, with its spool in a process that receives.

    Raises: StartupError.
    """
    async with AsyncExitStack() as stack:
        path = settings.log_path
        if path is not None:
            file = await stack.enter_async_context(
                open_sqlite_log(
                    path, metrics=metrics, clock=clock, step=step, retention_s=retention_s
                )
            )
            yield Log(file, file, None, (), list)
            return
        config = kafka_config(settings)
        assert config is not None
        spool_path = settings.spool_path if receives else None
        log = await stack.enter_async_context(
            open_kafka_log(
                config,
                metrics=metrics,
                clock=clock,
                step=step,
                must_connect=spool_path is None,
            )
        )
        if spool_path is None:
            yield Log(log, log, log, (), list)
            return
        spool = await stack.enter_async_context(
            open_spooling_writer(
                log,
                spool_path,
                limit_bytes=settings.spool_limit,
                metrics=metrics,
                clock=clock,
                step=step,
            )
        )
        yield Log(log, spool, log, (spool,), _degraded(spool))


@asynccontextmanager
async def open_ledger(
    settings: Settings,
    *,
    metrics: Metrics,
    clock: SteadyClock,
    config: LedgerConfig | None = None,
    step: StepHook = no_step,
) -> AsyncIterator[SqlLedger]:
    """The ledger that the settings name. Raises: StartupError."""
    config = config or ledger_config(settings)
    path = settings.ledger_path
    if path is not None:
        async with open_sqlite_ledger(
            path, config=config, clock=clock, metrics=metrics, step=step
        ) as ledger:
            yield ledger
        return
    async with open_postgres_ledger(
        settings.ledger_url, config=config, clock=clock, metrics=metrics, step=step
    ) as shared:
        yield shared


@asynccontextmanager
async def open_schedule(settings: Settings, clock: SteadyClock) -> AsyncIterator[Schedule | None]:
    """Splio's budget as all processes on the ledger share it; None where there is one."""
    rates = splio_rates(settings)
    if settings.ledger_path is not None or not rates:
        yield None
        return
    intervals = {lane: rate.interval_s for lane, rate in rates.items()}
    async with open_postgres_schedule(settings.ledger_url, intervals, clock) as schedule:
        yield schedule


@asynccontextmanager
async def open_splio(
    settings: Settings,
    *,
    url: str,
    metrics: Metrics,
    clock: SteadyClock,
    step: StepHook = no_step,
) -> AsyncIterator[SplioClient]:
    """The client of the Splio at `url`, within the budget that all processes share."""
    async with (
        open_schedule(settings, clock) as schedule,
        open_splio_client(
            splio_config(settings, url=url),
            clock=clock,
            metrics=metrics,
            schedule=schedule,
            step=step,
        ) as splio,
    ):
        yield splio


async def make_clock(settings: Settings) -> SteadyClock:
    """The ledger server's clock where processes share one, else this machine's."""
    if settings.ledger_path is None:
        return await server_clock(settings.ledger_url)
    return SteadyClock()


def _degraded(spool: SpoolingWriter) -> Callable[[], list[str]]:
    def told() -> list[str]:
        return [
            reason
            for reason, holds in (("spooling", spool.is_spooling), ("set_aside", spool.set_aside))
            if holds
        ]

    return told
