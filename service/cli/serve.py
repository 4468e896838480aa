"""`serve`: the service itself, until it is asked to stop."""

import asyncio
import logging
import os
import signal
import sys
from typing import Annotated

import typer

from service.cli.options import Sandbox
from service.runtime import Runtime, open_runtime
from service.settings import Settings, describe, load_settings
from service.stores import Role
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
    _run(load_settings(os.environ, sandbox=sandbox), Role.SERVE)


def receive() -> None:
    """
    Take webhooks and put them on the log, until SIGTERM or Ctrl-C; acts on none of them.

    Runs in any number beside each other and beside `consume` when the log is Kafka. It needs no
    ledger. With RELAY_SPOOL_PATH on a persistent volume, one for each process, it goes on taking
    webhooks while the brokers are away.

    Examples:

        RELAY_LOG_URL=kafka://broker1:9092,broker2:9092 RELAY_SPOOL_PATH=/data/spool.db \\
        RELAY_WEBHOOK_CREDENTIALS=scayle:secret loyalty-relay receive
    """
    _run(load_settings(os.environ, takes_effect=False), Role.RECEIVE)


def consume(sandbox: Sandbox = False) -> None:
    """
    Read the log and bring its effects to Splio, until SIGTERM or Ctrl-C.

    Runs in any number beside each other with the log on Kafka and the ledger on PostgreSQL: they
    share the partitions, Splio's rate limits and the chores. Opens the operations listener only.

    Examples:

        RELAY_LOG_URL=kafka://broker1:9092 RELAY_LEDGER_URL=postgresql://relay@db/relay \\
        RELAY_SPLIO_URL=https://api.splio.com RELAY_SPLIO_API_KEY_FILE=/run/secrets/splio \\
        loyalty-relay consume
    """
    _run(load_settings(os.environ, sandbox=sandbox, takes_webhooks=False), Role.CONSUME)


def _run(settings: Settings, role: Role) -> None:
    configure_logs(log_format=settings.log_format, level=settings.log_level.upper())
    log_settings(settings)
    death = asyncio.run(serve_until_stopped(settings, role))
    if death is not None:
        print(f"loyalty-relay: {death.worker} died: {death.reason}", file=sys.stderr)
        raise typer.Exit(DIED)


async def serve_until_stopped(settings: Settings, role: Role = Role.SERVE) -> Death | None:
    """Run the service until SIGTERM or SIGINT; returns the death of a worker."""
    stop = stop_on_signals()
    async with open_runtime(settings, role=role) as runtime:
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
        if runtime.listeners.public is not None:
            print(f"webhooks:   {runtime.listeners.public_url}/webhooks/scayle", file=sys.stderr)
        print(f"operations: {runtime.listeners.operations_url}", file=sys.stderr)
        if runtime.sandbox is not None:
            print(f"sandbox:    {runtime.sandbox.url}", file=sys.stderr)
