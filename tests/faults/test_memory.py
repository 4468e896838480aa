"""A large backlog: memory must not grow with what waits."""

from pathlib import Path

import pytest

from tests.benchmarks.bench_effects import work
from tests.benchmarks.surroundings import responder

MOST = 1.1  # the end's share of what was resident at 20 %


@pytest.mark.timeout(900)
@pytest.mark.parametrize("events", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_backlog(events: int, tmp_path: Path) -> None:
    with responder() as url:
        result = work("ours", tmp_path / "service", url, events)

    assert result["rss_mib"] <= MOST * result["rss_mib_at_20_percent"]
