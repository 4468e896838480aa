"""`doctor`: looks at everything the service needs, and says what to do about each."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Final

import typer

from service.cli.checks import (
    Finding,
    Level,
    check_dates,
    check_files,
    check_service,
    check_settings,
)
from service.cli.exits import FAILED
from service.cli.options import AsJson, Sandbox
from service.cli.output import Column, print_json, print_table
from service.cli.shapes import show_shapes
from service.cli.splio_checks import check_splio
from service.cli.store_checks import check_stores

_COLUMNS: Final = (Column("check", "check"), Column("result", "result"), Column("", "says"))

Shapes = Annotated[
    bool,
    typer.Option(
        "--shapes",
        help="Instead: how SCAYLE's requests look, and where they differ from what is assumed.",
    ),
]


def doctor(sandbox: Sandbox = False, shapes: Shapes = False, as_json: AsJson = False) -> None:
    """
    Check settings, service, files, servers, disk, clock and the Splio universe; change nothing.

    Each result is ok, warn or fail, with what to do. Exit code 1 when something fails. Splio is
    asked a handful of times, beside the service's own limiter.

    Examples:

        loyalty-relay doctor

        loyalty-relay doctor --json | jq 'select(.result != "ok")'

        loyalty-relay doctor --shapes
    """
    if shapes:
        show_shapes(sandbox=sandbox, as_json=as_json)
        return
    findings = asyncio.run(_examine(sandbox=sandbox))
    rows = [asdict(finding) for finding in findings]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, _COLUMNS, nothing="")
    if any(finding.result is Level.FAIL for finding in findings):
        raise typer.Exit(FAILED)


async def _examine(*, sandbox: bool) -> list[Finding]:
    return [finding async for finding in _checks(sandbox=sandbox)]


async def _checks(*, sandbox: bool) -> AsyncIterator[Finding]:
    settings, findings = check_settings(sandbox=sandbox)
    for finding in findings:
        yield finding
    if settings is None:
        return
    yield await check_service(settings)
    for finding in (*check_files(settings), *check_dates(settings)):
        yield finding
    async for finding in check_stores(settings):
        yield finding
    async for finding in check_splio(settings):
        yield finding
