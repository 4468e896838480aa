"""What a command does to log and ledger themselves, beside or instead of a running service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from prometheus_client import CollectorRegistry

from consumers.planner import RecordPlanner
from service.configuration import ledger_config, planning_policy, renderer
from service.desk_setup import call_planner
from service.domain.errors import StartupError
from service.domain.ledger import Chore, Ledger, Recovery
from service.domain.planning import PointsFrom
from service.ledger.config import LedgerConfig
from service.ledger.sql_ledger import SqlLedger
from service.operations import Operations
from service.settings import Settings
from service.stores import make_clock, open_ledger, open_log
from service.telemetry.metrics import Metrics

_RECOVERY_S: Final = 60.0  # as long as recovering keeps the services off


@asynccontextmanager
async def open_offline(settings: Settings) -> AsyncIterator[Operations]:
    """
    An operator's use cases on the ledger itself. A file is refused while a service runs on it;
    a server is shared.

    Raises: StartupError, `already_running` among others.
    """
    async with _open_ledger_alone(settings, ledger_config(settings)) as ledger:
        planner = RecordPlanner(
            planning_policy(settings), renderer(settings), call_planner(settings)
        )
        yield Operations(ledger, ledger, planner, holds=ledger)


async def change_points_from(settings: Settings) -> None:
    """
    Let the ledger of a stopped service book points the way that the settings name.

    Raises: WrongStateError while a booking is open; StartupError, `consumers_run` among others.
    """
    config = replace(ledger_config(settings), points_from=None)
    async with _open_ledger_alone(settings, config) as ledger, _services_kept_off(ledger):
        await ledger.change_points_from(PointsFrom(settings.points_from))


async def recover(settings: Settings, *, since_ms: int) -> Recovery:
    """
    Bring a ledger right that is behind its log; no service may run on either.

    Raises: StartupError, `consumers_run` among others; LogUnavailableError.
    """
    metrics = Metrics(CollectorRegistry())
    clock = await make_clock(settings)
    async with (
        open_log(settings, metrics=metrics, clock=clock, receives=False) as log,
        open_ledger(settings, metrics=metrics, clock=clock) as ledger,
        _services_kept_off(ledger),
    ):
        since = await log.log.positions_at(since_ms)
        return await ledger.recover(since, await log.log.end_positions())


@asynccontextmanager
async def _services_kept_off(ledger: Ledger) -> AsyncIterator[None]:
    """Of every service that works on a shared ledger one looks up; nobody does meanwhile."""
    if not await ledger.hold_duty(Chore.LOOK_UP, lease_s=_RECOVERY_S):
        raise StartupError(
            "consumers_run", "a service works on this ledger; stop every one of them first"
        )
    try:
        yield
    finally:
        await ledger.release_duties()


@asynccontextmanager
async def _open_ledger_alone(settings: Settings, config: LedgerConfig) -> AsyncIterator[SqlLedger]:
    clock = await make_clock(settings)
    metrics = Metrics(CollectorRegistry())
    async with open_ledger(settings, metrics=metrics, clock=clock, config=config) as ledger:
        yield ledger
