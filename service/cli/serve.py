"""`serve`: the service itself, until it is asked to stop."""

import asyncio
import logging
import os
import signal
import sys
from typing import Annotated

import typer

from service.runtime import Runtime, open_runtime
from service.settings import Settings, describe, load_settings
from service.supervisor import Death
from service.telemetry.logs import configure_logs

logger = logging.getLogger("relay.runtime")

DIED = 1  # exit code when a worker died


def serve(
    sandbox: Annotated[
        bool,
        typer.Option(
            "--sandbox", help="Use the built-in Splio sandbox with fixed local credentials."
        ),
    ] = False,
) -> None:
    """
    Take webhooks and bring their effects to Splio, until SIGTERM or Ctrl-C.

    Everything is configured by RELAY_ variables; `loyalty-relay settings` shows them.

    Examples:

        loyalty-relay serve --sandbox

        RELAY_SPLIO_URL=https://api.splio.com RELAY_SPLIO_API_KEY_FILE=/run/secrets/splio \\
        RELAY_WEBHOOK_CREDENTIALS=scayle:secret loyalty-relay serve
    """
    settings = load_settings(os.environ, sandbox=sandbox)
    configure_logs(log_format=settings.log_format, level=settings.log_level.upper())
    log_settings(settings)
    death = asyncio.run(serve_until_stopped(settings))
    if death is not None:
        print(f"loyalty-relay: {death.worker} died: {death.reason}", file=sys.stderr)
        raise typer.Exit(DIED)


async def serve_until_stopped(settings: Settings) -> Death | None:
    """Run the service until SIGTERM or SIGINT; returns the death of a worker."""
    stop = stop_on_signals()
    async with open_runtime(settings) as runtime:
        say_where(runtime)
        return await runtime.run(stop)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def log_settings(settings: Settings) -> None:
    """Log the effective settings, secrets only as set or not set, and what looks mistyped."""
    logger.info("settings.loaded", extra={row.name: row.value for row in describe(settings)})
    for warning in settings.warnings:
        logger.warning("setting.unknown", extra={"detail": warning})


def say_where(runtime: Runtime) -> None:
    """Tell a person at the terminal where the doors are."""
    if sys.stderr.isatty():
        print(f"webhooks:   {runtime.listeners.public_url}/webhooks/scayle", file=sys.stderr)
        print(f"operations: {runtime.listeners.operations_url}", file=sys.stderr)
        if runtime.sandbox is not None:
            print(f"sandbox:    {runtime.sandbox.url}", file=sys.stderr)
