"""
How long an idle service takes from a webhook to both effects applied, beside a naive script.

One delivery at a time, 20 ms after the one before was applied, against the sandbox without delay;
blocks of the service and of the script alternate. Alone:
`python -m tests.benchmarks.bench_latency [--json]`.
"""

import asyncio
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.events import (
    FIRST_ORDER_ID,
    JSON,
    create_prerequisites,
    orders,
    rendered,
)
from tests.benchmarks.latency_workers import PATH
from tests.benchmarks.surroundings import EMBEDDED, sandbox_process, started

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

BLOCKS = 5
WARM_UP = 20  # deliveries of each block that do not count: connections, caches, the token
PAUSE_S = 0.02
HEADERS = {
    **JSON,
    "Authorization": "Basic " + b64encode(b"scayle:sandbox").decode(),
}
_NOT_READY = 503


Places = Callable[[Path], Mapping[str, str]]


def measure(*, folder: Path, deliveries: int) -> Result:
    """Median and 99th percentile in milliseconds of the service and of the script."""
    return alternate(folder, deliveries, peer="naive", places=lambda place: EMBEDDED)


def alternate(folder: Path, deliveries: int, *, peer: str, places: Places) -> Result:
    """Blocks of the service and of `peer`, each where `places` says."""
    taken: dict[str, list[float]] = {"ours": [], peer: []}
    block = deliveries // BLOCKS
    first = FIRST_ORDER_ID
    with sandbox_process(folder) as sandbox:
        needed = rendered(orders(2 * BLOCKS * (block + WARM_UP), first=first))
        asyncio.run(create_prerequisites(sandbox.url, needed))
        for number in range(BLOCKS):
            for name, latencies in taken.items():
                place = folder / f"{name}-{number}"
                place.mkdir()
                arguments = (name, str(place), sandbox.url, str(first), str(block + WARM_UP))
                with worker(*arguments, orjson.dumps(dict(places(place))).decode()) as deliver:
                    bodies = list(orders(block + WARM_UP, first=first))
                    latencies.extend([deliver(body) for body in bodies][WARM_UP:])
                first += block + WARM_UP
    return {
        "deliveries": block * BLOCKS,
        **{
            name: {
                "p50_ms": percentile(latencies, 0.5) * 1e3,
                "p99_ms": percentile(latencies, 0.99) * 1e3,
            }
            for name, latencies in taken.items()
        },
    }


class Deliverer:
    """Sends a webhook and waits until both of its effects are applied."""

    def __init__(self, connection: HTTPConnection, applied: Iterator[str]) -> None:
        self._connection = connection
        self._applied = applied

    def __call__(self, body: bytes) -> float:
        """The seconds that it took."""
        time.sleep(PAUSE_S)
        while True:
            began_s = time.monotonic()
            self._connection.request("POST", PATH, body, HEADERS)
            response = self._connection.getresponse()
            response.read()
            if response.status != _NOT_READY:
                break
            time.sleep(PAUSE_S)
        assert response.status == 200, response.status
        return float(next(self._applied)) - began_s


@contextmanager
def worker(*arguments: str) -> Iterator[Deliverer]:
    """One of the workers in its own process."""
    with started("tests.benchmarks.latency_workers", *arguments) as (url, process):
        parts = urlsplit(url)
        assert parts.hostname is not None and process.stdout is not None
        with closing(HTTPConnection(parts.hostname, parts.port)) as connection:
            yield Deliverer(connection, iter(process.stdout))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def rows(result: Result) -> Sequence[Row]:
    """Both percentiles beside the script's."""
    return [
        Row(
            what=f"webhook → both effects applied, idle service, {result['deliveries']} "
            f"deliveries, {which}",
            goal=goal,
            figure=f"{result['ours'][name]:.1f} ms",
            peer="script that makes both calls inside the webhook and records nothing: "
            f"{result['naive'][name]:.1f} ms",
            ratio=f"{result['ours'][name] / result['naive'][name]:.2f} ×",
        )
        for which, name, goal in (("p50", "p50_ms", "≤ 7 ms"), ("p99", "p99_ms", "≤ 20 ms"))
    ]


BENCHMARK = Benchmark("latency", __doc__, measure, rows, {"deliveries": 500})


def test_latency_figures() -> None:
    """Prints how long one event takes; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
