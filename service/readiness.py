"""Whether a process can take and process events."""

from collections.abc import Callable

from service.telemetry.metrics import Metrics


class Readiness:
    """Whether the process can take and process events, and if not, why not."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._obstacles = {"starting": True}
        self._away: set[str] = set()
        self._bridged: list[Callable[[], list[str]]] = []

    def set(self, obstacle: str, present: bool) -> None:
        """Note that `obstacle` is there, or gone."""
        self._obstacles[obstacle] = present
        self._metrics.ready.set(not self.reasons())

    def reasons(self) -> list[str]:
        """Why the process is not ready; empty when it is."""
        return [name for name, present in self._obstacles.items() if present]

    def set_away(self, what: str, away: bool) -> None:
        """Note that something is away whose absence is borne for a while."""
        (self._away.add if away else self._away.discard)(what)

    def ask_also(self, degraded: Callable[[], list[str]]) -> None:
        """Somebody who tells what is away and bridged."""
        self._bridged.append(degraded)

    def degraded(self) -> list[str]:
        """What is away while the process works on."""
        return [*sorted(self._away), *(each for ask in self._bridged for each in ask())]

    def accepts(self) -> bool:
        """Whether webhooks may be taken."""
        return not self.reasons()
