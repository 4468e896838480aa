"""`demo` on a small scale: its statement, and the exit code when something is missing at Splio."""

from collections.abc import Mapping
from typing import Any

import pytest

from service.sandbox.splio import SplioSandbox
from tests.unit.cli.commands import run

# Enough for the shoppers to have points.
SMALL = ("demo", "--count", "30", "--checkouts", "6")
# No limits and short waits, so that it takes a few seconds.
ENVIRON = {
    "RELAY_SPLIO_LIMITS": "off",
    "RELAY_REQUEST_TIMEOUT": "500ms",
    "RELAY_VISIBLE_AFTER": "orders=1s,credits=1s,grants=1s",
}


def figures(text: str) -> Mapping[str, int]:
    rows = [line.strip("│ ").split("│") for line in text.splitlines() if line.startswith("│")]
    return {name.strip(): int(figure) for name, figure in rows}


@pytest.mark.timeout(90)
def test_points_are_earned_spent_and_given_back_and_the_account_balances() -> None:
    result = run(*SMALL, environ=ENVIRON)
    assert "The account balances" in result.stdout
    assert result.exit_code == 0
    told = figures(result.stdout)
    assert told["orders in them"] == told["orders at Splio"] == 36
    assert told["points earned"] == told["points booked at Splio"] > 0
    spent, back = told["points spent (captured)"], told["points given back (refunded)"]
    taken, credited = told["points taken at Splio"], told["points credited back at Splio"]
    assert spent > back > 0
    assert spent - back == taken - credited
    assert told["points on the cards at Splio"] == told["points booked at Splio"] - taken + credited
    assert told["faults survived"] > 0


@pytest.mark.timeout(90)
def test_points_missing_on_a_card_end_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = SplioSandbox.accounts

    async def one_short(self: SplioSandbox) -> list[dict[str, Any]]:
        first, *others = await accounts(self)
        return [{**first, "balance": first["balance"] - 1}, *others]

    monkeypatch.setattr(SplioSandbox, "accounts", one_short)
    result = run("demo", "--count", "2", "--checkouts", "0", environ=ENVIRON)
    assert result.exit_code == 1
    assert "THE ACCOUNT DOES NOT BALANCE" in result.stdout
    assert figures(result.stdout)["cards that do not add up"] == 1
