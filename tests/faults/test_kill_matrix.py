"""A process dies at every labelled step: nothing is lost and nothing is booked twice (P1, P2)."""

import ast
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from service.domain.ports import Step
from tests.faults.crash_points import POINTS, steps_with
from tests.harness.child_process import ROOT
from tests.harness.crash import LOST_REPLIES, Crash, Scenario, Servers, assert_survived
from tests.harness.kafka_server import KafkaServer
from tests.harness.place import Stores
from tests.harness.postgres_server import PostgresServer
from tests.harness.side_by_side import side_by_side

_AT_ONCE: Final = 4  # lives at a time, each mostly waits
_AT_ONCE_ON_SERVERS: Final = 5  # each waits for the group's and the leases' time-outs besides
_MIXED: Final = 2  # labels of each mixed pair that are not slow
_CASE_S: Final = 300.0

pytestmark = pytest.mark.timeout(_CASE_S + 30)


def _once(step: Step, stores: Stores) -> Scenario:
    """Killed some time mid-way, the same in every run."""
    point = POINTS[step]
    draw = random.Random(f"{step}-{stores}")
    return Scenario(
        [Crash(step, draw.randint(*point.counts(stores)))],
        faults=point.faults,
        settings=point.settings,
        stores=stores,
        is_static=draw.choice((True, False)),
        begins_away=point.is_in_outage,
        pays=point.pays,
        collects=draw.choice((True, False)) and point.pays,
    )


def _while_replies_are_lost(step: Step, stores: Stores, number: int) -> Scenario:
    point = POINTS[step]
    lowest, highest = point.counts(stores)
    nth = (1, lowest, (lowest + highest) // 2, highest)[number]
    return Scenario(
        [Crash(step, nth)],
        faults=LOST_REPLIES,
        settings=point.settings,
        seed=number + 2,
        stores=stores,
        is_static=number % 2 == 1,
        collects=number // 2 == 1,
        begins_away=point.is_in_outage,
    )


_AGAIN: Final[Mapping[str, Scenario]] = {
    "again-while-looking-up": Scenario(
        [Crash(Step.REQUEST_SENT, 25), Crash(Step.LOOK_UP_ANSWERED, 1)], faults=LOST_REPLIES
    ),
    "again-at-the-first-commit": Scenario(
        [Crash(Step.REPLY_RECEIVED, 40), Crash(Step.LEDGER_AFTER_COMMIT, 1)], faults=LOST_REPLIES
    ),
    "again-while-catching-up": Scenario(
        [Crash(Step.PLANS_COMMITTED, 4), Crash(Step.RECORDS_FETCHED, 1)], faults=LOST_REPLIES
    ),
    "many-times-in-a-row": Scenario(
        [
            Crash(Step.WEBHOOK_PUBLISHED, 6),
            Crash(Step.EFFECT_CLAIMED, 12),
            Crash(Step.REQUEST_SENT, 15),
            Crash(Step.LOOK_UP_RECORDED, 1),
            Crash(Step.LEDGER_BEFORE_COMMIT, 9),
            Crash(Step.REPLY_RECEIVED, 5),
        ],
        faults=LOST_REPLIES,
        orders=40,
    ),
}
# Both processes die together before the second crash.
_AGAIN_ON_SERVERS: Final[Mapping[str, Scenario]] = {
    "again-while-looking-up": Scenario(
        [Crash(Step.REQUEST_SENT, 12), Crash(Step.LOOK_UP_ANSWERED, 1)],
        faults=LOST_REPLIES,
        stores=Stores.SERVERS,
    ),
    "again-while-catching-up": Scenario(
        [Crash(Step.PLANS_COMMITTED, 2), Crash(Step.RECORDS_FETCHED, 1)],
        faults=LOST_REPLIES,
        stores=Stores.SERVERS,
        is_static=True,
    ),
}


def _quick_steps(stores: Stores) -> list[Step]:
    """Every step of both files and of both servers, some of a file beside a server."""
    steps = steps_with(stores)
    if stores in {Stores.EMBEDDED, Stores.SERVERS}:
        return steps
    drawn = random.Random(stores.value).sample(steps, _MIXED)
    return [step for step in steps if step in drawn]


def _quick(stores: Stores) -> dict[str, Scenario]:
    return {f"{stores}-at-{step}": _once(step, stores) for step in _quick_steps(stores)}


def _slow(stores: Stores) -> dict[str, Scenario]:
    counts = 4 if stores in {Stores.EMBEDDED, Stores.SERVERS} else 1
    scenarios = {
        f"{stores}-at-{step}-{number}-while-replies-are-lost": _while_replies_are_lost(
            step, stores, number
        )
        for step in steps_with(stores)
        for number in range(counts)
    }
    rest = set(steps_with(stores)) - set(_quick_steps(stores))
    return {**{f"{stores}-at-{step}": _once(step, stores) for step in sorted(rest)}, **scenarios}


_EMBEDDED: Final = {
    **_quick(Stores.EMBEDDED),
    **{f"{Stores.EMBEDDED}-{name}": scenario for name, scenario in _AGAIN.items()},
}
_EMBEDDED_SLOW: Final = _slow(Stores.EMBEDDED)
_ON_SERVERS: Final = {
    **_quick(Stores.SERVERS),
    **{f"{Stores.SERVERS}-{name}": scenario for name, scenario in _AGAIN_ON_SERVERS.items()},
    **_quick(Stores.LEDGER_ON_SERVER),
    **_quick(Stores.LOG_ON_SERVER),
}
_ON_SERVERS_SLOW: Final = {
    **_slow(Stores.SERVERS),
    **_slow(Stores.LEDGER_ON_SERVER),
    **_slow(Stores.LOG_ON_SERVER),
}

Lives = Mapping[str, Future[None]]


def _begin(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    scenarios: Mapping[str, Scenario],
    *,
    at_once: int,
    servers: Servers | None = None,
) -> Iterator[Lives]:
    """Every life of `scenarios` that is asked for in this run, begun ahead."""
    wanted = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and request.fixturename in item.fixturenames
    ]
    with ExitStack() as stack:
        runner = stack.enter_context(side_by_side(at_once=at_once))
        # One after the other, as their broker is stopped.
        in_outage = stack.enter_context(side_by_side(at_once=1))

        def begin(scenario: Scenario) -> Future[None]:
            case = partial(assert_survived, tmp_path_factory.mktemp("life"), scenario, servers)
            return (in_outage if scenario.begins_away else runner).submit(case)

        yield {name: begin(scenarios[name]) for name in wanted}


@pytest.fixture(scope="module")
def embedded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lives]:
    """Lives in files."""
    scenarios = {**_EMBEDDED, **_EMBEDDED_SLOW}
    yield from _begin(request, tmp_path_factory, scenarios, at_once=_AT_ONCE)


@pytest.fixture(scope="module")
def on_servers(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    kafka_jars: Path,
    kafka_server: KafkaServer,
    postgres_server: PostgresServer,
) -> Iterator[Lives]:
    """Lives on the session's servers, and on a broker that they may stop."""
    scenarios = {**_ON_SERVERS, **_ON_SERVERS_SLOW}
    with KafkaServer(tmp_path_factory.mktemp("kafka-away"), kafka_jars) as away:
        away.start()
        servers = Servers(kafka_server, postgres_server, away)
        yield from _begin(
            request, tmp_path_factory, scenarios, at_once=_AT_ONCE_ON_SERVERS, servers=servers
        )


def _named_steps() -> Iterator[str]:
    """Every `Step.X` in the code."""
    for root in ("service", "producers", "consumers"):
        for path in sorted((ROOT / root).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Attribute(value=ast.Name(id="Step"), attr=name):
                        yield name


def test_every_step_is_in_the_matrix() -> None:
    assert set(POINTS) == set(Step)
    killed_at = {
        crash.step
        for each in (*_EMBEDDED.values(), *_ON_SERVERS.values())
        for crash in each.crashes
    }
    assert killed_at == set(Step)


def test_every_step_is_reached_by_the_code() -> None:
    """Each case of the matrix shows besides that a process really died there."""
    assert set(_named_steps()) == set(Step.__members__)


@pytest.mark.parametrize(
    "name",
    [*_EMBEDDED, *(pytest.param(name, marks=pytest.mark.slow) for name in _EMBEDDED_SLOW)],
)
def test_killed_service_loses_nothing_and_books_nothing_twice(name: str, embedded: Lives) -> None:
    """P1, P2, P3, P4."""
    embedded[name].result(timeout=_CASE_S)


@pytest.mark.parametrize(
    "name",
    [*_ON_SERVERS, *(pytest.param(name, marks=pytest.mark.slow) for name in _ON_SERVERS_SLOW)],
)
def test_killed_processes_lose_nothing_and_book_nothing_twice(name: str, on_servers: Lives) -> None:
    """P1, P2, P3, P4, P8: with a broker, a database or both, and two processes where both."""
    on_servers[name].result(timeout=_CASE_S)
