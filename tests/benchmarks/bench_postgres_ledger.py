"""
Whether planning and claiming in PostgreSQL slow down with the keys of the past.

As `bench_ledger`, on a real server with fsync: a full ledger beside an empty one, in two databases
of one server, in alternating rounds. 10,000,000 keys take about 8 GB of disk for as long as it
runs. Alone: `python -m tests.benchmarks.bench_postgres_ledger [--json] [--keys 10000000]`.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry

from service.configuration import ledger_config
from service.ledger.postgres import open_postgres_ledger, server_clock
from service.ledger.postgres_schema import migrate
from service.telemetry.metrics import Metrics
from tests.benchmarks.bench_ledger import SETTINGS, LedgerBench, compare, plans
from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.postgres_past import TEMPLATE, fill, size_bytes
from tests.harness.postgres_server import PostgresServer

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

_KINDS: Final = (("growing", "≤ 1.5 × of an empty one"), ("random", "reported"))


def measure(*, folder: Path, keys: int) -> Result:
    """Microseconds per event of planning it and claiming both effects, by ledger and kind of id."""
    del folder  # the server has its own
    with PostgresServer(durable=True) as server:
        addresses = {name: server.new_database() for name in ("empty", "full")}
        for address in addresses.values():
            migrate(address)
        asyncio.run(_write_template(addresses["full"]))
        began_s = time.monotonic()
        fill(addresses["full"], keys)
        filled_s = time.monotonic() - began_s
        size_mib = size_bytes(addresses["full"]) / 2**20
        measured = asyncio.run(_run(addresses))
    return {"keys": keys, "filled_s": filled_s, "size_mib": size_mib, **measured}


async def _write_template(address: str) -> None:
    """One order, planned and applied by the ledger itself."""
    async with AsyncExitStack() as stack:
        bench = await _open(stack, address)
        await bench.settle(await bench.claim(await bench.plan(plans([TEMPLATE]))))


async def _run(addresses: dict[str, str]) -> Result:
    async with AsyncExitStack() as stack:
        ledgers = {name: await _open(stack, address) for name, address in addresses.items()}
        return await compare(ledgers)


async def _open(stack: AsyncExitStack, address: str) -> LedgerBench:
    ledger = await stack.enter_async_context(
        open_postgres_ledger(
            address,
            config=ledger_config(SETTINGS),
            clock=await server_clock(address),
            metrics=Metrics(CollectorRegistry()),
        )
    )
    return await LedgerBench.on(ledger)


def rows(result: Result) -> Sequence[Row]:
    """Growing and random ids."""
    return [
        Row(
            what=f"plan and claim with {result['keys']:,} keys in PostgreSQL "
            f"({result['size_mib']:,.0f} MiB), {order} order ids",
            goal=goal,
            figure=f"{result[order]['full_us']:.0f} µs an event",
            peer=f"empty ledger: {result[order]['empty_us']:.0f} µs",
            ratio=f"{result[order]['ratio']:.2f} ×",
        )
        for order, goal in _KINDS
    ]


BENCHMARK = Benchmark("postgres-ledger", __doc__, measure, rows, {"keys": 10_000_000})


def test_postgres_ledger_figures() -> None:
    """Prints what old keys cost in PostgreSQL; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
