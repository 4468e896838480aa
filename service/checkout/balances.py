"""Balances for shoppers: the newest that Splio's limit allows, the last known one otherwise."""

import asyncio
import heapq
import logging
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from consumers.balances import BalanceReader
from service.domain.checkout import CheckoutLedger, KnownBalance
from service.domain.clock import Clock
from service.domain.errors import RelayError, RetryableError
from service.domain.loyalty import LoyaltySplio
from service.domain.ports import Permit
from service.telemetry.metrics import Metrics

PERMIT_WITHIN_S: Final = 0.5  # a shopper waits no longer for the limiter
KNOWN_FOR_S: Final = 15 * 60.0  # an older value is not answered any more
_RETRY_AFTER_S: Final = 2.0
_AT_ONCE: Final = 32  # questions under way; the limiter lets far fewer through

logger = logging.getLogger("relay.balances")


@dataclass(slots=True)
class _Question:
    """One card that somebody waits for; all who ask for it share the answer."""

    card: str
    traceparent: str
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    answer: asyncio.Future[KnownBalance] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Balances:
    """
    Answers balances: at most `fresh_s` old where a permit comes soon, else the last known value.

    Cards never asked about go before refreshes, and of these the one with the oldest value. What
    is held of a card is read anew for every answer, so a capture shows at once.
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
        self._answers = metrics.balance_answers
        self._fresh_ms = int(fresh_s * 1000)
        self._timeout_s = timeout_s
        self._permit_within_s = permit_within_s
        self._known_for_ms = int(known_for_s * 1000)
        self._questions: dict[str, _Question] = {}
        self._urgent: list[tuple[int, int, _Question]] = []
        self._arrival = count()
        self._pump: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._asking: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop asking; who still waits gets an error."""
        tasks: AbstractSet[asyncio.Task[None]] = self._asking | (
            {self._pump} if self._pump else set()
        )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def usable(self, card: str, *, traceparent: str) -> int | None:
        """
        Points that may be spent, never negative; None for a card that Splio does not know.

        Raises: RetryableError `balance_unknown` when Splio cannot be asked now and nothing is
            known that is young enough; LedgerUnavailableError.
        """
        known = await self._ledger.known_balance(card)
        if self._age_ms(known) <= self._fresh_ms:
            self._answers.labels("fresh").inc()
            return known.usable
        newer = await self._ask(card, known, traceparent)
        if newer is not None:
            self._answers.labels("asked").inc()
            return newer.usable
        if self._age_ms(known) > self._known_for_ms:
            self._answers.labels("unknown").inc()
            raise RetryableError("balance_unknown", retry_after_s=_RETRY_AFTER_S)
        self._answers.labels("last_known").inc()
        return (await self._ledger.known_balance(card)).usable

    def _age_ms(self, known: KnownBalance) -> float:
        if known.asked_at_ms is None:
            return float("inf")
        return self._clock.now_ms() - known.asked_at_ms

    async def _ask(self, card: str, known: KnownBalance, traceparent: str) -> KnownBalance | None:
        """What Splio says now; None when it cannot be asked in time."""
        question = self._questions.get(card)
        if question is None:
            question = self._questions[card] = _Question(card, traceparent)
            urgency = -1 if known.asked_at_ms is None else known.asked_at_ms
            heapq.heappush(self._urgent, (urgency, next(self._arrival), question))
            if self._pump is None or self._pump.done():
                self._pump = asyncio.create_task(self._hand_out(), name="balances")
        question.waiting += 1
        try:
            async with asyncio.timeout(self._permit_within_s):
                await question.begun.wait()
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(question.answer)
        except (TimeoutError, RelayError):
            return None
        finally:
            question.waiting -= 1
            if not question.waiting and not question.begun.is_set():
                # Nobody waits for it any more; the pump passes it over.
                self._questions.pop(card, None)

    async def _hand_out(self) -> None:
        """Give each permit to the question that is most urgent when the permit comes."""
        while self._waits():
            await self._slots.acquire()
            permit = await self._splio.checkout_permit()
            question = self._most_urgent()
            if question is None:
                permit.hand_back()
                self._slots.release()
                return
            question.begun.set()
            task = asyncio.create_task(self._answer(question, permit), name="balance")
            self._asking.add(task)
            task.add_done_callback(self._asked)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        self._slots.release()

    def _waits(self) -> bool:
        while self._urgent and not self._urgent[0][2].waiting:
            heapq.heappop(self._urgent)
        return bool(self._urgent)

    def _most_urgent(self) -> _Question | None:
        return heapq.heappop(self._urgent)[2] if self._waits() else None

    async def _answer(self, question: _Question, permit: Permit) -> None:
        try:
            known = await self._reader.read(
                question.card,
                permit=permit,
                deadline_s=self._clock.monotonic_s() + self._timeout_s,
                traceparent=question.traceparent,
            )
        except RelayError as error:
            logger.warning("balance.not_read", extra={"reason": error.reason})
            _finish(question.answer, error)
        else:
            question.answer.set_result(known)
        finally:
            self._questions.pop(question.card, None)
            question.answer.cancel()


def _finish(answer: asyncio.Future[KnownBalance], error: RelayError) -> None:
    answer.set_exception(error)
    answer.exception()  # also when nobody waits any more, it was looked at
