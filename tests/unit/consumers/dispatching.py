"""A dispatcher over fakes, with what its tests ask of it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from consumers.book_points import BookPoints
from consumers.brake import BrakeRule
from consumers.dispatcher import Dispatcher, DispatcherConfig
from consumers.post_order import PostOrder
from service.domain.effects import Kind, Prerequisite, RenderedRequest, State
from service.domain.ledger import ReadyEffect
from service.domain.ports import Step
from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.ledger import FakeLedger, Row
from tests.fakes.metrics import value
from tests.fakes.splio import FakeSplio
from tests.fakes.waiting import until
from tests.unit.builders import make_ready

REQUEST_TIMEOUT_S = 10.0
LEASE_MARGIN_S = 20.0


class Bench:
    """The dispatcher, its fakes, and shorthands; every request is checked to be claimed."""

    def __init__(
        self,
        ledger: FakeLedger,
        splio: FakeSplio,
        clock: FakeClock,
        metrics: Metrics,
    ) -> None:
        self.ledger, self.splio, self.clock, self.metrics = ledger, splio, clock, metrics
        self.steps: list[Step] = []
        self.on_step: Callable[[Step], None] = lambda _: None
        splio.on_request = self._must_be_claimed
        self.dispatcher = self.build()

    def build(
        self,
        *,
        grace_s: float = 5.0,
        concurrency: int = 32,
        queue_size: int = 1_000,
        brake_rule: BrakeRule | None = None,
    ) -> Dispatcher:
        chance = random.Random(1)
        self.dispatcher = Dispatcher(
            self.ledger,
            self.splio,
            {
                Kind.ORDER: PostOrder(self.splio, self.clock),
                **dict.fromkeys(
                    (Kind.EARN, Kind.DEBIT),
                    BookPoints(self.splio, self.clock, card_patience_s=3_600, random_=chance),
                ),
            },
            config=DispatcherConfig(
                request_timeout_s=REQUEST_TIMEOUT_S,
                lease_margin_s=LEASE_MARGIN_S,
                grace_s=grace_s,
                brake_rule=brake_rule,
                concurrency=concurrency,
                queue_size=queue_size,
            ),
            clock=self.clock,
            metrics=self.metrics,
            step=self._step,
            random_=chance,
        )
        return self.dispatcher

    def _step(self, step: Step) -> None:
        self.steps.append(step)
        self.on_step(step)

    def _must_be_claimed(self, request: RenderedRequest) -> None:
        (row,) = [row for row in self.ledger.rows.values() if row.effect.request == request]
        assert row.state is State.ATTEMPTING, "a request without a claim"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Event]:
        """The dispatcher at work, past its first look into the ledger; stopped at the end."""
        stop = asyncio.Event()
        task = asyncio.create_task(self.dispatcher.run(stop))
        try:
            polls = self.ledger.called["ready"]
            await until(lambda: self.ledger.called["ready"] >= polls + 2 or task.done())
            await until(lambda: self.clock.sleeping >= 2 or task.done())
            yield stop
        finally:
            stop.set()
            await task

    def plan(
        self, order_id: str, kind: Kind = Kind.EARN, *needs: Prerequisite, offered: bool = True
    ) -> Row:
        """Plan an effect, and offer it as intake does."""
        row = self.ledger.add(make_ready(order_id, kind, prerequisites=needs))
        if offered:
            self.dispatcher.offer([row.effect])
        return row

    async def poll(self, seconds: float = 0.5) -> None:
        """Let time pass and both lanes look into the ledger."""
        polls = self.ledger.called["ready"]
        await until(lambda: self.clock.sleeping)
        self.clock.advance(seconds)
        await until(lambda: self.ledger.called["ready"] >= polls + 2)

    async def settled(self, *rows: Row, state: State = State.APPLIED) -> None:
        """Wait until all had an outcome and stand there."""
        await until(lambda: all(row.settlements and row.state is state for row in rows))

    def in_flight(self, effects: list[ReadyEffect]) -> int:
        return sum(self.ledger.rows[effect.key].state is State.ATTEMPTING for effect in effects)

    def count(self, name: str, **labels: str) -> float:
        return value(self.metrics, name, **labels)
