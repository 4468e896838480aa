"""The witness: sees every commit of the ledger and says where it left DESIGN's rules."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from consumers.looked_for import MAX_RESENDS, RESEND_WITHIN_MS
from service.domain.clock import Clock
from service.domain.effects import EffectKey, Kind, Outcome
from service.domain.ledger import (
    Claim,
    Disposition,
    Doubt,
    Ledger,
    LookUp,
    LookUpVerdict,
    PlannedRecord,
    PlanResult,
    Settlement,
    SettleResult,
)
from service.domain.planning import Plan
from tests.model.staged_ledger import Operation

Row = Mapping[str, Any]
Arrow = tuple[str | None, str]
Note = tuple[int, str]  # the attempt and the outcome of a line of the audit trail

OPEN: Final = frozenset({"blocked", "due", "attempting", "in_doubt", "held"})
SUCCESS: Final = frozenset({"applied", "duplicate"})
STARTED: Final = frozenset({"due", "attempting", "in_doubt", *SUCCESS})
OPENING: Final = "open"  # the operation that begins a process

_NEW: Final = {(None, state) for state in ("due", "held", "rejected", "blocked", "void")}
_FOLLOWING: Final = {("blocked", "due"), ("blocked", "void")}
_VOIDING: Final = {("blocked", "void")}
_EXPIRING: Final = {("attempting", "in_doubt")}
_LATE: Final = {
    (state, success)
    for state in ("due", "attempting", "in_doubt", "held", "rejected")
    for success in SUCCESS
}
# Which operation may move an effect along which arrow; what is not here moves nothing.
ARROWS: Final[Mapping[str, set[Arrow]]] = {
    "record_plans": {*_NEW, *_VOIDING},
    "claim": {("due", "attempting")},
    "settle": {
        *(("attempting", state) for state in ("rejected", "in_doubt", "due")),
        *_LATE,
        *_FOLLOWING,
    },
    "expire_leases": {*_EXPIRING},
    OPENING: {*_EXPIRING},
    "record_look_up": {
        *(("in_doubt", state) for state in ("applied", "rejected", "due", "held")),
        *_FOLLOWING,
    },
    # What Splio shows although we believe that it is not there.
    "mark_seen": {("due", "in_doubt"), ("held", "in_doubt")},
    "release": {*(("held", state) for state in ("due", "blocked", "void", "in_doubt")), *_VOIDING},
    "reject": {("held", "rejected"), ("in_doubt", "rejected"), *_VOIDING},
    "replay": {
        *_NEW,
        *(("rejected", state) for state in ("due", "held", "blocked", "void", "in_doubt")),
        *_VOIDING,
    },
}
_FOR_EVER: Final = ("kind", "lane", "order_key", "after", "event_id", "received_at")


@dataclass
class Witness:
    """
    Compares the ledger's rows before and after each commit with what was asked of it.

    `violations` are told where they are found and raised by the test, as the code under test
    must not swallow them.
    """

    clock: Clock
    lease_ms: int
    visible_after_ms: Mapping[str, int]
    violations: list[str] = field(default_factory=list)
    rows: dict[EffectKey, Row] = field(default_factory=dict)
    audit: dict[EffectKey, Counter[Note]] = field(default_factory=lambda: defaultdict(Counter))
    touched: set[EffectKey] = field(default_factory=set)
    dispositions: dict[int, Disposition] = field(default_factory=dict)
    replayed: list[Plan] = field(default_factory=list)
    rejections: Counter[EffectKey] = field(default_factory=Counter)
    given_up: set[EffectKey] = field(default_factory=set)  # rejected by a person while in doubt
    doubles: int = 0  # reported since the process began
    ledger: Ledger | None = None

    def expect(self, holds: object, what: str) -> None:
        """Note a violation unless it holds."""
        if not holds:
            self.violations.append(what)

    async def watch(self, operations: Sequence[Operation]) -> None:
        """Look at what one commit did."""
        before, after = self.rows, await self.read()
        names = [operation.name for operation in operations]
        by_key: dict[EffectKey, list[Operation]] = defaultdict(list)
        for operation in operations:
            for key in _keys_of(operation):
                by_key[key].append(operation)
        self._compare(before, after, names)
        for key, row in after.items():
            self._count_claims(key, before.get(key), row, by_key[key])
        for operation in operations:
            if operation.error is None:
                is_alone = all(len(by_key[key]) == 1 for key in _keys_of(operation))
                self._follow(operation, before, after, is_alone=is_alone)
        self.rows = after

    async def reopen(self, lost: Sequence[Operation]) -> None:
        """Look at what a new process begins with; of the lost operations nobody knows the end."""
        before, after = self.rows, await self.read()
        self._compare(before, after, [OPENING, *(operation.name for operation in lost)])
        claims = Counter(
            key for operation in lost if operation.name == "claim" for key in _keys_of(operation)
        )
        for key, row in after.items():
            raised = row["attempt"] - (before[key]["attempt"] if key in before else 0)
            self.expect(0 <= raised <= claims[key], f"{key}: attempt raised by {raised} at a crash")
            self.expect(row["state"] != "attempting", f"{key}: attempting in a process that began")
            known, self.audit[key] = self.audit[key], await self.notes_of(key)
            if not any(operation.name == "purge" for operation in lost):
                self.expect(known <= self.audit[key], f"{key}: the audit trail lost {known}")
        for operation in lost:
            if operation.name == "replay":
                plan = operation.args[1].plan
                if any(each.key in after and each.key not in before for each in plan.effects):
                    self.replayed.append(plan)
        self.doubles = 0
        self.rows = after

    async def notes_of(self, key: EffectKey) -> Counter[Note]:
        """The audit trail of an effect."""
        assert self.ledger is not None
        shown = await self.ledger.show_effect(key)
        return Counter((note["attempt"], note["outcome"]) for note in shown["attempts"])

    async def read(self) -> dict[EffectKey, Row]:
        assert self.ledger is not None
        page = await self.ledger.list_effects(limit=1000)
        assert page.next is None
        return {row["effect_key"]: row for row in page.items}

    # -- what holds for every commit

    def _compare(
        self, before: Mapping[EffectKey, Row], after: Mapping[EffectKey, Row], names: Sequence[str]
    ) -> None:
        arrows: set[Arrow] = set()
        for name in names:
            arrows |= ARROWS.get(name, set())
        for key in before:
            self.expect(key in after, f"{key}: its key is gone")
        for key, row in after.items():
            old = before.get(key)
            state, was = row["state"], old["state"] if old else None
            if state != was:
                self.touched.add(key)
                self.expect(
                    _is_reachable(was, state, arrows, len(names)),
                    f"{key}: {was} to {state} by {names}",
                )
                self._check_doubt(key, old, row, names)
                self.rejections[key] += state == "rejected"
                if (was, state) == ("in_doubt", "rejected") and "reject" in names:
                    self.given_up.add(key)
            if old is not None:
                changed = [name for name in _FOR_EVER if row[name] != old[name]]
                self.expect(not changed, f"{key}: {changed} changed")
            self._check_order(row, after)

    def _check_order(self, row: Row, rows: Mapping[EffectKey, Row]) -> None:
        """P5, and that nobody waits for what will not come."""
        key, after = row["effect_key"], row["after"]
        if after is None:
            self.expect(row["state"] != "blocked", f"{key}: blocked by nothing")
            return
        first = rows[after]["state"] if after in rows else None
        if row["state"] in STARTED:
            self.expect(first in SUCCESS, f"P5 {key}: {row['state']} while {after} is {first}")
        if row["state"] == "blocked":
            self.expect(
                first is None or first in OPEN, f"P3 {key}: blocked while {after} is {first}"
            )

    def _check_doubt(self, key: EffectKey, old: Row | None, row: Row, names: Sequence[str]) -> None:
        """P4: an effect in doubt stays so until absence counts."""
        if old is None:
            return
        now_ms = self.clock.now_ms()
        if old["state"] == "attempting" and row["state"] == "in_doubt":
            counts_from = max(old["lease_until"], now_ms) + self.visible_after_ms[row["kind"]]
            self.expect(
                row["absence_counts_from"] >= counts_from,
                f"P4 {key}: absence counts {counts_from - row['absence_counts_from']} ms early",
            )
            self.expect(row["was_in_doubt"], f"P4 {key}: forgot that it was in doubt")
        if old["state"] == "in_doubt" and row["state"] in {"due", "held"}:
            self.expect(
                now_ms >= old["absence_counts_from"], f"P4 {key}: {row['state']} before its time"
            )
        is_resend = old["state"] == "in_doubt" and row["state"] == "due"
        if is_resend and row["kind"] == Kind.EARN:
            self.expect(row["resends"] == old["resends"] + 1, f"P4 {key}: resend not counted")
            self.expect(old["resends"] < MAX_RESENDS, f"P4 {key}: sent again too often")
            age_ms = now_ms - old["first_attempt_at"]
            self.expect(age_ms <= RESEND_WITHIN_MS, f"P4 {key}: sent again too late")
        if old["state"] == "attempting" and row["state"] == "due" and "settle" not in names:
            self.expect(False, f"P4 {key}: due by {names}")

    def _count_claims(
        self, key: EffectKey, old: Row | None, row: Row, operations: Iterable[Operation]
    ) -> None:
        claims = [
            operation.result
            for operation in operations
            if operation.name == "claim" and operation.result is not None
        ]
        raised = row["attempt"] - (old["attempt"] if old else 0)
        self.expect(len(claims) <= 1, f"P2 {key}: two claims in one commit")
        self.expect(raised == len(claims), f"{key}: attempt raised by {raised}")
        for claim in claims:
            assert old is not None
            now_ms = self.clock.now_ms()
            self.expect(claim.attempt == row["attempt"], f"{key}: claim of another attempt")
            self.expect(old["due_at"] <= now_ms, f"{key}: claimed before it was due")
            self.expect(
                row["state"] != "attempting" or row["lease_until"] == now_ms + self.lease_ms,
                f"{key}: lease until {row['lease_until']}",
            )

    # -- what one operation did

    def _follow(
        self,
        operation: Operation,
        before: Mapping[EffectKey, Row],
        after: Mapping[EffectKey, Row],
        *,
        is_alone: bool,
    ) -> None:
        args, result = operation.args, operation.result
        match operation.name:
            case "record_plans":
                self._follow_plans(args[0], result)
            case "settle":
                self._follow_outcome(args[0], args[1], result, before, after, is_alone=is_alone)
            case "expire_leases":
                expired = [
                    key for key, row in after.items() if row["state"] != before[key]["state"]
                ]
                self.expect(result == len(expired), f"{result} leases expired, not {expired}")
                for key in expired:
                    self._note(key, after[key]["attempt"], Outcome.IN_DOUBT)
            case "record_look_up":
                self._follow_look_up(args[0], args[1], result, before, is_alone=is_alone)
            case "release":
                self._note(args[0], after[args[0]]["attempt"], "released")
            case "reject":
                self._note(args[0], after[args[0]]["attempt"], Outcome.REJECTED)
            case "replay":
                self.replayed.append(args[1].plan)
                for effect in args[1].plan.effects:
                    was = before.get(effect.key)
                    if was is not None and was["state"] != after[effect.key]["state"]:
                        self._note(effect.key, was["attempt"], "replayed")
            case _:
                pass

    def _follow_plans(
        self, planned: Sequence[PlannedRecord], results: Sequence[PlanResult]
    ) -> None:
        for item, result in zip(planned, results, strict=True):
            self.dispositions[item.record.offset] = result.disposition

    def _follow_outcome(
        self,
        claim: Claim,
        settlement: Settlement,
        result: SettleResult,
        before: Mapping[EffectKey, Row],
        after: Mapping[EffectKey, Row],
        *,
        is_alone: bool,
    ) -> None:
        key, outcome = claim.effect.key, settlement.outcome
        earlier = {attempt for attempt, noted in self.audit[key] if noted == Outcome.APPLIED} - {
            claim.attempt
        }
        self._note(key, claim.attempt, outcome)
        if outcome is Outcome.APPLIED and earlier:
            self.expect(
                result is SettleResult.SUSPECTED_DOUBLE,
                f"P2 {key}: applied by attempts {earlier} and {claim.attempt}, yet {result}",
            )
            self.doubles += 1
        else:
            self.expect(result is not SettleResult.SUSPECTED_DOUBLE, f"{key}: no second success")
        if not is_alone:
            return
        old, row = before[key], after[key]
        holds_claim = old["state"] == "attempting" and old["attempt"] == claim.attempt
        self.expect(
            holds_claim == (result is SettleResult.SETTLED),
            f"P2 {key}: attempt {claim.attempt} {result} while "
            f"{old['state']} in attempt {old['attempt']}",
        )
        if holds_claim:
            expected = "due" if outcome is Outcome.RETRY else outcome.value
            self.expect(row["state"] == expected, f"{key}: {outcome} made it {row['state']}")
            if outcome is Outcome.RETRY:
                self.expect(row["due_at"] == settlement.due_at_ms, f"{key}: due at another time")
        elif outcome in SUCCESS:
            self.expect(row["state"] in SUCCESS, f"{key}: late success left it {row['state']}")
            if outcome is Outcome.APPLIED:
                self.expect(row["applied_attempt"], f"P2 {key}: forgot who applied it")
        else:
            self.expect(row["state"] == old["state"], f"P2 {key}: moved by a stale {outcome}")

    def _follow_look_up(
        self,
        doubt: Doubt,
        look_up: LookUp,
        result: str | None,
        before: Mapping[EffectKey, Row],
        *,
        is_alone: bool,
    ) -> None:
        key = doubt.effect.key
        self.doubles += look_up.reason == "double"
        if result is not None and look_up.verdict is not LookUpVerdict.UNKNOWN:
            self._note(key, doubt.attempt, f"look_up_{look_up.verdict}")
        if is_alone:
            old = before[key]
            is_current = old["state"] == "in_doubt" and old["attempt"] == doubt.attempt
            self.expect(
                is_current == (result is not None),
                f"P4 {key}: look-up of attempt {doubt.attempt} made it {result} while "
                f"{old['state']} in attempt {old['attempt']}",
            )

    def _note(self, key: EffectKey, attempt: int, outcome: str) -> None:
        self.touched.add(key)
        self.audit[key][attempt, str(outcome)] += 1


def _keys_of(operation: Operation) -> list[EffectKey]:
    """The effects that an operation names."""
    args = operation.args
    match operation.name:
        case "claim":
            return [args[0].key]
        case "settle" | "record_look_up":
            return [args[0].effect.key]
        case "make_due" | "release" | "reject":
            return [args[0]]
        case _:
            return []


def _is_reachable(start: str | None, end: str, arrows: set[Arrow], steps: int) -> bool:
    reached = {start}
    for _ in range(steps):
        reached |= {to for at, to in arrows if at in reached}
    return end in reached
