"""The command line `loyalty-relay`: every command under one roof."""

from importlib.metadata import version
from typing import Annotated

import typer

from service.cli import dead_letters, effects, holds, lanes, lookup, topics
from service.cli.demo import demo
from service.cli.doctor import doctor
from service.cli.exits import EXIT_CODES, RelayGroup
from service.cli.migrate import migrate
from service.cli.points import points
from service.cli.points_from import points_from
from service.cli.recover import recover
from service.cli.sandbox import sandbox
from service.cli.send import send
from service.cli.serve import consume, receive, serve
from service.cli.settings_list import settings

app = typer.Typer(
    cls=RelayGroup,
    name="loyalty-relay",
    rich_markup_mode="markdown",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"loyalty-relay {version('loyalty-relay')}")
        raise typer.Exit


@app.callback()
def relay(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """
    Carries SCAYLE's confirmed orders and loyalty points to Splio, each once.

    Commands that look at or change effects ask the running service at RELAY_OPERATIONS_HOST and
    RELAY_OPERATIONS_PORT; changes need RELAY_OPERATIONS_PASSWORD. With --offline they open the
    ledger file instead. With --json they print one object a line.

    Examples:

        loyalty-relay serve --sandbox

        loyalty-relay doctor

        loyalty-relay effects list --state in_doubt

        loyalty-relay dead-letters list --open --json
    """


# In the order in which help shows them.
for command in (
    serve,
    receive,
    consume,
    demo,
    sandbox,
    send,
    doctor,
    settings,
    migrate,
    recover,
    points,
    points_from,
):
    app.command()(command)
app.add_typer(effects.app, name="effects")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(lookup.app, name="lookup")
app.add_typer(holds.app, name="holds")
app.add_typer(lanes.app, name="lanes")
app.add_typer(topics.app, name="topics")


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    app()
