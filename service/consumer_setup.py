"""What acts on the log and the ledger, wired: intake, dispatcher, look-ups, chores."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from consumers.balances import BalanceReader
from consumers.book_points import BookPoints
from consumers.brake import BrakeWatch
from consumers.chores import Chores
from consumers.dispatcher import Dispatcher
from consumers.duties import LEASE_S, Duty, LeasedDuty
from consumers.handlers import Handler
from consumers.holds import HOLDS_LEASE_S, HoldsWorker
from consumers.intake import BRAKE_NAME, Intake
from consumers.look_up import LookUps
from consumers.outbox import OutboxPublisher
from consumers.planner import RecordPlanner
from consumers.post_order import PostOrder
from consumers.register_member import RegisterMember
from consumers.seen import SeenReader
from consumers.take_points import TakePoints
from service.configuration import (
    brake_rule,
    dispatcher_config,
    planning_policy,
    renderer,
)
from service.desk_setup import call_planner
from service.domain.clock import SteadyClock
from service.domain.effects import CREDITS, Kind
from service.domain.ledger import Chore, Ledger
from service.domain.ports import EventLog, StepHook
from service.domain.records import Topic
from service.ledger.sql_ledger import SqlLedger
from service.operations import Operations
from service.readiness import Readiness
from service.settings import Settings
from service.splio.client import SplioClient
from service.stores import (
    DEFAULT_RETENTION_S,
    Log,
)
from service.supervisor import Worker
from service.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Pace:
    """
    How often is done what nothing waits for.

    Args:
        seen_every_s: between pages of Splio's points ledger; at most 0.2 requests/s of the lane
            that bookings use (DESIGN, "Splio").
        seen_idle_s: the same after the last page.
        holds_every_s: between cards whose debits are looked for.
        holds_idle_s: the same after the last card.
        shapes_every_s: from one storing of shapes to the next.
        chores_every_s: between two rounds of chores.
        desk_again_s: until a ledger that is away is asked again, by who only receives.
        tidy_rounds: rounds from one purge and trim to the next.
        log_retention_s: how long records that were read stay in the log, by topic.
    """

    seen_every_s: float = 5.0
    seen_idle_s: float = 60.0
    holds_every_s: float = 5.0
    holds_idle_s: float = 30.0
    shapes_every_s: float = 30.0
    chores_every_s: float = 1.0
    desk_again_s: float = 5.0
    tidy_rounds: int = 60
    log_retention_s: Mapping[Topic, float] = field(default_factory=lambda: DEFAULT_RETENTION_S)


NORMAL: Final = Pace()


@dataclass(frozen=True, slots=True)
class Basis:
    """What every part of one process is made with."""

    settings: Settings
    metrics: Metrics
    clock: SteadyClock
    readiness: Readiness
    step: StepHook
    pace: Pace


@dataclass(frozen=True, slots=True)
class Consumers:
    """The parts that act on the log and the ledger."""

    operations: Operations
    dispatcher: Dispatcher
    workers: Sequence[Worker]


def wire_consumers(basis: Basis, log: Log, ledger: SqlLedger, splio: SplioClient) -> Consumers:
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
    planner = RecordPlanner(planning_policy(settings), renderer(settings), call_planner(settings))
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
    if settings.loyalty_programs:
        workers.append(
            HoldsWorker(
                ledger,
                splio.loyalty,
                BalanceReader(ledger, splio.loyalty, clock, step=step),
                duty=_duty(basis, ledger, Chore.HOLDS, lease_s=HOLDS_LEASE_S),
                clock=clock,
                every_s=basis.pace.holds_every_s,
                idle_s=basis.pace.holds_idle_s,
            )
        )
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
        ledger,
        ledger,
        planner,
        holds=ledger,
        look_ups=look_ups,
        lanes=_Lanes(dispatcher, intake),
    )
    return Consumers(operations, dispatcher, workers)


def wire_chores(
    basis: Basis, log: EventLog, ledger: Ledger | None, consumers: Consumers | None
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


def _duty(basis: Basis, ledger: Ledger, chore: Chore, *, lease_s: float = LEASE_S) -> Duty:
    return LeasedDuty(ledger, chore, clock=basis.clock, metrics=basis.metrics, lease_s=lease_s)


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
        **dict.fromkeys(
            CREDITS,
            BookPoints(
                splio, clock, card_patience_s=settings.card_patience_s, random_=random.Random()
            ),
        ),
        Kind.DEBIT: TakePoints(splio.loyalty, clock),
        Kind.MEMBER: RegisterMember(splio, splio.loyalty, clock),
    }
