"""Options that several commands share, and how a command reaches its desk."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

import typer

from service.cli.desk import Desk
from service.cli.desk_offline import open_offline_desk
from service.cli.desk_online import open_online_desk
from service.cli.moments import MOMENT_FORMS, parse_moment
from service.settings import load_settings

T = TypeVar("T")

DEFAULT_LIMIT: Final = 50  # rows, about a screen


def read_moment(text: str) -> int:
    """A parser of times for typer."""
    try:
        return parse_moment(text, now=datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}") from None


AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line, for machines.")]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline", help="Open the ledger file instead; refused while a service runs on it."
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many rows.")]
All = Annotated[bool, typer.Option("--all", help="Every row, without a limit.")]
Since = Annotated[
    int | None,
    typer.Option(
        "--since", parser=read_moment, metavar="TIME", help=f"From then on: {MOMENT_FORMS}."
    ),
]
Until = Annotated[
    int | None,
    typer.Option(
        "--until", parser=read_moment, metavar="TIME", help="Before then, in the same forms."
    ),
]
Sandbox = Annotated[bool, typer.Option("--sandbox", help="As `serve --sandbox` would have them.")]
Key = Annotated[str, typer.Argument(help="A transaction key: main:earn:2345234.")]


def at_desk(act: Callable[[Desk], Awaitable[T]], *, offline: bool) -> T:
    """Do `act` at the running service, or at its ledger file."""
    settings = load_settings(os.environ, serving=False)
    desks: AbstractAsyncContextManager[Desk] = (
        open_offline_desk(settings) if offline else open_online_desk(settings)
    )

    async def run() -> T:
        async with desks as desk:
            return await act(desk)

    return asyncio.run(run())
