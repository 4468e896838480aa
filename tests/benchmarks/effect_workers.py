"""
The processes that `bench_effects` and `bench_memory` compare; each prints one JSON object.

`ours` is the service: its log holds the events (`fill`), and it is measured until the ledger has
both effects of each applied. `loop` is what a script would do: the same two requests per event,
32 at a time, nothing recorded.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil
from prometheus_client import Counter

from service.domain.effects import Kind, Outcome
from service.runtime import open_runtime
from service.settings import Settings
from service.stores import Role
from service.telemetry.logs import configure_logs
from tests.benchmarks.events import JSON, Requests, fill_log, orders, rendered, settings_of

AT_ONCE = 32
_LOOK_S = 0.005
_HEADERS = {**JSON, "Authorization": "Bearer x"}
_WARM = 0.2  # the share of the backlog after which memory is looked at first


async def ours(
    settings: Settings, count: int, *, role: Role = Role.SERVE, skip: int = 0
) -> dict[str, Any]:
    """The service works off a log of `count` events; the clock starts after `skip` of them."""
    stop = asyncio.Event()
    async with open_runtime(settings, role=role) as runtime:
        attempts = runtime.metrics.attempts
        applied = [attempts.labels(kind.value, Outcome.APPLIED.value) for kind in Kind]
        doubts = [attempts.labels(kind.value, Outcome.IN_DOUBT.value) for kind in Kind]

        async def reach(effects: int) -> None:
            while sum(value(child) for child in applied) < effects:
                if running.done():
                    raise RuntimeError(f"the service ended: {running.result()}")
                if any(value(child) for child in doubts):
                    raise RuntimeError("a request timed out: this machine is too busy")
                await asyncio.sleep(_LOOK_S)

        began, cpu = time.perf_counter(), time.process_time()
        running = asyncio.create_task(runtime.run(stop))
        if skip:
            await reach(2 * skip)
            began, cpu = time.perf_counter(), time.process_time()
        await reach(int(2 * count * _WARM))
        warm_mib = rss_mib()
        await reach(2 * count)
        took, used = time.perf_counter() - began, time.process_time() - cpu
        end_mib = rss_mib()
        stop.set()
        await running
    measured = speed(count - skip, took, used)
    return {**measured, "rss_mib_at_20_percent": warm_mib, "rss_mib": end_mib}


async def loop(splio_url: str, count: int) -> dict[str, Any]:
    """The same requests, and nothing else."""
    requests = iter(list(rendered(orders(count))))
    async with aiohttp.ClientSession(
        splio_url, connector=aiohttp.TCPConnector(limit=2 * AT_ONCE)
    ) as session:
        began, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(_send_all(session, requests))
        took, used = time.perf_counter() - began, time.process_time() - cpu
    return {**speed(count, took, used), "rss_mib": rss_mib()}


async def _send_all(session: aiohttp.ClientSession, requests: Iterator[Requests]) -> None:
    for each in requests:
        await send(session, each)


async def send(session: aiohttp.ClientSession, requests: Requests) -> None:
    """Both requests of one event, one after the other."""
    for request in (requests.order, requests.credit):
        async with session.post(request.path, data=request.body, headers=_HEADERS) as reply:
            await reply.read()
            assert reply.status in (201, 202)


async def fill(folder: Path, count: int) -> dict[str, Any]:
    """A log of `count` events, in a process of its own so that `ours` starts with clean memory."""
    await fill_log(settings_of(folder, "http://127.0.0.1:1"), orders(count))
    return {}


def speed(count: int, took_s: float, used_s: float) -> dict[str, float]:
    """Events per second, and CPU per event."""
    return {"rate": count / took_s, "cpu_us": used_s / count * 1e6}


def value(child: Counter) -> float:
    """What a counter stands at."""
    number: float = child._value.get()
    return number


def rss_mib() -> float:
    """The memory that this process holds now."""
    size_bytes: int = psutil.Process().memory_info().rss
    return size_bytes / 2**20


def main() -> None:
    name, folder, splio_url, count = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    with (folder / "log.txt").open("w") as stream:
        configure_logs(log_format="json", level="INFO", stream=stream)
        match name:
            case "ours":
                result = asyncio.run(ours(settings_of(folder, splio_url), count))
            case "loop":
                result = asyncio.run(loop(splio_url, count))
            case _:
                result = asyncio.run(fill(folder, count))
    sys.stdout.write(orjson.dumps(result).decode())


if __name__ == "__main__":
    main()
