"""Faults on demand: which requests go wrong, and how."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from service.sandbox.routes import OPERATIONS

# Each kind with what the client sees; `acts` tells whether the books change all the same.
KINDS = {
    "delay": "acts, then answers `seconds` late",
    "delay_before": "waits `seconds`, then acts, also when the client has gone",
    "lost_reply": "acts, then closes the connection without an answer",
    "lost_request": "reads the request, then closes the connection without acting",
    "status": "answers `status` with a body nobody documented, without acting",
    "status_after": "acts, then answers `status` with a body nobody documented",
    "429": "answers 429 as documented, reset in `retry_after` seconds, without acting",
    "garbage": "acts, then answers 200 with an HTML page",
    "slow_drip": "acts, then sends the answer byte by byte over `seconds`",
    "reset": "resets the TCP connection before acting",
    "outage": "resets every request of every operation for `seconds`; "
    "with `refuse` new connections are refused as well, the control door's included",
    "unauthorized": "answers 401 without acting",
}
ANY_OPERATION = "*"
_STATUSES = range(400, 600)


class BadRuleError(ValueError):
    """The fault rule cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class FaultRule:
    """
    Which requests meet which fault.

    Attributes:
        operation: one of `OPERATIONS`, or `*`.
        count: how many requests meet it; None for all.
        skip: how many matching requests pass first.
        probability: of each request after that, drawn from `seed`.
    """

    operation: str
    fault: str
    count: int | None = None
    skip: int = 0
    probability: float = 1.0
    seed: int = 0
    seconds: float = 1.0
    status: int = 503
    retry_after: int = 1
    refuse: bool = False


# Field of a rule: the types it takes and its smallest and largest value.
_NUMBERS: dict[str, tuple[type, float, float]] = {
    "count": (int, 1, 2**31),
    "skip": (int, 0, 2**31),
    "probability": (float, 0, 1),
    "seed": (int, 0, 2**31),
    "seconds": (float, 0, 3600),
    "status": (int, _STATUSES.start, _STATUSES.stop - 1),
    "retry_after": (int, 0, 3600),
}


def parse_rule(document: Any) -> FaultRule:
    """
    The rule of a JSON object.

    Raises: BadRuleError naming the field and what it takes.
    """
    if not isinstance(document, dict):
        raise BadRuleError("a fault rule is a JSON object")
    known = FaultRule.__dataclass_fields__
    for name, value in document.items():
        if name not in known:
            raise BadRuleError(f"unknown field {name!r}, known: {', '.join(known)}")
        if name in _NUMBERS and not (name == "count" and value is None):
            _check_number(name, value)
    operation, fault = document.get("operation"), document.get("fault")
    if operation != ANY_OPERATION and operation not in OPERATIONS:
        raise BadRuleError(f"operation is one of: *, {', '.join(OPERATIONS)}")
    if fault not in KINDS:
        raise BadRuleError(f"fault is one of: {', '.join(KINDS)}")
    if not isinstance(document.get("refuse", False), bool):
        raise BadRuleError("refuse is true or false")
    return FaultRule(**document)


def _check_number(name: str, value: Any) -> None:
    kind, smallest, largest = _NUMBERS[name]
    types = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, types) or not smallest <= value <= largest:
        whole = "a number" if kind is float else "a whole number"
        raise BadRuleError(f"{name} is {whole} from {smallest:g} to {largest:g}")


@dataclass(slots=True)
class _Armed:
    rule: FaultRule
    draw: random.Random
    to_skip: int
    injected: int = 0

    def meets(self, operation: str) -> bool:
        rule = self.rule
        if rule.operation not in (ANY_OPERATION, operation):
            return False
        if rule.count is not None and self.injected >= rule.count:
            return False
        if self.to_skip:
            self.to_skip -= 1
            return False
        if rule.probability < 1.0 and self.draw.random() >= rule.probability:
            return False
        self.injected += 1
        return True


@dataclass(slots=True)
class Faults:
    """
    The rules in force and how often each fault was injected.

    Attributes:
        injected: (operation, kind) to how often.
        outage_until: monotonic seconds.
    """

    injected: Counter[tuple[str, str]] = field(default_factory=Counter)
    outage_until: float = 0.0
    _armed: dict[int, _Armed] = field(default_factory=dict)
    _last: int = 0

    def add(self, rule: FaultRule) -> int:
        """Puts a rule into force behind the others; its number."""
        self._last += 1
        self._armed[self._last] = _Armed(rule, random.Random(rule.seed), rule.skip)
        return self._last

    def remove(self, number: int) -> bool:
        """Takes one rule out; False when there is none with this number."""
        return self._armed.pop(number, None) is not None

    def clear(self) -> None:
        """Takes all rules out and ends an outage."""
        self._armed.clear()
        self.outage_until = 0.0

    def outage(self, operation: str, *, now: float) -> bool:
        """True while an outage lasts; the request is counted as having met it."""
        if now >= self.outage_until:
            return False
        self.injected[operation, "outage"] += 1
        return True

    def take(self, operation: str, *, now: float) -> FaultRule | None:
        """The first rule that this request meets, counted as injected."""
        for armed in self._armed.values():
            if armed.meets(operation):
                self.injected[operation, armed.rule.fault] += 1
                if armed.rule.fault == "outage":
                    self.outage_until = now + armed.rule.seconds
                return armed.rule
        return None

    def described(self) -> list[Mapping[str, Any]]:
        """All rules with their numbers and how often each was met."""
        return [
            {"id": number, **asdict(armed.rule), "injected": armed.injected}
            for number, armed in self._armed.items()
        ]

    def injected_by_operation(self) -> dict[str, dict[str, int]]:
        """Operation to kind to how often."""
        table: dict[str, dict[str, int]] = {}
        for (operation, kind), times in sorted(self.injected.items()):
            table.setdefault(operation, {})[kind] = times
        return table
