"""
How much of Splio's documented rate the service uses, and how often it is told 429.

The service and the sandbox, each in its own process, both with the documented limits, and a
backlog of orders with cards that outlasts the run. Counted at the sandbox are all requests that it
admitted in a lane, creations and authentication included. Alone:
`python -m tests.benchmarks.bench_limits [--json] [--seconds 300]`.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.events import fill_log, orders, settings_of
from tests.benchmarks.surroundings import RelayProcess, sandbox_process
from tests.harness.sandbox_process import SandboxProcess
from tests.harness.waiting import until

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

LIMITS: Final = {"contacts": 20.0, "sales": 20.0, "other": 10.0}
BUSY: Final = ("sales", "other")  # contacts are created once each and then rest
_SALES: Final = ("order", "product", "store")
_REFUSED: Final = "429"
SETTINGS: Final = {
    "RELAY_SPLIO_LIMITS": ",".join(f"{lane}={limit:g}" for lane, limit in LIMITS.items())
}
_STARTED_S: Final = 60.0


def measure(*, folder: Path, seconds: float) -> Result:
    """By busy lane: requests admitted, their share of the limit, and the share of 429."""
    with sandbox_process(folder, limits=LIMITS) as sandbox:
        return asyncio.run(_measure(folder, sandbox, seconds))


async def _measure(folder: Path, sandbox: SandboxProcess, seconds: float) -> Result:
    await fill_log(settings_of(folder, sandbox.url), backlog(seconds))
    with RelayProcess(folder, sandbox.url, SETTINGS) as relay:
        return await watch(sandbox, [relay], seconds)


def backlog(seconds: float) -> Iterator[bytes]:
    """Orders that outlast the run."""
    return orders(int(LIMITS["sales"] * (seconds + _STARTED_S)))


async def watch(sandbox: SandboxProcess, relays: Sequence[RelayProcess], seconds: float) -> Result:
    """Start the processes and count what the sandbox admits once both lanes are busy."""
    for relay in relays:
        relay.start()
    await until(lambda: _has_begun(sandbox), what="both lanes are busy", timeout_s=_STARTED_S)
    began_s, before = time.monotonic(), await sandbox.statement()
    await asyncio.sleep(seconds)
    took_s, after = time.monotonic() - began_s, await sandbox.statement()
    for relay in relays:
        assert relay.exit_code() is None, relay.log_text()[-4000:]
    counts = {lane: count(after, lane) - count(before, lane) for lane in LIMITS}
    refused = after["rate_limited"] - before["rate_limited"]
    return {
        "seconds": took_s,
        "lanes": {
            lane: {
                "admitted": counts[lane],
                "share_of_limit": counts[lane] / (LIMITS[lane] * took_s),
            }
            for lane in BUSY
        },
        "refused": refused,
        "share_of_429": refused / (refused + sum(counts.values())),
    }


async def _has_begun(sandbox: SandboxProcess) -> bool:
    statement = await sandbox.statement()
    return bool(statement["orders"] and statement["credits"]["count"])


def count(statement: Mapping[str, Any], lane: str) -> int:
    """Requests that the sandbox admitted in `lane`, whatever it answered."""
    return sum(
        times
        for operation, answers in statement["requests"].items()
        if lane_of(operation) == lane
        for status, times in answers.items()
        if status != _REFUSED
    )


def lane_of(operation: str) -> str:
    """The rate category of the sandbox's name for an operation."""
    subject = operation.partition(".")[0]
    if subject in _SALES:
        return "sales"
    return "contacts" if subject == "contact" else "other"


def rows(result: Result, *, who: str = "") -> Sequence[Row]:
    """A row a busy lane, and one for 429; `who` sent them."""
    return [
        *(
            Row(
                what=f"requests admitted in lane `{lane}` over {result['seconds']:.0f} s "
                f"at Splio's documented limits{who}",
                goal="≥ 95 % of the limit",
                figure=f"{measured['admitted'] / result['seconds']:.2f}/s",
                peer=f"limit: {LIMITS[lane]:g}/s",
                ratio=f"{measured['share_of_limit']:.1%}",
            )
            for lane, measured in result["lanes"].items()
        ),
        Row(
            what=f"of these, refused with 429{who}",
            goal="< 0.1 %",
            figure=str(result["refused"]),
            peer="–",
            ratio=f"{result['share_of_429']:.2%}",
        ),
    ]


BENCHMARK = Benchmark("limits", __doc__, measure, rows, {"seconds": 300.0})


def test_limit_figures() -> None:
    """Prints how much of the rate is used; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
