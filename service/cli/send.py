"""`send`: plays a SCAYLE that delivers webhooks, generated or from a file."""

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import aiohttp
import orjson
import typer
from rich.console import Console
from rich.table import Table
from yarl import URL

from service.cli.exits import NOT_REACHABLE
from service.cli.progress import progress_line
from service.cli.send_checkout import (
    baskets_to_send,
    checkout_doors,
    checkout_program,
    send_checkouts,
)
from service.sandbox.deliveries import (
    DeliveryFileError,
    DeliveryPlan,
    DeliveryReport,
    deliver,
    read_deliveries,
)
from service.sandbox.scayle import generate_orders
from service.settings import Settings, load_settings

_PROBE_TIMEOUT_S: Final = 3.0


def _read_address(text: str) -> str:
    """A parser of addresses for typer."""
    try:
        address = URL(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not an address: {error}") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise typer.BadParameter(f"{text!r} is not an address: http://… or https://…")
    return text


def send(  # noqa: PLR0913, PLR0917 - one for each option
    file: Annotated[
        Path | None,
        typer.Argument(help="Deliveries to send: a JSON object, a JSON array or one a line."),
    ] = None,
    checkout: Annotated[
        bool,
        typer.Option("--checkout", help="Shoppers who pay with points, and the calls they cause."),
    ] = False,
    count: Annotated[int, typer.Option(help="Orders (or checkouts) to generate.", min=1)] = 10,
    duplicates: Annotated[
        float, typer.Option(help="Share delivered, or called, a second time.", min=0, max=1)
    ] = 0.0,
    reordering: Annotated[
        int,
        typer.Option(
            help="Places by which a delivery may come late; refunds overtake captures.", min=0
        ),
    ] = 0,
    rate: Annotated[
        float | None,
        typer.Option(help="So many begun a second; as fast as answered if not set.", min=0.001),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed and first id, same orders.")] = None,
    first_order_id: Annotated[
        int | None, typer.Option(help="Ids count up from here; by default from the time.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            parser=_read_address,
            metavar="URL",
            help="The webhook door; by default the one in the settings.",
        ),
    ] = None,
    user: Annotated[str | None, typer.Option(help="HTTP Basic user.")] = None,
    password: Annotated[
        str | None,
        typer.Option(envvar="RELAY_SEND_PASSWORD", help="HTTP Basic password.", show_envvar=True),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="RELAY_SEND_TOKEN",
            help="Access token of all of the checkout's calls.",
            show_envvar=True,
        ),
    ] = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Use the credentials of `serve --sandbox`.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as one object.")] = False,
) -> None:
    """
    Deliver order-confirmed webhooks as SCAYLE does: again and again until each is answered 200.

    With --checkout its shoppers ask for balances and pay with points before that; their captures
    and refunds are sent again until each has a settled answer.

    Examples:

        loyalty-relay send --sandbox --count 50 --duplicates 0.3

        loyalty-relay send --sandbox order.json

        loyalty-relay send --sandbox --checkout --count 20 --duplicates 0.3
    """
    settings = load_settings(os.environ, sandbox=sandbox, serving=False)
    door = url or f"http://{settings.http_host}:{settings.http_port}/webhooks/scayle"
    now = int(time.time())
    first_order_id = first_order_id if first_order_id is not None else now * 1000
    pair = _credentials(settings, user, password)
    if checkout:
        if file is not None:
            raise typer.BadParameter("is not played by --checkout", param_hint="FILE")
        program = checkout_program(settings)
        doors = checkout_doors(
            settings, webhook_url=door, user=pair[0], password=pair[1], token=token
        )
        asyncio.run(_probe(door))
        send_checkouts(
            doors,
            baskets_to_send(
                now if seed is None else seed,
                count,
                first_order_id=first_order_id,
                program=program,
            ),
            program=program,
            duplicates=duplicates,
            reordering=reordering > 0,
            rate=rate,
            seed=seed or 0,
            json=json,
        )
        return
    envelopes = _envelopes(
        file, count=count, seed=now if seed is None else seed, first_order_id=first_order_id
    )
    plan = DeliveryPlan(rate=rate, duplicates=duplicates, reordering=reordering, seed=seed or 0)
    total = len(envelopes) if isinstance(envelopes, list) else count
    report = asyncio.run(_send(door, envelopes, pair, plan, total=total, quiet=json))
    _print(report, json=json)
    if report.given_up:
        raise typer.Exit(1)


def _envelopes(
    file: Path | None, *, count: int, seed: int, first_order_id: int
) -> Iterable[Mapping[str, Any]]:
    if file is not None:
        try:
            return read_deliveries(file)
        except (DeliveryFileError, OSError) as error:
            raise typer.BadParameter(str(error), param_hint="FILE") from error
    return generate_orders(seed, count, first_order_id=first_order_id)


def _credentials(settings: Settings, user: str | None, password: str | None) -> tuple[str, str]:
    if user is not None and password is not None:
        return user, password
    if not settings.webhook_credentials:
        raise typer.BadParameter(
            "no credentials: set RELAY_WEBHOOK_CREDENTIALS, give --user and --password, "
            "or --sandbox for a service started with it"
        )
    known_user, known_password = settings.webhook_credentials[0]
    return user or known_user, password or known_password.get_secret_value()


async def _send(
    door: str,
    envelopes: Iterable[Mapping[str, Any]],
    pair: tuple[str, str],
    plan: DeliveryPlan,
    *,
    total: int,
    quiet: bool,
) -> DeliveryReport:
    await _probe(door)
    with progress_line("deliveries", total=total, quiet=quiet) as tell:
        return await deliver(
            door,
            envelopes,
            user=pair[0],
            password=pair[1],
            plan=plan,
            on_progress=lambda at: tell(at.settled),
        )


async def _probe(door: str) -> None:
    """Fail at once when nothing listens, rather than repeat every delivery for long."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)) as session,
            session.get(door),
        ):
            return
    except (aiohttp.ClientError, TimeoutError, UnicodeError) as error:  # of a host nobody can have
        typer.echo(f"loyalty-relay: nothing answers at {door}: is the service running?", err=True)
        raise typer.Exit(NOT_REACHABLE) from error


def _print(report: DeliveryReport, *, json: bool) -> None:
    row = {
        "sent": report.sent,
        **{f"answered_{status}": number for status, number in report.by_status.items()},
        "orders": len(report.accepted),
        "given_up": len(report.given_up),
        "p50_ms": round(report.latency.p50_s * 1000, 1),
        "p99_ms": round(report.latency.p99_s * 1000, 1),
        "seconds": round(report.duration_s, 2),
    }
    if json:
        typer.echo(orjson.dumps(row).decode())
        return
    table = Table(show_header=False)
    for name, value in row.items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)
    for name in report.given_up:
        typer.echo(f"never answered 200: {name}", err=True)
