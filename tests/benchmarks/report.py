"""
All benchmarks one after the other: the table of figures on standard output, all values as JSON.

`python -m tests.benchmarks.report [--only receive,effects] [--output data/bench.json]`.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from tests.benchmarks import (
    bench_effects,
    bench_latency,
    bench_ledger,
    bench_limits,
    bench_memory,
    bench_receive,
    bench_restart,
)
from tests.benchmarks.benchmark import Benchmark, Row, markdown
from tests.benchmarks.surroundings import machine
from tests.harness.child_process import ROOT

BENCHMARKS = (
    bench_receive.BENCHMARK,
    bench_effects.BENCHMARK,
    bench_latency.BENCHMARK,
    bench_restart.BENCHMARK,
    bench_ledger.BENCHMARK,
    bench_memory.BENCHMARK,
    bench_limits.BENCHMARK,
)


def report(benchmarks: list[Benchmark], output: Path) -> str:
    """Run them; writes the JSON to `output` and returns the table."""
    where = machine()
    document: dict[str, Any] = {"machine": where}
    rows: list[Row] = []
    for benchmark in benchmarks:
        print(f"{benchmark.name} …", file=sys.stderr, flush=True)
        began_s = time.monotonic()
        result = benchmark.run()
        document[benchmark.name] = result
        rows += benchmark.rows(result)
        print(f"{benchmark.name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
    output.parent.mkdir(exist_ok=True)
    output.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return markdown(rows, where)


def main() -> None:
    names = ",".join(benchmark.name for benchmark in BENCHMARKS)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=names, help="names, comma separated; default: all")
    parser.add_argument("--output", type=Path, default=ROOT / "data" / "bench.json")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(names.split(",")):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {names}")
    chosen = [benchmark for benchmark in BENCHMARKS if benchmark.name in wanted]
    print(report(chosen, options.output))


if __name__ == "__main__":
    main()
