"""Deliveries that go on in the background while a test breaks something."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final, Self

from service.sandbox.deliveries import DeliveryPlan, DeliveryProgress, DeliveryReport, deliver
from service.sandbox.scayle import generate_orders, respell
from tests.harness.service_process import PASSWORD, USER
from tests.harness.waiting import until

_ENDLESS: Final = 1_000_000  # more than any test delivers
_CHAIN_RATE: Final = 8.0

STEADY: Final = DeliveryPlan(
    rate=50,
    concurrency=16,
    duplicates=0.2,
    reordering=5,
    attempts=10_000,
    longest_wait_s=0.3,
    timeout_s=30,
)


class Load:
    """
    Deliveries at a steady rate until the context is left; each goes on until it is answered 200.

    Leaving the context after an error does not wait for that.
    """

    def __init__(
        self, url: str, envelopes: Iterable[Mapping[str, Any]], plan: DeliveryPlan = STEADY
    ) -> None:
        self._url = url
        self._source = envelopes
        self._plan = plan
        self._progress = DeliveryProgress(0, 0, 0)
        self._ending = False
        self._task: asyncio.Task[DeliveryReport] | None = None
        self._sent: dict[str, Mapping[str, Any]] = {}

    @classmethod
    def of_orders(cls, url: str, *, seed: int, plan: DeliveryPlan = STEADY) -> Self:
        """Ever new orders, some delivered twice and out of turn."""
        orders = generate_orders(
            seed, _ENDLESS, first_order_id=seed * 10_000_000, customers=12, products=10
        )
        return cls(url, orders, plan)

    @classmethod
    def of_repeats(cls, url: str, envelope: Mapping[str, Any]) -> Self:
        """One order again and again, each delivery after the one before was answered."""
        spellings = (envelope, respell(envelope))
        repeats = (spellings[number % 2] for number in count())
        return cls(
            url,
            repeats,
            DeliveryPlan(rate=_CHAIN_RATE, concurrency=1, attempts=10_000, longest_wait_s=0.3),
        )

    async def __aenter__(self) -> Self:
        delivering = deliver(
            self._url,
            self._until_ending(),
            user=USER,
            password=PASSWORD,
            plan=self._plan,
            on_progress=self._note,
        )
        self._task = asyncio.create_task(delivering, name="load")
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        self._ending = True
        assert self._task is not None
        if kind is not None:
            self._task.cancel()
        await asyncio.wait((self._task,))

    @property
    def answered(self) -> int:
        """Deliveries that were answered 200."""
        return self._progress.accepted

    async def more(self, deliveries: int, *, timeout_s: float = 60.0) -> None:
        """Wait until so many more deliveries were answered 200; at a rate this measures time."""
        wanted = self.answered + deliveries
        await until(
            lambda: self.answered >= wanted,
            what=f"{deliveries} more deliveries are answered",
            timeout_s=timeout_s,
        )

    async def all(self) -> None:
        """Wait until all envelopes of a list are delivered."""
        assert self._task is not None
        await asyncio.wait((self._task,))
        self._task.result()

    @property
    def report(self) -> DeliveryReport:
        """What came of it, once the context was left."""
        assert self._task is not None
        return self._task.result()

    @property
    def envelopes(self) -> Sequence[Mapping[str, Any]]:
        """The orders that were sent, each once."""
        return list(self._sent.values())

    def _note(self, progress: DeliveryProgress) -> None:
        self._progress = progress

    def _until_ending(self) -> Iterator[Mapping[str, Any]]:
        for envelope in self._source:
            if self._ending:
                return
            self._sent.setdefault(str(envelope["payload"]["id"]), envelope)
            yield envelope
