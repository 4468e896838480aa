"""Replaying a dead letter: its record's new plan is written and it is closed, together."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import orjson

from service.domain.effects import State
from service.domain.errors import WrongStateError
from service.domain.ledger import Disposition, PlannedRecord, PlanResult, ReadyEffect
from service.domain.planning import PlannedEffect
from service.ledger import collects
from service.ledger.dead_letters import (
    EVENT_KIND,
    mark_replayed,
    read_dead_letter,
    record_id_of,
)
from service.ledger.outbox import note_outcomes
from service.ledger.plans import (
    PlanRows,
    conflicting_keys,
    fresh_effect,
    gather_effect,
    gather_facts,
    new_effects,
    read_known,
)
from service.ledger.rows import (
    INSERT_BODIES,
    AttemptNote,
    Standing,
    change_one,
    encode_prerequisites,
    follower_state,
    note_attempts,
    read_standings,
)
from service.ledger.transaction import Tx

# Guarantees: only a rejected effect begins again. Its attempts go on counting and it remembers
# that it was in doubt; its age begins anew, or it would be too old at the first refusal. What
# was never proved absent will be looked up, and a look-up asks for the first attempt's time.
_BEGIN_AGAIN: Final = (
    "UPDATE effects SET state = ?, due_at = ?, reason = ?, points = ?, fingerprint = ?, "
    "body_id = ?, created_at = ?, settled_at = ?, rounds = 0, resends = 0, "
    "first_attempt_at = CASE WHEN absence_counts_from IS NULL THEN NULL ELSE ? END "
    "WHERE effect_key = ? AND state = 'rejected' AND attempt = ?"
)
_READ_ABSENCE: Final = "SELECT absence_counts_from FROM effects WHERE effect_key = ?"
_DELETE_BODY: Final = "DELETE FROM bodies WHERE id = ?"
_READ_KEYS: Final = "SELECT effect_keys FROM records WHERE id = ?"
_WRITE_KEYS: Final = "UPDATE records SET effect_keys = ? WHERE id = ?"


def write_replay(tx: Tx, dead_letter_id: int, planned: PlannedRecord, *, by: str) -> PlanResult:
    """
    Replay; see the port.

    A dead letter of an effect begins that effect again and no other rejected one, which has its
    own dead letter and perhaps a person's reason. A dead letter of an event begins none again.
    """
    record_id = record_id_of(tx, dead_letter_id)
    mark_replayed(tx, dead_letter_id, by=by)
    letter = read_dead_letter(tx.connection, dead_letter_id)
    plan = planned.plan
    if plan.dead_letter is not None:
        raise WrongStateError("rejected_again", f"{plan.dead_letter}: {plan.detail}")
    own_key = None if letter.kind == EVENT_KIND else letter.effect_key
    own = [effect for effect in plan.effects if effect.key == own_key]
    if own_key is not None and not own:
        # Closed, its rejected effect would be forgotten: the settings leave it out by now.
        raise WrongStateError("no_longer_planned", f"{own_key} {plan.ignored or ''}".rstrip())
    if plan.effects and all(effect.state is State.REJECTED for effect in own or plan.effects):
        reasons = ", ".join(sorted({str(effect.reason) for effect in own or plan.effects}))
        raise WrongStateError("rejected_again", reasons)
    waits_for = [effect.after for effect in plan.effects if effect.after is not None]
    standings = read_standings(tx, [effect.key for effect in plan.effects])
    known = read_known(tx, [*(effect.key for effect in plan.effects), *waits_for])
    conflicts = conflicting_keys(plan.effects, known)
    if conflicts:
        raise WrongStateError("conflict", f"known with other facts: {', '.join(conflicts)}")
    if plan.earn is not None and plan.earn.is_collect:
        collects.end_wait(tx, plan.earn)
    rows = PlanRows()
    fresh: list[ReadyEffect | None] = []
    for effect in new_effects(plan.effects, known):
        fresh.append(gather_effect(tx, rows, planned, effect, record_id, known))
    for effect in own:
        standing = standings.get(effect.key)
        if standing is not None and standing.state == State.REJECTED:
            fresh.append(begin_again(tx, planned, effect, standing, by=by, known=known))
    if plan.facts is not None:
        gather_facts(tx, rows, plan.facts)
    rows.write(tx)
    _keep_record(tx, record_id, planned)
    if plan.ignored is not None:
        disposition = Disposition.IGNORED
    else:
        disposition = Disposition.PLANNED if fresh else Disposition.REPEATED
    return PlanResult(disposition, tuple(ready for ready in fresh if ready is not None))


def _state_again(tx: Tx, effect: PlannedEffect, known: Mapping[str, tuple[str, str]]) -> State:
    """
    How a rejected effect begins again: as its plan says, but in doubt when what was sent was
    never looked up (a person rejected it before), and blocked while it has to wait for another.
    """
    if effect.state is not State.DUE:
        return effect.state
    (counts_from,) = tx.connection.execute(_READ_ABSENCE, (effect.key,)).fetchone()
    if counts_from is not None:
        return State.IN_DOUBT
    if effect.after is None:
        return State.DUE
    predecessor = known.get(effect.after)
    return follower_state(tx, effect.after, predecessor[1] if predecessor else None)


def begin_again(
    tx: Tx,
    planned: PlannedRecord,
    effect: PlannedEffect,
    standing: Standing,
    *,
    by: str,
    known: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> ReadyEffect | None:
    """Let a rejected effect begin again by its new plan; returns it when it is due."""
    state = _state_again(tx, effect, known)
    request = effect.request
    assert request is not None, "only a rejected plan has no request"
    body_id = tx.id()
    INSERT_BODIES.run(
        tx.connection,
        [
            (
                body_id,
                effect.key,
                request.path,
                request.body,
                request.idempotency_key,
                encode_prerequisites(request.prerequisites),
            )
        ],
    )
    change_one(
        tx.connection,
        _BEGIN_AGAIN,
        (
            state.value,
            tx.now_ms,
            effect.reason,
            effect.points,
            effect.fingerprint,
            body_id,
            tx.now_ms,
            tx.now_ms if state is State.VOID else None,
            tx.now_ms,
            standing.key,
            standing.attempt,
        ),
    )
    tx.connection.execute(_DELETE_BODY, (standing.body_id,))
    if state is State.VOID:
        note_outcomes(tx, [standing.key])
    note_attempts(
        tx,
        [AttemptNote(standing.id, standing.attempt, None, "replayed", state.value, by=by)],
    )
    return fresh_effect(planned, effect, body_id) if state is State.DUE else None


def _keep_record(tx: Tx, record_id: int, planned: PlannedRecord) -> None:
    """The record is kept while any of the effects it led to is open, the new ones included."""
    (text,) = tx.connection.execute(_READ_KEYS, (record_id,)).fetchone()
    keys = orjson.loads(text)
    new = [effect.key for effect in planned.plan.effects if effect.key not in keys]
    if new:
        tx.connection.execute(_WRITE_KEYS, (orjson.dumps(keys + new).decode(), record_id))
