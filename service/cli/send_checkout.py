"""`send --checkout`: plays a SCAYLE Checkout whose shoppers pay with points."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import orjson
import typer
from rich.console import Console
from rich.table import Table
from yarl import URL

from service.cli.progress import progress_line
from service.sandbox.baskets import Basket, generate_baskets
from service.sandbox.checkout import CheckoutDoors, play_checkouts
from service.sandbox.checkout_plan import CheckoutPlan
from service.sandbox.checkout_report import CheckoutReport
from service.settings import Settings
from service.web.tokens import ANY_OPERATION

# So many checkouts a shopper comes back: what the first order earned, the next one spends.
_VISITS: Final = 2
# Of the orders with points given back, the share whose first refund overtakes the capture.
_EARLY_REFUNDS: Final = 0.25
_UNAUTHORIZED: Final = "401"


def checkout_doors(
    settings: Settings, *, webhook_url: str, user: str, password: str, token: str | None
) -> CheckoutDoors:
    """
    Both doors of one service: the calls' stand beside the webhook's.

    Raises: BadParameter when no token is given and none in the settings is for all operations.
    """
    known = (known for of, known in settings.loyalty_tokens if of == ANY_OPERATION)
    first = next(known, None)
    if token is None and first is not None:
        token = first.get_secret_value()
    if token is None:
        raise typer.BadParameter(
            "no token: give --token, set RELAY_LOYALTY_TOKENS=*=…, or --sandbox for a service "
            "started with it"
        )
    loyalty_url = str(URL(webhook_url).join(URL("../loyalty")))
    return CheckoutDoors(webhook_url, user, password, loyalty_url, token)


def checkout_program(settings: Settings) -> str:
    """The first programme of the settings. Raises: BadParameter without one."""
    program = next(iter(settings.loyalty_programs), None)
    if program is None:
        raise typer.BadParameter("no programme: set RELAY_LOYALTY_PROGRAMS, or --sandbox")
    return program


def baskets_to_send(seed: int, count: int, *, first_order_id: int, program: str) -> list[Basket]:
    """`count` baskets of half as many shoppers."""
    return list(
        generate_baskets(
            seed,
            count,
            first_order_id=first_order_id,
            customers=max(1, count // _VISITS),
            provider=program,
        )
    )


def send_checkouts(
    doors: CheckoutDoors,
    baskets: list[Basket],
    *,
    program: str,
    duplicates: float,
    reordering: bool,
    rate: float | None,
    seed: int,
    json: bool,
) -> None:
    """Play, print and exit 1 when the token is refused or something was given up."""
    plan = CheckoutPlan(
        program=program,
        rate=rate,
        duplicates=duplicates,
        early_refunds=_EARLY_REFUNDS if reordering else 0.0,
        seed=seed,
    )
    report = asyncio.run(_play(doors, baskets, plan, total=len(baskets), quiet=json))
    _print(report, json=json)
    is_refused = any(_UNAUTHORIZED in by_status for by_status in report.calls.values())
    if is_refused:
        typer.echo("loyalty-relay: the token was refused", err=True)
    if is_refused or report.given_up:
        raise typer.Exit(1)


async def _play(
    doors: CheckoutDoors, baskets: Iterable[Basket], plan: CheckoutPlan, *, total: int, quiet: bool
) -> CheckoutReport:
    with progress_line("checkouts", total=total, quiet=quiet) as tell:
        return await play_checkouts(
            doors,
            baskets,
            plan=plan,
            on_progress=lambda at: tell(at.settled),
        )


def _print(report: CheckoutReport, *, json: bool) -> None:
    calls = {"webhook": report.webhooks, **report.calls}
    row: dict[str, Any] = {
        "orders": len(report.orders),
        "paid_with_points": len(report.spent),
        "points_earned": sum(order.points for order in report.orders),
        "points_captured": report.captured,
        "points_given_back": report.given_back,
        "points_refused": report.refused,
        "balances_seen": report.balances,
        "cards_registered": len(report.registered),
        "given_up": len(report.given_up),
        "seconds": round(report.duration_s, 2),
    }
    if json:
        typer.echo(orjson.dumps({**row, "calls": calls}).decode())
        return
    table = Table(show_header=False)
    for name, value in row.items():
        table.add_row(name.replace("_", " "), str(value))
    for operation, by_status in calls.items():
        answers = ", ".join(f"{number} × {status}" for status, number in by_status.items())
        table.add_row(operation, answers)
    Console().print(table)
    for name in report.given_up:
        typer.echo(f"never answered: {name}", err=True)
