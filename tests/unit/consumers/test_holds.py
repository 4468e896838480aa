"""The worker that ends holds: whom it asks about, how often, and what it leaves behind."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from consumers.balances import BalanceReader
from consumers.holds import HoldsWorker
from service.domain.effects import EffectKey
from service.domain.errors import RetryableError
from service.domain.ports import Operation
from tests.fakes.checkout_ledger import FakeCheckoutLedger
from tests.fakes.clock import FakeClock
from tests.fakes.duty import FakeDuty
from tests.fakes.loyalty import FakeLoyalty
from tests.fakes.waiting import settle_down, until

EVERY_S, IDLE_S, LIMIT_S = 5.0, 30.0, 10.0
HOUR_S = 3600.0
REFUND = EffectKey("main:refund:club:R-1")


@dataclass
class Bench:
    """The worker over fakes; every permit is used or handed back in the end."""

    clock: FakeClock
    ledger: FakeCheckoutLedger
    splio: FakeLoyalty
    duty: FakeDuty = field(default_factory=FakeDuty)

    def __post_init__(self) -> None:
        balances = BalanceReader(self.ledger, self.splio, self.clock)
        self.worker = HoldsWorker(
            self.ledger, self.splio, balances, duty=self.duty, clock=self.clock
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.worker.run(stop))
        try:
            await settle_down()
            yield
        finally:
            stop.set()
            async with asyncio.timeout(5):
                await task
            assert self.splio.permits_out == 0

    async def pass_s(self, seconds: float) -> None:
        """Let this time pass, and the worker do what it does then."""
        self.clock.advance(seconds)
        await settle_down()

    def sent(self, *cards: str) -> None:
        """Debits of these cards were sent; no balance shows them yet."""
        for card in cards:
            self.ledger.hold(card, 100, sent=EffectKey(f"debit-{card}"))

    def asked(self) -> list[str]:
        """The cards asked about, one after the other."""
        return list(dict.fromkeys(self.splio.subjects(Operation.READ_BALANCE)))


@pytest.fixture
def bench(clock: FakeClock) -> Bench:
    return Bench(clock, FakeCheckoutLedger(clock), FakeLoyalty(clock))


async def test_hold_ends_when_its_debit_is_shown_though_nobody_asks(bench: Bench) -> None:
    bench.sent("a")
    bench.splio.ledgers["a"] = ["debit-a"]
    async with bench.running():
        assert bench.ledger.known["a"].unseen == ()
        assert [operation for operation, _ in bench.splio.asked] == [
            Operation.READ_BALANCE,
            Operation.LIST_POINTS,
        ] * 2


async def test_cards_are_asked_about_one_after_the_other_with_a_pause(bench: Bench) -> None:
    bench.sent("a", "b")
    async with bench.running():
        assert bench.asked() == ["a"]
        await bench.pass_s(EVERY_S - 0.1)
        assert bench.asked() == ["a"]
        await bench.pass_s(0.1)
        assert bench.asked() == ["a", "b"]


async def test_round_begins_again_after_the_last_card(bench: Bench) -> None:
    bench.sent("a")
    async with bench.running():
        await bench.pass_s(EVERY_S)
        await bench.pass_s(IDLE_S - 0.1)
        assert bench.ledger.readings["a"] == 1
        await bench.pass_s(0.1)
        assert bench.ledger.readings["a"] == 2


async def test_cards_of_which_nothing_was_sent_cost_no_time(bench: Bench) -> None:
    """They stay for as long as a person lets them: held debits, and those that were given up."""
    for number in range(120):
        bench.ledger.hold(f"held-{number}", 100)
    bench.sent("sent")
    async with bench.running():
        await settle_down(1_000)
        assert bench.asked() == ["sent"]


async def test_sweep_goes_on_where_it_was(bench: Bench) -> None:
    """However often it is broken off, the last card has its turn."""
    bench.sent("a", "b", "c")
    async with bench.running():
        bench.duty.is_held = False
        await bench.pass_s(EVERY_S)
        bench.duty.is_held = True
        await bench.pass_s(IDLE_S)
        assert bench.asked() == ["a", "b"]
        bench.ledger.unavailable["unsettled_cards"] = 1
        await bench.pass_s(EVERY_S)
        await bench.pass_s(IDLE_S)
    assert bench.splio.subjects(Operation.READ_BALANCE) == ["a", "b", "c"]


async def test_card_whose_state_could_not_be_read_is_not_passed_over(bench: Bench) -> None:
    bench.sent("a")
    bench.ledger.unavailable["known_balance"] = 1
    async with bench.running():
        assert bench.asked() == []
        await bench.pass_s(IDLE_S)
        assert bench.asked() == ["a"]


async def test_who_has_not_the_duty_does_nothing(bench: Bench) -> None:
    bench.sent("a")
    bench.duty.is_held = False
    async with bench.running():
        await bench.pass_s(HOUR_S)
    assert bench.asked() == []
    assert bench.ledger.called["expire_waiting_refunds"] == 0


async def test_refund_waits_48_hours_for_its_capture_and_then_for_a_person(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.ledger.waiting[REFUND] = bench.clock.now_ms()
    async with bench.running():
        await bench.pass_s(48 * HOUR_S - 1)
        assert REFUND in bench.ledger.waiting
        with caplog.at_level(logging.ERROR, "relay.holds"):
            await bench.pass_s(61)
        assert not bench.ledger.waiting
    (said,) = [record for record in caplog.records if record.name == "relay.holds"]
    assert (said.getMessage(), vars(said)["count"]) == ("refunds.without_capture", 1)


async def test_waiting_refunds_are_looked_at_each_minute_however_many_cards_there_are(
    bench: Bench,
) -> None:
    bench.sent(*(f"card-{number}" for number in range(300)))
    async with bench.running():
        for _ in range(120):
            await bench.pass_s(EVERY_S)
    assert bench.ledger.called["expire_waiting_refunds"] == 1 + 120 * EVERY_S / 60


async def test_permit_is_handed_back_when_the_ledger_goes_away(bench: Bench) -> None:
    bench.sent("a")
    bench.splio.permits_left = 0
    async with bench.running():
        await until(lambda: bench.splio.waiting)
        bench.ledger.unavailable["known_balance"] = 1
        bench.splio.give_permits(1)
        await until(lambda: bench.splio.handed_back)
        assert bench.asked() == []


@pytest.mark.parametrize("ends", ["limit", "stop"])
async def test_permit_is_handed_back_when_the_time_is_up(bench: Bench, ends: str) -> None:
    bench.sent("a")
    bench.splio.permits_left = 0
    async with bench.running():
        await until(lambda: bench.splio.waiting)
        bench.ledger.reads_go.clear()
        bench.splio.give_permits(1)
        await until(lambda: bench.splio.taken)
        await settle_down()
        if ends == "limit":
            await bench.pass_s(LIMIT_S)
            assert bench.splio.handed_back == 1
    assert bench.splio.handed_back == 1


@pytest.mark.parametrize("is_silent", [True, False])
async def test_card_that_splio_does_not_answer_for_holds_up_no_other(
    bench: Bench, is_silent: bool
) -> None:
    bench.sent("a", "b")
    if is_silent:
        bench.splio.go.clear()
    else:
        bench.splio.errors[Operation.READ_BALANCE].append(RetryableError("no_answer"))
    async with bench.running():
        if is_silent:
            await bench.pass_s(LIMIT_S)
            bench.splio.go.set()
        await bench.pass_s(EVERY_S)
        assert bench.asked() == ["a", "b"]
        assert bench.ledger.readings == {"b": 1}
