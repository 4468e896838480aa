"""
What the SIGKILL of a consumer costs on Kafka and PostgreSQL: seconds until all streams go on.

Events come at a steady rate. One consumer is killed and either started again at once, or left
dead beside a second one. What counts is the stream that waits longest for the first booking of an
event which came after the kill. The sandbox books a repeated idempotency key again, so a second
request would show. Alone: `python -m tests.benchmarks.bench_failover [--json]`.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson
import pytest

from service.stores import Role
from tests.benchmarks.bench_restart import booked
from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.distributed import Servers, servers
from tests.benchmarks.events import envelopes, open_publisher, settings_of
from tests.benchmarks.surroundings import RelayProcess, sandbox_process
from tests.harness.account import compare
from tests.harness.files import LedgerView, count_open
from tests.harness.place import PARTITIONS, Place
from tests.harness.sandbox_process import SandboxProcess
from tests.harness.waiting import until

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

_BEFORE_S: Final = 5.0  # of bookings before the kill
_LIMIT_S: Final = 120.0
_MOST: Final = 60  # seconds of events at most
CASES: Final = {"restart": 1, "takeover": 2}  # consumers at the beginning

# Per stream, when the first event that came after a time was booked.
_GONE_ON: Final = """
    SELECT r."partition", min(e.settled_at)
    FROM effects AS e JOIN records AS r ON r.id = e.record_id
    WHERE e.kind = 'earn' AND e.state = 'applied' AND e.received_at > {} GROUP BY r."partition"
"""
_LONGEST: Final = (
    "SELECT max(settled_at - received_at) FROM effects WHERE kind = 'earn' AND state = 'applied'"
)


def measure(*, folder: Path, runs: int, rate: float) -> Result:
    """By case the medians and every run."""
    results: dict[str, list[Result]] = {case: [] for case in CASES}
    with servers(folder) as both:
        for number in range(runs):
            for case, found in results.items():
                place = folder / f"{case}-{number}"
                place.mkdir()
                with sandbox_process(place) as sandbox:
                    found.append(asyncio.run(_run(case, place, both, sandbox, rate)))
    return {
        "rate": rate,
        "cases": {
            case: {
                "seconds": median(run["seconds"] for run in found),
                "longest_s": median(run["longest_s"] for run in found),
                "runs": found,
            }
            for case, found in results.items()
        },
    }


async def _run(
    case: str, folder: Path, both: Servers, sandbox: SandboxProcess, rate: float
) -> dict[str, Any]:
    place = await both.open_place(folder)
    sent: list[Mapping[str, Any]] = []
    enough = asyncio.Event()
    with ExitStack() as stack:
        consumers = [
            stack.enter_context(
                RelayProcess(
                    folder,
                    sandbox.url,
                    place.environment,
                    role=Role.CONSUME,
                    name=f"consumer-{number}",
                )
            )
            for number in range(CASES[case])
        ]
        for consumer in consumers:
            consumer.start()
        publishing = asyncio.create_task(_publish(folder, place, sandbox, rate, sent, enough))
        try:

            async def all_book() -> bool:
                return await asyncio.to_thread(_gone_on_at, place.ledger, 0) is not None

            await until(all_book, what="every stream is booked", timeout_s=_LIMIT_S)
            await asyncio.sleep(_BEFORE_S)
            dead = consumers.pop(0)
            dead.kill()
            killed_ms = time.time_ns() // 10**6
            if case == "restart":
                dead.start()
                consumers.append(dead)
            gone_on_ms = 0

            async def goes_on() -> bool:
                nonlocal gone_on_ms
                found = await asyncio.to_thread(_gone_on_at, place.ledger, killed_ms)
                gone_on_ms = found or 0
                return found is not None

            await until(goes_on, what="every stream goes on", timeout_s=_LIMIT_S)
        finally:
            enough.set()
            await publishing

        async def is_done() -> bool:
            return await booked(sandbox) >= len(sent) and not await asyncio.to_thread(
                count_open, place.ledger
            )

        await until(is_done, what="everything is settled", timeout_s=_LIMIT_S)
        for consumer in consumers:
            assert await consumer.stop() == 0, consumer.log_text()[-4000:]
    ((longest_ms,),) = place.ledger.rows(_LONGEST)
    account = compare(
        sent,
        accepted={str(envelope["payload"]["id"]) for envelope in sent},
        orders=await sandbox.orders(),
        credits_=await sandbox.credits(),
    )
    statement = await sandbox.statement()
    return {
        "seconds": (gone_on_ms - killed_ms) / 1000,
        "longest_s": longest_ms / 1000,
        "events": len(sent),
        "lost": len(account.lost),
        "twice": len(account.twice) + statement["orders_posted_twice"],
        "different": len(account.different),
    }


async def _publish(
    folder: Path,
    place: Place,
    sandbox: SandboxProcess,
    rate: float,
    sent: list[Mapping[str, Any]],
    enough: asyncio.Event,
) -> None:
    """Put events on the log at `rate` until there are enough."""
    settings = settings_of(folder, sandbox.url, place.environment)
    loop = asyncio.get_running_loop()
    async with open_publisher(settings) as publish:
        began_s = loop.time()
        for number, envelope in enumerate(envelopes(int(rate * _MOST))):
            if enough.is_set():
                return
            await asyncio.sleep(began_s + number / rate - loop.time())
            await publish(orjson.dumps(envelope))
            sent.append(envelope)


def _gone_on_at(ledger: LedgerView, since_ms: int) -> int | None:
    """When the last of all streams booked its first event since then, None if one has not."""
    rows = ledger.rows(_GONE_ON.format(since_ms))
    return max(at for _, at in rows) if len(rows) == PARTITIONS else None


def rows(result: Result) -> Sequence[Row]:
    """Seconds of both cases, and what the books say."""
    meanings = {
        "restart": "the only consumer, started again at once",
        "takeover": "one of two consumers, left dead",
    }
    found = [
        Row(
            what=f"SIGKILL of {meanings[case]}, {result['rate']:g} events/s: until every stream "
            f"books new events, median of {len(measured['runs'])}",
            goal="≤ 10 s",
            figure=f"{measured['seconds']:.1f} s",
            peer="the runs: "
            + ", ".join(f"{run['seconds']:.1f}" for run in measured["runs"])
            + f" s; longest wait of one booking {measured['longest_s']:.1f} s",
            ratio="–",
        )
        for case, measured in result["cases"].items()
    ]
    runs = [run for measured in result["cases"].values() for run in measured["runs"]]
    found.append(
        Row(
            what="effects lost and sent twice in these runs, by the sandbox's books",
            goal="0 and 0",
            figure=f"{sum(r['lost'] for r in runs)} and {sum(r['twice'] for r in runs)}",
            peer=f"{2 * sum(r['events'] for r in runs)} effects",
            ratio="–",
        )
    )
    return found


BENCHMARK = Benchmark("failover", __doc__, measure, rows, {"runs": 3, "rate": 40.0})


def test_failover_figures() -> None:
    """Prints what the kill of a consumer costs; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
