"""
How fast a webhook is acknowledged by Kafka (`acks=all`), beside aiohttp and aiokafka alone.

Alternating runs against three servers (see `kafka_receive_servers`), 64 keep-alive connections,
the full-size example, one broker for all. Alone:
`python -m tests.benchmarks.bench_kafka_receive [--json]`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson
import psutil
import pytest

from tests.benchmarks.bench_receive import CONNECTIONS, measured, medians, write_body
from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.distributed import Servers, servers
from tests.benchmarks.surroundings import started

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

_OURS: Final = {"ours": "no spool", "ours-spool": "with a spool path"}


def measure(*, folder: Path, names: str, runs: int, seconds: float) -> Result:
    """Medians by server: requests per second, CPU per request, latency at half of that rate."""
    body = write_body(folder)
    collected: dict[str, list[Result]] = {name: [] for name in names.split(",")}
    with servers(folder) as both:
        for number in range(runs):
            for name, results in collected.items():
                place = folder / f"{name}-{number}"
                place.mkdir()
                results.append(_run(name, place, both, body, seconds))
    return {
        "body_bytes": body.stat().st_size,
        "connections": CONNECTIONS,
        "runs": runs,
        "servers": medians(collected),
    }


def _run(name: str, folder: Path, both: Servers, body: Path, seconds: float) -> Result:
    place = orjson.dumps(dict(both.place(folder).environment)).decode()
    module = "tests.benchmarks.kafka_receive_servers"
    with started(module, name, str(folder), place) as (port, process):
        return measured(int(port), psutil.Process(process.pid), body, seconds)


def rows(result: Result) -> Sequence[Row]:
    """The role `receive` beside the bare handler."""
    measured = result["servers"]
    bare = measured["bare"]
    found = []
    for name, how in _OURS.items():
        if (ours := measured.get(name)) is None:
            continue
        found += [
            Row(
                what=f"durable acknowledgement on Kafka `acks=all`, {how}, {result['body_bytes']} "
                f"bytes, {result['connections']} connections, median of {result['runs']} "
                "alternating runs",
                goal="≥ 80 % of a bare handler",
                figure=f"{ours['rate']:.0f}/s, {ours['cpu_us']:.0f} µs CPU",
                peer="aiohttp handler that awaits aiokafka for the raw body: "
                f"{bare['rate']:.0f}/s, {bare['cpu_us']:.0f} µs",
                ratio=f"{ours['rate'] / bare['rate']:.0%}, "
                f"CPU {ours['cpu_us'] / bare['cpu_us']:.2f} ×",
            ),
            Row(
                what=f"p99 of the same at half of that rate, {how}",
                goal="≤ 50 ms",
                figure=f"{ours['p99_ms_at_half_rate']:.1f} ms "
                f"(p50 {ours['p50_ms_at_half_rate']:.1f} ms)",
                peer=f"bare: {bare['p99_ms_at_half_rate']:.1f} ms "
                f"(p50 {bare['p50_ms_at_half_rate']:.1f} ms)",
                ratio="–",
            ),
        ]
    return found


BENCHMARK = Benchmark(
    "kafka-receive",
    __doc__,
    measure,
    rows,
    {"names": "bare,ours,ours-spool", "runs": 5, "seconds": 4.0},
)


def test_kafka_receive_figures() -> None:
    """Prints what an acknowledgement by Kafka costs; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
