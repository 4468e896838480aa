"""Claims and how they ended: the exclusive right to attempt, and the outcome that gives it up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.domain.effects import EffectKey, Kind, Outcome, State
from service.domain.errors import NotFoundError, RelayError
from service.domain.ledger import Claim, ReadyEffect, Settlement, SettleResult
from service.ledger.database import Cursor, KeyStatement
from service.ledger.dead_letters import set_effect_aside
from service.ledger.outbox import note_outcomes
from service.ledger.rows import (
    AttemptNote,
    Standing,
    change_one,
    note_attempts,
    read_standings,
    release_followers,
    void_followers,
)
from service.ledger.transaction import Tx


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A claim that somebody waits for."""

    effect: ReadyEffect
    lease_ms: int


@dataclass(frozen=True, slots=True)
class SettleRequest:
    """An outcome that somebody waits to see recorded."""

    claim: Claim
    settlement: Settlement


# Guarantees: a claim is exclusive, because only `due` can become `attempting` and both are one
# statement; every claim raises `attempt`.
_CLAIM: Final = KeyStatement(
    "UPDATE effects SET state = 'attempting', attempt = attempt + 1, started_at = ?1, "
    "first_attempt_at = coalesce(first_attempt_at, ?1), lease_owner = ?2, lease_until = ?3 "
    "WHERE state = 'due' AND due_at <= ?1 AND effect_key IN (:keys)"
)
# Guarantees: only the attempt that holds the claim settles its effect.
_APPLY: Final = KeyStatement(
    "UPDATE effects SET state = 'applied', applied_attempt = attempt, settled_at = ?, "
    "reason = NULL, lease_owner = NULL, lease_until = NULL "
    "WHERE state = 'attempting' AND attempt = ? AND effect_key IN (:keys)"
)
_GUARD: Final = "WHERE effect_key = ? AND state = ? AND attempt = ?"
# Guarantees: each moves the effect only from the standing that was read (_GUARD).
_SETTLE: Final = (
    "UPDATE effects SET state = ?, settled_at = ?, reason = ?, applied_attempt = ?, "
    f"lease_owner = NULL, lease_until = NULL {_GUARD}"
)
_RETRY: Final = (
    "UPDATE effects SET state = 'due', due_at = ?, reason = ?, "
    f"lease_owner = NULL, lease_until = NULL {_GUARD}"
)
_HOLD: Final = (
    "UPDATE effects SET state = 'held', reason = ?, "
    f"lease_owner = NULL, lease_until = NULL {_GUARD}"
)
_DOUBT: Final = (
    "UPDATE effects SET state = 'in_doubt', due_at = ?, absence_counts_from = ?, reason = ?, "
    f"was_in_doubt = 1, lease_owner = NULL, lease_until = NULL {_GUARD}"
)
# Guarantees: the first success of an effect that was settled without one is remembered, so that
# a second one is noticed.
_REMEMBER_SUCCESS: Final = (
    f"UPDATE effects SET applied_attempt = ? {_GUARD} AND applied_attempt IS NULL"
)
# Guarantees: moves no effect to another state.
_WAKE_UP: Final = (
    "UPDATE effects SET due_at = ? "
    "WHERE state <> 'applied' AND state IN ('due', 'in_doubt') AND due_at > ? "
    "AND ((state = 'due' AND reason = 'missing') OR max(created_at, coalesce(started_at, 0)) > ?)"
)
# Guarantees: False for an effect that moved meanwhile.
_MAKE_DUE: Final = (
    "UPDATE effects SET due_at = CASE WHEN due_at > ?1 THEN ?1 ELSE due_at END, "
    "rounds = rounds + 1 WHERE effect_key = ?2 AND state = 'due' AND attempt = ?3"
)


def write_claims_and_outcomes(
    tx: Tx, claims: Sequence[ClaimRequest], outcomes: Sequence[SettleRequest]
) -> tuple[list[Claim | None], list[SettleResult | RelayError]]:
    """
    Record outcomes and take claims; see the port. An unknown effect is an outcome's own error.

    Where the effects stand is read once for all; only an effect that several of the operations
    are about is read again.
    """
    outcome_keys = [request.claim.effect.key for request in outcomes]
    claim_keys = [request.effect.key for request in claims]
    standings = read_standings(tx, list(dict.fromkeys(outcome_keys + claim_keys)))
    settled: list[SettleResult | RelayError] = [SettleResult.STALE] * len(outcomes)
    firsts: dict[str, int] = {}
    repeats: list[int] = []
    for index, key in enumerate(outcome_keys):
        if firsts.setdefault(key, index) != index:
            repeats.append(index)
    results = _write_distinct(tx, [outcomes[index] for index in firsts.values()], standings)
    for index, result in zip(firsts.values(), results, strict=True):
        settled[index] = result
    for index in repeats:
        now = read_standings(tx, [outcome_keys[index]])
        (settled[index],) = _write_distinct(tx, [outcomes[index]], now)
    standings |= read_standings(tx, [key for key in claim_keys if key in firsts])
    return _write_claims(tx, claims, standings), settled


def wake_up(tx: Tx) -> int:
    """
    Let what no running process will wake be due now, when the file was opened; returns how many.

    These wait for a creation that ended with its process, or for a time that a clock named which
    was ahead of today's.
    """
    return tx.connection.execute(_WAKE_UP, (tx.now_ms, tx.now_ms, tx.now_ms)).rowcount


def make_due(tx: Tx, key: EffectKey, attempt: int) -> bool:
    """See the port."""
    return tx.connection.execute(_MAKE_DUE, (tx.now_ms, key, attempt)).rowcount == 1


def absence_counts_from(tx: Tx, kind: str, lease_until_ms: int | None) -> int:
    """When absence at Splio proves that an attempt which ended now took no effect."""
    ended = max(lease_until_ms or 0, tx.now_ms)
    return ended + round(tx.config.visible_after_s[Kind(kind)] * 1000)


def _write_claims(
    tx: Tx, requests: Sequence[ClaimRequest], standings: Mapping[str, Standing]
) -> list[Claim | None]:
    """Claim what is due; None for what is not, and for the second of two claims of one key."""
    keys_by_lease: dict[int, list[str]] = {}
    taken: set[str] = set()
    claims: list[Claim | None] = []
    for request in requests:
        effect = request.effect
        standing = standings.get(effect.key)
        if (
            standing is None
            or standing.state != State.DUE
            or standing.due_at > tx.now_ms
            or standing.body_id != effect.request_id
            or effect.key in taken
        ):
            claims.append(None)
            continue
        taken.add(effect.key)
        keys_by_lease.setdefault(request.lease_ms, []).append(effect.key)
        first_attempt_at = standing.first_attempt_at
        claims.append(
            Claim(
                effect=effect,
                attempt=standing.attempt + 1,
                lease_until_ms=tx.now_ms + request.lease_ms,
                started_at_ms=tx.now_ms,
                first_attempt_at_ms=tx.now_ms if first_attempt_at is None else first_attempt_at,
                was_in_doubt=bool(standing.was_in_doubt),
                rounds=standing.rounds,
            )
        )
    for lease_ms, keys in keys_by_lease.items():
        claimed = _CLAIM.run(tx.connection, keys, tx.now_ms, tx.config.owner, tx.now_ms + lease_ms)
        _require(tx, claimed, len(keys))
    return claims


def _write_distinct(
    tx: Tx, requests: Sequence[SettleRequest], standings: Mapping[str, Standing]
) -> list[SettleResult | RelayError]:
    """Record outcomes of different effects."""
    results: list[SettleResult | RelayError] = []
    applied: dict[int, list[str]] = {}
    released: list[str] = []
    rejected: list[str] = []
    notes: list[AttemptNote] = []
    for request in requests:
        claim, settlement = request.claim, request.settlement
        standing = standings.get(claim.effect.key)
        if standing is None:
            results.append(NotFoundError("no_such_effect", claim.effect.key))
            continue
        holds_claim = standing.state == State.ATTEMPTING and standing.attempt == claim.attempt
        if not holds_claim:
            result, is_new = _settle_late(tx, standing, claim, settlement)
        else:
            result, is_new = SettleResult.SETTLED, True
            if settlement.outcome is Outcome.APPLIED:
                applied.setdefault(claim.attempt, []).append(standing.key)
            elif _is_seen_all_the_same(standing, settlement.outcome):
                _doubt(tx, standing, claim, settlement.reason)
            else:
                _settle_other(tx, standing, claim, settlement)
        is_success = settlement.outcome in {Outcome.APPLIED, Outcome.DUPLICATE}
        if is_new and is_success and result in {SettleResult.SETTLED, SettleResult.LATE}:
            released.append(standing.key)
        if (
            holds_claim
            and settlement.outcome is Outcome.REJECTED
            and not _is_seen_all_the_same(standing, settlement.outcome)
        ):
            rejected.append(standing.key)
        if is_new:
            notes.append(
                AttemptNote(
                    standing.id,
                    claim.attempt,
                    claim.started_at_ms,
                    settlement.outcome,
                    result,
                    settlement.reason,
                    settlement.status,
                    settlement.detail,
                )
            )
        results.append(result)
    for attempt, keys in applied.items():
        _require(tx, _APPLY.run(tx.connection, keys, tx.now_ms, attempt), len(keys))
    release_followers(tx, released)
    note_attempts(tx, notes)
    note_outcomes(tx, released + rejected)
    return results


def _settle_other(tx: Tx, standing: Standing, claim: Claim, settlement: Settlement) -> None:
    """Move an effect whose claim is held, to anything but applied."""
    guard = (standing.key, State.ATTEMPTING, claim.attempt)
    reason = settlement.reason
    match settlement.outcome:
        case Outcome.DUPLICATE:
            _change(tx, _SETTLE, (State.DUPLICATE, tx.now_ms, reason, None, *guard))
        case Outcome.REJECTED:
            _change(tx, _SETTLE, (State.REJECTED, tx.now_ms, reason, None, *guard))
            set_effect_aside(tx, standing.key, reason=reason or "refused", detail=settlement.detail)
            void_followers(tx, [standing.key])
        case Outcome.IN_DOUBT:
            _doubt(tx, standing, claim, reason)
        case Outcome.RETRY:
            _change(tx, _RETRY, (settlement.due_at_ms, reason, *guard))
        case Outcome.HELD:
            _change(tx, _HOLD, (reason, *guard))
        case Outcome.APPLIED:
            raise AssertionError("applied effects are settled together")


def _doubt(tx: Tx, standing: Standing, claim: Claim, reason: str | None) -> None:
    counts_from = absence_counts_from(tx, standing.kind, standing.lease_until)
    guard = (standing.key, State.ATTEMPTING, claim.attempt)
    _change(tx, _DOUBT, (tx.now_ms, counts_from, reason, *guard))


def _is_seen_all_the_same(standing: Standing, outcome: Outcome) -> bool:
    """
    Whether Splio shows a credit that this attempt did not book: an earlier one has, though it was
    proved absent. It is looked up, as sending it again would book it twice.
    """
    return standing.seen_at is not None and outcome in {
        Outcome.RETRY,
        Outcome.REJECTED,
        Outcome.HELD,
    }


def _settle_late(
    tx: Tx, standing: Standing, claim: Claim, settlement: Settlement
) -> tuple[SettleResult, bool]:
    """
    What an outcome does whose attempt lost its claim, and whether it is to be noted.

    outcome    effect is            does
    applied    applied, by it       nothing: the same outcome was written twice
    applied    applied, by another  nothing: a suspected double
    applied    applied, found       remembered as the success that the look-up found
    applied    duplicate            the same: what Splio had was this
    duplicate  applied, duplicate   nothing
    both       anything else        settles the effect: Splio has it, whatever we believed
    others     anything             nothing
    """
    outcome = settlement.outcome
    if outcome not in {Outcome.APPLIED, Outcome.DUPLICATE}:
        return SettleResult.STALE, True
    if standing.state in {State.APPLIED, State.DUPLICATE}:
        if outcome is Outcome.DUPLICATE:
            return SettleResult.STALE, True
        if standing.applied_attempt is None:
            _change(tx, _REMEMBER_SUCCESS, (claim.attempt, *_guard_of(standing)))
            return SettleResult.STALE, True
        if standing.applied_attempt == claim.attempt:
            return SettleResult.SETTLED, False
        return SettleResult.SUSPECTED_DOUBLE, True
    applied_attempt = claim.attempt if outcome is Outcome.APPLIED else None
    _change(
        tx,
        _SETTLE,
        (outcome, tx.now_ms, settlement.reason, applied_attempt, *_guard_of(standing)),
    )
    return SettleResult.LATE, True


def _guard_of(standing: Standing) -> tuple[str, str, int]:
    return standing.key, standing.state, standing.attempt


def _change(tx: Tx, text: str, parameters: tuple[Any, ...]) -> None:
    change_one(tx.connection, text, parameters)


def _require(tx: Tx, moved: Sequence[Cursor], expected: int) -> None:
    tx.expect(moved, expected, RuntimeError("other effects moved than were read as movable"))
