"""
All benchmarks one after the other: the table of figures on standard output, all values as JSON.

`python -m tests.benchmarks.report [--only receive,effects] [--output data/bench.json]`. Options of
the benchmarks apply to all that have them: `--runs 3 --count 2000 --seconds 60 --keys 1000000`.
Those on Kafka and PostgreSQL are left out, saying why, where there is no broker or no server.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from tests.benchmarks import (
    bench_balance,
    bench_effects,
    bench_failover,
    bench_kafka_effects,
    bench_kafka_latency,
    bench_kafka_receive,
    bench_latency,
    bench_ledger,
    bench_limits,
    bench_memory,
    bench_outage,
    bench_postgres_ledger,
    bench_receive,
    bench_replicas,
    bench_restart,
)
from tests.benchmarks.benchmark import Benchmark, Row, markdown
from tests.benchmarks.surroundings import machine
from tests.harness.child_process import ROOT
from tests.harness.kafka_jars import BrokerMissingError
from tests.harness.postgres_server import PostgresMissingError

OPTIONS = ("runs", "count", "seconds", "keys", "deliveries")

BENCHMARKS = (
    bench_receive.BENCHMARK,
    bench_effects.BENCHMARK,
    bench_latency.BENCHMARK,
    bench_restart.BENCHMARK,
    bench_ledger.BENCHMARK,
    bench_memory.BENCHMARK,
    bench_limits.BENCHMARK,
    bench_balance.BENCHMARK,
    bench_kafka_receive.BENCHMARK,
    bench_kafka_effects.BENCHMARK,
    bench_kafka_latency.BENCHMARK,
    bench_failover.BENCHMARK,
    bench_outage.BENCHMARK,
    bench_postgres_ledger.BENCHMARK,
    bench_replicas.BENCHMARK,
)


def report(benchmarks: list[Benchmark], output: Path, chosen: Mapping[str, int | float]) -> str:
    """
    Run them; writes the JSON to `output` and returns the table.

    `chosen` are options that replace the defaults of the benchmarks that have them.
    """
    where = machine()
    document: dict[str, Any] = {"machine": where}
    rows: list[Row] = []
    for benchmark in benchmarks:
        print(f"{benchmark.name} …", file=sys.stderr, flush=True)
        began_s = time.monotonic()
        options = {
            name: type(default)(chosen[name])
            for name, default in benchmark.options.items()
            if name in chosen
        }
        try:
            result = benchmark.run(**options)
        except (BrokerMissingError, PostgresMissingError) as error:
            print(f"{benchmark.name}: left out, {error}", file=sys.stderr, flush=True)
            continue
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
    for name in OPTIONS:
        parser.add_argument(f"--{name}", type=float, help="default: each benchmark's own")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(names.split(",")):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {names}")
    chosen = [benchmark for benchmark in BENCHMARKS if benchmark.name in wanted]
    given = {name: getattr(options, name) for name in OPTIONS}
    replaced = {name: number for name, number in given.items() if number is not None}
    print(report(chosen, options.output, replaced))


if __name__ == "__main__":
    main()
