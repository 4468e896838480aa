"""PostgreSQL restarts, dies or stands still under load: webhooks are taken, claims are kept."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from service.sandbox.faults import FaultRule
from service.sandbox.splio import SplioSandbox
from service.stores import Role
from tests.harness.files import LedgerView
from tests.harness.fleet import Fleet, lines, running_fleet
from tests.harness.kafka_server import KafkaServer
from tests.harness.load import STEADY, Load
from tests.harness.place import make_place
from tests.harness.postgres_server import PostgresServer
from tests.harness.service_process import ServiceProcess
from tests.harness.waiting import until

_RATE: Final = STEADY.rate or 0
_OPERATIONS: Final = {"order": "order.create", "earn": "credit"}
_CLAIMS: Final = "SELECT kind, effect_key, attempt FROM effects"
_ENDS: Final = (
    "SELECT effect_key, attempts.attempt FROM attempts JOIN effects ON effects.id = effect_id"
    " WHERE outcome NOT LIKE 'look_up%'"
)

Outage = Callable[[PostgresServer, Callable[[], Awaitable[None]]], Awaitable[None]]


async def restarted(postgres: PostgresServer, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """As `pg_ctl restart -m fast`."""
    await asyncio.to_thread(postgres.stop)
    await meanwhile()
    await asyncio.to_thread(postgres.start)


async def killed(postgres: PostgresServer, meanwhile: Callable[[], Awaitable[None]]) -> None:
    await asyncio.to_thread(postgres.kill)
    await meanwhile()
    await asyncio.to_thread(postgres.start)


async def frozen(postgres: PostgresServer, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """Connections stay open and nobody answers: only the client's own time limit ends that."""
    postgres.freeze()
    try:
        await meanwhile()
    finally:
        postgres.thaw()


async def requests_of(sandbox: SplioSandbox) -> Mapping[str, int]:
    """Requests that Splio got by kind of effect, whatever it answered."""
    requests = (await sandbox.statement())["requests"]
    return {kind: sum(requests.get(name, {}).values()) for kind, name in _OPERATIONS.items()}


async def assert_no_request_without_a_claim(ledger: LedgerView, sandbox: SplioSandbox) -> None:
    """
    Every order and credit at Splio has an effect that was claimed, and of each kind no more
    requests came than claims are recorded: each claim sends one at most.
    """
    claims = {key: attempt for _, key, attempt in ledger.rows(_CLAIMS)}
    booked = [row["context"] for row in await sandbox.credits()]
    posted = [f"main:order:{row['external_id']}" for row in await sandbox.orders()]
    assert not [key for key in booked + posted if not claims.get(key)]
    recorded: Counter[str] = Counter()
    for kind, _, attempt in ledger.rows(_CLAIMS):
        recorded[kind] += attempt
    for kind, count in (await requests_of(sandbox)).items():
        assert count <= recorded[kind], f"{count} requests for {recorded[kind]} claims of {kind}"


def assert_every_claim_has_an_end(ledger: LedgerView) -> None:
    """The audit trail tells of each claim how it ended, also of those that nobody came to use."""
    ends: dict[str, set[int]] = defaultdict(set)
    for key, attempt in ledger.rows(_ENDS):
        ends[key].add(attempt)
    for _, key, attempt in ledger.rows(_CLAIMS):
        assert ends[key] == set(range(1, attempt + 1)), key


async def is_degraded(fleet: Fleet, process: ServiceProcess) -> bool:
    answer = await fleet.readiness(process)
    assert answer.status == 200, answer
    return "ledger_away" in answer.json["degraded"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("outage", "seconds", "roles"),
    [
        pytest.param(restarted, 0, (Role.SERVE,), id="restarted", marks=pytest.mark.slow),
        pytest.param(killed, 3, (Role.SERVE, Role.CONSUME), id="killed"),
        # Longer than a server that does not answer is waited for.
        pytest.param(frozen, 10, (Role.SERVE, Role.CONSUME), id="frozen"),
        pytest.param(killed, 30, (Role.RECEIVE, Role.CONSUME), id="gone-long",
                     marks=pytest.mark.slow),
        pytest.param(frozen, 40, (Role.SERVE, Role.CONSUME), id="frozen-long",
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
async def test_webhooks_are_taken_and_work_goes_on_by_itself(
    outage: Outage,
    seconds: int,
    roles: tuple[Role, ...],
    kafka_server: KafkaServer,
    private_postgres: PostgresServer,
    tmp_path: Path,
) -> None:
    """P1, P2, P3: the log needs no ledger; nothing is sent that the ledger does not know."""
    place = await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=kafka_server, postgres=private_postgres
    )
    async with running_fleet(tmp_path, place) as fleet:
        first, *others = [await fleet.started(role) for role in roles]
        # Some replies are lost, so that look-ups are under way as well.
        fleet.sandbox.add_fault(FaultRule("credit", "lost_reply", count=None, probability=0.05))
        async with Load.of_orders(first.webhook_url, seed=5) as load:

            async def meanwhile() -> None:
                consumer = others[-1] if others else first
                if seconds:
                    await until(
                        lambda: is_degraded(fleet, consumer),
                        what="the process tells that the ledger is away",
                        timeout_s=60,
                    )
                await load.more(round(seconds * _RATE))

            await load.more(round(2 * _RATE))
            await outage(private_postgres, meanwhile)
            await load.more(round(_RATE))
        assert set(load.report.by_status) == {"200"}
        await fleet.rest(load, timeout_s=90)
        await fleet.assert_exact(load)
        await assert_no_request_without_a_claim(place.ledger, fleet.sandbox)
        assert_every_claim_has_an_end(place.ledger)
        if seconds:
            assert any(
                True for process in fleet.processes for _ in lines(process, "lane.not_polled")
            )
        await fleet.stop()


@pytest.mark.timeout(300)
async def test_power_cut_leaves_no_request_that_the_ledger_does_not_know(
    kafka_server: KafkaServer, private_postgres: PostgresServer, tmp_path: Path
) -> None:
    """
    P2: server and services are killed at once; what Splio got by then is looked at before
    anybody can make up for what the ledger forgot.
    """
    place = await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=kafka_server, postgres=private_postgres
    )
    async with running_fleet(tmp_path, place) as fleet:
        receiver = await fleet.started(Role.RECEIVE)
        consumers = [await fleet.started(Role.CONSUME) for _ in range(2)]
        async with Load.of_orders(receiver.webhook_url, seed=6) as load:
            await load.more(round(2 * _RATE))
            private_postgres.kill()
            for consumer in consumers:
                consumer.kill()
            await asyncio.to_thread(private_postgres.start)
            await assert_no_request_without_a_claim(place.ledger, fleet.sandbox)
            assert await fleet.sandbox.credits()
            for consumer in consumers:
                consumer.start()
            await load.more(round(_RATE))
        await fleet.rest(load)
        await fleet.assert_exact(load)
        await assert_no_request_without_a_claim(place.ledger, fleet.sandbox)
        assert_every_claim_has_an_end(place.ledger)
        await fleet.stop()
