"""
How long a webhook waits for its 200 while the brokers restart, stand still or are gone.

One receiver with a spool, events at a steady rate, each delivered once: no answer but 200 is
allowed for. Alone: `python -m tests.benchmarks.bench_outage [--json]`.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
import pytest

from service.stores import Role
from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.distributed import Servers, servers
from tests.benchmarks.events import envelopes
from tests.benchmarks.surroundings import RelayProcess
from tests.harness.ports import free_port
from tests.harness.waiting import until

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

_QUIET_S: Final = 3.0  # of deliveries before and after
_LIMIT_S: Final = 120.0
_ANSWER_S: Final = 60.0
_HEADERS: Final = {
    "Authorization": aiohttp.encode_basic_auth("scayle", "sandbox"),
    "Content-Type": "application/json",
}


def measure(*, folder: Path, rate: float, seconds: float) -> Result:
    """By what the broker does: statuses, and the longest answer."""
    results: dict[str, Any] = {}
    with servers(folder) as both:

        async def restart() -> None:
            await asyncio.to_thread(both.kafka.stop)
            await asyncio.to_thread(both.kafka.restart)

        async def freeze() -> None:
            both.kafka.freeze()
            await asyncio.sleep(seconds)
            both.kafka.thaw()

        async def leave() -> None:
            await asyncio.to_thread(both.kafka.stop)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(both.kafka.restart)

        for name, strike in (("restarts", restart), ("stands still", freeze), ("is gone", leave)):
            place = folder / name.replace(" ", "-")
            place.mkdir()
            results[name] = asyncio.run(_run(place, both, strike, rate))
    return {"rate": rate, "seconds": seconds, "outages": results}


async def _run(
    folder: Path, both: Servers, strike: Callable[[], Awaitable[None]], rate: float
) -> dict[str, Any]:
    place = await both.open_place(folder)
    public, operations = free_port(), free_port()
    settings = {
        **place.environment,
        "RELAY_SPOOL_PATH": f"{folder}/spool.db",
        "RELAY_HTTP_PORT": str(public),
        "RELAY_OPERATIONS_PORT": str(operations),
    }
    with RelayProcess(folder, "http://127.0.0.1:1", settings, role=Role.RECEIVE) as receiver:
        receiver.start()
        await receiver.wait_answer(f"http://127.0.0.1:{operations}/readyz")
        over = asyncio.Event()
        delivering = asyncio.create_task(_deliver(public, rate, over))
        await asyncio.sleep(_QUIET_S)
        await strike()

        async def is_drained() -> bool:
            return await _spooled(operations) == 0

        await until(is_drained, what="the spool is forwarded", timeout_s=_LIMIT_S)
        await asyncio.sleep(_QUIET_S)
        over.set()
        statuses, answers = await delivering
        assert await receiver.stop() == 0, receiver.log_text()[-4000:]
    answers.sort()
    return {
        "statuses": dict(statuses),
        "longest_s": answers[-1],
        "p99_s": answers[int(len(answers) * 0.99)],
        "webhooks": len(answers),
    }


async def _deliver(port: int, rate: float, over: asyncio.Event) -> tuple[Counter[int], list[float]]:
    """One webhook after the other at `rate`, none of them a second time."""
    statuses: Counter[int] = Counter()
    answers: list[float] = []
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:

        async def post(envelope: Mapping[str, Any]) -> None:
            began_s = time.monotonic()
            async with session.post(
                f"http://127.0.0.1:{port}/webhooks/scayle",
                data=orjson.dumps(envelope),
                headers=_HEADERS,
            ) as response:
                statuses[response.status] += 1
                await response.read()
            answers.append(time.monotonic() - began_s)

        began_s = time.monotonic()
        for number, envelope in enumerate(envelopes(int(rate * _LIMIT_S))):
            if over.is_set():
                break
            await asyncio.sleep(began_s + number / rate - time.monotonic())
            group.create_task(post(envelope))
    return statuses, answers


async def _spooled(port: int) -> int:
    """Records in the spool."""
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as response,
    ):
        for line in (await response.text()).splitlines():
            name, _, value = line.partition(" ")
            if name == "relay_spool_records":
                return int(float(value))
    raise AssertionError("no such metric")


def rows(result: Result) -> Sequence[Row]:
    """The longest answer of each outage."""
    return [
        Row(
            what=f"webhooks at {result['rate']:g}/s with a spool while the broker {what}"
            + ("" if what == "restarts" else f" for {result['seconds']:g} s"),
            goal="all 200, each within 3 s",
            figure=f"longest {outage['longest_s']:.2f} s (p99 {outage['p99_s']:.2f} s)",
            peer=", ".join(f"{n} × {status}" for status, n in outage["statuses"].items()),
            ratio="–",
        )
        for what, outage in result["outages"].items()
    ]


BENCHMARK = Benchmark("outage", __doc__, measure, rows, {"rate": 50.0, "seconds": 30.0})


def test_outage_figures() -> None:
    """Prints how long webhooks wait while the broker is away; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
