"""
What a SIGKILL in the middle of a backlog costs: seconds until bookings go on, and the books.

The service and the sandbox each in their own process; the service is killed when 40 % of the
backlog is booked and started again at once. The sandbox books a repeated idempotency key again, so
a second request would show. Alone: `python -m tests.benchmarks.bench_restart [--json]`.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson
import pytest

from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.events import envelopes, fill_log, settings_of
from tests.benchmarks.surroundings import RelayProcess, sandbox_process
from tests.harness.account import compare
from tests.harness.files import SqliteView, count_open
from tests.harness.sandbox_process import SandboxProcess
from tests.harness.waiting import until

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

KILLED_AT: Final = 0.4
_LIMIT_S: Final = 600.0
_QUIET_S: Final = 0.05  # what was on its way when the service died has arrived after this


def measure(*, folder: Path, runs: int, count: int) -> Result:
    """The median and every run."""
    results = []
    for number in range(runs):
        place = folder / str(number)
        place.mkdir()
        with sandbox_process(place) as sandbox:
            results.append(asyncio.run(_run(place, sandbox, count)))
    return {
        "events": count,
        "runs": results,
        "seconds": median(result["seconds"] for result in results),
        "lost": sum(result["lost"] for result in results),
        "twice": sum(result["twice"] for result in results),
    }


async def _run(folder: Path, sandbox: SandboxProcess, count: int) -> dict[str, Any]:
    sent = list(envelopes(count))
    await fill_log(settings_of(folder, sandbox.url), map(orjson.dumps, sent))
    with RelayProcess(folder, sandbox.url, {}) as relay:
        relay.start()

        async def booked_enough() -> bool:
            return await booked(sandbox) >= KILLED_AT * count

        await until(booked_enough, what="40 % are booked", timeout_s=_LIMIT_S)
        relay.kill()
        killed_s = time.monotonic()
        relay.start()
        at_death = await _booked_at_death(sandbox)

        async def goes_on() -> bool:
            return await booked(sandbox) > at_death

        await until(goes_on, what="bookings go on", timeout_s=_LIMIT_S)
        seconds = time.monotonic() - killed_s

        async def is_done() -> bool:
            return await booked(sandbox) >= count and not count_open(
                SqliteView(folder / "ledger.db")
            )

        await until(is_done, what="the backlog is done", timeout_s=_LIMIT_S)
        assert await relay.stop() == 0, relay.log_text()[-4000:]
    account = compare(
        sent,
        accepted={str(envelope["payload"]["id"]) for envelope in sent},
        orders=await sandbox.orders(),
        credits_=await sandbox.credits(),
    )
    statement = await sandbox.statement()
    return {
        "seconds": seconds,
        "lost": len(account.lost),
        # A repeated order is refused, and was sent all the same.
        "twice": len(account.twice) + statement["orders_posted_twice"],
        "different": len(account.different),
    }


async def _booked_at_death(sandbox: SandboxProcess) -> int:
    last = await booked(sandbox)
    while True:
        await asyncio.sleep(_QUIET_S)
        now = await booked(sandbox)
        if now == last:
            return now
        last = now


async def booked(sandbox: SandboxProcess) -> int:
    """How many credits the books hold."""
    statement = await sandbox.statement()
    return int(statement["credits"]["count"])


def rows(result: Result) -> Sequence[Row]:
    """Seconds, and what the books say."""
    number = len(result["runs"])
    each = ", ".join(f"{run['seconds']:.2f}" for run in result["runs"])
    return [
        Row(
            what=f"SIGKILL at 40 % of {result['events']} events, restart: until bookings go on, "
            f"median of {number}",
            goal="≤ 2 s",
            figure=f"{result['seconds']:.2f} s",
            peer=f"the runs: {each} s",
            ratio="–",
        ),
        Row(
            what="effects lost and sent twice in these runs, by the sandbox's books",
            goal="0 and 0",
            figure=f"{result['lost']} and {result['twice']}",
            peer=f"{2 * result['events'] * number} effects",
            ratio="–",
        ),
    ]


BENCHMARK = Benchmark("restart", __doc__, measure, rows, {"runs": 5, "count": 2_000})


def test_restart_figures() -> None:
    """Prints what a kill costs; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
