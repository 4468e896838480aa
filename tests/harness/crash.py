"""One life of the service in which it is killed, restarted and must come right by itself."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any, Final

import aiohttp

from service.domain.ports import Step
from service.sandbox.deliveries import DeliveryPlan, DeliveryProgress, DeliveryReport, deliver
from service.sandbox.faults import FaultRule
from service.sandbox.scayle import generate_orders
from service.sandbox.splio import SplioSandbox, SplioSandboxSettings, open_splio_sandbox
from service.stores import Role
from tests.harness.account import compare, earned_by_card, points_by_card
from tests.harness.checkout_account import EARNED, assert_one_card_each, assert_points_add_up
from tests.harness.checkout_life import Checkout, CheckoutReport
from tests.harness.checkout_plan import LOYALTY_SETTINGS, START_POINTS, CheckoutPlan, plan_checkout
from tests.harness.files import (
    assert_ledger_is_sound,
    backlog,
    count_holds,
    count_notices,
    count_open,
    planned_orders,
    settled_effects,
)
from tests.harness.kafka_server import KafkaServer
from tests.harness.outage import Outage
from tests.harness.place import Place, Stores, make_place
from tests.harness.postgres_server import PostgresServer
from tests.harness.sandbox_account import sandbox_account
from tests.harness.service_process import PASSWORD, USER, ServiceProcess
from tests.harness.waiting import until

VISIBLE_AFTER_S: Final = 0.3  # at the sandbox, well within what the service allows for
SPOOLED: Final = 15  # webhooks that are answered before a broker that is away comes back

# Generous: machines differ, and what is slow is not wrong.
_REACH_S: Final = 60.0
_REST_S: Final = 90.0
_LIFE_S: Final = 200.0

LOST_REPLIES: Final = (
    FaultRule("credit", "lost_reply", count=4, skip=3),
    FaultRule("order.create", "lost_reply", count=4, skip=20),
    FaultRule("reward.grant", "lost_reply", count=4, skip=3),
    FaultRule("reward.grant", "status_after", count=2, skip=8),
    FaultRule("member.create", "lost_reply", count=1, skip=1),
)


@dataclass(frozen=True, slots=True)
class Crash:
    """Where a process dies: the `nth` time that it gets to `step` in its life."""

    step: Step
    nth: int

    def __str__(self) -> str:
        return f"{self.step} {self.nth}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    What is delivered, and asked by a checkout, while the service dies at each of `crashes`, one
    after the other.

    Args:
        pays: there is a checkout at all.
        collects: the checkout books what orders earn, not their webhooks.
        stores: with two servers there are two processes, one that takes webhooks and consumes
            and one beside it that consumes; each has the crash before it.
        is_static: processes keep their streams when they are back soon (Kafka only).
        begins_away: the broker is away until `SPOOLED` webhooks were answered.
    """

    crashes: Sequence[Crash]
    faults: Sequence[FaultRule] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    orders: int = 30
    pays: bool = True
    collects: bool = False
    seed: int = 1
    stores: Stores = Stores.EMBEDDED
    is_static: bool = False
    begins_away: bool = False


@dataclass(frozen=True, slots=True)
class Servers:
    """What lives share. `away` is the broker of those in which it is away, one at a time."""

    kafka: KafkaServer
    postgres: PostgresServer
    away: KafkaServer


async def assert_survived(
    directory: Path, scenario: Scenario, servers: Servers | None = None
) -> None:
    """
    Play `scenario`: nothing is lost, nothing is there twice, and the ledger is sound.

    Deliveries and calls go on until every one is answered, whatever happens to the service.
    """
    envelopes = list(generate_orders(scenario.seed, scenario.orders, customers=12, products=10))
    settings = SplioSandboxSettings(
        path=str(directory / "sandbox.db"),
        limits=None,
        points_visible_after_s=VISIBLE_AFTER_S,
        repeated_key="book",
        grants_visible_after_s=VISIBLE_AFTER_S,
        repeated_grant_key="book",
    )
    plan = plan_checkout(
        envelopes,
        seed=scenario.seed,
        purchases=8,  # one in each manner
        collects=scenario.collects,
    )
    if not scenario.pays:
        plan = CheckoutPlan(purchases=(), watched=plan.watched, emails=())
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(open_splio_sandbox(settings))
        account = await stack.enter_async_context(sandbox_account(sandbox.url))
        await account.give(plan.cards, points=START_POINTS)
        for rule in scenario.faults:
            sandbox.add_fault(rule)
        kafka, postgres = None, None
        if servers is not None:
            kafka = servers.away if scenario.begins_away else servers.kafka
            postgres = servers.postgres
        place = await make_place(
            directory,
            log=scenario.stores.log,
            ledger=scenario.stores.ledger,
            kafka=kafka,
            postgres=postgres,
        )
        outage = None
        if scenario.begins_away:
            assert kafka is not None
            outage = await stack.enter_async_context(Outage(kafka))
        processes = [
            stack.enter_context(each)
            for each in _processes(directory, scenario, place, splio_url=sandbox.url)
        ]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        checkout = Checkout(processes[0].public_url, plan, session, seed=scenario.seed)
        life = _Life(scenario, place, processes, outage, checkout)
        report, told = await life.play(envelopes)
        await life.stop()
        await _judge(place, sandbox, envelopes, report)
        earned = earned_by_card(envelopes)
        await assert_points_add_up(place.ledger, sandbox, plan, earned=earned)
        await assert_one_card_each(account, told, plan)


def _processes(
    directory: Path, scenario: Scenario, place: Place, *, splio_url: str
) -> list[ServiceProcess]:
    """The one that takes webhooks first."""
    roles = [Role.SERVE, Role.CONSUME] if place.is_shared else [Role.SERVE]
    processes = []
    for role in roles:
        settings = {**LOYALTY_SETTINGS, **scenario.settings}
        if scenario.collects:
            settings["RELAY_POINTS_FROM"] = "collect"
        if scenario.is_static:
            settings["RELAY_KAFKA_INSTANCE"] = role.value
        if scenario.begins_away and role.receives:
            settings["RELAY_SPOOL_PATH"] = str(directory / "spool.db")
        processes.append(
            ServiceProcess(
                directory,
                splio_url=splio_url,
                settings=settings,
                place=place,
                role=role,
                name=role.value,
            )
        )
    return processes


class _Life:
    """
    The processes of a scenario.

    Each gets to the same crash. When one dies there, all die, and all begin again with the next
    crash before them; after the last one only who died is started again, without a crash. Others
    may die there later.
    """

    def __init__(
        self,
        scenario: Scenario,
        place: Place,
        processes: Sequence[ServiceProcess],
        outage: Outage | None,
        checkout: Checkout,
    ) -> None:
        self._scenario = scenario
        self._place = place
        self._processes = processes
        self._outage = outage
        self._checkout = checkout
        self._last = scenario.crashes[-1]
        self._has_died = asyncio.Event()
        self._are_spooled = asyncio.Event()

    async def play(
        self, envelopes: Sequence[Mapping[str, Any]]
    ) -> tuple[DeliveryReport, CheckoutReport]:
        """From the first start until everything is settled."""
        # Without a spool a process does not start while the broker is away.
        early, late = self._processes, self._processes[:0]
        if self._outage is not None:
            early, late = self._processes[:1], self._processes[1:]
        async with asyncio.TaskGroup() as group:
            delivering: asyncio.Task[DeliveryReport] | None = None
            paying: asyncio.Task[CheckoutReport] | None = None
            for crash in self._scenario.crashes:
                for process in early:
                    process.start(kill_at=crash.step, nth=crash.nth)
                if delivering is None:
                    delivering = group.create_task(self._deliver(early, envelopes))
                    paying = group.create_task(self._pay(early))
                if crash is not self._last:
                    await self._die_together(crash)
            assert delivering is not None and paying is not None
            tending = [group.create_task(self._tend(process)) for process in early]
            if self._outage is not None:
                await self._are_spooled.wait()
                await self._outage.end()
                for process in late:
                    process.start(kill_at=self._last.step, nth=self._last.nth)
                    tending.append(group.create_task(self._tend(process)))
            await self._until(self._has_died.is_set, f"{self._last} is reached", _REACH_S)
            report, told = await delivering, await paying
            await self._rest(report)
            await self._checkout.rest(earned_by_card(envelopes))
            for task in tending:
                task.cancel()
        return report, told

    async def stop(self) -> None:
        """Stop every process in order; one that dies at its crash even then has done its work."""
        for process in self._processes:
            await process.wait_ready_or_end()  # until then a signal just ends it
        codes = await asyncio.gather(*(process.stop() for process in self._processes))
        for process, code in zip(self._processes, codes, strict=True):
            assert code == 0 or self._is_killed(process, self._last), f"{code}\n{self._log_text()}"

    async def _pay(self, processes: Sequence[ServiceProcess]) -> CheckoutReport:
        await self._until_in_work(processes)
        return await self._checkout.play()

    async def _deliver(
        self, processes: Sequence[ServiceProcess], envelopes: Sequence[Mapping[str, Any]]
    ) -> DeliveryReport:
        await self._until_in_work(processes)

        def note(progress: DeliveryProgress) -> None:
            if progress.accepted >= SPOOLED:
                self._are_spooled.set()

        plan = DeliveryPlan(
            rate=80,
            concurrency=8,
            duplicates=0.35,
            reordering=5,
            seed=self._scenario.seed,
            attempts=1000,
            longest_wait_s=0.2,
        )
        return await deliver(
            self._processes[0].webhook_url,
            envelopes,
            user=USER,
            password=PASSWORD,
            plan=plan,
            on_progress=note,
        )

    async def _until_in_work(self, processes: Sequence[ServiceProcess]) -> None:
        for process in processes:
            await process.wait_ready_or_end()
            if self._scenario.stores.log == "kafka" and self._outage is None:
                await self._until_reading(process)

    async def _until_reading(self, process: ServiceProcess) -> None:
        """Otherwise one process might take everything, or find everything in one batch."""

        def is_reading() -> bool:
            return "streams.assigned" in process.log_text() or process.exit_code() is not None

        await self._until(is_reading, "the group lets it in", _REACH_S)

    async def _die_together(self, crash: Crash) -> None:
        def is_over() -> bool:
            return any(process.exit_code() is not None for process in self._processes)

        await self._until(is_over, f"{crash} is reached", _REACH_S)
        for process in self._processes:
            if process.exit_code() is not None:
                assert self._is_killed(process, crash), self._log_text()
            process.kill()

    async def _tend(self, process: ServiceProcess) -> None:
        """Start `process` again when it dies at the last crash; no other end is right."""
        while True:
            await process.wait_exit(timeout_s=_LIFE_S)
            assert self._is_killed(process, self._last), self._log_text()
            self._has_died.set()
            process.start()

    @staticmethod
    def _is_killed(process: ServiceProcess, crash: Crash) -> bool:
        return process.exit_code() == -SIGKILL and process.killed_at() == str(crash)

    async def _rest(self, report: DeliveryReport) -> None:
        accepted = {order.order_id for order in report.accepted}
        place = self._place

        async def is_done() -> bool:
            return (
                planned_orders(place.ledger) >= accepted
                and not await backlog(place.log, place.ledger)
                and not count_open(place.ledger)
                and not count_holds(place.ledger)
                and not count_notices(place.ledger)
            )

        for process in self._processes:
            await process.wait_ready_or_end()
        await self._until(is_done, "everything is settled", _REST_S, every_s=0.4)

    async def _until(self, condition: Any, what: str, timeout_s: float, **look: float) -> None:
        try:
            await until(condition, what=what, timeout_s=timeout_s, **look)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._log_text()}") from None

    def _log_text(self) -> str:
        return "\n".join(process.log_text()[-6000:] for process in self._processes)


async def _judge(
    place: Place,
    sandbox: SplioSandbox,
    envelopes: Sequence[Mapping[str, Any]],
    report: DeliveryReport,
) -> None:
    assert not report.given_up
    assert len(report.accepted) == len(envelopes)
    accepted = {order.order_id for order in report.accepted}
    orders = await sandbox.orders()
    credits_ = [row for row in await sandbox.credits() if row["context"].startswith(EARNED)]
    compare(envelopes, accepted=accepted, orders=orders, credits_=credits_).assert_balances()
    assert points_by_card(credits_) == earned_by_card(envelopes)
    statement = await sandbox.statement()
    # Also a refused repeat would show that it was sent without having been looked up.
    assert statement["orders_posted_twice"] == 0
    assert_ledger_is_sound(place.ledger)
    outcomes = await place.log.outcomes()
    assert outcomes is None or outcomes == settled_effects(place.ledger)
