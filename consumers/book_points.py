"""Booking earned points: the handler of `earn` effects."""

import random

from consumers.backoff import card_backoff_s
from consumers.handlers import Ended
from consumers.looked_for import RESEND_WITHIN_MS, conclude
from service.domain.clock import Clock
from service.domain.effects import Outcome
from service.domain.errors import InDoubtError, LanePausedError
from service.domain.ledger import Claim, Doubt, LookUp, Settlement
from service.domain.ports import Accepted, Permit, Splio, UnknownCard


class BookPoints:
    """
    Books the points once; a credit that may have taken effect is looked for, not repeated.

    A credit proved absent is sent again with the same stored bytes and idempotency key, at most
    twice and within 24 h of its first attempt; then a person decides.
    """

    def __init__(
        self, splio: Splio, clock: Clock, *, card_patience_s: float, random_: random.Random
    ) -> None:
        self._splio = splio
        self._clock = clock
        self._card_patience_ms = int(card_patience_s * 1000)
        self._random = random_

    async def attempt(self, claim: Claim, *, permit: Permit, deadline_s: float) -> Ended:
        effect = claim.effect
        age_ms = self._clock.now_ms() - claim.first_attempt_at_ms
        if claim.was_in_doubt and age_ms > RESEND_WITHIN_MS:
            # It waited in the lane for too long after its look-up: asked again, it is held.
            permit.hand_back()
            raise InDoubtError("resend_too_late")
        answer = await self._splio.credit(
            effect.request,
            permit=permit,
            deadline_s=deadline_s,
            traceparent=effect.traceparent,
        )
        match answer:
            case Accepted(status):
                return Ended(Settlement(Outcome.APPLIED, status=status))
            case UnknownCard(status):
                return Ended(self._wait_for_card(claim, status))
            case _:
                # No documented answer to a credit, so it may mean that the points are booked.
                raise LanePausedError(
                    "unknown_refusal", type(answer).__name__, status=answer.status
                )

    async def look_up(self, doubt: Doubt) -> LookUp:
        effect = doubt.effect
        asked_at_ms = self._clock.now_ms()
        count = await self._splio.count_credits(
            effect.request, key=effect.key, traceparent=effect.traceparent
        )
        return conclude(
            doubt, count, asked_at_ms=asked_at_ms, now_ms=self._clock.now_ms(), what="booked"
        )

    def _wait_for_card(self, claim: Claim, status: int) -> Settlement:
        now_ms = self._clock.now_ms()
        if now_ms - claim.first_attempt_at_ms > self._card_patience_ms:
            return Settlement(Outcome.REJECTED, reason="unknown_card", status=status)
        wait_s = card_backoff_s(claim.attempt, self._random.random())
        return Settlement(
            Outcome.RETRY,
            reason="unknown_card",
            status=status,
            due_at_ms=now_ms + int(wait_s * 1000),
        )
