"""
A consumer stands still past its leases, others take over, then it goes on as if nothing had been.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGCONT
from typing import Final

import pytest

from service.domain.ports import Step
from service.sandbox.deliveries import DeliveryPlan
from service.stores import Role
from tests.harness.fleet import Fleet, lines, running_fleet
from tests.harness.kafka_server import KafkaServer
from tests.harness.load import Load
from tests.harness.place import Place, make_place
from tests.harness.postgres_server import PostgresServer
from tests.harness.service_process import ServiceProcess
from tests.harness.side_by_side import side_by_side
from tests.harness.waiting import until

_PLAN: Final = DeliveryPlan(rate=60, concurrency=8, duplicates=0.2, reordering=5)
_REACH_S: Final = 60.0
_AT_ONCE: Final = 3
_LIFE_S: Final = 380.0
_LATE: Final = ("stale", "late")


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a consumer stands still: the `nth` time that it gets to `step`."""

    step: Step
    nth: int = 20


# Nothing was sent yet for the effect in hand: it must not be sent any more.
_BEFORE: Final = (Moment(Step.PERMIT_TAKEN), Moment(Step.EFFECT_CLAIMED))
# Splio has it: the others find that out, and the outcome comes late.
_AFTER: Final = (
    Moment(Step.REQUEST_SENT),
    Moment(Step.REPLY_RECEIVED),
    Moment(Step.ATTEMPT_ENDED),
)
# Planned by others meanwhile: what is in hand must not be planned once more.
_PLANNING: Final = (Moment(Step.RECORDS_FETCHED, 3), Moment(Step.RECORDS_PLANNED, 3))
# In the middle of a transaction, with rows locked that others want.
_COMMITTING: Final = (Moment(Step.LEDGER_BEFORE_COMMIT, 40), Moment(Step.LEDGER_AFTER_COMMIT, 40))
# After the last look at the clock: the one moment that only Splio's own guard covers (DESIGN,
# "Residual risk").
_BETWEEN: Final = (Moment(Step.REQUEST_STARTED),)


async def place_on(tmp_path: Path, kafka: KafkaServer, postgres: PostgresServer) -> Place:
    return await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=kafka, postgres=postgres
    )


async def live(fleet: Fleet, moments: Sequence[Moment]) -> tuple[list[ServiceProcess], list[Load]]:
    """
    One consumer for each moment stands still at it; another one brings everything to rest; then
    they go on beside it, with more to do. Returns the zombies, stopped, and what was delivered.
    """
    receiver = await fleet.started(Role.RECEIVE)
    zombies = [fleet.add(Role.CONSUME, name=f"zombie-{moment.step}") for moment in moments]
    for zombie, moment in zip(zombies, moments, strict=True):
        zombie.start(freeze_at=moment.step, nth=moment.nth)
        await zombie.wait_ready()
    async with Load.of_orders(receiver.webhook_url, seed=7, plan=_PLAN) as load:
        for zombie in zombies:
            await until(
                zombie.is_frozen, what=f"{zombie.log_path.stem} stands still", timeout_s=_REACH_S
            )
        await fleet.started(Role.CONSUME, name="survivor")
        await load.more(60)
    await fleet.rest(load, timeout_s=90)
    assert all(zombie.is_frozen() for zombie in zombies)
    async with Load.of_orders(receiver.webhook_url, seed=8, plan=_PLAN) as after:
        for zombie in zombies:
            zombie.send_signal(SIGCONT)
        for zombie in zombies:
            await zombie.wait_ready()
        await after.more(60)
    await fleet.rest(load, after, timeout_s=90)
    await fleet.stop()
    return zombies, [load, after]


def recorded(zombies: Sequence[ServiceProcess]) -> Counter[tuple[str, str]]:
    """What the ledger made of outcomes that came too late, by outcome."""
    return Counter(
        (line["outcome"], line["recorded"])
        for zombie in zombies
        for line in lines(zombie, "effect.attempted")
        if line["recorded"] in _LATE
    )


async def sends_nothing_for_a_claim_that_ran_out(place: Place, directory: Path) -> None:
    """P2: the deadline is looked at as late as the client lets it."""
    async with running_fleet(directory, place) as fleet:
        zombies, loads = await live(fleet, _BEFORE)
        await fleet.assert_exact(*loads)
        late = recorded(zombies)
        assert late["retry", "stale"] >= 1
        # It may have had requests under way besides, which the others found.
        assert not [key for key in late if key[1] == "late"]


async def is_believed_by_nobody_after_it_had_sent(place: Place, directory: Path) -> None:
    """P2, P4: what it sent was found by the others and not repeated."""
    async with running_fleet(directory, place) as fleet:
        zombies, loads = await live(fleet, _AFTER)
        await fleet.assert_exact(*loads)
        for zombie in zombies:
            assert recorded([zombie]), zombie.log_path.stem


async def does_not_plan_what_others_have_planned(place: Place, directory: Path) -> None:
    """P2: a position moves only from where its reader was."""
    async with running_fleet(directory, place) as fleet:
        zombies, loads = await live(fleet, _PLANNING)
        await fleet.assert_exact(*loads)
        for zombie in zombies:
            assert any(lines(zombie, "records.position_moved")), zombie.log_path.stem


async def gives_up_a_transaction_that_kept_others_waiting(place: Place, directory: Path) -> None:
    """P2, P3: the server ends it, so that its rows are free."""
    async with running_fleet(directory, place) as fleet:
        _, loads = await live(fleet, _COMMITTING)
        await fleet.assert_exact(*loads)


async def is_stopped_by_splio_after_the_last_look_at_the_clock(
    place: Place, directory: Path
) -> None:
    """The residual risk as it is written down: one repeat at most, which Splio recognises."""
    async with running_fleet(directory, place, repeated_key="suppress") as fleet:
        zombies, loads = await live(fleet, _BETWEEN)
        statement = await fleet.sandbox.statement()
        posted_twice = statement["orders_posted_twice"]
        assert posted_twice + statement["credits_suppressed"] == len(zombies)
        await fleet.assert_exact(*loads, posted_twice=posted_twice)


_QUICK: Final = (
    sends_nothing_for_a_claim_that_ran_out,
    is_believed_by_nobody_after_it_had_sent,
    does_not_plan_what_others_have_planned,
)
_SLOW: Final = (
    gives_up_a_transaction_that_kept_others_waiting,
    is_stopped_by_splio_after_the_last_look_at_the_clock,
)
_CASES: Final = {case.__name__: case for case in (*_QUICK, *_SLOW)}


@pytest.fixture(scope="module")
def lives(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    kafka_server: KafkaServer,
    postgres_server: PostgresServer,
) -> Iterator[Mapping[str, Future[None]]]:
    """Every case that is asked for in this run, begun ahead: they mostly wait."""
    wanted = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and "lives" in item.fixturenames
    ]

    async def play(name: str) -> None:
        directory = tmp_path_factory.mktemp("zombie")
        await _CASES[name](await place_on(directory, kafka_server, postgres_server), directory)

    with side_by_side(at_once=_AT_ONCE) as runner:
        yield {name: runner.submit(partial(play, name)) for name in wanted}


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "name",
    [
        *(case.__name__ for case in _QUICK),
        *(pytest.param(case.__name__, marks=pytest.mark.slow) for case in _SLOW),
    ],
)
def test_zombie(name: str, lives: Mapping[str, Future[None]]) -> None:
    """Each case's own docstring names its promise."""
    lives[name].result(timeout=_LIFE_S)
