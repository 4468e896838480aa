"""Captures and refunds: effect, hold and debits of one call in one transaction."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson

from service.domain.checkout import (
    Call,
    Debits,
    PlannedCapture,
    PlannedRefund,
    Recorded,
    Recording,
    Spending,
)
from service.domain.effects import EffectKey, State, contradicts
from service.domain.ledger import PlannedRecord, PlanResult, ReadyEffect
from service.domain.planning import Plan, PlannedEffect, Reason
from service.domain.records import CallTopic, Record, Stream
from service.ledger import holds, replays
from service.ledger.database import INTEGER, TEXT, KeyStatement, Query, RowInsert
from service.ledger.dead_letters import (
    insert_record,
    mark_begun_again,
    record_row,
    set_record_aside,
)
from service.ledger.holds import Hold
from service.ledger.outbox import note_outcomes
from service.ledger.plans import PlanRows, gather_effect, read_known, write_plans
from service.ledger.rows import change_one, read_standings
from service.ledger.transaction import Tx

BALANCE_KNOWN_MS: Final = 15 * 60_000  # a balance older than that says nothing of a capture
SHRUNK: Final = "hold_shrunk"  # why a refund needs no credit: its points were never taken
NO_CAPTURE: Final = "no_capture"
_REGISTER: Final = "register"  # who begins a registration again, in place of a person

_INSERT_HOLDS: Final = RowInsert(
    "holds",
    {
        "id": INTEGER,
        "effect_key": TEXT,
        "program": TEXT,
        "transaction_key": TEXT,
        "order_key": TEXT,
        "card": TEXT,
        "currency": TEXT,
        "amount": INTEGER,
        "refunded": INTEGER,
        "points": INTEGER,
        "given_back": INTEGER,
        "shrunk": INTEGER,
        "shown": INTEGER,
        "revision": INTEGER,
        "debits": TEXT,
        "received_at": INTEGER,
        "ended_at": INTEGER,
        "ended_by": TEXT,
    },
)
_INSERT_WAITING: Final = (
    "INSERT INTO waiting_refunds (effect_key, capture_key, program, order_key, card, amount, "
    "points, since) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_READ_WAITING: Final = Query(
    ("effect_key", "amount", "points"),
    "FROM waiting_refunds WHERE (capture_key = ? OR (program = ? AND order_key = ?)) AND card = ?",
    locked="effect_key",
)
_END_WAITING: Final = KeyStatement("DELETE FROM waiting_refunds WHERE effect_key IN (:keys)")
_COUNT_AGAIN: Final = KeyStatement(
    "UPDATE effects SET duplicates_seen = duplicates_seen + 1 WHERE effect_key IN (:keys)"
)
# Guarantees: only a refund that still waits for its capture is settled by it; nothing was sent.
_SETTLE_WAITING: Final = KeyStatement(
    "UPDATE effects SET state = 'applied', settled_at = ?1, seen_at = ?1, reason = ?2 "
    "WHERE state IN ('blocked', 'held') AND effect_key IN (:keys)"
)
_HOLD_BEYOND: Final = KeyStatement(
    f"UPDATE effects SET state = 'held', reason = '{Reason.MORE_THAN_CAPTURED}' "
    "WHERE state IN ('blocked', 'held') AND effect_key IN (:keys)"
)
# A refund that is no credit will never be shown by Splio.
_SETTLE_SEEN: Final = KeyStatement("UPDATE effects SET seen_at = ? WHERE effect_key IN (:keys)")
_OF_RECORD: Final = "UPDATE effects SET record_id = ? WHERE effect_key = ?"
_SHARE: Final = "UPDATE effects SET points = ? WHERE effect_key = ?"
# Those that a person has already stay until their capture comes, and are passed over.
_READ_OLD_WAITING: Final = (
    "SELECT w.effect_key FROM waiting_refunds AS w CROSS JOIN effects AS e "
    "ON e.effect_key = w.effect_key WHERE w.since < ? AND e.state = 'blocked' LIMIT 512"
)
_HOLD_WAITING: Final = KeyStatement(
    "UPDATE effects SET state = 'held' WHERE state = 'blocked' AND effect_key IN (:keys)"
)


def write_capture(tx: Tx, capture: PlannedCapture) -> Recording:
    """See the port. No other process plans until this transaction ends."""
    tx.plan_alone()
    effect = capture.effect
    known = _known_already(tx, effect, capture.call)
    if known is not None:
        return known
    spending = capture.spending
    over = holds.is_over_balance(tx, spending.card, spending.points, known_for_ms=BALANCE_KNOWN_MS)
    hold = Hold(
        id=tx.id(),
        effect_key=capture.key,
        program=spending.program,
        transaction_key=spending.transaction_key,
        order_key=spending.order_key,
        card=spending.card,
        currency=spending.currency,
        amount=spending.amount,
        refunded=0,
        points=spending.points,
        given_back=0,
        shrunk=0,
        shown=0,
        revision=0,
        debits="[]",
        received_at=capture.call.received_at_ms,
        ended_at=None,
        ended_by=None,
    )
    hold = _settle_waiting(tx, hold)
    if hold.held <= 0:
        hold = hold._replace(ended_at=tx.now_ms)
    hold, debits = _plan_debits(hold, capture.debits)
    fresh = _write_effects(tx, capture.call, [effect, *debits])
    _INSERT_HOLDS.run(tx.connection, [hold])
    return Recording(Recorded.TAKEN, fresh, over_balance=over)


def write_refund(tx: Tx, refund: PlannedRefund) -> Recording:
    """See the port. No other process plans until this transaction ends."""
    tx.plan_alone()
    spending = refund.spending
    effect = refund.effect
    known = _known_already(tx, effect, refund.call)
    if known is not None:
        return known
    hold = _capture_of(tx, refund)
    if hold is None:
        _write_effects(tx, refund.call, [replace(effect, state=State.BLOCKED, reason=NO_CAPTURE)])
        tx.connection.execute(
            _INSERT_WAITING,
            (
                refund.key,
                refund.capture_key,
                spending.program,
                spending.order_key,
                spending.card,
                spending.amount,
                spending.points,
                tx.now_ms,
            ),
        )
        return Recording(Recorded.NO_CAPTURE)
    if hold.card != spending.card:
        return _refused(tx, effect, refund.call, Reason.CONFLICT, "its capture has another card")
    if hold.refunded + spending.amount > hold.amount:
        detail = f"captured {hold.amount}, given back {hold.refunded} before"
        _refused(tx, effect, refund.call, Reason.MORE_THAN_CAPTURED, detail)
        return Recording(Recorded.MORE_THAN_CAPTURED)
    points = hold.share(spending.amount)
    # Where a person took the points by other means, the debits tell nothing any more.
    keys = hold.debit_keys if hold.ended_by is None else []
    standings = read_standings(tx, keys)
    given_up = any(each.state in {State.REJECTED, State.VOID} for each in standings.values())
    is_unsent = not any(each.may_be_at_splio for each in standings.values())
    if not points or (hold.ended_by is None and is_unsent):
        hold = hold.refund(spending.amount, points, is_unsent=True)
        return _shrink(tx, hold, refund, points, plans_anew=not given_up)
    holds.change(tx, hold.refund(spending.amount, points, is_unsent=False))
    refund = refund.of_points(points)
    effect = refund.effect
    if given_up:
        effect = replace(effect, state=State.HELD, reason="debits_incomplete")
    elif keys:
        effect = replace(effect, after=keys[-1])
    return Recording(Recorded.TAKEN, _write_effects(tx, refund.call, [effect]))


def expire_waiting(tx: Tx, older_than_ms: int) -> int:
    """See `CheckoutLedger.expire_waiting_refunds`."""
    rows = tx.connection.execute(_READ_OLD_WAITING, (older_than_ms,)).fetchall()
    return _HOLD_WAITING.changed(tx.connection, [key for (key,) in rows])


def write_call(tx: Tx, call: Call, plan: Plan) -> PlanResult:
    """See the port."""
    tx.plan_alone()
    (result,) = write_plans(tx, [planned_call(call, plan)], ())
    return result


def register_again(tx: Tx, call: Call, effect: PlannedEffect) -> ReadyEffect | None:
    """See the port."""
    tx.plan_alone()
    standing = read_standings(tx, [effect.key]).get(effect.key)
    if standing is None or standing.state != State.REJECTED:
        return None
    planned = planned_call(call, Plan(call.order_key, (effect,)))
    mark_begun_again(tx, effect.key, effect.order_key, by=_REGISTER)
    # The record of the registration that was refused may be gone.
    change_one(tx.connection, _OF_RECORD, (insert_record(tx, planned), effect.key))
    return replays.begin_again(tx, planned, effect, standing, by=_REGISTER)


def planned_call(call: Call, plan: Plan) -> PlannedRecord:
    """A call as a record, so that it is kept, replayed and set aside as the log's are."""
    return PlannedRecord(
        record=Record(
            stream=Stream(CallTopic.CHECKOUT, 0),
            offset=0,
            key=call.order_key,
            value=call.body,
            headers={},
            appended_at_ms=call.received_at_ms,
        ),
        plan=plan,
        event_id=call.call_id,
        event_type=f"loyalty-{call.operation}",
        received_at_ms=call.received_at_ms,
        traceparent=call.traceparent,
    )


def _known_already(tx: Tx, effect: PlannedEffect, call: Call) -> Recording | None:
    known = read_known(tx, [effect.key]).get(effect.key)
    if known is None:
        return None
    if contradicts(known[0], effect.fingerprint):
        return _refused(tx, effect, call, Reason.CONFLICT, f"known with other facts: {effect.key}")
    _COUNT_AGAIN.run(tx.connection, [effect.key])
    return Recording(Recorded.REPEATED)


def _refused(tx: Tx, effect: PlannedEffect, call: Call, reason: Reason, detail: str) -> Recording:
    set_record_aside(
        tx,
        planned_call(call, Plan(call.order_key, (effect,))),
        reason=reason,
        detail=detail,
        effect_key=effect.key,
    )
    return Recording(Recorded.CONFLICT)


def _shrink(
    tx: Tx, hold: Hold, refund: PlannedRefund, points: int, *, plans_anew: bool
) -> Recording:
    """
    Settle a refund without a credit: its points were not taken at Splio, or are none.

    `plans_anew`: debits of what is left; not where a person has given the capture's up.
    """
    debits: Sequence[PlannedEffect] = ()
    if points and hold.debit_keys:
        holds.void_debits(tx, hold.debit_keys, reason="capture_shrunk")
        if plans_anew:
            hold, debits = _plan_debits(hold, refund.debits)
    holds.change(tx, hold)
    settled = replace(
        refund.effect, state=State.APPLIED, request=None, reason=SHRUNK, points=points
    )
    fresh = _write_effects(tx, refund.call, [settled, *debits])
    _SETTLE_SEEN.run(tx.connection, [refund.key], tx.now_ms)
    return Recording(Recorded.TAKEN, fresh)


def _plan_debits(hold: Hold, plan: Debits) -> tuple[Hold, Sequence[PlannedEffect]]:
    """The next revision of a hold's debits, none when there is nothing left to take."""
    if hold.held <= 0:
        return hold._replace(debits="[]"), ()
    revision = hold.revision + 1
    spending = Spending(
        program=hold.program,
        transaction_key=hold.transaction_key,
        order_key=hold.order_key,
        card=hold.card,
        amount=hold.amount,
        points=hold.held,
        currency=hold.currency,
    )
    debits = plan(spending, revision=revision, received_at_ms=hold.received_at)
    if not debits:
        return hold, ()
    keys = orjson.dumps([debit.key for debit in debits]).decode()
    return hold._replace(revision=revision, debits=keys), debits


def _settle_waiting(tx: Tx, hold: Hold) -> Hold:
    """
    Take refunds that came before their capture off its new hold.

    Those that a person has released count first, as they are credited whatever comes; one that
    was sent stays with the person.
    """
    rows = _READ_WAITING.rows(
        tx.connection, hold.effect_key, hold.program, hold.order_key, hold.card
    )
    standings = read_standings(tx, [key for key, _, _ in rows])
    fitting: list[EffectKey] = []
    beyond: list[EffectKey] = []
    sent: list[EffectKey] = []
    waiting: list[tuple[EffectKey, int, int]] = []
    for key, amount, points in sorted(rows, key=lambda row: standings[row[0]].id):
        standing = standings[key]
        if standing.state in {State.REJECTED, State.VOID}:
            continue
        if standing.may_be_at_splio or standing.state not in {State.BLOCKED, State.HELD}:
            sent.append(key)
            hold = hold.refund(amount, points, is_unsent=False)
        else:
            waiting.append((key, amount, points))
    for key, amount, points in waiting:
        if hold.refunded + amount > hold.amount:
            beyond.append(key)
            continue
        fitting.append(key)
        shared = hold.share(amount)
        hold = hold.refund(amount, shared, is_unsent=True)
        if shared != points:
            change_one(tx.connection, _SHARE, (shared, key))
    _SETTLE_WAITING.run(tx.connection, fitting, tx.now_ms, SHRUNK)
    note_outcomes(tx, fitting)
    _HOLD_WAITING.run(tx.connection, sent)
    _HOLD_BEYOND.run(tx.connection, beyond)
    # Those beyond it may be of another capture of the order, which is still to come.
    _END_WAITING.run(tx.connection, [row[0] for row in rows if row[0] not in beyond])
    return hold._replace(
        refunded=min(hold.refunded, hold.amount), given_back=min(hold.given_back, hold.points)
    )


def _capture_of(tx: Tx, refund: PlannedRefund) -> Hold | None:
    """By the transaction key; else of that order and card, the first with room enough."""
    found = holds.read_holds(tx, [refund.capture_key])
    if found:
        return found[0]
    spending = refund.spending
    others = [
        hold
        for hold in holds.holds_of_order(tx, spending.order_key)
        if hold.card == spending.card and hold.program == spending.program
    ]
    fitting = [hold for hold in others if hold.refunded + spending.amount <= hold.amount]
    return next(iter(fitting or others), None)


def _write_effects(tx: Tx, call: Call, effects: Sequence[PlannedEffect]) -> tuple[ReadyEffect, ...]:
    rows = PlanRows()
    planned = planned_call(call, Plan(call.order_key, tuple(effects)))
    record_id = tx.id()
    rows.records.append(record_row(record_id, planned))
    known = read_known(tx, [effect.after for effect in effects if effect.after is not None])
    ready = [gather_effect(tx, rows, planned, effect, record_id, known) for effect in effects]
    rows.write(tx)
    return tuple(effect for effect in ready if effect is not None)
