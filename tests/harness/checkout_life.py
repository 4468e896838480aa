"""SCAYLE Checkout beside the webhooks: it calls until it is answered, whoever dies meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from random import Random
from typing import Any, Final, TypeVar

import aiohttp

from tests.harness.checkout_calls import ask
from tests.harness.checkout_plan import OK, PROGRAM, START_POINTS, Call, CheckoutPlan
from tests.harness.relay import Answer
from tests.harness.waiting import until

_AGAIN_S: Final = 0.1  # after a call that was not answered for good
_AT_ONCE: Final = 8
_SPREAD_S: Final = 1.0  # purchases begin at some time within it, as the webhooks do
_EXACT_S: Final = 20.0
_PER_CUSTOMER: Final = 3  # registrations of one customer at once
T = TypeVar("T")


@dataclass(slots=True)
class CheckoutReport:
    """What was answered: the cards of each customer, and how many calls it took."""

    cards: dict[str, set[str]] = field(default_factory=dict)
    calls: int = 0
    unanswered: int = 0  # refused for now, or nobody there
    balances: int = 0


class Checkout:
    """
    Plays a plan against the loyalty doors below `url`.

    Raises: AssertionError for an answer that is neither right nor a 503, and for a balance in
        which a capture that was answered before is missing.
    """

    def __init__(
        self, url: str, plan: CheckoutPlan, session: aiohttp.ClientSession, *, seed: int
    ) -> None:
        self._url = url
        self._plan = plan
        self._session = session
        self._draw = Random(f"checkout-life-{seed}")
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self._watched_spent = 0
        self._report = CheckoutReport()

    async def play(self) -> CheckoutReport:
        """Until every call of the plan was answered."""
        async with asyncio.TaskGroup() as both:
            watching = both.create_task(self._watch(), name="watch-balance")
            async with asyncio.TaskGroup() as group:
                for purchase in self._plan.purchases:
                    group.create_task(self._later(self._stages, purchase.stages))
                for call in self._plan.collects:
                    group.create_task(self._later(self._call, call))
                for email in self._plan.emails:
                    for _ in range(_PER_CUSTOMER):
                        group.create_task(self._later(self._register, email))
            watching.cancel()
        return self._report

    async def rest(self, earned: Mapping[str, int]) -> None:
        """Wait until every balance is exact; none is ever more than that."""
        spent = self._plan.spent_by_card()
        for card in self._plan.cards:
            exact = START_POINTS + earned.get(card, 0) - spent[card]

            async def is_exact(card: str = card, exact: int = exact) -> bool:
                balance = await self.balance(card)
                assert balance <= exact, f"{balance} of {exact}"
                return balance == exact

            await until(is_exact, what=f"the balance is {exact}", timeout_s=_EXACT_S)

    async def balance(self, card: str) -> int:
        """The balance, asked for until it is answered."""
        document = {"type": PROGRAM, "cardKey": card}
        answer = await self._until_answered("balance", document, OK)
        self._report.balances += 1
        balance: int = answer.json["balance"]
        return balance

    async def _later(self, act: Callable[[T], Awaitable[None]], what: T) -> None:
        await asyncio.sleep(self._draw.random() * _SPREAD_S)
        async with self._limit:
            await act(what)

    async def _stages(self, stages: Sequence[Sequence[Call]]) -> None:
        for stage in stages:
            await asyncio.gather(*(self._call(call) for call in stage))

    async def _call(self, call: Call) -> None:
        await self._until_answered(call.operation, call.document, call.ends)
        if call.operation == "capture" and call.document["cardKey"] == self._plan.watched:
            self._watched_spent += call.document["amount"]
        if call.is_doubled:
            await self._until_answered(call.operation, call.document, call.ends)

    async def _register(self, email: str) -> None:
        document = {"type": PROGRAM, "email": email, "firstName": "Ada", "lastName": "Roux"}
        answer = await self._until_answered("register", document, OK)
        self._report.cards.setdefault(email, set()).add(answer.json["cardKey"])

    async def _watch(self) -> None:
        """No balance has what was captured, and answered, before it was asked for."""
        while True:
            spent = self._watched_spent
            balance = await self.balance(self._plan.watched)
            assert balance <= START_POINTS - spent, f"{balance} of a card that spent {spent}"
            await asyncio.sleep(_AGAIN_S)

    async def _until_answered(
        self, operation: str, document: Mapping[str, Any], ends: frozenset[HTTPStatus]
    ) -> Answer:
        """SCAYLE repeats what is not answered, for two days; here it comes back soon."""
        while True:
            self._report.calls += 1
            with suppress(aiohttp.ClientError, TimeoutError):
                answer = await ask(self._session, self._url, operation, document)
                if answer.status in ends:
                    return answer
                assert answer.status == HTTPStatus.SERVICE_UNAVAILABLE, (
                    f"{operation} of {document} was answered {answer}"
                )
            self._report.unanswered += 1
            await asyncio.sleep(_AGAIN_S)
