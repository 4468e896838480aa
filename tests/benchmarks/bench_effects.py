"""
How fast events in the log become effects at Splio, beside the same requests with nothing recorded.

Alternating runs of `effect_workers` against one bare responder: the service with its ledger, and a
loop that makes the same two requests per event, 32 at a time. The figure against the sandbox, which
keeps books, stands beside it. Alone: `python -m tests.benchmarks.bench_effects [--json]`.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pytest

from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.surroundings import responder, run_module, sandbox_process

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]


def measure(*, folder: Path, runs: int, count: int) -> Result:
    """Medians: events per second and CPU per event of the service and of the bare loop."""
    collected: dict[str, list[Result]] = {"ours": [], "loop": []}
    with responder() as url:
        for number in range(runs):
            for name, results in collected.items():
                results.append(work(name, folder / f"{name}-{number}", url, count))
    with sandbox_process(folder) as sandbox:
        beside = work("ours", folder / "sandbox", sandbox.url, count // 6)
    return {
        "events": count,
        "runs": runs,
        "workers": {
            name: {what: median(result[what] for result in results) for what in results[0]}
            for name, results in collected.items()
        },
        "share_of_loop": median(
            ours["rate"] / loop["rate"]
            for ours, loop in zip(collected["ours"], collected["loop"], strict=True)
        ),
        "against_the_sandbox": beside,
    }


def work(name: str, place: Path, url: str, count: int) -> Result:
    """One run of a worker in a process of its own, on a log that is filled before."""
    place.mkdir()
    arguments = (str(place), url, str(count))
    if name == "ours":
        run_module("tests.benchmarks.effect_workers", "fill", *arguments)
    return run_module("tests.benchmarks.effect_workers", name, *arguments)


def rows(result: Result) -> Sequence[Row]:
    """The service beside the loop."""
    ours, loop = result["workers"]["ours"], result["workers"]["loop"]
    beside = result["against_the_sandbox"]
    return [
        Row(
            what=f"events in the log → both effects applied, {result['events']} events, "
            f"median of {result['runs']} alternating runs",
            goal="≥ 65 % of the loop",
            figure=f"{ours['rate']:.0f}/s, {ours['cpu_us']:.0f} µs CPU an event "
            f"({beside['rate']:.0f}/s against the sandbox, which keeps books)",
            peer="loop of the same two aiohttp requests, 32 at a time, nothing recorded: "
            f"{loop['rate']:.0f}/s, {loop['cpu_us']:.0f} µs",
            ratio=f"{result['share_of_loop']:.0%}",
        )
    ]


BENCHMARK = Benchmark("effects", __doc__, measure, rows, {"runs": 5, "count": 6_000})


def test_effect_figures() -> None:
    """Prints what two effects per event cost; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
