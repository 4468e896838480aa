"""One life of the service's process: its workers, real, on the stage."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from prometheus_client import CollectorRegistry

from consumers.book_points import BookPoints
from consumers.brake import BrakeRule
from consumers.dispatcher import Dispatcher, DispatcherConfig
from consumers.handlers import Handler
from consumers.intake import BRAKE_NAME, Intake
from consumers.look_up import LookUps
from consumers.post_order import PostOrder
from service.domain.effects import Kind, Lane
from service.domain.ledger import Ledger
from service.domain.ports import Step
from service.ledger.config import LedgerConfig
from service.ledger.sqlite import open_sqlite_ledger
from service.operations import Operations
from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.duty import FakeDuty
from tests.fakes.log import FakeLog
from tests.fakes.remote_splio import RemoteSplio
from tests.model.events import ModelPlanner
from tests.model.stage import Stage
from tests.model.staged_ledger import StagedLedger
from tests.model.witness import Witness

REQUEST_TIMEOUT_S: Final = 10.0
LEASE_MARGIN_S: Final = 20.0
VISIBLE_AFTER_S: Final = {**dict.fromkeys(Kind, 900.0), Kind.ORDER: 60.0}
RETENTION_S: Final = 30 * 86_400.0
CARD_PATIENCE_S: Final = 72 * 3_600.0
_BRAKE: Final = BrakeRule(run=3, share=1.0)
# Making them takes longer than anything else here, so all processes count on with the same.
_METRICS: Final = Metrics(CollectorRegistry())
_CONFIG: Final = DispatcherConfig(
    request_timeout_s=REQUEST_TIMEOUT_S,
    lease_margin_s=LEASE_MARGIN_S,
    grace_s=0.0,
    brake_rule=_BRAKE,
    concurrency=4,
    queue_size=4,
)


@dataclass(frozen=True, slots=True)
class World:
    """What outlives a process."""

    stage: Stage
    clock: FakeClock
    splio: RemoteSplio
    log: FakeLog
    planner: ModelPlanner
    witness: Witness
    ledger_path: Path
    instances: int  # of every worker, on one ledger


class Process:
    """From opening the ledger until a crash. `operations` is what an operator calls."""

    def __init__(self, world: World, number: int) -> None:
        self.metrics = _METRICS
        self._doubles_before = _doubles()
        self.ledger = StagedLedger(world.stage, world.witness.watch)
        self.dispatchers: list[Dispatcher] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._world = world
        self._number = number
        self._stack = AsyncExitStack()
        self._intakes: list[Intake] = []
        self._stop = asyncio.Event()
        self.operations: Operations

    async def start(self, lost: Sequence[Any]) -> None:
        """Open the ledger and start the workers; `lost` is what the process before was at."""
        world = self._world
        real = await self._stack.enter_async_context(
            open_sqlite_ledger(
                world.ledger_path,
                config=LedgerConfig(
                    owner=f"process-{self._number}",
                    tenant="main",
                    visible_after_s=VISIBLE_AFTER_S,
                    retention_s=RETENTION_S,
                ),
                clock=world.clock,
                metrics=self.metrics,
                step=self.ledger.step,
            )
        )
        self.ledger.real = world.witness.ledger = real
        await world.witness.reopen(lost)
        look_ups = [self._start_instance(number) for number in range(world.instances)]
        ledger = cast(Ledger, self.ledger)
        self.operations = Operations(
            ledger, ledger, world.planner, holds=real, look_ups=look_ups[0], lanes=_Lanes(self)
        )

    def _start_instance(self, number: int) -> LookUps:
        world, step = self._world, self.ledger.step
        ledger = cast(Ledger, self.ledger)
        chance = random.Random(number)
        handlers: Mapping[Kind, Handler] = {
            Kind.ORDER: PostOrder(world.splio, world.clock),
            Kind.EARN: BookPoints(
                world.splio, world.clock, card_patience_s=CARD_PATIENCE_S, random_=chance
            ),
        }
        dispatcher = Dispatcher(
            ledger,
            world.splio,
            handlers,
            config=_CONFIG,
            clock=world.clock,
            metrics=self.metrics,
            step=step,
            random_=chance,
        )
        intake = Intake(
            world.log,
            ledger,
            world.planner,
            dispatcher,
            clock=world.clock,
            metrics=self.metrics,
            step=step,
            brake_rule=_BRAKE,
        )
        look_ups = LookUps(
            ledger,
            handlers,
            in_doubt=dispatcher.in_doubt,
            duty=FakeDuty(),
            clock=world.clock,
            metrics=self.metrics,
            step=step,
            random_=chance,
        )
        self.dispatchers.append(dispatcher)
        self._intakes.append(intake)
        for worker in (intake, dispatcher, look_ups):
            self.tasks.append(world.stage.loop.create_task(worker.run(self._stop)))
        return look_ups

    async def end(self) -> None:
        """Die without a word; only what was committed and what Splio holds is left."""
        self.ledger.is_dead = True
        await self._world.stage.end_all_tasks()
        await self._stack.aclose()

    def died_by_itself(self) -> BaseException | None:
        """Why a worker ended although nobody killed the process."""
        if not self.ledger.is_dead:
            for task in self.tasks:
                if task.done():
                    return task.exception() or RuntimeError("a worker ended")
        return None

    def is_braked(self, lane: Lane) -> bool:
        """Whether no instance may attempt anything in `lane`."""
        gates = [dispatcher.gates[lane] for dispatcher in self.dispatchers]
        return all(gate.braked is not None or gate.storage_low for gate in gates)

    async def stored_brakes(self) -> list[str]:
        """The lanes that a person must release."""
        assert self.ledger.real is not None
        brakes = await self.ledger.real.brakes()
        return [brake.lane for brake in brakes if brake.lane != BRAKE_NAME]

    def suspected_doubles(self) -> float:
        """How many this process counted."""
        return _doubles() - self._doubles_before


def _doubles() -> float:
    return sum(
        sample.value
        for metric in _METRICS.suspected_doubles.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


class _Lanes:
    """The lanes of all instances."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def describe(self) -> list[dict[str, Any]]:
        return [row for each in self._process.dispatchers for row in each.describe()]

    def release(self, lane: str) -> None:
        for dispatcher in self._process.dispatchers:
            dispatcher.release(lane)


CRASH_STEPS: Final = (
    Step.RECORDS_FETCHED,
    Step.RECORDS_PLANNED,
    Step.PLANS_COMMITTED,
    Step.LEDGER_BEFORE_COMMIT,
    Step.LEDGER_AFTER_COMMIT,
    Step.PERMIT_TAKEN,
    Step.EFFECT_CLAIMED,
    Step.ATTEMPT_ENDED,
    Step.OUTCOME_RECORDED,
    Step.PREREQUISITE_CREATED,
    Step.LOOK_UP_ANSWERED,
    Step.LOOK_UP_RECORDED,
)
