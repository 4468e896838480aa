"""One card at a Splio far away: its points, what it shows of them, and answers that get lost."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

from service.domain.effects import EffectKey, RenderedRequest
from service.domain.errors import InDoubtError, LanePausedError, PermanentError, RetryableError
from service.domain.loyalty import Granted
from service.domain.ports import Accepted, Permit
from tests.fakes.clock import FakeClock
from tests.fakes.splio import FreePermit

VISIBLE_AFTER_MS: Final = 900_000  # at the latest


class Fate(StrEnum):
    """What becomes of a request and of its answer."""

    ACCEPTED = "accepted"
    REPLY_LOST = "reply_lost"  # it takes effect, nobody hears of it
    LOST = "lost"  # nobody hears of it; it may take effect until its lease ends
    LIMITED = "limited"
    REFUSED = "refused"  # documented
    UNDOCUMENTED = "undocumented"


@dataclass(slots=True, eq=False)
class Request:
    """A grant or a credit; it may land until `ends_ms`, if nobody was told that it did not."""

    key: EffectKey
    points: int  # below zero for a grant
    ends_ms: int
    reply: asyncio.Future[Any]
    landed: bool = False
    may_land: bool = True
    visible_ms: int = 0


@dataclass(slots=True, eq=False)
class Question:
    """A balance or a list on its way: what is `seen` is the truth of one moment, told later."""

    look: Callable[[], Any]
    told: asyncio.Future[Any]
    seen: Any = None
    is_seen: bool = False


@dataclass
class PointsSplio:
    """
    The parts of `Splio` and `LoyaltySplio` that points need, for one card. It ignores
    idempotency keys: what is sent twice counts twice.

    `lease_ms` is how long after its beginning a request may still take effect. While it
    `is_healthy` it answers everything at once, while it `is_prompt` every question.
    """

    clock: FakeClock
    lease_ms: int
    is_healthy: bool = False
    is_prompt: bool = False
    requests: list[Request] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)

    # -- what tests ask and do

    @property
    def pending(self) -> list[Request]:
        """Requests that wait for their answer."""
        return [each for each in self.requests if not each.reply.done()]

    @property
    def may_land(self) -> list[Request]:
        """Requests that may still take effect."""
        now_ms = self.clock.now_ms()
        return [
            each
            for each in self.requests
            if each.may_land and not each.landed and now_ms <= each.ends_ms
        ]

    def landed(self) -> dict[EffectKey, int]:
        """Points by key of all that took effect. Raises: AssertionError for what did so twice."""
        found: dict[EffectKey, int] = {}
        for each in self.requests:
            if each.landed:
                assert each.key not in found, f"{each.key} took effect twice"
                found[each.key] = each.points
        return found

    def shown(self) -> int:
        """What the balance shows now."""
        now_ms = self.clock.now_ms()
        return sum(each.points for each in self.requests if self._is_visible(each, now_ms))

    def shown_credits(self) -> list[str]:
        """Keys of the credits that Splio shows."""
        now_ms = self.clock.now_ms()
        return [
            each.key for each in self.requests if each.points > 0 and self._is_visible(each, now_ms)
        ]

    def land(self, request: Request, *, delay_ms: int) -> None:
        """Let it take effect now, to be seen after `delay_ms`."""
        request.landed = True
        request.visible_ms = self.clock.now_ms() + min(delay_ms, VISIBLE_AFTER_MS)

    def answer(self, request: Request, fate: Fate, *, delay_ms: int) -> None:
        """Answer a pending request."""
        if fate in {Fate.ACCEPTED, Fate.REPLY_LOST} and not request.landed:
            self.land(request, delay_ms=delay_ms)
        if request.landed and fate is not Fate.ACCEPTED:
            fate = Fate.REPLY_LOST
        request.may_land = fate is Fate.LOST
        match fate:
            case Fate.ACCEPTED:
                is_grant = request.points < 0
                request.reply.set_result(Granted(200, ("code",)) if is_grant else Accepted(202))
            case Fate.REPLY_LOST | Fate.LOST:
                request.reply.set_exception(InDoubtError("timeout"))
            case Fate.LIMITED:
                request.reply.set_exception(RetryableError("rate_limited", retry_after_s=3.0))
            case Fate.REFUSED:
                request.reply.set_exception(PermanentError("refused", status=400))
            case Fate.UNDOCUMENTED:
                request.reply.set_exception(LanePausedError("unknown_refusal", status=400))

    def see(self, question: Question) -> None:
        """Splio looks at its books; its answer is under way."""
        if not question.is_seen:
            question.seen, question.is_seen = question.look(), True

    def tell(self, question: Question) -> None:
        """The answer arrives."""
        self.see(question)
        self.questions.remove(question)
        question.told.set_result(question.seen)

    # -- the ports

    async def checkout_permit(self) -> Permit:
        return FreePermit()

    async def credit(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Accepted:
        body = orjson.loads(request.body)
        answer = await self._take(EffectKey(body["context"]), body["nq_points_quantity"])
        assert isinstance(answer, Accepted)
        return answer

    async def grant(
        self, request: RenderedRequest, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Granted:
        body = orjson.loads(request.body)
        worth = int(request.path.split("/")[-2].removeprefix("PT"))
        answer = await self._take(EffectKey(body["reason_msg"]), -worth * body["quantity"])
        assert isinstance(answer, Granted)
        return answer

    async def count_credits(
        self, request: RenderedRequest, *, key: EffectKey, traceparent: str
    ) -> int:
        return self._count(key)

    async def count_grants(
        self, request: RenderedRequest, *, key: EffectKey, traceparent: str
    ) -> int:
        return self._count(key)

    async def read_balance(
        self, card: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> int | None:
        balance: int = await self._ask(self.shown)
        return balance

    async def shown_debits(
        self, card: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> Sequence[str]:
        listed: Sequence[str] = await self._ask(self._listed_debits)
        return listed

    async def _take(self, key: EffectKey, points: int) -> Any:
        request = Request(
            key,
            points,
            self.clock.now_ms() + self.lease_ms,
            asyncio.get_running_loop().create_future(),
        )
        self.requests.append(request)
        if self.is_healthy:
            self.answer(request, Fate.ACCEPTED, delay_ms=0)
        return await request.reply

    async def _ask(self, look: Callable[[], Any]) -> Any:
        question = Question(look, asyncio.get_running_loop().create_future())
        if self.is_healthy or self.is_prompt:
            return look()
        self.questions.append(question)
        return await question.told

    def _listed_debits(self) -> list[str]:
        now_ms = self.clock.now_ms()
        return [
            each.key for each in self.requests if each.points < 0 and self._is_visible(each, now_ms)
        ]

    def _count(self, key: EffectKey) -> int:
        now_ms = self.clock.now_ms()
        return sum(each.key == key and self._is_visible(each, now_ms) for each in self.requests)

    @staticmethod
    def _is_visible(request: Request, now_ms: int) -> bool:
        return request.landed and request.visible_ms <= now_ms
