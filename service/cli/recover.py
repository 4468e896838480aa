"""`recover`: brings a ledger right that was put back from a copy, or lost."""

import asyncio
import os
from typing import Annotated

import typer

from service.cli.moments import MOMENT_FORMS
from service.cli.options import read_moment
from service.offline import recover as recover_ledger
from service.settings import load_settings


def recover(
    since: Annotated[
        int,
        typer.Option(
            "--since",
            parser=read_moment,
            metavar="TIME",
            help=f"When the copy was made, or earlier: {MOMENT_FORMS}.",
        ),
    ],
) -> None:
    """
    Bring a ledger right that is behind its log, while no service runs on it.

    A ledger that was put back from a copy, or lost, does not know what was sent since, so the
    service refuses to start on it. Afterwards it reads the log again from TIME, or from where
    the ledger is if that is earlier. Whatever may be at Splio already is looked up there before
    anything is sent: nothing is booked twice. It can be repeated.

    Examples:

        loyalty-relay recover --since 2026-11-27T02:00:00Z

        loyalty-relay recover --since 3d
    """
    settings = load_settings(os.environ, serving=False)
    recovery = asyncio.run(recover_ledger(settings, since_ms=since))
    typer.echo(f"{recovery.effects_in_doubt} open effects are looked up before they are sent")
    typer.echo(f"{recovery.records_to_read} records are read again; start the service now")
