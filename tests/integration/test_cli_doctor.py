"""`doctor` against a universe of the sandbox and a service that is there or not."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from service.sandbox.splio import SplioSandboxSettings, open_splio_sandbox
from tests.fakes.operations_api import OperationsApiServer, open_operations_api_server
from tests.fakes.splio_server import closed_port
from tests.unit.cli.commands import objects, run


@pytest.fixture
async def api() -> AsyncIterator[OperationsApiServer]:
    async with open_operations_api_server() as server:
        yield server


async def examine(
    directory: Path, splio_url: str, port: int, **variables: str
) -> tuple[int, dict[str, list[Mapping[str, Any]]]]:
    """The exit code of `doctor --json` and its findings by check."""
    environ = {
        "RELAY_SPLIO_URL": splio_url,
        "RELAY_SPLIO_API_KEY": "sandbox-api-key",
        "RELAY_WEBHOOK_CREDENTIALS": "scayle:secret",
        "RELAY_OPERATIONS_PORT": str(port),
        "RELAY_LOG_URL": f"sqlite:///{directory}/log.db",
        "RELAY_LEDGER_URL": f"sqlite:///{directory}/ledger.db",
        "RELAY_DISK_RESERVE": "1B",
        **{f"RELAY_{name}": value for name, value in variables.items()},
    }
    result = await asyncio.to_thread(run, "doctor", "--json", environ=environ)
    findings: dict[str, list[Mapping[str, Any]]] = {}
    for row in objects(result):
        findings.setdefault(row["check"], []).append(row)
    return result.exit_code, findings


async def test_everything_in_order_but_the_store_that_the_first_order_makes(
    tmp_path: Path, api: OperationsApiServer
) -> None:
    async with open_splio_sandbox(SplioSandboxSettings(path=f"{tmp_path}/books.db")) as splio:
        code, findings = await examine(tmp_path, splio.url, api.port, SPLIO_PROGRAM="1")
    assert code == 0
    results = {check: [row["result"] for row in rows] for check, rows in findings.items()}
    assert results == {
        "settings": ["ok"],
        "service": ["ok"],
        "log file": ["ok"],
        "log disk": ["ok"],
        "ledger file": ["ok"],
        "ledger disk": ["ok"],
        "time zone": ["ok"],
        "hours": ["ok"],
        "splio": ["ok"],
        "unique key": ["ok"],
        "programme": ["ok"],
        "store": ["warn"],
        "clock": ["ok"],
        "limits": ["ok", "ok"],
    }


async def test_what_does_not_fit_the_universe_fails(
    tmp_path: Path, api: OperationsApiServer
) -> None:
    universe = SplioSandboxSettings(
        path=f"{tmp_path}/books.db", unique_key="c0", automatic_subscription=True
    )
    async with open_splio_sandbox(universe) as splio:
        code, findings = await examine(
            tmp_path, splio.url, api.port, SHOPS='{"7": {"program": 3}, "8": {"program": 1}}'
        )
    assert code == 1
    assert findings["unique key"][0]["result"] == "fail"
    assert sorted(row["result"] for row in findings["programme"]) == ["fail", "ok"]
    assert findings["guests"][0]["result"] == "warn"


async def test_checkout_is_checked_with_the_price_of_each_reward(
    tmp_path: Path, api: OperationsApiServer
) -> None:
    checkout = {
        "LOYALTY_PROGRAMS": "club=1,codes=2,draft=3,none=9",
        "DEBIT_BY": "reward",
        "DEBIT_REWARDS": "1=PT1,20=PT10,100=PT100,500=PT500",
    }
    async with open_splio_sandbox(SplioSandboxSettings(path=f"{tmp_path}/books.db")) as splio:
        code, findings = await examine(tmp_path, splio.url, api.port, **checkout)
    assert code == 1
    assert [row["result"] for row in findings["amounts"]] == ["fail"]
    assert [row["result"] for row in findings["checkout"]] == ["ok", "warn", "fail", "fail"]
    assert [row["result"] for row in findings["debits"]] == ["ok", "fail", "ok", "fail"]
    assert "costs 10 points and not 20" in findings["debits"][1]["says"]


async def test_holds_need_no_reward(tmp_path: Path, api: OperationsApiServer) -> None:
    checkout = {"LOYALTY_PROGRAMS": "club=1", "LOYALTY_AMOUNT_UNIT": "money"}
    async with open_splio_sandbox(SplioSandboxSettings(path=f"{tmp_path}/books.db")) as splio:
        code, findings = await examine(tmp_path, splio.url, api.port, **checkout)
    assert code == 0
    assert [row["result"] for row in findings["amounts"]] == ["warn"]
    assert [row["result"] for row in findings["debits"]] == ["ok"]


async def test_a_refused_key_ends_the_questions_to_splio(
    tmp_path: Path, api: OperationsApiServer
) -> None:
    async with open_splio_sandbox(SplioSandboxSettings(path=f"{tmp_path}/books.db")) as splio:
        code, findings = await examine(tmp_path, splio.url, api.port, SPLIO_API_KEY="wrong-key")
    assert code == 1
    assert findings["splio"][0]["result"] == "fail"
    assert "RELAY_SPLIO_API_KEY" in findings["splio"][0]["says"]
    assert "unique key" not in findings


async def test_a_service_that_is_not_ready_says_why(
    tmp_path: Path, api: OperationsApiServer
) -> None:
    api.not_ready = ["storage_low", "something_new"]
    code, findings = await examine(tmp_path, f"http://127.0.0.1:{closed_port()}", api.port)
    assert code == 1
    says = findings["service"][0]["says"]
    assert "free disk space" in says
    assert "something_new: see its log" in says


async def test_a_service_that_does_not_run_is_a_warning(tmp_path: Path) -> None:
    async with open_splio_sandbox(SplioSandboxSettings(path=f"{tmp_path}/books.db")) as splio:
        code, findings = await examine(tmp_path, splio.url, closed_port())
    assert code == 0
    assert findings["service"][0]["result"] == "warn"
    assert "loyalty-relay serve" in findings["service"][0]["says"]


async def test_missing_settings_do_not_keep_the_other_checks_from_being_made(
    tmp_path: Path,
) -> None:
    code, findings = await examine(
        tmp_path, "", closed_port(), SPLIO_API_KEY="", WEBHOOK_CREDENTIALS=""
    )
    assert code == 1
    assert len(findings["settings"]) == 3
    assert findings["log file"][0]["result"] == "ok"
    assert findings["splio"][0]["result"] == "fail"


async def test_wrong_settings_are_all_that_is_told(tmp_path: Path) -> None:
    code, findings = await examine(tmp_path, "ftp://splio", closed_port(), TIMEZONE="Nowhere")
    assert code == 1
    assert set(findings) == {"settings"}
    assert len(findings["settings"]) == 2
