"""Splio's rate limits: so many requests in any one second, per client address and category."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

CATEGORIES = ("contacts", "sales", "other")
_MINUTE_S = 60.0
_VERSION = re.compile(r"v\d+", re.ASCII)
_SALES = ("orders", "products", "stores")


def category_of(segments: tuple[str, ...]) -> str:
    """The category of a path: `data/contacts`, `data/[v1/]orders|products|stores`, or other."""
    if segments[:1] != ("data",):
        return "other"
    rest = segments[2:] if _VERSION.fullmatch("".join(segments[1:2])) else segments[1:]
    if rest[:1] == ("contacts",):
        return "contacts"
    return "sales" if rest and rest[0] in _SALES else "other"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may pass, with the headers that every answer carries."""

    allowed: bool
    headers: dict[str, str]


class RateLimits:
    """
    A strict sliding window: never more than the limit within any one second.

    A limit that is not a whole number has a window of its own (2.5 per second is 2 in any
    0.8 s, 0.5 per second is 1 in any 2 s). Refused requests do not count.
    """

    def __init__(self, limits: Mapping[str, float] | None) -> None:
        self._limits: dict[str, float] | None = None
        self._windows: dict[tuple[str, str], deque[float]] = {}
        self._minutes: dict[tuple[str, str], deque[float]] = {}
        self.change(limits)

    @property
    def limits(self) -> dict[str, float] | None:
        """The limits in force, or None when they are off."""
        return self._limits

    def change(self, limits: Mapping[str, float] | None) -> None:
        """
        New limits from the next request on; what passed before still counts.

        Raises: ValueError for an unknown category or a limit that is not above 0.
        """
        for category, limit in (limits or {}).items():
            if category not in CATEGORIES:
                raise ValueError(f"unknown category {category!r}, known: {', '.join(CATEGORIES)}")
            if not limit > 0:
                raise ValueError(f"the limit of {category} must be above 0")
        self._limits = None if limits is None else dict(limits)

    def take(self, client: str, category: str, *, now: float) -> Verdict:
        """
        Counts a request when it may pass.

        Args:
            now: monotonic seconds.
        """
        limit = None if self._limits is None else self._limits.get(category)
        if limit is None:
            return Verdict(True, {})
        capacity = max(1, math.floor(limit))
        window_s = capacity / limit
        passed = self._windows.setdefault((client, category), deque())
        minute = self._minutes.setdefault((client, category), deque())
        _forget(passed, until=now - window_s)
        _forget(minute, until=now - _MINUTE_S)
        allowed = len(passed) < capacity
        if allowed:
            passed.append(now)
            minute.append(now)
        per_minute = math.floor(limit * _MINUTE_S)
        return Verdict(
            allowed,
            {
                "rateLimit-limit": str(capacity),
                "rateLimit-remaining": str(capacity - len(passed)),
                "rateLimit-reset": str(max(1, math.ceil(passed[0] + window_s - now))),
                "x-rateLimit-limit-minute": str(per_minute),
                "x-rateLimit-remaining-minute": str(max(0, per_minute - len(minute))),
            },
        )


class PeakRate:
    """The highest number of requests that arrived within any one second."""

    def __init__(self) -> None:
        self._arrived: deque[float] = deque()
        self.highest = 0

    def count(self, *, now: float) -> None:
        """Notes a request at `now`, monotonic seconds."""
        _forget(self._arrived, until=now - 1.0)
        self._arrived.append(now)
        self.highest = max(self.highest, len(self._arrived))


def _forget(times: deque[float], *, until: float) -> None:
    while times and times[0] <= until:
        times.popleft()
