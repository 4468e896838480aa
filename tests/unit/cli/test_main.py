"""The command line as a whole: help, version, exit codes."""

import subprocess
import sys
from collections.abc import Sequence

import pytest
import typer

from service.cli import exits
from service.domain.errors import (
    LedgerUnavailableError,
    NotFoundError,
    RelayError,
    StartupError,
    WrongStateError,
)
from service.settings import Problem, SettingsError
from tests.unit.cli.commands import all_commands, objects, run


@pytest.mark.parametrize("path", list(all_commands()), ids=lambda path: " ".join(path) or "root")
def test_every_help_teaches_by_an_example(path: Sequence[str]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    _, found, examples = result.stdout.partition("Examples:")
    assert found
    assert " ".join(("loyalty-relay", *path)) in examples


def test_help_names_the_exit_codes() -> None:
    assert "2 usage or settings, 3 service not reachable" in " ".join(run("--help").stdout.split())


def test_version_is_that_of_the_package() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("loyalty-relay 0.")


@pytest.mark.parametrize(
    "arguments", [("nope",), ("effects", "list", "--nope"), ("effects", "show")]
)
def test_wrong_usage_is_two(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError("no_such_effect", "main:earn:1"), 4),
        (WrongStateError("not_held", "main:earn:1 is due"), 1),
        (exits.UnreachableError("not_reachable", "nothing answers"), 3),
        (exits.AccessError("unauthorized"), 2),
        (StartupError("already_running", "in use by process 7"), 1),
        (StartupError("ledger_mismatch", "tenant"), 2),
        (LedgerUnavailableError("disk_full"), 1),
        (SettingsError((Problem("RELAY_A", "is wrong", "RELAY_A=1"),)), 2),
    ],
)
def test_an_error_ends_as_a_sentence_and_its_code(
    error: RelayError | SettingsError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as exit_, exits.explained():
        raise error
    assert exit_.value.exit_code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("loyalty-relay: ")
    assert str(error) in captured.err


def test_every_problem_of_the_settings_is_one_line() -> None:
    environ = {"RELAY_HTTP_PORT": "many", "RELAY_TIMEZONE": "Nowhere", "RELAY_HTTP_PROT": "80"}
    result = run("settings", environ=environ)
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "RELAY_HTTP_PORT",
        "RELAY_TIMEZONE",
        "RELAY_HTTP_PROT",
    ]


def test_settings_show_source_and_meaning_but_no_secret() -> None:
    environ = {"RELAY_SPLIO_API_KEY": "s3cret-key", "RELAY_TENANT": "shop"}
    result = run("settings", "--json", environ=environ)
    rows = {row["name"]: row for row in objects(result)}
    assert rows["RELAY_SPLIO_API_KEY"]["value"] == "set"
    assert (rows["RELAY_TENANT"]["value"], rows["RELAY_TENANT"]["source"]) == (
        "shop",
        "environment",
    )
    assert all(row["description"] for row in rows.values())
    table = run("settings", environ=environ)
    assert "s3cret-key" not in result.stdout + table.stdout
    assert "RELAY_TENANT" in table.stdout


def test_settings_of_the_sandbox_are_named_as_such() -> None:
    rows = {row["name"]: row for row in objects(run("settings", "--sandbox", "--json"))}
    assert rows["RELAY_REQUEST_TIMEOUT"]["value"] == "1s"
    assert rows["RELAY_REQUEST_TIMEOUT"]["source"] == "sandbox"


def test_module_and_console_script_are_the_same_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "service", "--version"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == run("--version").stdout
