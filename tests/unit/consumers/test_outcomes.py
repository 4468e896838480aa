"""What becomes of an effect whose attempt raised: every class of error, doubt and age."""

import random

import pytest

from consumers.backoff import MAX_AGE_S
from consumers.outcomes import settlement_of
from service.domain.effects import Outcome
from service.domain.errors import (
    InDoubtError,
    LanePausedError,
    LedgerUnavailableError,
    LogUnavailableError,
    NotFoundError,
    PayloadMismatchError,
    PermanentError,
    PoisonMessageError,
    RelayError,
    RetryableError,
    StartupError,
    WrongStateError,
)
from service.domain.ledger import Settlement
from tests.fakes.clock import START_MS
from tests.unit.builders import make_claim

OLD_MS = START_MS + int(MAX_AGE_S * 1000) + 1
ERRORS: list[RelayError] = [
    PermanentError("refused", "detail", status=400),
    PayloadMismatchError("mismatch", "detail", status=400),
    InDoubtError("no_reply", "detail", status=504),
    LanePausedError("unknown_refusal", "detail", status=403),
    RetryableError("rate_limited", "detail", status=429),
]


def settle(
    error: RelayError, *, was_in_doubt: bool = False, now_ms: int = START_MS, attempt: int = 1
) -> Settlement:
    claim = make_claim(was_in_doubt=was_in_doubt, attempt=attempt)
    return settlement_of(error, claim, now_ms=now_ms, random_=random.Random(1))


@pytest.mark.parametrize(
    ("error", "was_in_doubt", "now_ms", "outcome", "reason"),
    [
        (ERRORS[0], False, START_MS, Outcome.REJECTED, "refused"),
        (ERRORS[0], True, START_MS, Outcome.REJECTED, "refused"),
        (ERRORS[0], False, OLD_MS, Outcome.REJECTED, "refused"),
        (ERRORS[1], False, START_MS, Outcome.REJECTED, "mismatch"),
        (ERRORS[1], True, OLD_MS, Outcome.REJECTED, "mismatch"),
        (ERRORS[2], False, START_MS, Outcome.IN_DOUBT, "no_reply"),
        (ERRORS[2], True, START_MS, Outcome.IN_DOUBT, "no_reply"),
        (ERRORS[2], False, OLD_MS, Outcome.IN_DOUBT, "no_reply"),
        (ERRORS[3], False, START_MS, Outcome.RETRY, "lane_paused"),
        (ERRORS[3], True, START_MS, Outcome.IN_DOUBT, "unknown_refusal"),
        (ERRORS[3], False, OLD_MS, Outcome.REJECTED, "too_old"),
        (ERRORS[3], True, OLD_MS, Outcome.IN_DOUBT, "unknown_refusal"),
        (ERRORS[4], False, START_MS, Outcome.RETRY, "rate_limited"),
        (ERRORS[4], True, START_MS, Outcome.RETRY, "rate_limited"),
        (ERRORS[4], False, OLD_MS, Outcome.REJECTED, "too_old"),
    ],
)
def test_every_error_has_its_outcome(
    error: RelayError, was_in_doubt: bool, now_ms: int, outcome: Outcome, reason: str
) -> None:
    """P4: an undocumented refusal of what may be there already is looked up, not repeated."""
    settlement = settle(error, was_in_doubt=was_in_doubt, now_ms=now_ms)

    assert (settlement.outcome, settlement.reason) == (outcome, reason)
    assert settlement.status == getattr(error, "status", None)
    assert settlement.detail
    assert (settlement.due_at_ms is not None) == (outcome is Outcome.RETRY)
    assert not settlement.is_round


@pytest.mark.parametrize("error", ERRORS[3:])
def test_exactly_the_greatest_age_is_still_tried_again(error: RelayError) -> None:
    assert settle(error, now_ms=OLD_MS - 1).outcome is Outcome.RETRY


@pytest.mark.parametrize("error", ERRORS[3:])
def test_a_retry_waits_longer_from_attempt_to_attempt(error: RelayError) -> None:
    waits = [(settle(error, attempt=n).due_at_ms or 0) - START_MS for n in (1, 5, 50)]

    assert 500 <= waits[0] <= 1_000
    assert 8_000 <= waits[1] <= 16_000
    assert 450_000 <= waits[2] <= 900_000


def test_a_wait_that_splio_named_is_obeyed() -> None:
    settlement = settle(RetryableError("rate_limited", retry_after_s=47.0), attempt=9)

    assert 47_000 <= (settlement.due_at_ms or 0) - START_MS <= 51_700


@pytest.mark.parametrize(
    "error",
    [
        PoisonMessageError("x"),
        LogUnavailableError("x"),
        LedgerUnavailableError("x"),
        StartupError("x"),
        WrongStateError("x"),
        NotFoundError("x"),
    ],
)
def test_any_other_error_stops_the_worker(error: RelayError) -> None:
    with pytest.raises(type(error)) as caught:
        settle(error)
    assert caught.value is error
