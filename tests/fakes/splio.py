"""A Splio behind its port that answers as told and refuses to be used against the contract."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from service.domain.effects import EffectKey, Lane, Prerequisite, RenderedRequest
from service.domain.errors import RetryableError
from service.domain.ports import (
    Accepted,
    Answer,
    CreditPage,
    Missing,
    Operation,
    OrderComparison,
    OrderMatch,
    Permit,
)
from tests.fakes.clock import FakeClock

Reply = Answer | OrderComparison | CreditPage | int | None | Exception


class FreePermit:
    """A permit that nobody counts."""

    lane = Lane.OTHER

    def hand_back(self) -> None: ...


class FakePermit:
    """A permit that is used once or handed back once."""

    def __init__(self, splio: "FakeSplio", lane: Lane) -> None:
        self.lane = lane
        self._splio = splio
        self._is_open = True

    def hand_back(self) -> None:
        self._close()
        self._splio.handed_back[self.lane] += 1
        if self._splio.permits_left is not None:
            self._splio.permits_left += 1
            self._splio.permits_changed.set()

    def use(self, lane: Lane) -> None:
        assert lane is self.lane, "a permit of another lane"
        self._close()

    def _close(self) -> None:
        assert self._is_open, "a permit is used once or handed back once"
        self._is_open = False
        self._splio.permits_out -= 1


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it reached Splio."""

    operation: Operation
    path: str
    body: bytes = b""
    at_s: float = 0.0


@dataclass
class FakeSplio:
    """
    Implements `Splio`. Each operation answers with what `script` holds for it, then by default.

    `on_request` is called with the body before a request is taken (to check that it is claimed).
    `go` is cleared to keep requests under way, `held` keeps those of one operation.
    `permits_left` limits permits, None is no limit. `booked` counts what was taken, by body.
    """

    clock: FakeClock
    script: dict[Operation, deque[Reply]] = field(default_factory=lambda: defaultdict(deque))
    default: dict[Operation, Reply] = field(
        default_factory=lambda: {
            Operation.POST_ORDER: Accepted(201),
            Operation.CREDIT: Accepted(202),
            Operation.READ_ORDER: OrderComparison(OrderMatch.ABSENT),
            Operation.LIST_POINTS: 0,
        }
    )
    calls: list[Call] = field(default_factory=list)
    booked: Counter[bytes] = field(default_factory=Counter)
    handed_back: Counter[Lane] = field(default_factory=Counter)
    permits_out: int = 0
    permits_left: int | None = None
    under_way: int = 0
    held: dict[Operation, asyncio.Event] = field(default_factory=dict)
    on_request: Callable[[RenderedRequest], None] = lambda _: None

    def __post_init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.permits_changed = asyncio.Event()

    def answer(self, operation: Operation, *replies: Reply) -> None:
        """Answer the next requests of this kind so, one after the other."""
        self.script[operation].extend(replies)

    def count(self, operation: Operation) -> int:
        return sum(call.operation is operation for call in self.calls)

    def give_permits(self, number: int) -> None:
        self.permits_left = (self.permits_left or 0) + number
        self.permits_changed.set()

    async def permit(self, lane: Lane) -> Permit:
        while self.permits_left == 0:
            self.permits_changed.clear()
            await self.permits_changed.wait()
        if self.permits_left is not None:
            self.permits_left -= 1
        self.permits_out += 1
        return FakePermit(self, lane)

    async def post_order(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Answer:
        return await self._change(Operation.POST_ORDER, Lane.SALES, request, permit, deadline_s)

    async def credit(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Answer:
        assert request.idempotency_key, "a credit without idempotency key"
        return await self._change(Operation.CREDIT, Lane.OTHER, request, permit, deadline_s)

    async def create(self, prerequisite: Prerequisite, *, traceparent: str) -> None:
        operation = Operation(f"create_{prerequisite.kind.value}")
        await self._reply(Call(operation, prerequisite.path, prerequisite.body))

    async def compare_order(self, request: RenderedRequest, *, traceparent: str) -> OrderComparison:
        reply = await self._reply(Call(Operation.READ_ORDER, request.path, request.body))
        assert isinstance(reply, OrderComparison)
        return reply

    async def complete_cart(self, request: RenderedRequest, *, traceparent: str) -> Answer:
        reply = await self._reply(Call(Operation.UPDATE_ORDER, request.path, request.body))
        return reply if isinstance(reply, Missing) else Accepted(200)

    async def count_credits(
        self, request: RenderedRequest, *, key: EffectKey, traceparent: str
    ) -> int:
        reply = await self._reply(Call(Operation.LIST_POINTS, key))
        assert isinstance(reply, int)
        return reply

    async def list_credits(self, *, after: str | None) -> CreditPage:
        reply = await self._reply(Call(Operation.LIST_POINTS, after or ""))
        assert isinstance(reply, CreditPage)
        return reply

    async def _change(
        self,
        operation: Operation,
        lane: Lane,
        request: RenderedRequest,
        permit: Permit,
        deadline_s: float,
    ) -> Answer:
        assert isinstance(permit, FakePermit)
        permit.use(lane)
        if self.clock.monotonic_s() >= deadline_s:
            raise RetryableError("deadline_passed")
        self.on_request(request)
        reply = await self._reply(Call(operation, request.path, request.body))
        assert reply is not None and not isinstance(reply, int | OrderComparison | CreditPage)
        if isinstance(reply, Accepted):
            self.booked[request.body] += 1
        return reply

    async def _reply(self, call: Call) -> Answer | OrderComparison | CreditPage | int | None:
        self.calls.append(Call(call.operation, call.path, call.body, at_s=self.clock.monotonic_s()))
        self.under_way += 1
        try:
            await self.go.wait()
            if call.operation in self.held:
                await self.held[call.operation].wait()
        finally:
            self.under_way -= 1
        scripted = self.script[call.operation]
        reply = scripted.popleft() if scripted else self.default.get(call.operation)
        if isinstance(reply, Exception):
            raise reply
        return reply
