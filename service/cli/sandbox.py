"""`sandbox`: a Splio that behaves as documented, for trying things without a universe."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from service.cli.serve import stop_on_signals
from service.domain.errors import StartupError
from service.sandbox.behaviours import BEHAVIOURS
from service.sandbox.splio import (
    DOCUMENTED_LIMITS,
    SplioSandboxSettings,
    open_splio_sandbox,
)
from service.settings import load_settings


def sandbox(
    port: Annotated[int, typer.Option(help="Port on loopback; 0 takes any.")] = 8090,
    path: Annotated[Path | None, typer.Option(help="File with its books.")] = None,
    api_key: Annotated[str, typer.Option(help="The key it accepts.")] = "sandbox-api-key",
    unique_key: Annotated[
        str, typer.Option(help="Unique key of contacts: email, cellphone or cN.")
    ] = "email",
    members: Annotated[
        Literal["ean13", "registered"],
        typer.Option(help="Which cards are members: every good EAN-13, or registered ones only."),
    ] = "ean13",
    repeated_key: Annotated[
        Literal["suppress", "book"],
        typer.Option(help="What a repeated idempotency key does (Splio does not say)."),
    ] = "suppress",
    points_visible_after: Annotated[
        float, typer.Option(help="Seconds until a credit shows in the points ledger.", min=0)
    ] = 0.5,
    repeated_grant_key: Annotated[
        Literal["suppress", "refuse", "book"],
        typer.Option(help="What a repeated idempotency key of a grant does (not documented)."),
    ] = "suppress",
    grants_visible_after: Annotated[
        float, typer.Option(help="Seconds until a grant shows in ledger, balance, lists.", min=0)
    ] = 0.5,
    too_few_points: Annotated[
        Literal["flat", "listed", "stock", "grant"],
        typer.Option(help="How a grant is answered that the card cannot pay (not documented)."),
    ] = "flat",
    no_limits: Annotated[bool, typer.Option("--no-limits", help="No rate limits.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what is documented, inferred and invented.")
    ] = False,
) -> None:
    """
    Run a Splio sandbox on this machine. Its books survive restarts.

    Read them at /_sandbox/books, /_sandbox/orders, /_sandbox/credits, /_sandbox/attributions
    and /_sandbox/accounts; ask for faults with POST /_sandbox/faults.

    Examples:

        loyalty-relay sandbox

        curl -X POST localhost:8090/_sandbox/faults \\
          -d '{"operation": "credit", "fault": "lost_reply", "count": 3}'

        RELAY_SPLIO_URL=http://127.0.0.1:8090 RELAY_SPLIO_API_KEY=sandbox-api-key \\
        RELAY_WEBHOOK_CREDENTIALS=scayle:secret loyalty-relay serve
    """
    if explain:
        _explain()
        return
    books = path or load_settings(os.environ, sandbox=True, serving=False).sandbox_path
    books.parent.mkdir(parents=True, exist_ok=True)
    try:
        chosen = SplioSandboxSettings(
            path=str(books),
            port=port,
            api_keys=(api_key,),
            unique_key=unique_key,
            members=members,
            repeated_key=repeated_key,
            points_visible_after_s=points_visible_after,
            repeated_grant_key=repeated_grant_key,
            grants_visible_after_s=grants_visible_after,
            too_few_points=too_few_points,
            limits=None if no_limits else DOCUMENTED_LIMITS,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    asyncio.run(_serve(chosen))


async def _serve(chosen: SplioSandboxSettings) -> None:
    stop = stop_on_signals()
    try:
        async with open_splio_sandbox(chosen) as running:
            typer.echo(f"sandbox: {running.url}  books: {running.url}/_sandbox/books")
            await stop.wait()
    except ValueError as error:
        raise StartupError("sandbox_books", str(error)) from error
    except OSError as error:
        raise StartupError("sandbox_port", f"port {chosen.port}: {error.strerror}") from error


def _explain() -> None:
    table = Table("behaviour", "mark", "what the sandbox does")
    for row in BEHAVIOURS:
        table.add_row(row.topic, row.ground, row.text)
    Console().print(table)
