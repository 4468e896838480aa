"""Taking points: what each answer of Splio to a grant means, and what a look-up shows."""

import pytest

from consumers.handlers import Ended
from consumers.looked_for import MAX_RESENDS, RESEND_WITHIN_MS
from consumers.take_points import TakePoints
from service.domain.effects import Kind, Outcome
from service.domain.errors import InDoubtError, LanePausedError, PermanentError, RelayError
from service.domain.ledger import Claim, LookUpVerdict
from service.domain.ports import Operation
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.loyalty import FakeLoyalty
from tests.unit.builders import CARD, make_claim, make_doubt, make_ready

DEBIT = make_ready(kind=Kind.DEBIT)
UNDOCUMENTED = LanePausedError("unknown_refusal", "422", status=422)
REFUSED = PermanentError("unknown_card", "404", status=404)


@pytest.fixture
def splio() -> FakeLoyalty:
    return FakeLoyalty(FakeClock())


@pytest.fixture
def handler(splio: FakeLoyalty) -> TakePoints:
    return TakePoints(splio, splio.clock)


async def attempt(handler: TakePoints, splio: FakeLoyalty, claim: Claim | None = None) -> Ended:
    permit = await splio.checkout_permit()
    try:
        return await handler.attempt(
            claim or make_claim(DEBIT),
            permit=permit,
            deadline_s=splio.clock.monotonic_s() + 10,
        )
    finally:
        assert splio.permits_out == 0


async def test_granted_points_are_taken(handler: TakePoints, splio: FakeLoyalty) -> None:
    ended = await attempt(handler, splio)

    assert ended.settlement.outcome is Outcome.APPLIED
    assert splio.subjects(Operation.GRANT) == [DEBIT.request.path]


@pytest.mark.parametrize("refusal", [UNDOCUMENTED, REFUSED])
async def test_refused_debit_is_held_and_pauses_nothing(
    handler: TakePoints, splio: FakeLoyalty, refusal: RelayError
) -> None:
    splio.errors[Operation.GRANT].append(refusal)

    settlement = (await attempt(handler, splio)).settlement

    assert (settlement.outcome, settlement.reason) == (Outcome.HELD, refusal.reason)


@pytest.mark.parametrize("refusal", [UNDOCUMENTED, REFUSED])
async def test_refusal_of_what_may_have_been_granted_proves_nothing(
    handler: TakePoints, splio: FakeLoyalty, refusal: RelayError
) -> None:
    splio.errors[Operation.GRANT].append(refusal)

    ended = await attempt(handler, splio, make_claim(DEBIT, was_in_doubt=True))

    assert ended.settlement.outcome is Outcome.IN_DOUBT


async def test_another_pause_is_the_lanes(handler: TakePoints, splio: FakeLoyalty) -> None:
    splio.errors[Operation.GRANT].append(LanePausedError("wrong_key"))

    with pytest.raises(LanePausedError):
        await attempt(handler, splio)


@pytest.mark.parametrize("was_in_doubt", [False, True])
async def test_known_key_is_believed_only_where_we_may_have_used_it(
    handler: TakePoints, splio: FakeLoyalty, was_in_doubt: bool
) -> None:
    splio.codes = ()
    claim = make_claim(DEBIT, was_in_doubt=was_in_doubt)

    if was_in_doubt:
        assert (await attempt(handler, splio, claim)).settlement.outcome is Outcome.APPLIED
    else:
        with pytest.raises(InDoubtError, match="nothing_granted"):
            await attempt(handler, splio, claim)


@pytest.mark.parametrize(("age_ms", "is_sent"), [(RESEND_WITHIN_MS, 1), (RESEND_WITHIN_MS + 1, 0)])
async def test_debit_in_doubt_is_not_sent_again_when_its_key_may_be_forgotten(
    handler: TakePoints, splio: FakeLoyalty, age_ms: int, is_sent: int
) -> None:
    claim = make_claim(DEBIT, was_in_doubt=True, first_attempt_at_ms=START_MS - age_ms)

    if is_sent:
        await attempt(handler, splio, claim)
    else:
        with pytest.raises(InDoubtError, match="resend_too_late"):
            await attempt(handler, splio, claim)
    assert len(splio.subjects(Operation.GRANT)) == is_sent


@pytest.mark.parametrize(
    ("shown", "changes", "verdict", "reason"),
    [
        (1, {}, LookUpVerdict.FOUND, None),
        (2, {}, LookUpVerdict.FOUND, "double"),
        (0, {"absence_counts_from_ms": START_MS + 1}, LookUpVerdict.UNKNOWN, "not_visible_yet"),
        (0, {}, LookUpVerdict.ABSENT, None),
        (0, {"resends": MAX_RESENDS}, LookUpVerdict.HOLD, "absent_after_resends"),
        (
            0,
            {"first_attempt_at_ms": START_MS - RESEND_WITHIN_MS - 1},
            LookUpVerdict.HOLD,
            "absent_too_late",
        ),
    ],
)
async def test_debit_in_doubt_is_looked_for(
    handler: TakePoints,
    splio: FakeLoyalty,
    shown: int,
    changes: dict[str, int],
    verdict: LookUpVerdict,
    reason: str | None,
) -> None:
    splio.ledgers[CARD] = [DEBIT.key] * shown
    doubt = make_doubt(DEBIT, **{"absence_counts_from_ms": START_MS, **changes})

    look_up = await handler.look_up(doubt)

    assert (look_up.verdict, look_up.reason) == (verdict, reason)
