"""Ledgers of earlier releases are readable, and what stands in them goes on."""

import sqlite3
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry

from service.domain.effects import Lane, State
from service.ledger.sqlite import open_sqlite_ledger
from service.telemetry.metrics import Metrics
from tests.contract.ledger_fixture import (
    APPLIED,
    CONFIG,
    Records,
    claim,
    earn_key,
    order_and_earn,
    order_key,
    state_of,
)
from tests.fakes.clock import FakeClock

LEDGERS: Final = sorted((Path(__file__).parent.parent / "fixtures" / "ledgers").glob("*.sql"))
assert LEDGERS


@pytest.fixture(params=LEDGERS, ids=[path.stem for path in LEDGERS])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file as that release left it."""
    connection = sqlite3.connect(tmp_path / "ledger.db")
    connection.executescript(request.param.read_text())
    connection.close()
    return tmp_path / "ledger.db"


async def test_ledger_of_an_earlier_release_goes_on(path: Path) -> None:
    async with open_sqlite_ledger(
        path, config=CONFIG, clock=FakeClock(), metrics=Metrics(CollectorRegistry())
    ) as ledger:
        assert (await ledger.tally()).unseen_credits == 1
        assert await ledger.mark_seen([earn_key("1")], "cursor") == 1
        for lane in (Lane.SALES, Lane.OTHER):
            (effect,) = await ledger.ready(lane, limit=10, due_before_ms=2**62)
            await ledger.settle(await claim(ledger, effect), APPLIED)
        assert await state_of(ledger, order_key("2")) == State.APPLIED
        records = Records(next_offset=2)
        (again,) = await records.write(ledger, order_and_earn("1"))
        assert again.fresh == ()
        assert (await ledger.known_balance("4006381333931")).held == 0
