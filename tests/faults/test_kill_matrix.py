"""The process dies at every labelled step: nothing is lost and nothing is booked twice (P1, P2)."""

import ast
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Final

import pytest

from service.domain.ports import Step
from tests.harness.child_process import ROOT
from tests.harness.crash import LOST_REPLIES, Crash, Scenario, assert_survived
from tests.harness.side_by_side import side_by_side

# From which to which time a run of thirty orders surely gets to the step, the lowest first.
# A step that is missing here fails `test_every_step_is_in_the_matrix`.
_PASSES: Final[Mapping[Step, tuple[int, int]]] = {
    Step.WEBHOOK_READ: (5, 30),
    Step.WEBHOOK_PUBLISHED: (5, 30),
    Step.LOG_BEFORE_COMMIT: (2, 6),
    Step.LOG_AFTER_COMMIT: (2, 6),
    Step.LOG_TRIMMED: (1, 2),
    Step.RECORDS_FETCHED: (2, 5),
    Step.RECORDS_PLANNED: (2, 5),
    Step.PLANS_COMMITTED: (2, 5),
    Step.LEDGER_BEFORE_COMMIT: (10, 60),
    Step.LEDGER_AFTER_COMMIT: (10, 60),
    Step.PERMIT_TAKEN: (10, 60),
    Step.EFFECT_CLAIMED: (10, 60),
    Step.REQUEST_STARTED: (10, 60),
    Step.REQUEST_SENT: (10, 60),
    Step.REPLY_RECEIVED: (10, 60),
    Step.ATTEMPT_ENDED: (10, 60),
    Step.OUTCOME_RECORDED: (10, 60),
    Step.PREREQUISITE_CREATED: (2, 12),
    Step.LOOK_UP_ANSWERED: (1, 4),
    Step.LOOK_UP_RECORDED: (1, 4),
    Step.CREDITS_SEEN: (1, 4),
    Step.OUTBOX_READ: (1, 4),
    Step.OUTBOX_PUBLISHED: (1, 4),
    Step.OUTBOX_REMOVED: (1, 4),
    Step.LEDGER_PURGED: (2, 8),
}

# What a step needs in order to be reached.
_FAULTS: Final = {Step.LOOK_UP_ANSWERED: LOST_REPLIES, Step.LOOK_UP_RECORDED: LOST_REPLIES}
_SETTINGS: Final = {Step.LEDGER_PURGED: {"RELAY_RETENTION": "1s"}}

_AT_ONCE: Final = 3  # lives at a time, each mostly waits
_LIFE_S: Final = 100.0


def _once(step: Step) -> Scenario:
    """Killed some time mid-way, the same in every run."""
    lowest, highest = _PASSES[step]
    return Scenario(
        [Crash(step, random.Random(step.value).randint(lowest, highest))],
        faults=_FAULTS.get(step, ()),
        settings=_SETTINGS.get(step, {}),
    )


def _while_replies_are_lost(step: Step, number: int) -> Scenario:
    lowest, highest = _PASSES[step]
    nth = (1, lowest, (lowest + highest) // 2, highest)[number]
    return Scenario(
        [Crash(step, nth)],
        faults=LOST_REPLIES,
        settings=_SETTINGS.get(step, {}),
        seed=number + 2,
    )


_QUICK: Final[Mapping[str, Scenario]] = {
    **{f"at-{step}": _once(step) for step in Step},
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
_SLOW: Final[Mapping[str, Scenario]] = {
    f"at-{step}-{number}-while-replies-are-lost": _while_replies_are_lost(step, number)
    for step in Step
    for number in range(4)
}
_SCENARIOS: Final = {**_QUICK, **_SLOW}


@pytest.fixture(scope="module")
def lives(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[None]]]:
    """Every life that is asked for in this run, begun ahead."""
    wanted = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and "lives" in item.fixturenames
    ]
    with side_by_side(at_once=_AT_ONCE) as runner:
        yield {
            name: runner.submit(
                partial(assert_survived, tmp_path_factory.mktemp("life"), _SCENARIOS[name])
            )
            for name in wanted
        }


def _named_steps() -> Iterator[str]:
    """Every `Step.X` in the code."""
    for root in ("service", "producers", "consumers"):
        for path in sorted((ROOT / root).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Attribute(value=ast.Name(id="Step"), attr=name):
                        yield name


def test_every_step_is_in_the_matrix() -> None:
    assert set(_PASSES) == set(Step)


def test_every_step_is_reached_by_the_code() -> None:
    """Each case of the matrix shows besides that it really died there."""
    assert set(_named_steps()) == set(Step.__members__)


@pytest.mark.parametrize(
    "name",
    [*_QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in _SLOW)],
)
def test_killed_service_loses_nothing_and_books_nothing_twice(
    name: str, lives: Mapping[str, Future[None]]
) -> None:
    """P1, P2, P3, P4."""
    lives[name].result(timeout=_LIFE_S)
