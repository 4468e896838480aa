"""`demo`: the main job shown on a fresh machine, with duplicates and faults, and its account."""

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from service.cli.account import Books, balance_account, print_statement
from service.cli.desk import DeadLetterFilter, all_rows
from service.cli.desk_offline import OfflineDesk
from service.cli.progress import progress_lines
from service.cli.send_checkout import checkout_doors, checkout_program
from service.cli.serve import log_settings, stop_on_signals
from service.consumer_setup import Pace
from service.domain.effects import OPEN_STATES
from service.runtime import Runtime, open_runtime
from service.sandbox.baskets import generate_baskets
from service.sandbox.checkout import CheckoutDoors, play_checkouts
from service.sandbox.checkout_plan import CheckoutPlan
from service.sandbox.checkout_report import CheckoutReport
from service.sandbox.deliveries import DeliveryPlan, DeliveryReport, deliver
from service.sandbox.faults import FaultRule
from service.sandbox.scayle import Shares, generate_orders
from service.sandbox.splio import SplioSandbox
from service.settings import Settings, load_settings
from service.supervisor import Death
from service.telemetry.logs import configure_logs

_CUSTOMERS: Final = 25
# Orders paid with points come out of checkouts alone, which capture them.
_SHARES: Final = Shares(points_spent=0)
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
    # Early ones, as a grant that has to be shown absent takes longest.
    FaultRule("reward.grant", "429", count=2, skip=1),
    FaultRule("reward.grant", "status", count=1, skip=3, status=503),
    FaultRule("reward.grant", "lost_request", count=1, skip=3),
    FaultRule("reward.grant", "status_after", count=1, skip=4, status=502),
    FaultRule("reward.grant", "lost_reply", count=2, skip=6),
    FaultRule("member.balance", "lost_request", count=2, skip=4),
    FaultRule("member.balance", "429", count=1, skip=10),
    FaultRule("member.balance", "delay", count=2, skip=14, seconds=0.5),
    FaultRule("member.create", "lost_reply", count=1),
)
# Holds end by a balance that shows the points as taken, so the cards are asked for often.
_PACE: Final = Pace(holds_every_s=0.4, holds_idle_s=0.4)


@dataclass(frozen=True, slots=True)
class _Size:
    """How much is played; `orders` are confirmed before the first checkout begins."""

    orders: int
    checkouts: int
    seed: int


def demo(
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Go on serving after the statement.")
    ] = False,
    count: Annotated[int, typer.Option(help="Orders to confirm.", min=1, max=10_000)] = 120,
    checkouts: Annotated[
        int, typer.Option(help="Checkouts of shoppers who may spend points.", min=0, max=10_000)
    ] = 12,
    seed: Annotated[int, typer.Option(help="Same seed, same orders.")] = 1,
) -> None:
    """
    Show the main job: orders and checkouts with duplicates and faults, and a balanced account.

    Starts the service with the built-in sandbox on fresh files, plays SCAYLE through the real
    doors: confirmed orders that earn points, then shoppers who spend some and get a part back.
    Waits until everything came to rest and compares Splio's books, card by card, with what was
    answered 200. Exits 1 when the account does not balance.

    Examples:

        loyalty-relay demo

        loyalty-relay demo --count 500 --keep-serving
    """
    with tempfile.TemporaryDirectory(prefix="loyalty-relay-demo-") as directory:
        settings = load_settings(_environment(Path(directory), keep_serving), sandbox=True)
        configure_logs(log_format=settings.log_format, level=settings.log_level.upper())
        balanced, death = asyncio.run(
            _demonstrate(settings, _Size(count, checkouts, seed), keep_serving)
        )
    if death is not None:
        typer.echo(f"loyalty-relay: {death.worker} died: {death.reason}", err=True)
    if death is not None or not balanced:
        raise typer.Exit(_NOT_BALANCED)


def _environment(directory: Path, keep_serving: bool) -> Mapping[str, str]:
    """The user's settings, on files of this demonstration alone."""
    ports: dict[str, str] = (
        {} if keep_serving else {"RELAY_HTTP_PORT": "0", "RELAY_OPERATIONS_PORT": "0"}
    )
    return {
        "RELAY_LOG_LEVEL": "error",
        "RELAY_BALANCE_FRESH": "1s",
        **ports,
        **os.environ,
        "RELAY_LOG_URL": f"sqlite:///{directory}/log.db",
        "RELAY_LEDGER_URL": f"sqlite:///{directory}/ledger.db",
        "RELAY_SANDBOX_PATH": f"{directory}/sandbox.db",
    }


async def _demonstrate(
    settings: Settings, size: _Size, keep_serving: bool
) -> tuple[bool, Death | None]:
    console = Console(stderr=False)
    stop = stop_on_signals()
    log_settings(settings)
    async with open_runtime(settings, pace=_PACE) as runtime:
        sandbox = runtime.sandbox
        assert sandbox is not None
        serving = asyncio.create_task(runtime.run(stop), name="service")
        for rule in _FAULTS:
            sandbox.add_fault(rule)
        began = time.monotonic()
        playing = asyncio.create_task(_play(runtime, sandbox, console, size), name="demonstration")
        await asyncio.wait((serving, playing), return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            playing.cancel()
            return False, await serving
        deliveries, checkouts = playing.result()
        account = balance_account(await _books(runtime, sandbox), deliveries, checkouts)
        faults = (await sandbox.statement())["faults"]
        print_statement(console, deliveries, checkouts, account, faults)
        verdict = "The account balances" if account.balances() else "THE ACCOUNT DOES NOT BALANCE"
        console.print(f"{verdict}, after {time.monotonic() - began:.1f} s.")
        if keep_serving:
            _print_next(console, runtime)
        else:
            stop.set()
        return account.balances(), await serving


async def _play(
    runtime: Runtime, sandbox: SplioSandbox, console: Console, size: _Size
) -> tuple[DeliveryReport, CheckoutReport]:
    """Orders, then checkouts by the same customers; then wait until nothing is open any more."""
    with progress_lines(console, width=22) as progress:
        delivering = progress.add_task("deliveries by SCAYLE", total=None)
        spending = progress.add_task("checkouts", total=size.checkouts)
        booking = progress.add_task("orders at Splio", total=None)
        doors = _doors(runtime)
        first_order_id = int(time.time()) * 1000
        deliveries = await deliver(
            doors.webhook_url,
            generate_orders(
                size.seed,
                size.orders,
                first_order_id=first_order_id,
                customers=_CUSTOMERS,
                products=_PRODUCTS,
                currencies=("EUR", "EUR", "KWD"),
                shares=_SHARES,
            ),
            user=doors.user,
            password=doors.password,
            plan=DeliveryPlan(rate=40.0, duplicates=0.25, reordering=10, seed=size.seed),
            on_progress=lambda at: progress.update(delivering, completed=at.settled),
        )
        progress.update(delivering, total=sum(deliveries.deliveries.values()))
        checkouts = await play_checkouts(
            doors,
            generate_baskets(
                size.seed,
                size.checkouts,
                first_order_id=first_order_id + size.orders,
                customers=_CUSTOMERS,
                products=_PRODUCTS,
                shares=_SHARES,
            ),
            plan=CheckoutPlan(
                program=checkout_program(runtime.settings),
                duplicates=0.25,
                early_refunds=0.25,
                refunds=0.75,
                longest_wait_s=1.0,
                seed=size.seed,
            ),
            earned_before={
                order.card for order in deliveries.accepted if order.card and order.points
            },
            on_progress=lambda at: progress.update(spending, completed=at.settled),
        )
        accepted = len(deliveries.accepted) + len(checkouts.orders)
        give_up_at = time.monotonic() + _REST_WITHIN_S
        while time.monotonic() < give_up_at:
            orders = await sandbox.orders()
            progress.update(booking, completed=len(orders), total=accepted)
            if await is_at_rest(runtime):
                break
            await asyncio.sleep(_POLL_S)
    return deliveries, checkouts


async def is_at_rest(runtime: Runtime) -> bool:
    """
    Nothing is open any more.

    Asked in the order in which work moves, or what moves between two questions is in neither.
    """
    if await runtime.backlog():
        return False
    if (await runtime.operations.list_effects(states=OPEN_STATES, limit=1)).items:
        return False
    holds = await runtime.operations.list_holds(only_open=True, limit=1)
    return not (holds.items and _debits_end_holds(runtime.settings))


def _doors(runtime: Runtime) -> CheckoutDoors:
    settings = runtime.settings
    user, password = settings.webhook_credentials[0]
    return checkout_doors(
        settings,
        webhook_url=f"{runtime.listeners.public_url}/webhooks/scayle",
        user=user,
        password=password.get_secret_value(),
        token=None,
    )


def _debits_end_holds(settings: Settings) -> bool:
    """Else a capture is settled by its hold, which stays open."""
    return settings.debit_by == "reward"


async def _books(runtime: Runtime, sandbox: SplioSandbox) -> Books:
    desk = OfflineDesk(runtime.operations, by="demo")
    dead_letters = await all_rows(partial(desk.dead_letters, DeadLetterFilter()))
    effects = await all_rows(partial(desk.effects, states=OPEN_STATES, kind=None, order_id=None))
    # A list of holds masks their cards.
    holds = [
        await desk.hold(row["effect_key"])
        for row in await all_rows(partial(desk.holds, only_open=True))
    ]
    return Books(
        tenant=runtime.settings.tenant,
        orders=await sandbox.orders(),
        credits_=await sandbox.credits(),
        accounts=await sandbox.accounts(),
        grant_doubles=(await sandbox.statement())["grant_doubles"],
        holds=holds,
        set_aside={(row["order_id"], row["kind"]) for row in dead_letters},
        still_open=len(effects) + len(holds) * _debits_end_holds(runtime.settings),
    )


def _print_next(console: Console, runtime: Runtime) -> None:
    operations = runtime.listeners.operations_url
    console.print()
    console.print(f"Serving: webhooks at {runtime.listeners.public_url}/webhooks/scayle,")
    console.print(f"operations at {operations}, metrics at {operations}/metrics.")
    console.print("Try in another terminal:")
    console.print("  .venv/bin/loyalty-relay send --sandbox --count 20 --duplicates 0.5")
    console.print("  .venv/bin/loyalty-relay send --sandbox --checkout")
    console.print("  .venv/bin/loyalty-relay effects list --limit 10")
    console.print("  .venv/bin/loyalty-relay dead-letters list")
    console.print("Ctrl-C stops it.")
