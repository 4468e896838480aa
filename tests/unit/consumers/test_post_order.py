"""Posting an order: each answer of Splio, and what a look-up shows."""

import pytest

from consumers.handlers import MISSING_RETRY_MS, Ended
from consumers.post_order import PostOrder
from service.domain.effects import Kind, Lane, Outcome, Prerequisite, PrerequisiteKind
from service.domain.errors import (
    InDoubtError,
    LanePausedError,
    PayloadMismatchError,
    PermanentError,
    RetryableError,
)
from service.domain.ledger import Claim, LookUp, LookUpVerdict
from service.domain.ports import (
    AlreadyExists,
    Missing,
    Operation,
    OrderComparison,
    OrderMatch,
    UnknownCard,
)
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.splio import FakeSplio
from tests.unit.builders import (
    CONTACT,
    OTHER_PRODUCT,
    PRODUCT,
    STORE,
    make_claim,
    make_doubt,
    make_ready,
)

NEEDS = (CONTACT, STORE, PRODUCT, OTHER_PRODUCT)
ORDER = make_ready(kind=Kind.ORDER, prerequisites=NEEDS)
CONTACT_KIND, PRODUCT_KIND, STORE_KIND = (
    PrerequisiteKind.CONTACT,
    PrerequisiteKind.PRODUCT,
    PrerequisiteKind.STORE,
)


@pytest.fixture
def splio(clock: FakeClock) -> FakeSplio:
    return FakeSplio(clock)


@pytest.fixture
def handler(splio: FakeSplio, clock: FakeClock) -> PostOrder:
    return PostOrder(splio, clock)


async def attempt(handler: PostOrder, splio: FakeSplio, claim: Claim | None = None) -> Ended:
    return await handler.attempt(
        claim or make_claim(ORDER), permit=await splio.permit(Lane.SALES), deadline_s=10.0
    )


async def test_an_accepted_order_is_applied(handler: PostOrder, splio: FakeSplio) -> None:
    ended = await attempt(handler, splio)

    assert (ended.settlement.outcome, ended.settlement.status) == (Outcome.APPLIED, 201)
    assert ended.create is None
    assert [(call.operation, call.body) for call in splio.calls] == [
        (Operation.POST_ORDER, ORDER.request.body)
    ]


async def test_an_order_that_exists_and_equals_ours_is_a_duplicate(
    handler: PostOrder, splio: FakeSplio
) -> None:
    splio.answer(Operation.POST_ORDER, AlreadyExists(400))
    splio.answer(Operation.READ_ORDER, OrderComparison(OrderMatch.EQUAL))

    ended = await attempt(handler, splio)

    assert (ended.settlement.outcome, ended.settlement.status) == (Outcome.DUPLICATE, 400)
    assert splio.count(Operation.UPDATE_ORDER) == 0


async def test_a_cart_is_completed(handler: PostOrder, splio: FakeSplio) -> None:
    splio.answer(Operation.POST_ORDER, AlreadyExists(400))
    splio.answer(Operation.READ_ORDER, OrderComparison(OrderMatch.CART))

    ended = await attempt(handler, splio)

    assert (ended.settlement.outcome, ended.settlement.reason) == (
        Outcome.APPLIED,
        "cart_completed",
    )
    assert splio.count(Operation.UPDATE_ORDER) == 1


async def test_cart_that_lacks_a_product_waits_for_its_creation(
    handler: PostOrder, splio: FakeSplio
) -> None:
    splio.answer(Operation.POST_ORDER, AlreadyExists(400))
    splio.answer(Operation.READ_ORDER, OrderComparison(OrderMatch.CART))
    splio.answer(Operation.UPDATE_ORDER, Missing(PRODUCT_KIND, PRODUCT.name, 400))

    ended = await attempt(handler, splio, make_claim(ORDER))

    assert (ended.settlement.outcome, ended.settlement.reason) == (Outcome.RETRY, "missing")
    assert ended.create is PRODUCT


@pytest.mark.parametrize("match", [OrderMatch.CART_WITHOUT_CARD, OrderMatch.DIFFERENT])
async def test_another_order_under_our_id_is_a_mismatch(
    handler: PostOrder, splio: FakeSplio, match: OrderMatch
) -> None:
    """Already exists is not yet ours; PATCH cannot set a card."""
    splio.answer(Operation.POST_ORDER, AlreadyExists(400))
    splio.answer(Operation.READ_ORDER, OrderComparison(match, "total_price"))

    with pytest.raises(PayloadMismatchError) as caught:
        await attempt(handler, splio)

    assert (caught.value.reason, caught.value.detail) == ("mismatch", "total_price")
    assert splio.count(Operation.UPDATE_ORDER) == 0


async def test_an_order_that_exists_yet_cannot_be_read_is_tried_again(
    handler: PostOrder, splio: FakeSplio
) -> None:
    splio.answer(Operation.POST_ORDER, AlreadyExists(400))
    splio.answer(Operation.READ_ORDER, OrderComparison(OrderMatch.ABSENT))

    with pytest.raises(RetryableError):
        await attempt(handler, splio)


async def test_a_lost_reply_to_reading_back_is_no_doubt(
    handler: PostOrder, splio: FakeSplio
) -> None:
    """Reading changes nothing, and the POST was refused."""
    splio.answer(Operation.POST_ORDER, AlreadyExists(400))
    splio.answer(Operation.READ_ORDER, InDoubtError("no_reply"))

    with pytest.raises(RetryableError):
        await attempt(handler, splio)


@pytest.mark.parametrize(
    "error",
    [
        RetryableError("not_connected"),
        LanePausedError("unknown_refusal"),
        PermanentError("refused"),
    ],
)
async def test_other_errors_of_reading_back_pass_through(
    handler: PostOrder, splio: FakeSplio, error: Exception
) -> None:
    splio.answer(Operation.POST_ORDER, AlreadyExists(400))
    splio.answer(Operation.READ_ORDER, error)

    with pytest.raises(type(error)):
        await attempt(handler, splio)


async def test_a_lost_reply_to_completing_a_cart_is_in_doubt(
    handler: PostOrder, splio: FakeSplio
) -> None:
    splio.answer(Operation.POST_ORDER, AlreadyExists(400))
    splio.answer(Operation.READ_ORDER, OrderComparison(OrderMatch.CART))
    splio.answer(Operation.UPDATE_ORDER, InDoubtError("no_reply"))

    with pytest.raises(InDoubtError):
        await attempt(handler, splio)


@pytest.mark.parametrize(
    ("missing", "wanted"),
    [
        (Missing(CONTACT_KIND, "a@example.com", 400), CONTACT),
        (Missing(CONTACT_KIND, "{A@Example.com}", 400), CONTACT),
        (Missing(CONTACT_KIND, None, 404), CONTACT),
        (Missing(STORE_KIND, None, 400), STORE),
        (Missing(PRODUCT_KIND, "p1", 400), PRODUCT),
        (Missing(PRODUCT_KIND, "p2", 400), OTHER_PRODUCT),
    ],
)
async def test_what_is_missing_is_created_first(
    handler: PostOrder, splio: FakeSplio, missing: Missing, wanted: Prerequisite
) -> None:
    splio.answer(Operation.POST_ORDER, missing)

    ended = await attempt(handler, splio)

    assert ended.create is wanted
    settlement = ended.settlement
    assert (settlement.outcome, settlement.reason) == (Outcome.RETRY, "missing")
    assert (settlement.is_round, settlement.detail) == (True, missing.kind.value)
    assert settlement.due_at_ms == START_MS + MISSING_RETRY_MS


@pytest.mark.parametrize("name", ["p3", None])
async def test_a_product_that_is_not_of_this_order_is_not_guessed(
    handler: PostOrder, splio: FakeSplio, name: str | None
) -> None:
    splio.answer(Operation.POST_ORDER, Missing(PRODUCT_KIND, name, 400))

    with pytest.raises(PermanentError) as caught:
        await attempt(handler, splio)

    assert caught.value.reason == "missing_not_accepted"


async def test_the_only_product_is_meant_when_none_is_named(
    handler: PostOrder, splio: FakeSplio
) -> None:
    effect = make_ready(kind=Kind.ORDER, prerequisites=(CONTACT, STORE, PRODUCT))
    splio.answer(Operation.POST_ORDER, Missing(PRODUCT_KIND, None, 400))

    assert (await attempt(handler, splio, make_claim(effect))).create is PRODUCT


@pytest.mark.parametrize(("rounds", "goes_on"), [(0, True), (3, True), (4, False), (9, False)])
async def test_rounds_are_bounded_by_what_can_be_missing(
    handler: PostOrder, splio: FakeSplio, rounds: int, goes_on: bool
) -> None:
    """At most 2 + products rounds."""
    splio.answer(Operation.POST_ORDER, Missing(PRODUCT_KIND, "p1", 400))
    claim = make_claim(ORDER, rounds=rounds)

    if goes_on:
        assert (await attempt(handler, splio, claim)).settlement.is_round
    else:
        with pytest.raises(PermanentError, match="missing_not_accepted"):
            await attempt(handler, splio, claim)


async def test_an_order_refused_for_its_card_is_refused(
    handler: PostOrder, splio: FakeSplio
) -> None:
    splio.answer(Operation.POST_ORDER, UnknownCard(404))

    with pytest.raises(PermanentError) as caught:
        await attempt(handler, splio)

    assert (caught.value.reason, caught.value.status) == ("refused", 404)


@pytest.mark.parametrize(
    "error",
    [
        RetryableError("rate_limited"),
        InDoubtError("no_reply"),
        LanePausedError("unknown_refusal"),
        PermanentError("refused"),
    ],
)
async def test_errors_of_the_post_pass_through(
    handler: PostOrder, splio: FakeSplio, error: Exception
) -> None:
    splio.answer(Operation.POST_ORDER, error)

    with pytest.raises(type(error)):
        await attempt(handler, splio)

    assert len(splio.calls) == 1


async def look_up(
    handler: PostOrder, splio: FakeSplio, match: OrderMatch, *, counts_from_ms: int
) -> LookUp:
    splio.answer(Operation.READ_ORDER, OrderComparison(match, "lines"))
    return await handler.look_up(make_doubt(ORDER, absence_counts_from_ms=counts_from_ms))


@pytest.mark.parametrize("counts_from_ms", [START_MS - 1, START_MS, START_MS + 60_000])
@pytest.mark.parametrize(
    ("match", "verdict", "detail"),
    [
        (OrderMatch.EQUAL, LookUpVerdict.FOUND, ""),
        (OrderMatch.DIFFERENT, LookUpVerdict.DIFFERENT, "lines"),
        (OrderMatch.CART_WITHOUT_CARD, LookUpVerdict.DIFFERENT, "lines"),
    ],
)
async def test_what_is_found_counts_at_any_time(
    handler: PostOrder,
    splio: FakeSplio,
    match: OrderMatch,
    verdict: LookUpVerdict,
    detail: str,
    counts_from_ms: int,
) -> None:
    found = await look_up(handler, splio, match, counts_from_ms=counts_from_ms)

    assert (found.verdict, found.detail) == (verdict, detail)


@pytest.mark.parametrize("match", [OrderMatch.ABSENT, OrderMatch.CART])
async def test_absence_counts_only_after_its_time(
    handler: PostOrder, splio: FakeSplio, clock: FakeClock, match: OrderMatch
) -> None:
    counts_from_ms = START_MS + 60_000

    early = await look_up(handler, splio, match, counts_from_ms=counts_from_ms)
    clock.advance(59.999)
    still_early = await look_up(handler, splio, match, counts_from_ms=counts_from_ms)
    clock.advance(0.001)
    late = await look_up(handler, splio, match, counts_from_ms=counts_from_ms)

    assert early.verdict is still_early.verdict is LookUpVerdict.UNKNOWN
    assert (early.reason, early.again_at_ms) == ("not_visible_yet", counts_from_ms)
    assert late == LookUp(LookUpVerdict.ABSENT)


async def test_an_order_whose_need_is_never_created_is_asked_for_ever_more_rarely(
    handler: PostOrder, splio: FakeSplio, clock: FakeClock
) -> None:
    """P3: nobody documented why; it neither fills the lane nor waits for ever."""
    splio.default[Operation.POST_ORDER] = Missing(PRODUCT_KIND, "p1", 400)
    waits_ms = []
    for number in (1, 6, 9, 99):
        ended = await attempt(handler, splio, make_claim(ORDER, attempt=number))
        assert ended.settlement.due_at_ms is not None
        waits_ms.append(ended.settlement.due_at_ms - clock.now_ms())
    assert waits_ms == [MISSING_RETRY_MS, 32_000, 256_000, 900_000]
    old = make_claim(ORDER, attempt=999, first_attempt_at_ms=START_MS - 15 * 86_400_000)
    with pytest.raises(PermanentError, match="too_old"):
        await attempt(handler, splio, old)
