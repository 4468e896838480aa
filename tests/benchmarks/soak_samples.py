"""What a soak watches: each process from outside and by its metrics, and whether that grows."""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import linear_regression
from typing import Any, Final

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from service.domain.effects import OPEN_STATES
from tests.benchmarks.surroundings import RelayProcess

# What may lie between the two ends of a line that counts as flat: the shares of its beginning.
FLAT_SHARE: Final = 0.05
FLAT_HANDLES: Final = 5.0
_JUDGED: Final = 2 / 3  # the last part of a run; the first warms up
_FEWEST: Final = 4  # samples that make a line
_OPEN: Final = frozenset(map(str, OPEN_STATES))


@dataclass(frozen=True, slots=True)
class Watched:
    """A process, where its metrics are, and whether it is killed now and then."""

    name: str
    process: RelayProcess
    metrics_url: str
    is_killed: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one time; None where its metrics do not tell."""

    name: str
    at_s: float
    process_id: int
    rss_mib: float
    handles: int
    threads: int
    lag: float | None = None
    spool: float | None = None
    outbox: float | None = None
    open_effects: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line through the last two thirds: where it begins, where it ends."""

    begins: float
    ends: float
    per_hour: float

    @property
    def growth(self) -> float:
        return self.ends - self.begins


class Sampler:
    """Collects samples every `every_s` until cancelled."""

    def __init__(self, watched: Sequence[Watched]) -> None:
        self._watched = watched
        self._began_s = time.monotonic()
        self._judged_until_s = math.inf
        self.samples: list[Sample] = []

    async def run(self, *, every_s: float) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while True:
                for watched in self._watched:
                    if (sample := await self._look(session, watched)) is not None:
                        self.samples.append(sample)
                await asyncio.sleep(every_s)

    def end_load(self) -> None:
        """From now on there is less to do, so what comes is not part of the lines."""
        self._judged_until_s = time.monotonic() - self._began_s

    def latest(self) -> dict[str, Sample]:
        """The last sample of each process."""
        return {sample.name: sample for sample in self.samples}

    def lines(self, name: str) -> tuple[Line, Line] | None:
        """
        Those of memory in MiB and of handles of one process under load since its last start.

        None when there are too few samples.
        """
        mine = [
            sample
            for sample in self.samples
            if sample.name == name and sample.at_s <= self._judged_until_s
        ]
        if not mine:
            return None
        end_s = mine[-1].at_s
        judged = [
            sample
            for sample in mine
            if sample.process_id == mine[-1].process_id and sample.at_s >= end_s * (1 - _JUDGED)
        ]
        if len(judged) < _FEWEST:
            return None
        times = [sample.at_s for sample in judged]
        return (
            _line(times, [sample.rss_mib for sample in judged]),
            _line(times, [float(sample.handles) for sample in judged]),
        )

    def documents(self) -> list[dict[str, Any]]:
        """All samples for the JSON."""
        return [asdict(sample) for sample in self.samples]

    async def _look(self, session: aiohttp.ClientSession, watched: Watched) -> Sample | None:
        if watched.process.exit_code() is not None:
            return None
        try:
            process = psutil.Process(watched.process.process_id)
            with process.oneshot():
                rss_mib = process.memory_info().rss / 2**20
                handles, threads = process.num_fds(), process.num_threads()
        except psutil.NoSuchProcess:
            return None
        return Sample(
            name=watched.name,
            at_s=time.monotonic() - self._began_s,
            process_id=watched.process.process_id,
            rss_mib=rss_mib,
            handles=handles,
            threads=threads,
            **await _metrics(session, watched.metrics_url),
        )


async def _metrics(session: aiohttp.ClientSession, url: str) -> Mapping[str, float | None]:
    """What the process itself says; nothing while it does not answer."""
    try:
        async with session.get(url) as reply:
            text = await reply.text()
    except (aiohttp.ClientError, TimeoutError):
        return {}
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "relay_ledger_entries" and sample.labels["state"] not in _OPEN:
                continue
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return {
        "lag": sums.get("relay_consumer_lag_records"),
        "spool": sums.get("relay_spool_records"),
        "outbox": sums.get("relay_outbox_entries"),
        "open_effects": sums.get("relay_ledger_entries"),
    }


def _line(times: Sequence[float], values: Sequence[float]) -> Line:
    slope, intercept = linear_regression(times, values)
    return Line(
        begins=intercept + slope * times[0],
        ends=intercept + slope * times[-1],
        per_hour=slope * 3600,
    )
