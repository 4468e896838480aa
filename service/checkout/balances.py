"""Balances for shoppers: the newest that Splio's limit allows, the last known one otherwise."""

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Final

from consumers.balances import BalanceReader
from service.checkout.arrival import Arrival
from service.domain.checkout import CheckoutLedger, KnownBalance
from service.domain.clock import Clock, time_limit
from service.domain.errors import RelayError, RetryableError
from service.domain.loyalty import LoyaltySplio
from service.domain.ports import Permit
from service.telemetry.metrics import BALANCE_ANSWERS, Metrics

PERMIT_WITHIN_S: Final = 0.5  # a shopper waits no longer for the limiter
KNOWN_FOR_S: Final = 15 * 60.0  # an older value is not answered any more
_AT_ONCE: Final = 32  # questions under way; the limiter lets far fewer through

logger = logging.getLogger("relay.balances")


@dataclass(slots=True)
class _Question:
    """
    One card that somebody waits for; all who ask for it share the answer.

    `place`: the most urgent has the least. `is_told`: Splio told the balance, and it is recorded.
    """

    card: str
    place: tuple[int, int]
    traceparent: str
    waiting: int = 0
    is_told: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Balances:
    """
    Answers balances: at most `fresh_s` old where a permit comes soon, else the last known value.

    Cards never asked about go before refreshes, and of these the one with the oldest value. What
    is held of a card is read anew for every answer, so a capture shows at once.

    Args:
        timeout_s: of a question, which goes on when those who wait for it give up.
    """

    def __init__(
        self,
        ledger: CheckoutLedger,
        splio: LoyaltySplio,
        reader: BalanceReader,
        *,
        clock: Clock,
        metrics: Metrics,
        fresh_s: float,
        timeout_s: float,
        permit_within_s: float = PERMIT_WITHIN_S,
        known_for_s: float = KNOWN_FOR_S,
    ) -> None:
        self._ledger = ledger
        self._splio = splio
        self._reader = reader
        self._clock = clock
        self._count = {answer: metrics.balance_answers.labels(answer) for answer in BALANCE_ANSWERS}
        self._fresh_ms = int(fresh_s * 1000)
        self._timeout_s = timeout_s
        self._permit_within_s = permit_within_s
        self._known_for_ms = int(known_for_s * 1000)
        self._places = count()
        self._waiting: dict[str, _Question] = {}
        self._under_way: dict[str, _Question] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._pump: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """Cards that wait for a permit."""
        return len(self._waiting)

    async def close(self) -> None:
        """Stop asking; who still waits gets what is known."""
        self._is_closed = True
        tasks = [*self._asking, *([self._pump] if self._pump else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for question in self._waiting.values():
            question.begun.set()
            question.ended.set()

    async def usable(self, card: str, arrival: Arrival) -> int | None:
        """
        Points that may be spent, never negative; None for a card that Splio does not know.

        Raises: RetryableError `balance_unknown` when Splio cannot be asked now and nothing is
            known that is young enough; LedgerUnavailableError.
        """
        known = await self._ledger.known_balance(card)
        if self._age_ms(known) <= self._fresh_ms:
            self._count["fresh"].inc()
            return known.usable
        is_told = await self._ask(card, known, arrival)
        # Meanwhile points may have been captured, or an operator may have ended a hold.
        known = await self._ledger.known_balance(card)
        if self._age_ms(known) > self._known_for_ms:
            self._count["unknown"].inc()
            raise RetryableError("balance_unknown")
        self._count["asked" if is_told else "last_known"].inc()
        return known.usable

    def _age_ms(self, known: KnownBalance) -> float:
        if known.asked_at_ms is None:
            return float("inf")
        return self._clock.now_ms() - known.asked_at_ms

    async def _ask(self, card: str, known: KnownBalance, arrival: Arrival) -> bool:
        """Have Splio asked; whether it told the balance in time."""
        if self._is_closed:
            return False
        question = self._under_way.get(card) or self._waiting.get(card)
        if question is None:
            urgency = -1 if known.asked_at_ms is None else known.asked_at_ms
            question = _Question(card, (urgency, next(self._places)), arrival.traceparent)
            self._waiting[card] = question
            if self._pump is None or self._pump.done():
                self._pump = asyncio.create_task(self._hand_out(), name="balances")
        question.waiting += 1
        try:
            async with time_limit(self._clock, arrival.deadline_s - self._clock.monotonic_s()):
                async with time_limit(self._clock, self._permit_within_s):
                    await question.begun.wait()
                await question.ended.wait()
        except TimeoutError:
            return False
        else:
            return question.is_told
        finally:
            question.waiting -= 1
            if not question.waiting and self._waiting.get(card) is question:
                del self._waiting[card]

    async def _hand_out(self) -> None:
        """
        Give each permit to the question that is most urgent when the permit comes.

        The place at the limiter is kept when nobody waits any more: the next shopper has it, and
        a permit that comes before that is handed back.
        """
        while self._waiting:
            if len(self._asking) >= _AT_ONCE:
                await asyncio.wait(self._asking, return_when=asyncio.FIRST_COMPLETED)
                continue
            permit = await self._splio.checkout_permit()
            if not self._waiting:
                permit.hand_back()
                return
            question = min(self._waiting.values(), key=lambda question: question.place)
            self._under_way[question.card] = self._waiting.pop(question.card)
            question.begun.set()
            task = asyncio.create_task(self._answer(question, permit), name="balance")
            self._asking.add(task)
            task.add_done_callback(partial(self._asked, question, permit))

    async def _answer(self, question: _Question, permit: Permit) -> None:
        try:
            await self._reader.read(
                question.card,
                permit=permit,
                deadline_s=self._clock.monotonic_s() + self._timeout_s,
                traceparent=question.traceparent,
            )
        except RelayError as error:
            logger.warning("balance.not_read", extra={"reason": error.reason})
        else:
            question.is_told = True

    def _asked(self, question: _Question, permit: Permit, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        del self._under_way[question.card]
        permit.hand_back()  # of a task that was cancelled before it began
        question.ended.set()
