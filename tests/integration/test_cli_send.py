"""`send`, most of all `send --checkout`, against a running service and its sandbox."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import Result

from tests.harness.relay import Relay, running_relay, running_sandbox
from tests.unit.cli.commands import objects, run


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    async with (
        running_sandbox(tmp_path, grants_visible_after_s=0.1) as sandbox,
        running_relay(tmp_path, sandbox, {"balance_fresh": "100ms"}) as relay,
    ):
        yield relay


async def send(relay: Relay, *arguments: str, **variables: str) -> Result:
    url = f"{relay.runtime.listeners.public_url}/webhooks/scayle"
    chosen = ("send", "--checkout", "--url", url, *arguments)
    return await asyncio.to_thread(run, *chosen, environ=variables)


async def test_points_spent_are_taken_at_splio_and_no_others(relay: Relay) -> None:
    result = await send(
        relay,
        *("--sandbox", "--count", "8", "--seed", "2", "--json"),
        *("--duplicates", "0.5", "--reordering", "3"),
    )
    assert result.exit_code == 0, result.stderr
    (report,) = objects(result)
    assert (report["orders"], report["given_up"]) == (8, 0)
    assert report["points_captured"] > report["points_given_back"] > 0
    await relay.rest()
    accounts = await relay.sandbox.accounts()
    refunds = [each for each in await relay.sandbox.credits() if ":refund:" in each["context"]]
    taken = sum(each["spent"] for each in accounts)
    credited_back = sum(each["nq_points"] for each in refunds)
    assert report["points_captured"] - report["points_given_back"] == taken - credited_back
    assert sum(each["earned"] for each in accounts) == report["points_earned"] + credited_back


async def test_same_seed_again_is_other_orders_paid_with_other_points(relay: Relay) -> None:
    captured = 0
    for first_order_id in ("1000", "2000"):
        ids = ("--first-order-id", first_order_id)
        result = await send(
            relay, "--sandbox", "--count", "4", "--seed", "2", "--reordering", "1", "--json", *ids
        )
        (report,) = objects(result)
        assert (result.exit_code, report["points_refused"]) == (0, 0)
        assert report["points_captured"] > 0
        captured += report["points_captured"] - report["points_given_back"]
    await relay.rest()
    held = await relay.runtime.operations.list_holds(only_open=False, limit=100, after=None)
    assert {each["order_id"][0] for each in held.items} == {"1", "2"}
    assert sum(each["points"] - each["given_back"] for each in held.items) == captured
    dead = await relay.runtime.operations.list_dead_letters(limit=1, after=None)
    assert dead.items == []


async def test_table_names_what_was_asked_and_answered(relay: Relay) -> None:
    result = await send(relay, "--sandbox", "--count", "1")
    assert result.exit_code == 0
    rows = [line.strip("│ ").split("│") for line in result.stdout.splitlines()]
    table = {row[0].strip(): row[-1].strip() for row in rows if len(row) > 1}
    assert (table["orders"], table["validate"], table["webhook"]) == ("1", "1 × 200", "1 × 200")


async def test_refused_token_is_told(relay: Relay) -> None:
    for given in ({"RELAY_SEND_TOKEN": "wrong"}, {}):
        flags = () if given else ("--token", "wrong")
        result = await send(relay, "--sandbox", "--count", "1", *flags, **given)
        assert result.exit_code == 1
        assert "loyalty-relay: the token was refused" in result.stderr


async def test_token_and_programme_come_from_settings_or_are_missed(relay: Relay) -> None:
    settings = {"RELAY_WEBHOOK_CREDENTIALS": "scayle:sandbox"}
    result = await send(relay, "--count", "1", **settings)
    assert result.exit_code == 2
    assert "RELAY_LOYALTY_PROGRAMS" in result.stderr
    settings["RELAY_LOYALTY_PROGRAMS"] = "splio_club=1"
    result = await send(relay, "--count", "1", **settings)
    assert result.exit_code == 2
    assert "--token" in result.stderr
    result = await send(relay, "--count", "1", **settings, RELAY_LOYALTY_TOKENS="*=sandbox")
    assert result.exit_code == 0
    result = await send(relay, "--count", "1", "--token", "sandbox", **settings)
    assert result.exit_code == 0


def test_a_file_is_no_checkout(tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text("{}")
    assert run("send", "--sandbox", "--checkout", str(path)).exit_code == 2


@pytest.mark.parametrize("mode", [(), ("--checkout",)], ids=["orders", "checkout"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--url", "http://[x"),
        ("--url", "http://127.0.0.1:99999/webhooks/scayle"),
        ("--url", "//127.0.0.1/webhooks/scayle"),
        ("--url", "127.0.0.1:8080"),
        ("--rate", "0"),
    ],
)
def test_option_that_cannot_be_used_is_named(
    mode: tuple[str, ...], option: str, value: str
) -> None:
    result = run("send", "--sandbox", *mode, option, value)
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr


@pytest.mark.parametrize("mode", [(), ("--checkout",)], ids=["orders", "checkout"])
@pytest.mark.parametrize("host", ["127.0.0.1:1", "127.0.0..1"])
def test_nobody_there_is_three(mode: tuple[str, ...], host: str) -> None:
    result = run("send", "--sandbox", *mode, "--url", f"http://{host}/webhooks/scayle")
    assert result.exit_code == 3
    assert "is the service running?" in result.stderr
