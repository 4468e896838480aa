"""
Whether memory grows with the backlog: resident at the end of 100,000 events beside that at 20 %.

The service works off a log that was filled before, limits off, against a bare responder.
Alone: `python -m tests.benchmarks.bench_memory [--json]`.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.benchmarks.bench_effects import work
from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.surroundings import responder

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]


def measure(*, folder: Path, count: int) -> Result:
    """Resident memory at 20 % and at the end, and the larger by the smaller moment."""
    with responder() as url:
        result = work("ours", folder / "service", url, count)
    return {
        "events": count,
        **result,
        "growth": result["rss_mib"] / result["rss_mib_at_20_percent"],
    }


def rows(result: Result) -> Sequence[Row]:
    """Memory at the end beside memory at 20 %."""
    return [
        Row(
            what=f"resident memory at the end of a backlog of {result['events']:,} events",
            goal="≤ 1.1 × that at 20 %",
            figure=f"{result['rss_mib']:.0f} MiB",
            peer=f"at 20 %: {result['rss_mib_at_20_percent']:.0f} MiB",
            ratio=f"{result['growth']:.2f} ×",
        )
    ]


BENCHMARK = Benchmark("memory", __doc__, measure, rows, {"count": 100_000})


def test_memory_figures() -> None:
    """Prints what a backlog costs in memory; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
