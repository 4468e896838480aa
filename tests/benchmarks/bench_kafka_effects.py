"""
How fast events in Kafka become effects at Splio with PostgreSQL, beside a naive consumer.

Alternating runs of `kafka_effect_workers` on the same records against one bare responder. The
figure against the sandbox, which keeps books, stands beside it. Alone:
`python -m tests.benchmarks.bench_kafka_effects [--json]`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import orjson
import pytest

from tests.benchmarks.bench_receive import medians
from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.distributed import Servers, servers
from tests.benchmarks.surroundings import responder, run_module, sandbox_process

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

SKIPPED: Final = 200  # events before the clock starts: joining the group, connections, the token


def measure(*, folder: Path, runs: int, count: int) -> Result:
    """Medians: events per second and CPU per event of the service and of the naive consumer."""
    collected: dict[str, list[Result]] = {"ours": [], "naive": []}
    with servers(folder) as both:
        with responder() as url:
            for number in range(runs):
                place, environment = _filled(both, folder / str(number), count)
                for name, results in collected.items():
                    results.append(_work(name, place, url, count, environment))
        with sandbox_process(folder) as sandbox:
            less = count // 6 + SKIPPED
            place, environment = _filled(both, folder / "sandbox", less)
            beside = _work("ours", place, sandbox.url, less, environment)
    return {
        "events": count,
        "runs": runs,
        "workers": medians(collected),
        "share_of_naive": median(
            ours["rate"] / naive["rate"]
            for ours, naive in zip(collected["ours"], collected["naive"], strict=True)
        ),
        "against_the_sandbox": beside,
    }


def _filled(both: Servers, place: Path, count: int) -> tuple[Path, Mapping[str, str]]:
    """A place of its own with `count` events in its log; both workers read the same."""
    place.mkdir()
    environment = both.place(place).environment
    _work("fill", place, "http://127.0.0.1:1", count, environment)
    return place, environment


def _work(name: str, place: Path, url: str, count: int, environment: Mapping[str, str]) -> Result:
    """One run of a worker in a process of its own."""
    return run_module(
        "tests.benchmarks.kafka_effect_workers",
        name,
        str(place),
        url,
        str(count),
        str(SKIPPED),
        orjson.dumps(dict(environment)).decode(),
    )


def rows(result: Result) -> Sequence[Row]:
    """The service beside the naive consumer."""
    ours, naive = result["workers"]["ours"], result["workers"]["naive"]
    beside = result["against_the_sandbox"]
    return [
        Row(
            what="events in Kafka → both effects applied, ledger in PostgreSQL, "
            f"{result['events']} events, median of {result['runs']} alternating runs",
            goal="≥ 65 % of the naive consumer",
            figure=f"{ours['rate']:.0f}/s, {ours['cpu_us']:.0f} µs CPU an event "
            f"({beside['rate']:.0f}/s against the sandbox, which keeps books)",
            peer="naive aiokafka consumer, the same two aiohttp requests, 32 at a time, no ledger: "
            f"{naive['rate']:.0f}/s, {naive['cpu_us']:.0f} µs",
            ratio=f"{result['share_of_naive']:.0%}",
        )
    ]


BENCHMARK = Benchmark("kafka-effects", __doc__, measure, rows, {"runs": 5, "count": 6_000})


def test_kafka_effect_figures() -> None:
    """Prints what two effects per event cost; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
