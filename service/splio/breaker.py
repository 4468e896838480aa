"""Stops the requests while Splio does not answer, and finds out when it does again."""

from collections.abc import Callable
from typing import Final

from service.domain.clock import Clock

_LOOK_S: Final = 0.05  # how often a waiter looks; only while the breaker is open
_PROBE_LIMIT_S: Final = 60.0  # a probe that nobody reports back on is given up after this


def _ignore(is_open: bool) -> None:
    """Nobody wants to know."""


class Breaker:
    """
    Counts failures in a row; lets one probe through after a growing pause.

        closed ──failures in a row──▶ open ──pause over──▶ half open (one probe out)
          ▲                            ▲                        │
          └────────── any answer ──────┼────────────────────────┤
                                       └── pause doubled ◀──────┘ the probe failed

    A failure is no answer, or a 5xx; every other answer, a refusal too, shows that Splio is
    there. What was already under way when it opened does not lengthen the pause.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        failures: int,
        first_pause_s: float,
        longest_pause_s: float,
        on_change: Callable[[bool], None] = _ignore,
    ) -> None:
        self._clock = clock
        self._failures_limit = failures
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._on_change = on_change
        self._failures = 0
        self._pause_s = 0.0
        self._open_until: float | None = None
        self._probe_until: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether requests other than a probe wait."""
        return self._open_until is not None

    @property
    def retry_in_s(self) -> float:
        """Seconds until the next probe may go, 0 when it may or the breaker is closed."""
        if self._open_until is None:
            return 0.0
        return max(0.0, self._open_until - self._clock.monotonic_s())

    async def wait(self) -> bool:
        """
        Wait until a request may be sent.

        Returns: whether it is the probe. A probe ends with `answered`, `failed` or
            `give_up_probe`.
        """
        while self._open_until is not None:
            now = self._clock.monotonic_s()
            is_probing = self._probe_until is not None and now < self._probe_until
            if now >= self._open_until and not is_probing:
                self._probe_until = now + _PROBE_LIMIT_S
                return True
            await self._clock.sleep(_LOOK_S)
        return False

    def answered(self) -> None:
        """A request was answered: close."""
        self._failures = 0
        if self._open_until is not None:
            self._open_until = None
            self._probe_until = None
            self._on_change(False)

    def failed(self, *, is_probe: bool) -> None:
        """A request was not answered, or with a 5xx."""
        self._failures += 1
        now = self._clock.monotonic_s()
        if self._open_until is None:
            if self._failures >= self._failures_limit:
                self._pause_s = self._first_pause_s
                self._open_until = now + self._pause_s
                self._on_change(True)
        elif is_probe:
            self._pause_s = min(self._pause_s * 2, self._longest_pause_s)
            self._open_until = now + self._pause_s
            self._probe_until = None

    def give_up_probe(self) -> None:
        """The probe was not sent; another request may be it."""
        self._probe_until = None
