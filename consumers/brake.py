"""The dead-letter brake: a long run of rejections is usually a fault of ours, so stop and ask."""

from collections import deque
from dataclasses import dataclass
from typing import Final

_WINDOW: Final = 200  # the share of rejections is judged over this many outcomes


@dataclass(frozen=True, slots=True)
class BrakeRule:
    """More than `run` rejections in a row, or more than `share` of the last 200."""

    run: int
    share: float


class DeadLetterBrake:
    """Judges the stream of outcomes of one lane (or of planning)."""

    def __init__(self, rule: BrakeRule | None) -> None:
        self._rule = rule
        self._run = 0
        self._window: deque[bool] = deque(maxlen=_WINDOW)
        self._rejected = 0

    def note(self, *, rejected: bool) -> str | None:
        """Take one outcome; returns why to brake when it is one too many, else None."""
        if self._rule is None:
            return None
        if len(self._window) == _WINDOW:
            self._rejected -= self._window[0]
        self._window.append(rejected)
        self._rejected += rejected
        self._run = self._run + 1 if rejected else 0
        if self._run > self._rule.run:
            return f"{self._run} rejections in a row"
        if len(self._window) == _WINDOW and self._rejected > self._rule.share * _WINDOW:
            return f"{self._rejected} of the last {_WINDOW} were rejected"
        return None

    def reset(self) -> None:
        """Begin anew, after a person released the brake."""
        self._run = 0
        self._rejected = 0
        self._window.clear()
