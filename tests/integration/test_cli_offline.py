"""The commands on a ledger file itself, with no service running."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from prometheus_client import CollectorRegistry
from typer.testing import Result

from service.configuration import ledger_config
from service.domain.clock import SteadyClock
from service.domain.effects import Outcome
from service.domain.ledger import PlannedRecord, Settlement
from service.domain.planning import Plan, Reason
from service.domain.records import Advance, Record, Stream, Topic
from service.ledger.sqlite import SqliteLedger, open_sqlite_ledger
from service.settings import load_settings
from service.telemetry.metrics import Metrics
from tests.contract.ledger_fixture import (
    APPLIED,
    Records,
    claim,
    dead_letter_plan,
    held_effect,
    order_only,
    plan_with,
)
from tests.unit.cli.commands import objects, run

FIXTURES = Path(__file__).parent.parent / "fixtures"
ORDER = (FIXTURES / "scayle" / "order-confirmed.json").read_bytes()


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    return {
        "RELAY_LOG_URL": f"sqlite:///{tmp_path}/log.db",
        "RELAY_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
    }


@pytest.fixture
async def filled(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The settings of a ledger with one order of each fate: applied, rejected, held, set aside."""
    async with opened(environ) as ledger:
        records = Records()
        results = await records.write(
            ledger,
            order_only("1"),
            order_only("2"),
            plan_with("3", held_effect("3")),
            dead_letter_plan("4"),
        )
        await ledger.settle(await claim(ledger, results[0].fresh[0]), APPLIED)
        refused = Settlement(Outcome.REJECTED, reason="refused", status=400, detail="wrong_value")
        await ledger.settle(await claim(ledger, results[1].fresh[0]), refused)
        await ledger.set_brake("sales", "21 rejections in a row")
    return environ


@asynccontextmanager
async def opened(environ: Mapping[str, str]) -> AsyncIterator[SqliteLedger]:
    settings = load_settings(environ, serving=False)
    assert settings.ledger_path is not None
    async with open_sqlite_ledger(
        settings.ledger_path,
        config=ledger_config(settings),
        clock=SteadyClock(),
        metrics=Metrics(CollectorRegistry()),
    ) as ledger:
        yield ledger


async def offline(environ: Mapping[str, str], *arguments: str) -> Result:
    return await asyncio.to_thread(run, *arguments, "--offline", environ=environ)


async def test_effects_have_the_ledgers_columns(filled: Mapping[str, str]) -> None:
    rows = objects(await offline(filled, "effects", "list", "--json"))
    states = {row["effect_key"]: row["state"] for row in rows}
    assert states == {
        "main:earn:3": "held",
        "main:order:1": "applied",
        "main:order:2": "rejected",
    }
    columns = {"kind", "lane", "order_key", "after", "fingerprint", "attempt", "due_at", "reason"}
    columns |= {"lease_owner", "lease_until", "event_id", "duplicates_seen", "received_at"}
    assert all(columns <= set(row) for row in rows)


async def test_an_order_is_shown_with_its_attempts_and_dead_letters(
    filled: Mapping[str, str],
) -> None:
    (order,) = objects(await offline(filled, "effects", "show", "2", "--json"))
    (attempt,) = order["effects"][0]["attempts"]
    assert (attempt["outcome"], attempt["status"]) == ("rejected", 400)
    assert order["dead_letters"][0]["reason"] == "refused"
    shown = await offline(filled, "effects", "show", "2")
    assert shown.exit_code == 0
    assert "dead letter" in shown.stdout
    assert (await offline(filled, "effects", "show", "9")).exit_code == 4


async def test_dead_letters_are_listed_shown_and_dismissed(filled: Mapping[str, str]) -> None:
    rows = objects(await offline(filled, "dead-letters", "list", "--json"))
    assert {row["reason"]: row["kind"] for row in rows} == {
        "shop_missing": "event",
        "refused": "order",
    }
    number = str(rows[0]["id"])
    (shown,) = objects(await offline(filled, "dead-letters", "show", number, "--json"))
    assert shown["at"] == rows[0]["at"]
    assert "record" not in shown
    raw = await offline(filled, "dead-letters", "show", number, "--bytes")
    assert raw.stdout_bytes == b'{"payload":{"id":"1"}}'
    done = await offline(filled, "dead-letters", "dismiss", "--all", "--yes", "--json")
    assert [row["problem"] for row in objects(done)] == ["", ""]
    assert objects(await offline(filled, "dead-letters", "list", "--open", "--json")) == []
    again = await offline(filled, "dead-letters", "dismiss", number)
    assert again.exit_code == 1
    assert "dead_letter_closed" in again.stdout


async def test_what_could_not_be_read_is_planned_by_a_replay(environ: Mapping[str, str]) -> None:
    async with opened(environ) as ledger:
        stream = Stream(Topic.UNREADABLE, 0)
        record = Record(stream, 0, None, ORDER, {"event_type": "order-confirmed"}, 1_000)
        plan = Plan(dead_letter=Reason.UNREADABLE)
        planned = PlannedRecord(record, plan, "event-0", "order-confirmed", 1_000, "")
        await ledger.record_plans([planned], [Advance(stream, 0, 1)])
    result = await offline(environ, "dead-letters", "replay", "1")
    assert result.exit_code == 0, result.output
    order_id = orjson.loads(ORDER)["payload"]["id"]
    rows = objects(await offline(environ, "effects", "list", "--json"))
    assert {row["order_key"] for row in rows} == {str(order_id)}
    (row,) = objects(await offline(environ, "dead-letters", "list", "--json"))
    assert row["replayed_at"] is not None
    assert row["replayed_by"].startswith("offline:")


async def test_a_record_that_still_cannot_be_read_stays_open(filled: Mapping[str, str]) -> None:
    result = await offline(filled, "dead-letters", "replay", "--all", "--yes", "--json")
    assert result.exit_code == 1
    assert all(row["problem"] for row in objects(result))
    rows = objects(await offline(filled, "dead-letters", "list", "--open", "--json"))
    assert len(rows) == 2


async def test_held_effects_are_released_or_given_up(filled: Mapping[str, str]) -> None:
    (held,) = objects(await offline(filled, "lookup", "list", "--json"))
    assert held["effect_key"] == "main:earn:3"
    assert (await offline(filled, "lookup", "release", "main:earn:3")).exit_code == 0
    assert (await offline(filled, "lookup", "reject", "main:earn:3")).exit_code == 1
    assert (await offline(filled, "lookup", "release", "main:earn:9")).exit_code == 4


async def test_a_brake_is_released(filled: Mapping[str, str]) -> None:
    (lane,) = objects(await offline(filled, "lanes", "list", "--json"))
    assert (lane["lane"], lane["braked"]) == ("sales", "21 rejections in a row")
    assert (await offline(filled, "lanes", "release", "sales")).exit_code == 0
    assert (await offline(filled, "lanes", "release", "sales")).exit_code == 1


async def test_a_ledger_in_use_is_refused_and_left_alone(filled: Mapping[str, str]) -> None:
    async with opened(filled):
        result = await offline(filled, "effects", "list")
    assert result.exit_code == 1
    assert "already_running" in result.stderr
    assert "without --offline" in result.stderr


def test_no_ledger_is_a_wrong_setting_and_none_is_made(environ: Mapping[str, str]) -> None:
    result = run("effects", "list", "--offline", environ=environ)
    assert result.exit_code == 2
    assert "RELAY_LEDGER_URL" in result.stderr
    path = environ["RELAY_LEDGER_URL"].removeprefix("sqlite:///")
    assert not Path(path).exists()


async def test_a_ledger_of_another_tenant_is_a_wrong_setting(filled: Mapping[str, str]) -> None:
    result = await offline({**filled, "RELAY_TENANT": "other"}, "effects", "list")
    assert result.exit_code == 2
    assert "tenant" in result.stderr
