"""Exit codes, and the one place that turns errors into them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import typer
from typer.core import TyperGroup

from service.cli.output import clean
from service.domain.errors import NotFoundError, RelayError, StartupError
from service.settings import SettingsError

# What a command tells its caller; 0 is done.
FAILED: Final = 1
USAGE: Final = 2
NOT_REACHABLE: Final = 3
NOT_FOUND: Final = 4

EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 failed, 2 usage or settings, 3 service not reachable, 4 not found,"
    " 130 interrupted."
)

# Reasons of a StartupError that another setting cures; the others need something done elsewhere.
_SETTINGS_REASONS: Final = frozenset(
    (
        "ledger_mismatch",
        "kafka_tls_files",
        "no_ledger",
        "no_kafka",
        "not_a_ledger",
        "other_database",
        "sandbox_books",
        "splio_limits",
        "splio_url",
        "tls_files",
    )
)


class UnreachableError(RelayError):
    """Start the service, or name its address: nothing of ours answers where it should listen."""


class AccessError(RelayError):
    """Correct RELAY_OPERATIONS_PASSWORD: the service did not let the operator in."""


class RequestError(RelayError):
    """Correct what was typed: the service does not take it."""


class RelayGroup(TyperGroup):
    """The root command: an error of any command ends as a sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        with explained():
            return super().invoke(ctx)


@contextmanager
def explained() -> Iterator[None]:
    """
    Tell a person about an error of ours on standard error, and exit with its code.

    Bugs pass through with their traceback. Ctrl-C is typer's: 130.
    """
    try:
        yield
    except SettingsError as error:
        say("the settings cannot be used:")
        for line in (*map(str, error.problems), *error.warnings):
            print(f"  {clean(line)}", file=sys.stderr)
        raise typer.Exit(USAGE) from None
    except RelayError as error:
        say(str(error))
        raise typer.Exit(code_of(error)) from None


def code_of(error: RelayError) -> int:
    """The exit code of a command that ended with `error`."""
    match error:
        case NotFoundError():
            return NOT_FOUND
        case UnreachableError():
            return NOT_REACHABLE
        case AccessError() | RequestError():
            return USAGE
        case StartupError() if error.reason in _SETTINGS_REASONS:
            return USAGE
        case _:
            return FAILED


def say(text: str) -> None:
    """A line for a person on standard error; standard output is for results only."""
    print(f"loyalty-relay: {clean(text)}", file=sys.stderr)
