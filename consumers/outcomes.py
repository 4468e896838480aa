"""The one place that turns an error of an attempt into what becomes of the effect."""

import random

from consumers.backoff import MAX_AGE_S, backoff_s, retry_after_s
from service.domain.effects import Kind, Outcome
from service.domain.errors import (
    InDoubtError,
    LanePausedError,
    PermanentError,
    RelayError,
    RetryableError,
)
from service.domain.ledger import Claim, Settlement


def settlement_of(
    error: RelayError, claim: Claim, *, now_ms: int, random_: random.Random
) -> Settlement:
    """
    How an attempt that raised `error` ended.

    A refusal that nobody documented leaves an effect due, or in doubt when an earlier attempt
    ever was: the refusal may be Splio's way to say that it has this already.
    Raises: `error` itself when it is of another kind, which stops the worker.
    """
    age_s = (now_ms - claim.first_attempt_at_ms) / 1000
    match error:
        case PermanentError(reason=reason, detail=detail, status=status):
            return Settlement(Outcome.REJECTED, reason=reason, detail=detail, status=status)
        case InDoubtError(reason=reason, detail=detail, status=status):
            return Settlement(Outcome.IN_DOUBT, reason=reason, detail=detail, status=status)
        case LanePausedError(reason=reason, detail=detail, status=status) if claim.was_in_doubt:
            return Settlement(Outcome.IN_DOUBT, reason=reason, detail=detail, status=status)
        case LanePausedError() | RetryableError() if age_s > MAX_AGE_S:
            # Of points that a customer has spent, a person decides.
            outcome = Outcome.HELD if claim.effect.kind is Kind.DEBIT else Outcome.REJECTED
            return Settlement(outcome, reason="too_old", detail=error.reason, status=error.status)
        case LanePausedError(detail=detail, status=status):
            wait_s = backoff_s(claim.attempt, random_.random())
            reason = "lane_paused"
        case RetryableError(reason=reason, detail=detail, status=status):
            wait_s = retry_after_s(error, claim.attempt, random_.random())
        case _:
            raise error
    return Settlement(
        Outcome.RETRY,
        reason=reason,
        detail=detail,
        status=status,
        due_at_ms=now_ms + int(wait_s * 1000),
    )
