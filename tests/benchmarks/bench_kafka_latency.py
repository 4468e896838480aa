"""
How long an idle service on Kafka and PostgreSQL takes from a webhook to both effects applied.

As `bench_latency`, beside a script that produces to Kafka inside the webhook and makes both calls
for what it consumes. Alone: `python -m tests.benchmarks.bench_kafka_latency [--json]`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.benchmarks.bench_latency import alternate
from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.distributed import servers

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

_PEER: Final = "naive-kafka"


def measure(*, folder: Path, deliveries: int) -> Result:
    """Median and 99th percentile in milliseconds of the service and of the script."""
    with servers(folder) as both:
        return alternate(
            folder, deliveries, peer=_PEER, places=lambda place: both.place(place).environment
        )


def rows(result: Result) -> Sequence[Row]:
    """Both percentiles beside the script's."""
    return [
        Row(
            what="webhook → both effects applied, idle service on Kafka and PostgreSQL, "
            f"{result['deliveries']} deliveries, {which}",
            goal="reported",
            figure=f"{result['ours'][name]:.1f} ms",
            peer=f"script of aiohttp and aiokafka, nothing recorded: {result[_PEER][name]:.1f} ms",
            ratio=f"{result['ours'][name] / result[_PEER][name]:.2f} ×",
        )
        for which, name in (("p50", "p50_ms"), ("p99", "p99_ms"))
    ]


BENCHMARK = Benchmark("kafka-latency", __doc__, measure, rows, {"deliveries": 500})


def test_kafka_latency_figures() -> None:
    """Prints how long one event takes; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
