"""`demo`: the main job shown on a fresh machine, with duplicates and faults, and its account."""

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.cli.serve import log_settings, stop_on_signals
from service.domain.effects import OPEN_STATES
from service.runtime import Runtime, open_runtime
from service.sandbox.deliveries import DeliveryPlan, DeliveryReport, deliver
from service.sandbox.faults import FaultRule
from service.sandbox.scayle import generate_orders
from service.sandbox.splio import SplioSandbox
from service.settings import Settings, load_settings
from service.supervisor import Death
from service.telemetry.logs import configure_logs

_CUSTOMERS: Final = 25
_PRODUCTS: Final = 15
_POLL_S: Final = 0.25
_REST_WITHIN_S: Final = 300.0  # what is open after that is told in the statement
_NOT_BALANCED: Final = 1

# Each is met a few times while the demonstration runs; what Splio documents and what networks do.
_FAULTS: Final = (
    FaultRule("credit", "lost_reply", count=3, skip=5),
    FaultRule("credit", "status_after", count=2, skip=12, status=502),
    FaultRule("order.create", "lost_reply", count=3, skip=8),
    FaultRule("order.create", "status", count=2, skip=20, status=503),
    FaultRule("order.create", "garbage", count=1, skip=30),
    FaultRule("credit", "429", count=3, skip=20),
    FaultRule("order.create", "delay", count=2, skip=40, seconds=0.3),
    FaultRule("contact.create", "lost_reply", count=1, skip=3),
    FaultRule("credit", "unauthorized", count=1, skip=30),
)


@dataclass(frozen=True, slots=True)
class Account:
    """
    What was taken compared with what Splio's books hold, once everything came to rest.

    `lost`: answered 200 and neither at Splio nor set aside. `twice`: more than once at Splio.
    `points_off`: points at Splio that differ from those of the orders booked there.
    """

    orders_taken: int
    orders_booked: int
    points_taken: int
    points_booked: int
    points_off: int
    set_aside: int
    still_open: int
    lost: int
    twice: int

    def balances(self) -> bool:
        return not (self.lost or self.twice or self.still_open or self.points_off)


def demo(
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Go on serving after the statement.")
    ] = False,
    count: Annotated[int, typer.Option(help="Orders to confirm.", min=1, max=10_000)] = 120,
    seed: Annotated[int, typer.Option(help="Same seed, same orders.")] = 1,
) -> None:
    """
    Show the main job: deliver orders with duplicates and faults, and balance the account.

    Starts the service with the built-in sandbox on fresh files, plays SCAYLE through the real
    door, waits until everything came to rest and compares Splio's books with what was answered
    200. Exits 1 when the account does not balance.

    Examples:

        loyalty-relay demo

        loyalty-relay demo --count 500 --keep-serving
    """
    with tempfile.TemporaryDirectory(prefix="loyalty-relay-demo-") as directory:
        settings = load_settings(_environment(Path(directory), keep_serving), sandbox=True)
        configure_logs(log_format=settings.log_format, level=settings.log_level.upper())
        balanced, death = asyncio.run(_demonstrate(settings, count, seed, keep_serving))
    if death is not None:
        typer.echo(f"loyalty-relay: {death.worker} died: {death.reason}", err=True)
    if death is not None or not balanced:
        raise typer.Exit(_NOT_BALANCED)


def _environment(directory: Path, keep_serving: bool) -> Mapping[str, str]:
    """The user's settings, on files of this demonstration alone."""
    ports = {} if keep_serving else {"RELAY_HTTP_PORT": "0", "RELAY_OPERATIONS_PORT": "0"}
    return {
        "RELAY_LOG_LEVEL": "error",
        **ports,
        **os.environ,
        "RELAY_LOG_URL": f"sqlite:///{directory}/log.db",
        "RELAY_LEDGER_URL": f"sqlite:///{directory}/ledger.db",
        "RELAY_SANDBOX_PATH": f"{directory}/sandbox.db",
    }


async def _demonstrate(
    settings: Settings, count: int, seed: int, keep_serving: bool
) -> tuple[bool, Death | None]:
    console = Console(stderr=False)
    stop = stop_on_signals()
    log_settings(settings)
    async with open_runtime(settings) as runtime:
        sandbox = runtime.sandbox
        assert sandbox is not None
        serving = asyncio.create_task(runtime.run(stop), name="service")
        for rule in _FAULTS:
            sandbox.add_fault(rule)
        began = time.monotonic()
        playing = asyncio.create_task(
            _play(runtime, sandbox, console, count=count, seed=seed), name="demonstration"
        )
        await asyncio.wait((serving, playing), return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            playing.cancel()
            return False, await serving
        report, account = playing.result()
        statement = await sandbox.statement()
        _print(console, report, account, statement, seconds=time.monotonic() - began)
        if keep_serving:
            _print_next(console, runtime)
        else:
            stop.set()
        return account.balances(), await serving


async def _play(
    runtime: Runtime, sandbox: SplioSandbox, console: Console, *, count: int, seed: int
) -> tuple[DeliveryReport, Account]:
    """Deliver, then wait until nothing is open any more."""
    settings = runtime.settings
    user, password = settings.webhook_credentials[0]
    plan = DeliveryPlan(rate=40.0, duplicates=0.25, reordering=10, seed=seed)
    with Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        delivering = progress.add_task("deliveries by SCAYLE", total=None)
        booking = progress.add_task("orders at Splio", total=None)
        report = await deliver(
            f"{runtime.listeners.public_url}/webhooks/scayle",
            generate_orders(
                seed,
                count,
                first_order_id=int(time.time()) * 1000,
                customers=_CUSTOMERS,
                products=_PRODUCTS,
                currencies=("EUR", "EUR", "KWD"),
            ),
            user=user,
            password=password.get_secret_value(),
            plan=plan,
            on_progress=lambda at: progress.update(delivering, completed=at.settled),
        )
        progress.update(delivering, total=sum(report.deliveries.values()))
        give_up_at = time.monotonic() + _REST_WITHIN_S
        while time.monotonic() < give_up_at:
            orders = await sandbox.orders()
            progress.update(booking, completed=len(orders), total=len(report.accepted))
            page = await runtime.operations.list_effects(states=OPEN_STATES, limit=1)
            if not page.items and not await runtime.backlog():
                break
            await asyncio.sleep(_POLL_S)
    return report, await _balance(runtime, sandbox, report)


async def _balance(runtime: Runtime, sandbox: SplioSandbox, report: DeliveryReport) -> Account:
    tenant = runtime.settings.tenant
    orders = [order["external_id"] for order in await sandbox.orders()]
    credits_ = [credit["context"] for credit in await sandbox.credits()]
    points_booked = sum(credit["nq_points"] for credit in await sandbox.credits())
    set_aside = {(item["order_id"], item["kind"]) for item in await _all_dead_letters(runtime)}
    open_effects = await runtime.operations.list_effects(states=OPEN_STATES, limit=200)
    lost = 0
    points_missing = 0
    for order in report.accepted:
        if order.order_id not in orders and (order.order_id, "order") not in set_aside:
            lost += 1
        context = f"{tenant}:earn:{order.order_id}"
        if order.points and context not in credits_:
            points_missing += order.points
            lost += (order.order_id, "earn") not in set_aside
    points_taken = sum(order.points for order in report.accepted)
    return Account(
        orders_taken=len(report.accepted),
        orders_booked=len(orders),
        points_taken=points_taken,
        points_booked=points_booked,
        points_off=points_taken - points_missing - points_booked,
        set_aside=len(set_aside),
        still_open=len(open_effects.items),
        lost=lost,
        twice=len(orders) - len(set(orders)) + len(credits_) - len(set(credits_)),
    )


async def _all_dead_letters(runtime: Runtime) -> list[Mapping[str, Any]]:
    items: list[Mapping[str, Any]] = []
    after: str | None = None
    while True:
        page = await runtime.operations.list_dead_letters(limit=200, after=after)
        items.extend(page.items)
        after = page.next
        if after is None:
            return items


def _print(
    console: Console,
    report: DeliveryReport,
    account: Account,
    statement: Mapping[str, Any],
    *,
    seconds: float,
) -> None:
    faults = sum(sum(by.values()) for by in statement["faults"].values())
    answered = sum(report.deliveries.values())
    table = Table(title="Statement of account", show_header=False, title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, value in (
        ("deliveries sent by SCAYLE", report.sent),
        ("answered 200", answered),
        ("orders in them", account.orders_taken),
        ("duplicates refused", answered - account.orders_taken),
        ("orders at Splio", account.orders_booked),
        ("orders without an e-mail address, set aside", account.set_aside),
        ("points in them", account.points_taken),
        ("points at Splio", account.points_booked),
        ("faults survived", faults),
        ("still open", account.still_open),
        ("lost", account.lost),
        ("twice", account.twice),
    ):
        table.add_row(name, str(value))
    console.print()
    console.print(table)
    verdict = "The account balances" if account.balances() else "THE ACCOUNT DOES NOT BALANCE"
    console.print(f"{verdict}, after {seconds:.1f} s.")


def _print_next(console: Console, runtime: Runtime) -> None:
    operations = runtime.listeners.operations_url
    console.print()
    console.print(f"Serving: webhooks at {runtime.listeners.public_url}/webhooks/scayle,")
    console.print(f"operations at {operations}, metrics at {operations}/metrics.")
    console.print("Try in another terminal:")
    console.print("  .venv/bin/loyalty-relay send --sandbox --count 20 --duplicates 0.5")
    console.print("  .venv/bin/loyalty-relay effects list --limit 10")
    console.print("  .venv/bin/loyalty-relay dead-letters list")
    console.print("Ctrl-C stops it.")
