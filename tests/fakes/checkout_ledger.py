"""The checkout's part of a ledger, in memory: balances, holds as sums, and planned calls."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from service.domain.checkout import (
    Call,
    KnownBalance,
    PlannedCapture,
    PlannedRefund,
    Reading,
    Recorded,
    Recording,
)
from service.domain.effects import EffectKey, State
from service.domain.ledger import Disposition, PlanResult, ReadyEffect
from service.domain.planning import Plan, PlannedEffect
from tests.fakes.clock import FakeClock
from tests.fakes.ledger import FakeLedger

NOTHING_KNOWN = KnownBalance(at_splio=None, asked_at_ms=None, held=0, unseen=())


class FakeCheckoutLedger(FakeLedger):
    """
    Implements `CheckoutLedger` where use cases can see it; every method gives way once.

    `known` is what is known by card; `hold` and `forget` are what captures and operators do.
    `waiting` are refunds without their capture, by key, and since when. `reads_go` is cleared to
    keep reads of balances under way.
    """

    def __init__(self, clock: FakeClock, *, visible_after_s: float = 60.0) -> None:
        super().__init__(clock, visible_after_s=visible_after_s)
        self.known: dict[str, KnownBalance] = {}
        self.calls: list[Call] = []
        self.captures: list[PlannedCapture] = []
        self.refunds: list[PlannedRefund] = []
        self.readings: Counter[str] = Counter()
        self.waiting: dict[EffectKey, int] = {}
        self.reads_go = asyncio.Event()
        self.reads_go.set()
        self._worth: dict[EffectKey, int] = {}  # debits that were sent

    def put(self, card: str, points: int | None, *, age_s: float = 0.0, held: int = 0) -> None:
        """A balance that Splio told so long ago."""
        asked_at_ms = self.clock.now_ms() - round(age_s * 1000)
        self.known[card] = KnownBalance(points, asked_at_ms, held, (), self._of(card).generation)

    def hold(self, card: str, points: int, *, sent: EffectKey | None = None) -> None:
        """A capture; `sent` is the debit of all of it, which no balance shows yet."""
        known = self._of(card)
        self.known[card] = replace(known, held=known.held + points)
        if sent is not None:
            self._worth[sent] = points
            self.known[card] = replace(self.known[card], unseen=(*known.unseen, sent))

    def forget(self, card: str) -> None:
        """An operator ended a hold: what Splio said of the card counts no more."""
        known = self._of(card)
        self.known[card] = replace(
            known, at_splio=None, asked_at_ms=None, generation=known.generation + 1
        )

    def _of(self, card: str) -> KnownBalance:
        return self.known.get(card, NOTHING_KNOWN)

    async def known_balance(self, card: str) -> KnownBalance:
        await asyncio.sleep(0)
        await self.reads_go.wait()
        self._enter("known_balance")
        return self._of(card)

    async def record_balance(self, reading: Reading) -> KnownBalance | None:
        await asyncio.sleep(0)
        self._enter("record_balance")
        known = self._of(reading.card)
        considers_all = reading.considered.issuperset(known.unseen)
        if not considers_all or reading.generation != known.generation:
            return None
        shown = [key for key in known.unseen if key in reading.shown]
        if shown or known.asked_at_ms is None or known.asked_at_ms < reading.asked_at_ms:
            known = replace(known, at_splio=reading.points, asked_at_ms=reading.asked_at_ms)
        self.known[reading.card] = replace(
            known,
            held=known.held - sum(self._worth.pop(key) for key in shown),
            unseen=tuple(key for key in known.unseen if key not in reading.shown),
            generation=known.generation + bool(shown),
        )
        self.readings[reading.card] += 1
        return self.known[reading.card]

    async def record_capture(self, capture: PlannedCapture) -> Recording:
        await asyncio.sleep(0)
        self._enter("record_capture")
        if any(capture.key == known.key for known in self.captures):
            return Recording(Recorded.REPEATED)
        self.captures.append(capture)
        self.hold(capture.spending.card, capture.spending.points)
        return Recording(Recorded.TAKEN)

    async def record_refund(self, refund: PlannedRefund) -> Recording:
        await asyncio.sleep(0)
        self._enter("record_refund")
        self.refunds.append(refund)
        return Recording(Recorded.TAKEN)

    async def record_call(self, call: Call, plan: Plan) -> PlanResult:
        await asyncio.sleep(0)
        self._enter("record_call")
        self.calls.append(call)
        (effect,) = plan.effects
        if effect.key in self.rows:
            return PlanResult(Disposition.REPEATED)
        return PlanResult(Disposition.PLANNED, (self._ready(call, effect),))

    async def register_again(self, call: Call, effect: PlannedEffect) -> ReadyEffect | None:
        await asyncio.sleep(0)
        self._enter("register_again")
        if self.rows[effect.key].state is not State.REJECTED:
            return None
        return self._ready(call, effect)

    async def unsettled_cards(self, *, limit: int, after: str | None) -> Sequence[str]:
        await asyncio.sleep(0)
        self._enter("unsettled_cards")
        cards = sorted(card for card, known in self.known.items() if known.held)
        return [card for card in cards if after is None or card > after][:limit]

    async def expire_waiting_refunds(self, *, older_than_ms: int) -> int:
        await asyncio.sleep(0)
        self._enter("expire_waiting_refunds")
        old = [key for key, since_ms in self.waiting.items() if since_ms < older_than_ms]
        for key in old:
            del self.waiting[key]
        return len(old)

    async def hmac_key(self) -> bytes:
        self._enter("hmac_key")
        return b"a key of this ledger"

    def _ready(self, call: Call, effect: PlannedEffect) -> ReadyEffect:
        assert effect.request is not None
        before = self.rows.get(effect.key)
        ready = ReadyEffect(
            key=effect.key,
            kind=effect.kind,
            lane=effect.lane,
            order_key=effect.order_key,
            event_id=call.call_id,
            traceparent=call.traceparent,
            points=effect.points,
            received_at_ms=call.received_at_ms,
            request=effect.request,
            request_id=before.effect.request_id + 1 if before else 1,
        )
        self.add(ready, attempt=before.attempt if before else 0)
        return ready
