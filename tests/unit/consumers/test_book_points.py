"""Booking points: each answer of Splio, the patience with cards, and what a look-up shows."""

import random

import pytest

from consumers.book_points import BookPoints
from consumers.handlers import Ended
from consumers.looked_for import MAX_RESENDS, RESEND_WITHIN_MS
from service.domain.effects import Lane, Outcome, PrerequisiteKind
from service.domain.errors import (
    InDoubtError,
    LanePausedError,
    PermanentError,
    RelayError,
    RetryableError,
)
from service.domain.ledger import Claim, LookUp, LookUpVerdict
from service.domain.ports import (
    AlreadyExists,
    Answer,
    Missing,
    Operation,
    UnknownCard,
)
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.splio import FakeSplio
from tests.unit.builders import make_claim, make_doubt, make_ready

PATIENCE_S = 72 * 3_600.0
EARN = make_ready()


@pytest.fixture
def splio(clock: FakeClock) -> FakeSplio:
    return FakeSplio(clock)


@pytest.fixture
def handler(splio: FakeSplio, clock: FakeClock) -> BookPoints:
    return BookPoints(splio, clock, card_patience_s=PATIENCE_S, random_=random.Random(1))


async def attempt(handler: BookPoints, splio: FakeSplio, claim: Claim | None = None) -> Ended:
    deadline_s = splio.clock.monotonic_s() + 10
    return await handler.attempt(
        claim or make_claim(EARN), permit=await splio.permit(Lane.OTHER), deadline_s=deadline_s
    )


async def test_an_accepted_credit_is_applied(handler: BookPoints, splio: FakeSplio) -> None:
    ended = await attempt(handler, splio)

    assert (ended.settlement.outcome, ended.settlement.status) == (Outcome.APPLIED, 202)
    assert [(call.operation, call.path) for call in splio.calls] == [
        (Operation.CREDIT, EARN.request.path)
    ]


@pytest.mark.parametrize(
    ("attempt_number", "least_s", "most_s"), [(1, 30, 60), (3, 120, 240), (20, 10_800, 21_600)]
)
async def test_an_unknown_card_is_waited_for(
    handler: BookPoints, splio: FakeSplio, attempt_number: int, least_s: int, most_s: int
) -> None:
    splio.answer(Operation.CREDIT, UnknownCard(404))

    ended = await attempt(handler, splio, make_claim(EARN, attempt=attempt_number))

    settlement = ended.settlement
    assert (settlement.outcome, settlement.reason) == (Outcome.RETRY, "unknown_card")
    assert settlement.status == 404
    assert least_s * 1_000 <= (settlement.due_at_ms or 0) - START_MS <= most_s * 1_000


async def test_patience_with_a_card_ends(
    handler: BookPoints, splio: FakeSplio, clock: FakeClock
) -> None:
    splio.answer(Operation.CREDIT, UnknownCard(404), UnknownCard(404))
    clock.advance(PATIENCE_S)
    last = await attempt(handler, splio)
    clock.advance(0.001)

    given_up = await attempt(handler, splio)

    assert last.settlement.outcome is Outcome.RETRY
    assert (given_up.settlement.outcome, given_up.settlement.reason) == (
        Outcome.REJECTED,
        "unknown_card",
    )


@pytest.mark.parametrize(
    "answer", [AlreadyExists(400), Missing(PrerequisiteKind.CONTACT, None, 404)]
)
async def test_an_answer_that_no_credit_has_rejects_nothing(
    handler: BookPoints, splio: FakeSplio, answer: Answer
) -> None:
    """An undocumented refusal of a credit is never a rejection: the points may be booked."""
    splio.answer(Operation.CREDIT, answer)

    with pytest.raises(LanePausedError) as caught:
        await attempt(handler, splio)

    assert caught.value.status == answer.status


@pytest.mark.parametrize(
    "error",
    [
        RetryableError("rate_limited"),
        InDoubtError("no_reply"),
        LanePausedError("unknown_refusal"),
        PermanentError("refused"),
    ],
)
async def test_errors_pass_through(
    handler: BookPoints, splio: FakeSplio, error: RelayError
) -> None:
    splio.answer(Operation.CREDIT, error)

    with pytest.raises(type(error)):
        await attempt(handler, splio)


async def look_up(
    handler: BookPoints, splio: FakeSplio, count: int, *, counts_from_ms: int, resends: int = 0
) -> LookUp:
    splio.answer(Operation.LIST_POINTS, count)
    doubt = make_doubt(EARN, absence_counts_from_ms=counts_from_ms, resends=resends)
    return await handler.look_up(doubt)


@pytest.mark.parametrize("counts_from_ms", [START_MS - 1, START_MS + 900_000])
@pytest.mark.parametrize("resends", [0, MAX_RESENDS])
async def test_a_credit_that_is_found_counts_at_any_time(
    handler: BookPoints, splio: FakeSplio, counts_from_ms: int, resends: int
) -> None:
    found = await look_up(handler, splio, 1, counts_from_ms=counts_from_ms, resends=resends)

    assert found == LookUp(LookUpVerdict.FOUND)
    assert splio.calls[0].path == EARN.key  # searched by our key


async def test_a_credit_that_is_found_twice_says_so(handler: BookPoints, splio: FakeSplio) -> None:
    found = await look_up(handler, splio, 2, counts_from_ms=START_MS)

    assert (found.verdict, found.reason) == (LookUpVerdict.FOUND, "double")
    assert "2" in found.detail


async def test_absence_counts_only_after_its_time(
    handler: BookPoints, splio: FakeSplio, clock: FakeClock
) -> None:
    counts_from_ms = START_MS + 900_000
    early = await look_up(handler, splio, 0, counts_from_ms=counts_from_ms)
    clock.advance(899.999)
    still_early = await look_up(handler, splio, 0, counts_from_ms=counts_from_ms)
    clock.advance(0.001)

    late = await look_up(handler, splio, 0, counts_from_ms=counts_from_ms)

    assert early.verdict is still_early.verdict is LookUpVerdict.UNKNOWN
    assert (early.reason, early.again_at_ms) == ("not_visible_yet", counts_from_ms)
    assert late == LookUp(LookUpVerdict.ABSENT)


async def test_it_is_sent_again_twice_at_most(handler: BookPoints, splio: FakeSplio) -> None:
    verdicts = [
        (await look_up(handler, splio, 0, counts_from_ms=START_MS, resends=resends)).verdict
        for resends in (0, 1, 2, 3)
    ]

    assert verdicts == [
        LookUpVerdict.ABSENT,
        LookUpVerdict.ABSENT,
        LookUpVerdict.HOLD,
        LookUpVerdict.HOLD,
    ]


async def test_it_is_sent_again_only_within_a_day_of_its_first_attempt(
    handler: BookPoints, splio: FakeSplio, clock: FakeClock
) -> None:
    """How long Splio remembers an idempotency key is not documented."""
    clock.advance(RESEND_WITHIN_MS / 1_000)
    in_time = await look_up(handler, splio, 0, counts_from_ms=START_MS)
    clock.advance(0.001)

    too_late = await look_up(handler, splio, 0, counts_from_ms=START_MS)

    assert RESEND_WITHIN_MS == 86_400_000
    assert in_time.verdict is LookUpVerdict.ABSENT
    assert (too_late.verdict, too_late.reason) == (LookUpVerdict.HOLD, "absent_too_late")


async def test_a_credit_that_was_in_doubt_is_not_sent_again_a_day_later(
    handler: BookPoints, splio: FakeSplio, clock: FakeClock
) -> None:
    """Proved absent in time, it may still have waited in the lane: then it is looked up again."""
    claim = make_claim(EARN, attempt=2, was_in_doubt=True)
    clock.advance(RESEND_WITHIN_MS / 1000 + 1)

    with pytest.raises(InDoubtError, match="resend_too_late"):
        await attempt(handler, splio, claim)

    assert splio.calls == []
