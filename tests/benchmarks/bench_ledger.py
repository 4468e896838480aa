"""
Whether planning and claiming slow down with the keys of the past: a full ledger beside an empty.

The full one holds applied effects and the facts of their orders, as they stay for ever. New order
ids either grow, as SCAYLE's do, or are drawn at random among the old ones. Alone:
`python -m tests.benchmarks.bench_ledger [--json] [--keys 10000000]`.
"""

import asyncio
import random
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from statistics import median
from typing import Final

import orjson
import pytest
from prometheus_client import CollectorRegistry

from service.configuration import ledger_config, planning_policy, renderer
from service.domain.clock import SteadyClock
from service.domain.effects import Outcome
from service.domain.ledger import Claim, PlannedRecord, ReadyEffect, Settlement
from service.domain.planning import plan_order_confirmed
from service.domain.records import Advance, Record, Stream, Topic
from service.ledger.sql_ledger import SqlLedger
from service.ledger.sqlite import open_sqlite_ledger
from service.scayle.decode import decode_unreadable
from service.settings import load_settings
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import new_traceparent
from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.events import envelopes

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

PLANNED_AT_ONCE: Final = 128
CLAIMED_AT_ONCE: Final = 64  # as two busy lanes do
ROUNDS: Final = 12
EVENTS: Final = 512  # of one round, each with two effects
LEASE_S: Final = 60.0
_STREAM: Final = Stream(Topic.ORDERS, 0)
OLD_IDS: Final = 10**11  # ids of the past lie below, growing ones begin here
SETTINGS: Final = load_settings({}, sandbox=True)


def measure(*, folder: Path, keys: int) -> Result:
    """Microseconds per event of planning it and claiming both effects, by ledger and kind of id."""
    asyncio.run(_write_template(folder / "full.db"))
    began_s = time.monotonic()
    fill(folder / "full.db", keys)
    filled_s = time.monotonic() - began_s
    size_mib = (folder / "full.db").stat().st_size / 2**20
    return {"keys": keys, "filled_s": filled_s, "size_mib": size_mib, **asyncio.run(_run(folder))}


async def _write_template(path: Path) -> None:
    """A ledger of one order, planned and applied by the ledger itself."""
    async with AsyncExitStack() as stack:
        bench = await LedgerBench.open(stack, path)
        await bench.settle(await bench.claim(await bench.plan(plans(["1"]))))


def fill(path: Path, keys: int) -> None:
    """Multiply the applied order in `path` until there are `keys` effects; order ids are random."""
    draw = random.Random(1)
    ids = draw.sample(range(OLD_IDS), keys // 2)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous=OFF")
        database.execute("PRAGMA cache_size=-1048576")
        database.execute("BEGIN")
        database.execute("CREATE TEMP TABLE old (number INTEGER PRIMARY KEY, order_id TEXT)")
        database.executemany(
            "INSERT INTO old VALUES (?, ?)", ((2 * n, f"{id_:012}") for n, id_ in enumerate(ids, 2))
        )
        multiply(
            database,
            "effects",
            "order_key = '1'",
            id="number + (kind = 'earn')",
            effect_key="'main:' || kind || ':' || order_id",
            order_key="order_id",
            seen_at="settled_at",
            body_id="NULL",
        )
        multiply(database, "orders", "order_key = '1'", id="number", order_key="order_id")
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def multiply(database: sqlite3.Connection, table: str, which: str, **changed: str) -> None:
    """Insert the rows of `table` that are the template once for every old order."""
    columns = [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(column, f"template.{column}") for column in columns)
    names = ", ".join(f'"{column}"' for column in columns)
    database.execute(
        f"INSERT INTO {table} ({names}) SELECT {values} "
        f"FROM old CROSS JOIN (SELECT * FROM {table} WHERE {which}) AS template ORDER BY number"
    )


async def _run(folder: Path) -> Result:
    async with AsyncExitStack() as stack:
        ledgers = {
            name: await LedgerBench.open(stack, folder / f"{name}.db") for name in ("empty", "full")
        }
        return await compare(ledgers)


async def compare(ledgers: Mapping[str, "LedgerBench"]) -> Result:
    """Alternating rounds on both ledgers, `empty` and `full`, by kind of order id."""
    draw = random.Random(2)
    growing = (str(number) for number in count(OLD_IDS))
    drawn = (f"{draw.randrange(OLD_IDS):012}" for _ in count())
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for order, ids in (("growing", growing), ("random", drawn)):
            planned = plans(islice(ids, EVENTS))
            for name, bench in ledgers.items():
                taken.setdefault((order, name), []).append(await bench.round(planned))
    return {
        order: {
            "empty_us": median(taken[order, "empty"]) * 1e6,
            "full_us": median(taken[order, "full"]) * 1e6,
            "ratio": median(
                full / empty
                for full, empty in zip(taken[order, "full"], taken[order, "empty"], strict=True)
            ),
        }
        for order in ("growing", "random")
    }


class LedgerBench:
    """A ledger that is worked on in rounds."""

    def __init__(self, ledger: SqlLedger) -> None:
        self._ledger = ledger
        self._position = 0

    @classmethod
    async def open(cls, stack: AsyncExitStack, path: Path) -> "LedgerBench":
        """The ledger in the file at `path`, closed by `stack`."""
        ledger = await stack.enter_async_context(
            open_sqlite_ledger(
                path,
                config=ledger_config(SETTINGS),
                clock=SteadyClock(),
                metrics=Metrics(CollectorRegistry()),
            )
        )
        return await cls.on(ledger)

    @classmethod
    async def on(cls, ledger: SqlLedger) -> "LedgerBench":
        """A ledger that somebody else closes."""
        bench = cls(ledger)
        bench._position = (await ledger.positions([_STREAM])).get(_STREAM, 0)
        return bench

    async def round(self, planned: Sequence[PlannedRecord]) -> float:
        """Seconds an event of planning and claiming; what was claimed is settled afterwards."""
        began_s = time.perf_counter()
        claims = await self.claim(await self.plan(planned))
        took_s = time.perf_counter() - began_s
        await self.settle(claims)
        return took_s / len(planned)

    async def plan(self, planned: Sequence[PlannedRecord]) -> list[ReadyEffect]:
        """The effects that became due."""
        fresh: list[ReadyEffect] = []
        for start in range(0, len(planned), PLANNED_AT_ONCE):
            batch = planned[start : start + PLANNED_AT_ONCE]
            end = self._position + len(batch)
            advance = Advance(_STREAM, self._position, end)
            for result in await self._ledger.record_plans(batch, [advance]):
                fresh += result.fresh
            self._position = end
        return fresh

    async def claim(self, effects: Sequence[ReadyEffect]) -> list[Claim]:
        """Claim all of them, some at once."""
        claims: list[Claim] = []
        for start in range(0, len(effects), CLAIMED_AT_ONCE):
            batch = effects[start : start + CLAIMED_AT_ONCE]
            claimed = await asyncio.gather(
                *(self._ledger.claim(effect, lease_s=LEASE_S) for effect in batch)
            )
            claims += [claim for claim in claimed if claim is not None]
        assert len(claims) == len(effects)
        return claims

    async def settle(self, claims: Sequence[Claim]) -> None:
        """Record that all of them were applied."""
        applied = Settlement(Outcome.APPLIED, status=201)
        await asyncio.gather(*(self._ledger.settle(claim, applied) for claim in claims))


def plans(order_ids: Iterable[str]) -> list[PlannedRecord]:
    """Plans of confirmed orders with these ids, as intake hands them over."""
    return list(_plans(list(order_ids)))


def _plans(order_ids: Sequence[str]) -> Iterator[PlannedRecord]:
    policy, requests = planning_policy(SETTINGS), renderer(SETTINGS)
    now = datetime.now(UTC)
    now_ms = int(now.timestamp() * 1000)
    for order_id, envelope in zip(order_ids, envelopes(len(order_ids)), strict=True):
        envelope["payload"]["id"] = order_id
        value = orjson.dumps(envelope)
        plan = plan_order_confirmed(decode_unreadable(value, received_at=now), policy, requests)
        headers = {"event_type": "order-confirmed", "schema_version": "1"}
        yield PlannedRecord(
            record=Record(_STREAM, 0, order_id, value, headers, now_ms),
            plan=plan,
            event_id=f"01a20741-fe3b-7000-bffe-{order_id:0>12}",
            event_type="order-confirmed",
            received_at_ms=now_ms,
            traceparent=new_traceparent(),
        )


def rows(result: Result) -> Sequence[Row]:
    """Growing and random ids."""
    return [
        Row(
            what=f"plan and claim with {result['keys']:,} keys in the ledger "
            f"({result['size_mib']:.0f} MiB), {order} order ids",
            goal=goal,
            figure=f"{result[order]['full_us']:.0f} µs an event",
            peer=f"empty ledger: {result[order]['empty_us']:.0f} µs",
            ratio=f"{result[order]['ratio']:.2f} ×",
        )
        for order, goal in (("growing", "≤ 1.5 × of an empty one"), ("random", "reported"))
    ]


BENCHMARK = Benchmark("ledger", __doc__, measure, rows, {"keys": 1_000_000})


def test_ledger_figures() -> None:
    """Prints what old keys cost; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
