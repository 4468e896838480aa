"""
Balances in a checkout: how fresh they are beside a backlog of bookings, and what a known one costs.

First 600 shoppers who each ask once a minute, of whom two a second leave for new ones with cards
never asked about, beside a backlog of orders with cards; the service and the sandbox, each in its
own process, both with Splio's documented limits. Then a balance that is fresh, 64 keep-alive
connections on one process, beside a bare handler in alternating runs. Alone:
`python -m tests.benchmarks.bench_balance [--json] [--seconds 180] [--runs 5]`.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson
import psutil
import pytest
from prometheus_client import CollectorRegistry

from service.domain.clock import SteadyClock
from service.stores import open_ledger
from service.telemetry.metrics import Metrics
from tests.benchmarks import bench_limits
from tests.benchmarks.balance_servers import SETTINGS, TOKEN, cards, know, target
from tests.benchmarks.bench_limits import LIMITS, backlog
from tests.benchmarks.bench_receive import cpu_s, medians
from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.events import fill_log, settings_of
from tests.benchmarks.shoppers import Polls, Shoppers
from tests.benchmarks.surroundings import RelayProcess, run_module, sandbox_process, started
from tests.harness.ports import free_port
from tests.harness.sandbox_process import SandboxProcess
from tests.harness.waiting import until

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

SHOPPERS: Final = 600
NEW_PER_S: Final = 2.0
RESERVED: Final = 4.0  # requests per second of lane `other` that go to the checkout first
_OLDEST_S: Final = 300.0  # of what is known at the beginning
_CHECKOUTS: Final = ("member.balance", "member.read", "program.read")
_BOOKING: Final = "credit"
_STARTED_S: Final = 60.0
CONNECTIONS: Final = 64
KNOWN: Final = 1000  # cards in the ledger that is asked


def measure(*, folder: Path, seconds: float, runs: int) -> Result:
    """`crowd`: balances and bookings at the limits; `fresh`: by server, medians."""
    crowd = folder / "crowd"
    crowd.mkdir()
    with sandbox_process(crowd, limits=LIMITS) as sandbox:
        at_limits = asyncio.run(_crowd(crowd, sandbox, seconds))
    return {"crowd": at_limits, "fresh": _fresh(folder, runs)}


# -- a crowd


async def _crowd(folder: Path, sandbox: SandboxProcess, seconds: float) -> Result:
    known = list(cards(SHOPPERS))
    await _know(folder, sandbox.url, known)
    await fill_log(settings_of(folder, sandbox.url), backlog(seconds))
    port = free_port()
    settings = {**bench_limits.SETTINGS, **SETTINGS, "RELAY_HTTP_PORT": str(port)}
    url = f"http://127.0.0.1:{port}"
    with RelayProcess(folder, sandbox.url, settings) as relay:
        relay.start()
        await relay.wait_answer(f"{url}/healthz")
        await until(lambda: _books(sandbox), what="bookings have begun", timeout_s=_STARTED_S)
        shoppers = Shoppers(
            url,
            known=known,
            new=cards(10**5, first=SHOPPERS),
            new_per_s=NEW_PER_S,
            ledger=folder / "ledger.db",
        )
        began_s, before = time.monotonic(), await sandbox.statement()
        polls = await shoppers.run(seconds)
        took_s, after = time.monotonic() - began_s, await sandbox.statement()
        assert relay.exit_code() is None, relay.log_text()[-4000:]
    return {"seconds": took_s, **_of_polls(polls), **_at_splio(before, after, took_s)}


async def _know(folder: Path, splio_url: str, known: Sequence[str]) -> None:
    """Write the balances of who is there at the beginning."""
    clock, ages = SteadyClock(), random.Random(2)
    settings = settings_of(folder, splio_url)
    async with open_ledger(settings, metrics=Metrics(CollectorRegistry()), clock=clock) as ledger:
        for card in known:
            age_ms = round(ages.uniform(0, _OLDEST_S) * 1000)
            await know(ledger, card, asked_at_ms=clock.now_ms() - age_ms)


async def _books(sandbox: SandboxProcess) -> bool:
    return bool((await sandbox.statement())["credits"]["count"])


def _of_polls(polls: Polls) -> Result:
    return {
        "asked": sum(polls.statuses.values()),
        "statuses": {str(status): count for status, count in polls.statuses.items()},
        "refused_known": polls.refused_known,
        "refused_new": polls.refused_new,
        "new": polls.came,
        "new_answered": len(polls.first_after_s),
        "first_s_median": median(polls.first_after_s or [0.0]),
        "first_s_max": max(polls.first_after_s, default=0.0),
        "age_s_median": median(polls.ages_s),
        "age_s_max": max(polls.ages_s),
    }


def _at_splio(before: Mapping[str, Any], after: Mapping[str, Any], took_s: float) -> Result:
    """What lane `other` was used for, and what bookings made of what the checkout left them."""

    def rate(operations: Sequence[str]) -> float:
        return sum(_taken(after, of) - _taken(before, of) for of in operations) / took_s

    checkout, bookings = rate(_CHECKOUTS), rate((_BOOKING,))
    lane = bench_limits.count(after, "other") - bench_limits.count(before, "other")
    return {
        "checkout_per_s": checkout,
        "bookings_per_s": bookings,
        "others_per_s": lane / took_s - checkout - bookings,
        "bookings_share": bookings / (LIMITS["other"] - min(checkout, RESERVED)),
        "rate_limited": after["rate_limited"] - before["rate_limited"],
        "rate_limited_by": {
            operation: refused
            for operation, answers in after["requests"].items()
            if (refused := answers.get("429", 0) - _refused(before, operation))
        },
        "peaks": after["peak_requests_in_one_second"],
    }


def _refused(statement: Mapping[str, Any], operation: str) -> int:
    answers: Mapping[str, int] = statement["requests"].get(operation, {})
    return answers.get("429", 0)


def _taken(statement: Mapping[str, Any], operation: str) -> int:
    """Requests of one kind that were admitted, whatever was answered."""
    answers: Mapping[str, int] = statement["requests"].get(operation, {})
    return sum(count for status, count in answers.items() if status != "429")


# -- a fresh balance


def _fresh(folder: Path, runs: int) -> Result:
    collected: dict[str, list[Result]] = {"bare": [], "ours": []}
    for number in range(runs):
        for name, results in collected.items():
            place = folder / f"{name}-{number}"
            place.mkdir()
            results.append(fresh_run(name, place))
    return {"runs": runs, "connections": CONNECTIONS, "servers": medians(collected)}


def fresh_run(name: str, folder: Path, *, seconds: float = 4.0) -> Result:
    """What one server does at full speed, then at half of that."""
    module = "tests.benchmarks.balance_servers"
    with started(module, name, str(folder), str(KNOWN)) as (port, child):
        process = psutil.Process(child.pid)
        _load(port, seconds=1.0)
        before_s = cpu_s(process)
        full = _load(port, seconds=seconds)
        used_s = cpu_s(process) - before_s
        half = _load(port, seconds=seconds, rate=full["rate"] / 2)
    return {
        "rate": full["rate"],
        "p99_ms": full["p99_s"] * 1e3,
        "cpu_us": used_s / full["requests"] * 1e6,
        "p99_ms_at_half_rate": half["p99_s"] * 1e3,
    }


def _load(port: str, *, seconds: float, rate: float | None = None) -> Result:
    task = {
        "port": int(port),
        "targets": [target(card) for card in islice(cards(KNOWN), KNOWN)],
        "headers": {"Authorization": f"Bearer {TOKEN}"},
        "connections": CONNECTIONS,
        "seconds": seconds,
        "rate": rate,
    }
    result = run_module("tests.benchmarks.http_load", orjson.dumps(task).decode())
    assert result["statuses"].keys() == {"200"}, result["statuses"]
    return result


def rows(result: Result) -> Sequence[Row]:
    """Answers and bookings at the limits, then the fresh balance beside the bare handler."""
    crowd, servers = result["crowd"], result["fresh"]["servers"]
    ours, bare = servers["ours"], servers["bare"]
    where = f"{SHOPPERS} shoppers over {crowd['seconds']:.0f} s, {NEW_PER_S:g} new cards a second"
    return [
        Row(
            what=f"balances refused once a value was known, {where}",
            goal="0",
            figure=f"{crowd['refused_known']} of {crowd['asked']}",
            peer=f"new cards: {crowd['new_answered']} of {crowd['new']} got a first value, after "
            f"{crowd['first_s_median']:.2f} s, {crowd['first_s_max']:.2f} s at most; refused "
            f"before it: {crowd['refused_new']} times",
            ratio="–",
        ),
        Row(
            what="age of the balances answered",
            goal="≤ 15 min",
            figure=f"median {crowd['age_s_median']:.1f} s, max {crowd['age_s_max']:.0f} s",
            peer=f"balances asked: {crowd['checkout_per_s']:.2f}/s",
            ratio="–",
        ),
        Row(
            what="bookings beside them, lane `other` at 10/s",
            goal="≥ 90 % of what the checkout's part leaves",
            figure=f"{crowd['bookings_per_s']:.2f}/s",
            peer=f"all else in the lane: {crowd['others_per_s']:.2f}/s",
            ratio=f"{crowd['bookings_share']:.1%}",
        ),
        Row(
            what="of all requests meanwhile, refused with 429",
            goal="0",
            figure=str(crowd["rate_limited"]),
            peer="–",
            ratio="–",
        ),
        Row(
            what=f"a fresh balance, {result['fresh']['connections']} connections, one process, "
            f"median of {result['fresh']['runs']} alternating runs",
            goal="–",
            figure=f"{ours['rate']:.0f}/s",
            peer=f"bare handler: {bare['rate']:.0f}/s",
            ratio=f"{ours['rate'] / bare['rate']:.0%}",
        ),
        Row(
            what="CPU of a fresh balance",
            goal="–",
            figure=f"{ours['cpu_us']:.0f} µs",
            peer=f"bare handler: {bare['cpu_us']:.0f} µs",
            ratio=f"{ours['cpu_us'] / bare['cpu_us']:.2f} ×",
        ),
        Row(
            what="p99 of a fresh balance at full speed, and at half of that",
            goal="–",
            figure=f"{ours['p99_ms']:.1f} ms, {ours['p99_ms_at_half_rate']:.1f} ms",
            peer=f"bare handler: {bare['p99_ms']:.1f} ms, {bare['p99_ms_at_half_rate']:.1f} ms",
            ratio="–",
        ),
    ]


BENCHMARK = Benchmark("balance", __doc__, measure, rows, {"seconds": 180.0, "runs": 5})


def test_balance_figures() -> None:
    """Prints how fresh balances are and what they cost; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
