"""
How much of Splio's documented rate two processes use together, and how often they are told 429.

As `bench_limits`, with two processes in the role `consume` on one Kafka topic and one PostgreSQL,
whose schedule is the one budget of both. Alone:
`python -m tests.benchmarks.bench_replicas [--json] [--seconds 300]`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from service.stores import Role
from tests.benchmarks import bench_limits
from tests.benchmarks.bench_limits import LIMITS, SETTINGS, backlog, watch
from tests.benchmarks.benchmark import Benchmark, Result, Row
from tests.benchmarks.distributed import Servers, servers
from tests.benchmarks.events import fill_log, settings_of
from tests.benchmarks.surroundings import RelayProcess, sandbox_process
from tests.harness.sandbox_process import SandboxProcess

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

REPLICAS: Final = 2


def measure(*, folder: Path, seconds: float) -> Result:
    """By busy lane: requests admitted, their share of the limit, and the share of 429."""
    with servers(folder) as both, sandbox_process(folder, limits=LIMITS) as sandbox:
        return asyncio.run(_measure(folder, both, sandbox, seconds))


async def _measure(folder: Path, both: Servers, sandbox: SandboxProcess, seconds: float) -> Result:
    place = (await both.open_place(folder)).environment
    await fill_log(settings_of(folder, sandbox.url, place), backlog(seconds))
    with ExitStack() as stack:
        relays = [
            stack.enter_context(
                RelayProcess(
                    folder,
                    sandbox.url,
                    {**place, **SETTINGS},
                    role=Role.CONSUME,
                    name=f"consumer-{number}",
                )
            )
            for number in range(REPLICAS)
        ]
        return await watch(sandbox, relays, seconds)


def rows(result: Result) -> Sequence[Row]:
    """A row a busy lane, and one for 429."""
    return bench_limits.rows(result, who=f", {REPLICAS} replicas on Kafka and PostgreSQL")


BENCHMARK = Benchmark("replicas", __doc__, measure, rows, {"seconds": 300.0})


def test_replica_figures() -> None:
    """Prints how much of the rate two processes use; judges nothing."""
    BENCHMARK.show()


if __name__ == "__main__":
    BENCHMARK.main()
