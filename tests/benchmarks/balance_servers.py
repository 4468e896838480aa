"""
The servers that `bench_balance` compares, each a process of its own.

`bare` reads the body and answers a constant; `ours` is the service's own door for SCAYLE
Checkout's calls on its own ledger, which knows the balances, writing its log lines. With a file
for a profile `ours` writes what it did there when it is asked to stop.
"""

import asyncio
import cProfile
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry

from service.desk_setup import make_desk
from service.domain.checkout import Reading
from service.domain.clock import SteadyClock
from service.doors import loyalty_config, loyalty_tokens
from service.ledger.sql_ledger import SqlLedger
from service.sandbox.checks import ean13_check_digit
from service.settings import Settings, load_settings
from service.stores import open_ledger, open_splio
from service.telemetry.logs import configure_logs
from service.telemetry.metrics import Metrics
from service.web.dispatch import Router
from service.web.listeners import Listener, ListenerConfig
from service.web.loyalty import LoyaltyDoor
from service.web.shapes import ShapeLog
from tests.benchmarks.surroundings import environment

TOKEN: Final = "benchmark"
PROGRAM: Final = "splio_club"
SETTINGS: Final = {
    "RELAY_LOYALTY_TOKENS": f"*={TOKEN}",
    "RELAY_LOYALTY_PROGRAMS": f"{PROGRAM}=1",
    "RELAY_LOYALTY_AMOUNT_UNIT": "points",
}
_POINTS: Final = 2500


def cards(count: int, *, first: int = 0) -> Iterator[str]:
    """Card numbers that are members in the sandbox."""
    for number in range(first, first + count):
        digits = f"217170{number:06}"
        yield f"{digits}{ean13_check_digit(digits)}"


def target(card: str) -> str:
    """The path of the call for a balance."""
    return f"/loyalty/balance?cardKey={card}&type={PROGRAM}"


async def know(ledger: SqlLedger, card: str, *, asked_at_ms: int) -> None:
    """As if Splio had told the balance of this card then."""
    await ledger.record_balance(Reading(card, _POINTS, asked_at_ms))


async def serve_bare() -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"balance": _POINTS})

    application = web.Application()
    application.router.add_get("/loyalty/balance", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    announce(runner.addresses[0][1])
    await asyncio.Event().wait()


async def serve_ours(folder: Path, count: int) -> None:
    sys.setswitchinterval(0.0005)  # as the service's runtime sets it
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with (folder / "ours.log").open("w") as stream:
        configure_logs(log_format="json", level="INFO", stream=stream)
        settings = load_settings(
            {
                **environment(folder, "http://127.0.0.1:9"),
                **SETTINGS,
                "RELAY_BALANCE_FRESH": "10m",
            },
            sandbox=True,
        )
        await _serve(settings, count, stop)


async def _serve(settings: Settings, count: int, stop: asyncio.Event) -> None:
    clock, metrics = SteadyClock(), Metrics(CollectorRegistry())
    async with (
        open_ledger(settings, metrics=metrics, clock=clock) as ledger,
        open_splio(settings, url=str(settings.splio_url), metrics=metrics, clock=clock) as splio,
    ):
        for card in cards(count):
            await know(ledger, card, asked_at_ms=clock.now_ms())
        desk = make_desk(
            settings,
            ledger,
            splio,
            splio.loyalty,
            offer=lambda _: None,
            clock=clock,
            metrics=metrics,
        )
        door = LoyaltyDoor(
            lambda: desk,
            authentication=loyalty_tokens(settings, clock),
            metrics=metrics,
            clock=clock,
            accepting=lambda: True,
            config=loyalty_config(settings),
            shapes=ShapeLog(clock),
        )
        router = Router()
        door.add_to(router)
        listener = Listener(ListenerConfig("public", "127.0.0.1", 0, "RELAY_HTTP_PORT"), router)
        await listener.start()
        announce(listener.port)
        await stop.wait()
        await desk.close()
        await listener.stop(grace_s=0.1)


def announce(port: int) -> None:
    """Tell the benchmark where to send."""
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def main() -> None:
    name, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if name == "bare":
        asyncio.run(serve_bare())
        return
    profile = cProfile.Profile() if sys.argv[4:] else None
    if profile is not None:
        profile.enable()
    asyncio.run(serve_ours(folder, count))
    if profile is not None:
        profile.dump_stats(sys.argv[4])


if __name__ == "__main__":
    main()
