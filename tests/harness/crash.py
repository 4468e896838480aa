"""One life of the service in which it is killed, restarted and must come right by itself."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any, Final

from service.domain.ports import Step
from service.sandbox.deliveries import DeliveryPlan, DeliveryReport, deliver
from service.sandbox.faults import FaultRule
from service.sandbox.scayle import generate_orders
from service.sandbox.splio import SplioSandbox, SplioSandboxSettings, open_splio_sandbox
from tests.harness.judgement import assert_exact, wait_settled
from tests.harness.service_process import PASSWORD, USER, ServiceProcess

VISIBLE_AFTER_S: Final = 0.3  # at the sandbox, well within what the service allows for
_REACH_S: Final = 30.0

LOST_REPLIES: Final = (
    FaultRule("credit", "lost_reply", count=4, skip=3),
    FaultRule("order.create", "lost_reply", count=4, skip=20),
)


@dataclass(frozen=True, slots=True)
class Crash:
    """Where the service dies: the `nth` time that it gets to `step` in its life."""

    step: Step
    nth: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is delivered while the service dies at each of `crashes`, one after the other."""

    crashes: Sequence[Crash]
    faults: Sequence[FaultRule] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    orders: int = 30
    seed: int = 1


async def assert_survived(directory: Path, scenario: Scenario) -> None:
    """
    Play `scenario`: nothing is lost, nothing is there twice, and the ledger is sound.

    Deliveries go on until every one is answered 200, whatever happens to the service.
    """
    envelopes = list(generate_orders(scenario.seed, scenario.orders, customers=12, products=10))
    settings = SplioSandboxSettings(
        path=str(directory / "sandbox.db"),
        limits=None,
        points_visible_after_s=VISIBLE_AFTER_S,
        repeated_key="book",
    )
    async with open_splio_sandbox(settings) as sandbox:
        for rule in scenario.faults:
            sandbox.add_fault(rule)
        with ServiceProcess(
            directory, splio_url=sandbox.url, settings=scenario.settings
        ) as service:
            report = await _live(service, scenario, envelopes)
            await _rest(service, report)
            assert await service.stop() == 0, service.log_text()[-4000:]
        await _judge(service, sandbox, envelopes, report)


async def _live(
    service: ServiceProcess, scenario: Scenario, envelopes: Sequence[Mapping[str, Any]]
) -> DeliveryReport:
    async with asyncio.TaskGroup() as group:
        delivering: asyncio.Task[DeliveryReport] | None = None
        for crash in scenario.crashes:
            service.start(kill_at=crash.step, nth=crash.nth)
            if delivering is None:
                delivering = group.create_task(_deliver(service, envelopes, seed=scenario.seed))
            try:
                code = await service.wait_exit(timeout_s=_REACH_S)
            except AssertionError:
                raise AssertionError(f"{crash} was never reached") from None
            assert code == -SIGKILL, service.log_text()[-4000:]
            assert service.killed_at() == f"{crash.step} {crash.nth}"
        service.start()
    assert delivering is not None
    return delivering.result()


async def _deliver(
    service: ServiceProcess, envelopes: Sequence[Mapping[str, Any]], *, seed: int
) -> DeliveryReport:
    await service.wait_ready_or_end()
    plan = DeliveryPlan(
        rate=80,
        concurrency=8,
        duplicates=0.35,
        reordering=5,
        seed=seed,
        attempts=1000,
        longest_wait_s=0.2,
    )
    return await deliver(service.webhook_url, envelopes, user=USER, password=PASSWORD, plan=plan)


async def _judge(
    service: ServiceProcess,
    sandbox: SplioSandbox,
    envelopes: Sequence[Mapping[str, Any]],
    report: DeliveryReport,
) -> None:
    assert not report.given_up
    accepted = {order.order_id for order in report.accepted}
    await assert_exact(service.place.ledger, sandbox, envelopes, accepted=accepted)


async def _rest(service: ServiceProcess, report: DeliveryReport) -> None:
    accepted = {order.order_id for order in report.accepted}
    await service.wait_ready()
    await wait_settled(service.place, accepted, log_text=service.log_text)
