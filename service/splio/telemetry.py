"""The client's metrics with their labels resolved, so that a request looks none up."""

from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter, Histogram

from service.domain.effects import Lane, PrerequisiteKind
from service.domain.ports import Operation
from service.telemetry.metrics import Metrics

_NAMED_STATUSES: Final = {400: "400", 401: "401", 404: "404", 429: "429"}
_UNKNOWN: Final = -1  # what a lane's gauge shows until Splio's headers said something


@dataclass(frozen=True, slots=True)
class _OperationMetrics:
    seconds: Histogram
    answers: dict[str, Counter]


class ClientMetrics:
    """Counts requests by operation and answer, and times them."""

    def __init__(self, metrics: Metrics) -> None:
        self.breaker_open = metrics.breaker_open
        self.rate_left = {lane: metrics.rate_left.labels(lane.value) for lane in Lane}
        for gauge in self.rate_left.values():
            gauge.set(_UNKNOWN)
        self.limiter_waits = {
            lane: metrics.limiter_wait_seconds.labels(lane.value) for lane in Lane
        }
        self.created = {kind: metrics.prerequisites.labels(kind.value) for kind in PrerequisiteKind}
        labels = ("2xx", "4xx", "5xx", "none", *_NAMED_STATUSES.values())
        self._operations = {
            operation: _OperationMetrics(
                seconds=metrics.request_seconds.labels(operation.value),
                answers={
                    label: metrics.requests.labels(operation.value, label) for label in labels
                },
            )
            for operation in Operation
        }

    def answered(self, operation: Operation, status: int, seconds: float) -> None:
        """Count a request that was answered with `status`; a redirect counts as a 4xx."""
        self._count(operation, _answer_label(status), seconds)

    def unanswered(self, operation: Operation, seconds: float) -> None:
        """Count a request that no answer came to."""
        self._count(operation, "none", seconds)

    def _count(self, operation: Operation, answer: str, seconds: float) -> None:
        metrics = self._operations[operation]
        metrics.answers[answer].inc()
        metrics.seconds.observe(seconds)


def _answer_label(status: int) -> str:
    if named := _NAMED_STATUSES.get(status):
        return named
    if 200 <= status < 300:  # noqa: PLR2004 - the class of successes
        return "2xx"
    return "5xx" if status >= 500 else "4xx"  # noqa: PLR2004 - the class of server errors
