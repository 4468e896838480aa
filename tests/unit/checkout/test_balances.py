"""Balances: one question at a time for a card, the most urgent first, never nothing for long."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from consumers.balances import BalanceReader
from service.checkout.arrival import Arrival
from service.checkout.balances import Balances
from service.domain.effects import EffectKey
from service.domain.errors import LanePausedError, LedgerUnavailableError, RetryableError
from service.domain.ports import Operation
from service.telemetry.metrics import Metrics
from tests.fakes.checkout_ledger import FakeCheckoutLedger
from tests.fakes.clock import START_MS, FakeClock
from tests.fakes.loyalty import FakeLoyalty
from tests.fakes.metrics import value
from tests.fakes.waiting import settle_down, until
from tests.unit.builders import CARD, TRACEPARENT

FRESH_S = 5.0
TIMEOUT_S = 3.0
ARRIVAL = Arrival("call-1", START_MS, TRACEPARENT, deadline_s=2.75)
DEBIT = EffectKey("main:debit:club:k:1:1000")


class Shoppers:
    """Balances over fakes, with who asks for them."""

    def __init__(
        self,
        clock: FakeClock,
        ledger: FakeCheckoutLedger,
        splio: FakeLoyalty,
        metrics: Metrics,
        *,
        fresh_s: float = FRESH_S,
    ) -> None:
        self.clock, self.ledger, self.splio, self.metrics = clock, ledger, splio, metrics
        self.balances = Balances(
            ledger,
            splio,
            BalanceReader(ledger, splio, clock),
            clock=clock,
            metrics=metrics,
            fresh_s=fresh_s,
            timeout_s=TIMEOUT_S,
        )

    async def usable(self, card: str = CARD) -> int | None:
        return await self.balances.usable(card, ARRIVAL)

    def ask(self, card: str = CARD) -> asyncio.Task[int | None]:
        """A shopper who waits for an answer."""
        return asyncio.create_task(self.usable(card), name=f"shopper {card}")

    def questions(self) -> Sequence[str]:
        return self.splio.subjects(Operation.READ_BALANCE)

    def answered(self, how: str) -> float:
        return value(self.metrics, "relay_balance_answers_total", answer=how)

    async def nothing_is_left(self) -> None:
        """No task, no sleeper and no permit is left behind."""
        await settle_down()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, others
        assert self.clock.sleeping == 0
        assert self.splio.permits_out == 0
        assert self.splio.waiting == 0


@pytest.fixture
async def shoppers(
    clock: FakeClock, ledger: FakeCheckoutLedger, splio: FakeLoyalty, metrics: Metrics
) -> AsyncIterator[Shoppers]:
    shoppers = Shoppers(clock, ledger, splio, metrics)
    yield shoppers
    await shoppers.balances.close()


async def test_fresh_balance_is_answered_without_asking(shoppers: Shoppers) -> None:
    shoppers.ledger.put(CARD, 2500, age_s=FRESH_S, held=1000)
    assert await shoppers.usable() == 1500
    assert shoppers.splio.taken == 0
    assert shoppers.answered("fresh") == 1


async def test_card_that_splio_did_not_know_is_not_asked_about_again_at_once(
    shoppers: Shoppers,
) -> None:
    assert await shoppers.usable() is None
    assert await shoppers.usable() is None
    assert shoppers.questions() == [CARD]


async def test_balance_is_never_negative(shoppers: Shoppers) -> None:
    shoppers.ledger.put(CARD, 100, held=101)
    assert await shoppers.usable() == 0


async def test_many_callers_share_one_question(shoppers: Shoppers) -> None:
    shoppers.splio.balances[CARD] = 2500
    shoppers.splio.go.clear()
    early = [shoppers.ask() for _ in range(20)]
    await until(shoppers.questions)
    late = [shoppers.ask() for _ in range(20)]
    await settle_down()
    shoppers.splio.go.set()
    assert await asyncio.gather(*early, *late) == [2500] * 40
    assert shoppers.questions() == [CARD]
    assert shoppers.ledger.readings[CARD] == 1
    assert shoppers.answered("asked") == 40
    await shoppers.nothing_is_left()


async def test_old_balance_is_asked_for_again(shoppers: Shoppers) -> None:
    shoppers.splio.balances[CARD] = 3000
    shoppers.ledger.put(CARD, 2500, age_s=FRESH_S + 0.001)
    assert await shoppers.usable() == 3000
    assert await shoppers.usable() == 3000
    assert shoppers.questions() == [CARD]


@given(
    ages=st.lists(st.one_of(st.none(), st.integers(6, 900)), min_size=1, max_size=12),
    data=st.data(),
)
async def test_new_cards_go_first_then_the_oldest_value(
    ages: list[int | None], data: st.DataObject
) -> None:
    """In whatever order they arrive; equals in that order."""
    clock = FakeClock()
    shoppers = Shoppers(
        clock, FakeCheckoutLedger(clock), FakeLoyalty(clock), Metrics(CollectorRegistry())
    )
    cards = {f"card-{number}": age for number, age in enumerate(ages)}
    for card, age in cards.items():
        shoppers.splio.balances[card] = 1
        if age is not None:
            shoppers.ledger.put(card, 0, age_s=age)
    arrivals = data.draw(st.permutations(list(cards)))
    shoppers.splio.permits_left = 0
    asking = []
    for card in arrivals:
        asking.append(shoppers.ask(card))
        await settle_down(5)

    def urgency(card: str) -> tuple[bool, int]:
        age = cards[card]
        return age is not None, -(age or 0)

    for number in range(1, len(cards) + 1):
        shoppers.splio.give_permits(1)
        await until(lambda: len(shoppers.questions()) == number)  # noqa: B023  awaited at once
        await settle_down(5)
    assert shoppers.questions() == sorted(arrivals, key=urgency)
    assert await asyncio.gather(*asking) == [1] * len(cards)
    await shoppers.nothing_is_left()


async def test_card_seen_for_the_first_time_overtakes_refreshes_that_wait(
    shoppers: Shoppers,
) -> None:
    shoppers.splio.permits_left = 0
    for card in ("old-1", "old-2"):
        shoppers.ledger.put(card, 1, age_s=60)
    asking = [shoppers.ask("old-1"), shoppers.ask("old-2")]
    await until(lambda: shoppers.splio.waiting)
    asking.append(shoppers.ask("new"))
    await settle_down()
    shoppers.splio.give_permits(1)
    await until(shoppers.questions)
    assert shoppers.questions() == ["new"]
    shoppers.splio.give_permits(2)
    await asyncio.gather(*asking)


@pytest.mark.parametrize(("age_s", "points"), [(6, 2500), (899.5, 2500), (899.501, None)])
async def test_without_a_permit_the_last_known_value_is_answered_for_15_minutes(
    shoppers: Shoppers, age_s: float, points: int | None
) -> None:
    shoppers.splio.permits_left = 0
    shoppers.ledger.put(CARD, 2500, age_s=age_s)
    asking = shoppers.ask()
    await until(lambda: shoppers.splio.waiting)
    shoppers.clock.advance(0.499)
    await settle_down()
    assert not asking.done()
    shoppers.clock.advance(0.001)
    if points is None:
        with pytest.raises(RetryableError, match="balance_unknown"):
            await asking
        assert shoppers.answered("unknown") == 1
    else:
        assert await asking == points
        assert shoppers.answered("last_known") == 1


async def test_without_a_permit_a_new_card_is_unknown(shoppers: Shoppers) -> None:
    shoppers.splio.permits_left = 0
    asking = shoppers.ask()
    await until(lambda: shoppers.splio.waiting)
    shoppers.clock.advance(0.5)
    with pytest.raises(RetryableError, match="balance_unknown"):
        await asking


async def test_callers_who_go_away_leave_nothing_behind(shoppers: Shoppers) -> None:
    shoppers.splio.permits_left = 0
    asking = [shoppers.ask(f"card-{number}") for number in range(50)]
    await until(lambda: shoppers.splio.waiting)
    await settle_down()
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert not shoppers.balances.waiting
    shoppers.splio.give_permits(1)
    await shoppers.nothing_is_left()
    assert shoppers.splio.handed_back == 1
    assert not shoppers.questions()


async def test_refreshes_given_up_under_new_cards_are_not_kept(shoppers: Shoppers) -> None:
    """Where new cards take all the permits, refreshes must not pile up beneath them."""
    shoppers.splio.permits_left = 0
    for number in range(30):
        shoppers.ledger.put(f"old-{number}", 1, age_s=60)
    refreshes = [shoppers.ask(f"old-{number}") for number in range(30)]
    await until(lambda: shoppers.splio.waiting)
    await settle_down()
    shoppers.clock.advance(0.3)
    new = shoppers.ask("new")
    await settle_down()
    shoppers.clock.advance(0.2)
    assert await asyncio.gather(*refreshes) == [1] * 30
    assert shoppers.balances.waiting == 1
    shoppers.splio.give_permits(1)
    assert await new is None
    await shoppers.nothing_is_left()


async def test_place_at_the_limiter_is_the_next_shoppers(shoppers: Shoppers) -> None:
    shoppers.splio.permits_left = 0
    first = shoppers.ask()
    await until(lambda: shoppers.splio.waiting)
    first.cancel()
    second = shoppers.ask("other")
    await settle_down()
    assert shoppers.splio.waiting == 1
    shoppers.splio.give_permits(1)
    assert await second is None
    assert shoppers.questions() == ["other"]


async def test_answer_is_recorded_when_all_who_asked_have_gone(shoppers: Shoppers) -> None:
    shoppers.splio.balances[CARD] = 2500
    shoppers.splio.go.clear()
    asking = shoppers.ask()
    await until(shoppers.questions)
    asking.cancel()
    await settle_down()
    shoppers.splio.go.set()
    await until(lambda: shoppers.ledger.readings[CARD])
    assert await shoppers.usable() == 2500
    assert shoppers.questions() == [CARD]
    await shoppers.nothing_is_left()


@pytest.mark.parametrize(
    "error", [RetryableError("no_answer", status=503), LanePausedError("unknown_refusal")]
)
async def test_errors_of_splio_leave_the_last_known_value(
    shoppers: Shoppers, error: RetryableError | LanePausedError
) -> None:
    shoppers.ledger.put(CARD, 2500, age_s=60)
    shoppers.splio.errors[Operation.READ_BALANCE].extend([error, error])
    assert await shoppers.usable() == 2500
    with pytest.raises(RetryableError, match="balance_unknown"):
        await shoppers.usable("other")
    await shoppers.nothing_is_left()


async def test_splio_that_hangs_leaves_the_last_known_value_within_the_calls_time(
    shoppers: Shoppers,
) -> None:
    shoppers.ledger.put(CARD, 2500, age_s=60)
    shoppers.splio.go.clear()
    asking = shoppers.ask()
    await until(shoppers.questions)
    shoppers.clock.advance(TIMEOUT_S - 0.2)
    assert await asking == 2500
    shoppers.clock.advance(0.2)
    await shoppers.nothing_is_left()


async def test_ledger_that_is_away_is_told(shoppers: Shoppers) -> None:
    shoppers.ledger.unavailable["known_balance"] = 1
    with pytest.raises(LedgerUnavailableError):
        await shoppers.usable()
    shoppers.ledger.put(CARD, 2500, age_s=60)
    shoppers.ledger.unavailable["record_balance"] = 1
    assert await shoppers.usable() == 2500
    await shoppers.nothing_is_left()


async def test_hold_lowers_the_answer_of_a_question_that_is_under_way(
    shoppers: Shoppers,
) -> None:
    """A capture is recorded after Splio's balance was, and before the shopper is answered."""
    shoppers.splio.balances[CARD] = 2500
    asking = shoppers.ask()
    await until(lambda: shoppers.ledger.readings[CARD])
    shoppers.ledger.hold(CARD, 1000)
    assert await asking == 1500


@pytest.mark.parametrize("age_s", [1, 60])
async def test_hold_lowers_what_is_known_at_once(shoppers: Shoppers, age_s: float) -> None:
    shoppers.splio.permits_left = 0
    shoppers.ledger.put(CARD, 2500, age_s=age_s)
    asking = shoppers.ask()
    shoppers.ledger.hold(CARD, 1000)
    await settle_down()
    shoppers.clock.advance(0.5)
    assert await asking == 1500


async def test_balance_that_an_operator_made_void_meanwhile_is_no_unknown_card(
    shoppers: Shoppers,
) -> None:
    shoppers.splio.permits_left = 0
    shoppers.ledger.put(CARD, 2500, age_s=60)
    asking = shoppers.ask()
    await until(lambda: shoppers.splio.waiting)
    shoppers.ledger.forget(CARD)
    shoppers.clock.advance(0.5)
    with pytest.raises(RetryableError, match="balance_unknown"):
        await asking


async def test_debit_that_was_sent_is_looked_for_before_the_balance_is_believed(
    shoppers: Shoppers,
) -> None:
    shoppers.splio.balances[CARD] = 1500
    shoppers.splio.ledgers[CARD] = [DEBIT]
    shoppers.ledger.put(CARD, 2500, age_s=60)
    shoppers.ledger.hold(CARD, 1000, sent=DEBIT)
    assert await shoppers.usable() == 1500
    assert shoppers.splio.asked == [
        (Operation.READ_BALANCE, CARD),
        (Operation.LIST_POINTS, CARD),
        (Operation.READ_BALANCE, CARD),
        (Operation.LIST_POINTS, CARD),
    ]
    assert shoppers.ledger.known[CARD].unseen == ()
    await shoppers.nothing_is_left()


async def test_close_answers_who_waits_with_what_is_known(shoppers: Shoppers) -> None:
    shoppers.splio.go.clear()
    for card in ("known", "asked"):
        shoppers.ledger.put(card, 1, age_s=60)
    shoppers.splio.permits_left = 1
    under_way = [shoppers.ask("asked") for _ in range(3)]
    await until(shoppers.questions)
    waiting = [shoppers.ask("known"), shoppers.ask("new")]
    await until(lambda: shoppers.splio.waiting)
    await shoppers.balances.close()
    assert await asyncio.gather(*under_way) == [1, 1, 1]
    assert await waiting[0] == 1
    with pytest.raises(RetryableError, match="balance_unknown"):
        await waiting[1]
    await shoppers.nothing_is_left()
    assert await shoppers.usable("known") == 1
    await shoppers.nothing_is_left()


async def test_close_hands_back_the_permit_of_a_question_that_has_not_begun(
    shoppers: Shoppers,
) -> None:
    shoppers.splio.permits_left = 0
    asking = shoppers.ask()
    await until(lambda: shoppers.splio.waiting)
    shoppers.splio.give_permits(1)
    await until(lambda: shoppers.splio.taken)
    await shoppers.balances.close()
    with pytest.raises(RetryableError, match="balance_unknown"):
        await asking
    await shoppers.nothing_is_left()


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.integers(0, 4)),
            st.tuples(st.just("leave"), st.integers(0, 9)),
            st.tuples(st.just("permit"), st.integers(1, 3)),
            st.tuples(st.just("time"), st.sampled_from([1, 300, 500, 3000])),
            st.tuples(st.just("fail"), st.just(1)),
            st.tuples(st.just("answer"), st.just(1)),
            st.tuples(st.just("hang"), st.just(1)),
        ),
        max_size=40,
    )
)
async def test_every_permit_is_used_or_handed_back(steps: list[tuple[str, int]]) -> None:
    """Whoever comes, goes, fails or hangs: permits taken are permits used or handed back."""
    clock = FakeClock()
    splio = FakeLoyalty(clock)
    shoppers = Shoppers(
        clock, FakeCheckoutLedger(clock), splio, Metrics(CollectorRegistry()), fresh_s=0.4
    )
    splio.permits_left = 0
    asking: list[asyncio.Task[int | None]] = []
    for what, number in steps:
        match what:
            case "ask":
                asking.append(shoppers.ask(f"card-{number}"))
            case "leave" if number < len(asking):
                asking[number].cancel()
            case "permit":
                splio.give_permits(number)
            case "time":
                clock.advance(number / 1000)
            case "fail":
                splio.errors[Operation.READ_BALANCE].append(RetryableError("no_answer"))
            case "answer":
                splio.go.set()
            case "hang":
                splio.go.clear()
        await settle_down(number * 3)
        assert splio.permits_out >= 0
    splio.go.set()
    await settle_down()
    await shoppers.balances.close()
    await asyncio.gather(*asking, return_exceptions=True)
    await shoppers.nothing_is_left()
    assert splio.taken == splio.used + splio.handed_back
