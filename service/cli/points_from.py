"""`points-from`: changes who books the points of an order, on the ledger of a stopped service."""

import asyncio
import os
from typing import Annotated, Literal

import typer

from service.cli.exits import say
from service.cli.options import Sandbox
from service.offline import change_points_from
from service.settings import load_settings


def points_from(
    way: Annotated[
        Literal["webhook", "collect", "rules"],
        typer.Argument(help="webhook: we book; collect: SCAYLE's call; rules: Splio's own rules."),
    ],
    sandbox: Sandbox = False,
) -> None:
    """
    Change who books the points of an order. The service must be stopped.

    A ledger remembers who books, and the service does not start with another RELAY_POINTS_FROM:
    two ways at once would book twice. The change is refused while a booking is open. Afterwards
    start the service with RELAY_POINTS_FROM set to the same.

    Examples:

        loyalty-relay points-from rules
    """
    environ = {**os.environ, "RELAY_POINTS_FROM": way}
    asyncio.run(change_points_from(load_settings(environ, sandbox=sandbox, serving=False)))
    say(f"points are booked by {way} from now on; set RELAY_POINTS_FROM={way}")
