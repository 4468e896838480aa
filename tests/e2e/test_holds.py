"""What an operator sees and ends of captures that no debit settles."""

import asyncio
from pathlib import Path
from typing import Final

from typer.testing import Result

from tests.e2e.test_checkout import CARD, SPENT, balance, checkout, spent
from tests.harness.relay import PASSWORD, Relay
from tests.unit.cli.commands import objects, run

KEY: Final = f"main:capture:splio_club:{SPENT['transactionKey']}"


async def command(relay: Relay, *arguments: str, password: str = PASSWORD) -> Result:
    """A command of the line at the running service."""
    port = relay.runtime.listeners.operations.port
    environ = {"RELAY_OPERATIONS_PORT": str(port), "RELAY_OPERATIONS_PASSWORD": password}
    return await asyncio.to_thread(run, *arguments, environ=environ)


async def test_hold_is_listed_shown_and_ended(tmp_path: Path) -> None:
    async with checkout(tmp_path, {"debit_by": "hold"}) as (relay, _):
        await relay.call("PUT", "capture", SPENT)
        await relay.call("POST", "refund", spent(amount=400, transactionKey="r1"))
        listed = await command(relay, "holds", "list")
        assert listed.exit_code == 0
        assert KEY in listed.stdout
        assert CARD not in listed.stdout
        (row,) = objects(await command(relay, "holds", "list", "--json"))
        assert (await command(relay, "holds")).stdout == listed.stdout
        assert objects(await command(relay, "holds", "--all", "--json")) == [row]
        assert (row["held"], row["given_back"], row["card"]) == (600, 400, "…2088")
        (shown,) = objects(await command(relay, "holds", "show", KEY, "--json"))
        assert (shown["card"], [refund["points"] for refund in shown["refunds"]]) == (CARD, [400])
        ended = await command(relay, "holds", "end", KEY)
        assert (ended.exit_code, ended.stdout) == (0, f"{KEY} holds nothing any more.\n")
        assert await balance(relay) == 2500
        assert (await command(relay, "holds", "end", KEY)).exit_code == 1
        assert "Nothing is held" in (await command(relay, "holds", "list")).stderr
        (row,) = objects(await command(relay, "holds", "list", "--ended", "--json"))
        assert row["ended_by"] == "operator"
        # What was taken by other means is given back by a credit.
        await relay.call("POST", "refund", spent(amount=100, transactionKey="r2"))
        await relay.rest()
        (effect,) = [item for item in await relay.effects() if item["effect_key"].endswith(":r2")]
        assert (effect["state"], effect["points"]) == ("applied", 100)


async def test_card_of_a_hold_is_for_the_operator_alone(tmp_path: Path) -> None:
    async with checkout(tmp_path, {"debit_by": "hold"}) as (relay, _):
        await relay.call("PUT", "capture", SPENT)
        wrong = await command(relay, "holds", "show", KEY, "--json", password="guessed")
        assert wrong.exit_code != 0
        assert CARD not in wrong.stdout
        unknown = await command(relay, "holds", "show", "main:capture:splio_club:none")
        assert unknown.exit_code == 4


async def test_holds_are_there_while_the_service_is_stopped(tmp_path: Path) -> None:
    async with checkout(tmp_path, {"debit_by": "hold"}) as (relay, _):
        await relay.call("PUT", "capture", SPENT)
    environ = {
        "RELAY_LOG_URL": f"sqlite:///{tmp_path}/log.db",
        "RELAY_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
    }
    listed = await asyncio.to_thread(run, "holds", "list", "--offline", "--json", environ=environ)
    (row,) = objects(listed)
    assert (row["effect_key"], row["held"]) == (KEY, 1000)
    ended = await asyncio.to_thread(run, "holds", "end", KEY, "--offline", environ=environ)
    assert ended.exit_code == 0
