"""Writing plans: known keys are compared, unknown ones inserted, the position moved with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from service.domain.effects import SETTLED_STATES, EffectKey, Kind, State, contradicts
from service.domain.errors import WrongStateError
from service.domain.ledger import Disposition, PlannedRecord, PlanResult, ReadyEffect
from service.domain.planning import OrderFacts, PlannedEffect, Reason
from service.domain.records import Advance, Stream, Topic
from service.ledger import collects
from service.ledger.claims import absence_counts_from
from service.ledger.database import INTEGER, TEXT, KeyStatement, Query, RowInsert
from service.ledger.dead_letters import (
    INSERT_RECORDS,
    record_row,
    set_effect_aside,
    set_record_aside,
)
from service.ledger.outbox import note_outcomes
from service.ledger.rows import (
    INSERT_BODIES,
    INSERT_EFFECTS,
    MAX_INTEGER,
    encode_prerequisites,
    follower_state,
    void_followers,
)
from service.ledger.transaction import ConcurrentChangeError, Tx

# Guarantees: nobody else moves these before the transaction ends.
_READ_POSITIONS: Final = Query(
    ("topic", '"partition"', "position", "recover_until"),
    "FROM positions WHERE topic || '/' || \"partition\" IN (:keys)",
    locked='topic, "partition"',
)
# Guarantees: a position moves only from where the reader says it was.
_MOVE_POSITION: Final = (
    'INSERT INTO positions (topic, "partition", position, updated_at) VALUES (?, ?, ?, ?) '
    'ON CONFLICT (topic, "partition") DO UPDATE SET position = excluded.position, '
    "updated_at = excluded.updated_at WHERE positions.position = ?"
)
# Guarantees: an effect that another waits for is not settled unseen before that one is written.
_READ_KNOWN: Final = Query(
    ("effect_key", "fingerprint", "state"),
    "FROM effects WHERE effect_key IN (:keys)",
    locked="effect_key",
)
_COUNT_DUPLICATES: Final = KeyStatement(
    "UPDATE effects SET duplicates_seen = duplicates_seen + ? WHERE effect_key IN (:keys)"
)
# Guarantees: what was first known of an order stands.
_INSERT_ORDERS: Final = RowInsert(
    "orders",
    {
        "id": INTEGER,
        "order_key": TEXT,
        "card": TEXT,
        "points": INTEGER,
        "points_from": TEXT,
        "currency": TEXT,
        "items": TEXT,
    },
    conflict="ON CONFLICT (order_key) DO NOTHING",
)


@dataclass(slots=True)
class PlanRows:
    """Rows gathered from the plans of one call, written together at its end."""

    records: list[tuple[Any, ...]] = field(default_factory=list)
    bodies: list[tuple[Any, ...]] = field(default_factory=list)
    effects: list[tuple[Any, ...]] = field(default_factory=list)
    orders: list[tuple[Any, ...]] = field(default_factory=list)
    rejected: list[tuple[EffectKey, str, str]] = field(default_factory=list)
    # Planned as settled; what was planned before the hopeless ones may wait for them.
    settled: list[EffectKey] = field(default_factory=list)
    hopeless: list[EffectKey] = field(default_factory=list)
    duplicates: dict[str, int] = field(default_factory=dict)

    def write(self, tx: Tx) -> None:
        connection = tx.connection
        INSERT_RECORDS.run(connection, self.records)
        INSERT_BODIES.run(connection, self.bodies)
        if self.effects:
            tx.plan_beside_others()
        INSERT_EFFECTS.run(connection, self.effects)
        _INSERT_ORDERS.run(connection, self.orders)
        by_count: dict[int, list[str]] = {}
        for key, count in self.duplicates.items():
            by_count.setdefault(count, []).append(key)
        for count, keys in by_count.items():
            _COUNT_DUPLICATES.run(connection, keys, count)
        for rejected, reason, detail in self.rejected:
            set_effect_aside(tx, rejected, reason=reason, detail=detail)
        note_outcomes(tx, self.settled)
        void_followers(tx, self.hopeless)


def write_plans(
    tx: Tx, planned: Sequence[PlannedRecord], advances: Sequence[Advance]
) -> list[PlanResult]:
    """
    Write plans and positions; see the port.

    Raises: WrongStateError before anything is written.
    """
    recovered = _check_positions(tx, advances)
    keys = [effect.key for item in planned for effect in item.plan.effects]
    keys += [
        effect.after for item in planned for effect in item.plan.effects if effect.after is not None
    ]
    if any(item.plan.earn is not None for item in planned):
        # A collect and the webhook of its order may come at once, to two processes.
        tx.plan_alone()
        keys += [item.plan.earn.key for item in planned if item.plan.earn is not None]
    known = read_known(tx, keys)
    rows = PlanRows()
    results = [
        _plan_one(
            tx,
            item,
            known,
            rows,
            is_recovered=item.record.offset < recovered.get(item.record.stream, 0),
        )
        for item in planned
    ]
    rows.write(tx)
    for advance in advances:
        _move(tx, advance)
    return results


def read_known(tx: Tx, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Fingerprint and state of those of these effects that are known."""
    return {
        key: (fingerprint, state)
        for key, fingerprint, state in _READ_KNOWN.rows_for(tx.connection, keys)
    }


def conflicting_keys(
    effects: Sequence[PlannedEffect], known: dict[str, tuple[str, str]]
) -> list[EffectKey]:
    """The keys that are known with a contradicting fingerprint."""
    return [
        effect.key
        for effect in effects
        if effect.key in known and contradicts(known[effect.key][0], effect.fingerprint)
    ]


def new_effects(
    effects: Sequence[PlannedEffect], known: Mapping[str, tuple[str, str]]
) -> list[PlannedEffect]:
    """
    Those that are to be inserted.

    Who books an order's points was decided when it was planned first: a repeat or a replay after
    RELAY_POINTS_FROM changed must not book what another way has booked.
    """
    is_known_order = any(effect.kind is Kind.ORDER and effect.key in known for effect in effects)
    return [
        effect
        for effect in effects
        if effect.key not in known and not (is_known_order and effect.kind is Kind.EARN)
    ]


def gather_effect(
    tx: Tx,
    rows: PlanRows,
    planned: PlannedRecord,
    effect: PlannedEffect,
    record_id: int,
    known: dict[str, tuple[str, str]],
    *,
    is_recovered: bool = False,
) -> ReadyEffect | None:
    """
    Gather the rows of one unknown effect; returns it when it is due.

    `is_recovered`: its record was perhaps planned before, by a ledger that is gone.
    """
    state = effect.state
    if effect.after is not None and state is State.DUE:
        predecessor = known.get(effect.after)
        state = follower_state(tx, effect.after, predecessor[1] if predecessor else None)
    counts_from = None
    if is_recovered and state in {State.DUE, State.BLOCKED, State.HELD}:
        # A ledger that is gone may have brought it to Splio: looked up before it is sent.
        counts_from = absence_counts_from(tx, effect.kind, None)
        if state is State.DUE:
            state = State.IN_DOUBT
    known[effect.key] = (effect.fingerprint, state)
    body_id = None
    request = effect.request
    if request is not None:
        body_id = tx.id()
        rows.bodies.append(
            (
                body_id,
                effect.key,
                request.path,
                request.body,
                request.idempotency_key,
                encode_prerequisites(request.prerequisites),
            )
        )
    rows.effects.append(
        (
            effect.key,
            effect.kind.value,
            effect.lane.value,
            effect.order_key,
            effect.after,
            effect.fingerprint,
            state.value,
            tx.now_ms,
            effect.reason,
            planned.event_id,
            planned.traceparent,
            effect.points,
            planned.received_at_ms,
            tx.now_ms,
            tx.now_ms if state in SETTLED_STATES else None,
            None if counts_from is None else tx.now_ms,
            counts_from,
            0 if counts_from is None else 1,
            body_id,
            record_id,
        )
    )
    if state is State.REJECTED:
        rows.rejected.append((effect.key, effect.reason or "rejected", planned.plan.detail))
    if state in SETTLED_STATES:
        rows.settled.append(effect.key)
    if state in {State.REJECTED, State.VOID}:
        rows.hopeless.append(effect.key)
    if state is not State.DUE:
        return None
    return fresh_effect(planned, effect, body_id)


def fresh_effect(planned: PlannedRecord, effect: PlannedEffect, body_id: int | None) -> ReadyEffect:
    """The effect as the dispatcher takes it."""
    assert body_id is not None and effect.request is not None, "only rejected has no request"
    return ReadyEffect(
        key=effect.key,
        kind=effect.kind,
        lane=effect.lane,
        order_key=effect.order_key,
        event_id=planned.event_id,
        traceparent=planned.traceparent,
        points=effect.points,
        received_at_ms=planned.received_at_ms,
        request=effect.request,
        request_id=body_id,
    )


def gather_facts(tx: Tx, rows: PlanRows, facts: OrderFacts) -> None:
    rows.orders.append(
        (
            tx.id(),
            facts.order_key,
            facts.card,
            # An amount of points beyond 64 bits is held or rejected by its effect.
            None if facts.points is None else max(min(facts.points, MAX_INTEGER), -MAX_INTEGER),
            facts.points_from.value,
            facts.currency,
            orjson.dumps(facts.items).decode(),
        )
    )


def _plan_one(
    tx: Tx,
    planned: PlannedRecord,
    known: dict[str, tuple[str, str]],
    rows: PlanRows,
    *,
    is_recovered: bool,
) -> PlanResult:
    plan = planned.plan
    if plan.ignored is not None:
        return PlanResult(Disposition.IGNORED)
    if plan.dead_letter is not None:
        is_new = set_record_aside(tx, planned, reason=plan.dead_letter, detail=plan.detail)
        return PlanResult(Disposition.DEAD_LETTER if is_new else Disposition.REPEATED)
    conflicts = conflicting_keys(plan.effects, known)
    if conflicts:
        return _set_conflict_aside(tx, planned, conflicts)
    if plan.earn is not None and not collects.agree(tx, plan.earn, known):
        conflict = _set_conflict_aside(tx, planned, [plan.earn.key])
        if plan.earn.is_collect:
            return conflict
        # The order itself is not in dispute.
    unknown = new_effects(plan.effects, known)
    for effect in plan.effects:
        if effect.key in known:
            rows.duplicates[effect.key] = rows.duplicates.get(effect.key, 0) + 1
    if plan.effects and not unknown:
        return PlanResult(Disposition.REPEATED)
    fresh = []
    if unknown:
        record_id = tx.id()
        rows.records.append(record_row(record_id, planned))
        for effect in unknown:
            ready = gather_effect(
                tx, rows, planned, effect, record_id, known, is_recovered=is_recovered
            )
            if ready is not None:
                fresh.append(ready)
    if plan.facts is not None:
        gather_facts(tx, rows, plan.facts)
    return PlanResult(Disposition.PLANNED, tuple(fresh))


def _set_conflict_aside(
    tx: Tx, planned: PlannedRecord, conflicts: Sequence[EffectKey]
) -> PlanResult:
    detail = f"known with other facts: {', '.join(conflicts)}"
    is_new = set_record_aside(
        tx, planned, reason=Reason.CONFLICT, detail=detail, effect_key=conflicts[0]
    )
    # A call is told so each time that it comes; a record that is read again was told of before.
    is_call = planned.plan.earn is not None and planned.plan.earn.is_collect
    return PlanResult(Disposition.CONFLICT if is_new or is_call else Disposition.REPEATED)


def _check_positions(tx: Tx, advances: Sequence[Advance]) -> dict[Stream, int]:
    """
    Where each stream's records stop being recovered ones; most are not there.

    Raises: WrongStateError `position_moved`.
    """
    wanted = [f"{each.stream.topic.value}/{each.stream.partition}" for each in advances]
    rows = _READ_POSITIONS.rows_for(tx.connection, wanted)
    positions = {(topic, number): position for topic, number, position, _ in rows}
    for advance in advances:
        stream = advance.stream
        position = positions.get((stream.topic, stream.partition))
        if position is not None and position != advance.from_position:
            raise WrongStateError(
                "position_moved",
                f"{stream.topic}/{stream.partition} is at {position}, "
                f"the reader was at {advance.from_position}",
            )
    return {
        Stream(Topic(topic), number): until for topic, number, _, until in rows if until is not None
    }


def _move(tx: Tx, advance: Advance) -> None:
    stream = advance.stream
    moved = tx.connection.execute(
        _MOVE_POSITION,
        (
            stream.topic.value,
            stream.partition,
            advance.to_position,
            tx.now_ms,
            advance.from_position,
        ),
    )
    # Else there was no row to be locked, and another process wrote the stream's first.
    tx.expect([moved], 1, ConcurrentChangeError(f"{stream.topic}/{stream.partition}"))
