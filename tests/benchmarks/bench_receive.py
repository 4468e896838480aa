"""
How fast a webhook is acknowledged durably, beside what aiohttp itself can do on this machine.

Alternating runs against three servers (see `receive_servers`), 64 keep-alive connections, the
full-size example. Alone: `python -m tests.benchmarks.bench_receive [--json]`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import orjson
import psutil
import pytest

from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.receive_servers import AUTHORIZATION, PATH
from tests.benchmarks.surroundings import run_module, started
from tests.harness.child_process import ROOT

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

CONNECTIONS = 64
BODY = ROOT / "tests" / "fixtures" / "scayle" / "order-confirmed.json"


def measure(*, folder: Path, servers: str, runs: int, seconds: float) -> Result:
    """Medians by server: requests per second, CPU per request, latency at half of that rate."""
    body = write_body(folder)
    collected: dict[str, list[Result]] = {name: [] for name in servers.split(",")}
    for number in range(runs):
        for name, results in collected.items():
            place = folder / f"{name}-{number}"
            place.mkdir()
            results.append(_run(name, place, body, seconds))
    return {
        "body_bytes": body.stat().st_size,
        "connections": CONNECTIONS,
        "runs": runs,
        "servers": medians(collected),
    }


def write_body(folder: Path) -> Path:
    """The file with the body that the load generator sends."""
    body = folder / "body.json"
    body.write_bytes(orjson.dumps(orjson.loads(BODY.read_bytes())))
    return body


def medians(collected: Mapping[str, Sequence[Result]]) -> dict[str, Result]:
    """The median of every value, by name of who was measured."""
    return {
        name: {what: median(result[what] for result in results) for what in results[0]}
        for name, results in collected.items()
    }


def _run(name: str, folder: Path, body: Path, seconds: float) -> Result:
    with server(name, folder) as (port, process):
        return measured(port, process, body, seconds)


def measured(port: int, process: psutil.Process, body: Path, seconds: float) -> Result:
    """What one server does at full speed, then at half of that."""
    load(port, body, seconds=min(1.0, seconds))
    before_s = cpu_s(process)
    full = load(port, body, seconds=seconds)
    used_s = cpu_s(process) - before_s
    half = load(port, body, seconds=seconds, rate=full["rate"] / 2)
    return {
        "rate": full["rate"],
        "cpu_us": used_s / full["requests"] * 1e6,
        "p99_ms_at_half_rate": half["p99_s"] * 1e3,
        "p50_ms_at_half_rate": half["p50_s"] * 1e3,
    }


@contextmanager
def server(name: str, folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """One of the servers in its own process, and where it listens."""
    with started("tests.benchmarks.receive_servers", name, str(folder)) as (port, process):
        yield int(port), psutil.Process(process.pid)


def load(port: int, body: Path, *, seconds: float, rate: float | None = None) -> Result:
    """One run of the load generator, in its own process."""
    task = {
        "port": port,
        "path": PATH,
        "headers": {"Authorization": AUTHORIZATION},
        "body": str(body),
        "connections": CONNECTIONS,
        "seconds": seconds,
        "rate": rate,
    }
    result = run_module("tests.benchmarks.http_load", orjson.dumps(task).decode())
    assert result["statuses"].keys() == {"200"}, result["statuses"]
    return result


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds that a process used so far."""
    times = process.cpu_times()
    return times.user + times.system


def rows(result: Result) -> Sequence[Row]:
    """The service's door beside the other servers."""
    servers = result["servers"]
    ours = servers["ours"]
    peers = {name: row for name, row in servers.items() if name != "ours"}
    meanings = {"bare": "bare handler", "plain": "handler that group-commits the raw body"}

    def beside(what: str, unit: str) -> str:
        return "; ".join(
            f"{meanings.get(name, name)}: {row[what]:.{1 if unit == ' ms' else 0}f}{unit}"
            for name, row in peers.items()
        )

    return [
        Row(
            what=f"durable acknowledgement, {result['body_bytes']} bytes, "
            f"{result['connections']} connections, median of {result['runs']} alternating runs",
            goal="≥ 95 % of the handler that group-commits, ≥ 60 % of a bare one",
            figure=f"{ours['rate']:.0f}/s",
            peer=beside("rate", "/s"),
            ratio=", ".join(
                f"{ours['rate'] / row['rate']:.0%} of {name}" for name, row in peers.items()
            ),
        ),
        Row(
            what="CPU per acknowledgement",
            goal="–",
            figure=f"{ours['cpu_us']:.0f} µs",
            peer=beside("cpu_us", " µs"),
            ratio=", ".join(
                f"{ours['cpu_us'] / row['cpu_us']:.2f} × {name}" for name, row in peers.items()
            ),
        ),
        Row(
            what="p99 of the acknowledgement at half of that rate",
            goal="≤ 50 ms",
            figure=f"{ours['p99_ms_at_half_rate']:.1f} ms "
            f"(p50 {ours['p50_ms_at_half_rate']:.1f} ms)",
            peer=beside("p99_ms_at_half_rate", " ms"),
            ratio="–",
        ),
    ]


BENCHMARK = Benchmark(
    "receive", __doc__, measure, rows, {"servers": "bare,plain,ours", "runs": 5, "seconds": 4.0}
)


def test_receive_figures() -> None:
    """Prints what a durable acknowledgement costs; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
