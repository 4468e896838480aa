"""Runs commands as a shell would, and finds every command of the application."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from typer.main import get_command
from typer.testing import CliRunner, Result

from service.cli.main import app


def run(*arguments: str, environ: Mapping[str, str] | None = None) -> Result:
    """
    The result of `loyalty-relay …` with these settings only; a bug's exception is raised here.
    """
    nothing_set = {name: None for name in os.environ if name.startswith("RELAY_")}
    result = CliRunner().invoke(
        app, list(arguments), env={**nothing_set, **(environ or {})}, prog_name="loyalty-relay"
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def objects(result: Result) -> list[dict[str, Any]]:
    """The objects that a command printed, one a line and nothing else."""
    return [orjson.loads(line) for line in result.stdout.splitlines()]


def all_commands() -> Iterator[Sequence[str]]:
    """The path of every command and group, the root's included."""
    yield from _below(get_command(app), ())


def _below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from _below(child, (*path, name))
