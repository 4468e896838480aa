"""Making a customer a member: the handler of `member` effects."""

from collections.abc import Mapping
from typing import Any

import orjson

from consumers.backoff import backoff_s
from consumers.handlers import Ended
from service.domain.clock import Clock
from service.domain.effects import Outcome
from service.domain.errors import PermanentError, RetryableError
from service.domain.ledger import Claim, Doubt, LookUp, LookUpVerdict, ReadyEffect, Settlement
from service.domain.loyalty import Contact, LoyaltySplio, Registered
from service.domain.ports import Missing, Permit, Splio

_LOOK_UP_S = 10.0
_LONGEST_WAIT_S = 60.0
_SUBSCRIBED_WITHIN_MS = 5 * 60_000
_MAX_AGE_MS = 24 * 3_600_000  # nobody waits for a card that long; the customer asks again


class RegisterMember:
    """
    Makes a contact a member, unless it is one: the contact is read first, so that no way to ask
    twice makes two cards. A membership that may have been made is looked for at its contact.

    Where the programme subscribes contacts by itself, it is left to do so with a contact that is
    made here, for a few minutes: how soon the card is there is not documented (contract D.1).
    """

    def __init__(self, splio: Splio, loyalty: LoyaltySplio, clock: Clock) -> None:
        self._splio = splio
        self._loyalty = loyalty
        self._clock = clock

    async def attempt(self, claim: Claim, *, permit: Permit, deadline_s: float) -> Ended:
        """Ask once; `permit` is of the lane of loyalty calls, further ones are taken here."""
        ended, _ = await self.register(claim, permit=permit, deadline_s=deadline_s)
        return ended

    async def register(
        self, claim: Claim, *, permit: Permit, deadline_s: float
    ) -> tuple[Ended, str | None]:
        """As `attempt`, with the card when there is one now."""
        effect = claim.effect
        if self._clock.now_ms() - claim.first_attempt_at_ms > _MAX_AGE_MS:
            permit.hand_back()
            raise PermanentError("too_old")
        try:
            program, contact_id = _asked(effect)
            contact = await self._loyalty.read_contact(
                contact_id, deadline_s=deadline_s, traceparent=effect.traceparent
            )
            if (card := _card_of(contact, program)) is not None:
                return Ended(Settlement(Outcome.DUPLICATE)), card
            if contact is None:
                (creation,) = effect.request.prerequisites
                await self._splio.create(creation, traceparent=effect.traceparent)
            found = await self._loyalty.read_program(
                program, permit=permit, deadline_s=deadline_s, traceparent=effect.traceparent
            )
            if found is not None and found.subscribes_automatically:
                age_ms = self._clock.now_ms() - claim.first_attempt_at_ms
                is_ours = contact is None or claim.attempt > 1
                if is_ours and age_ms < _SUBSCRIBED_WITHIN_MS:
                    made = await self._loyalty.read_contact(
                        contact_id, deadline_s=deadline_s, traceparent=effect.traceparent
                    )
                    if (card := _card_of(made, program)) is not None:
                        return Ended(Settlement(Outcome.APPLIED)), card
                    return Ended(self._later(claim)), None
            permit = await self._loyalty.checkout_permit()
            answer = await self._loyalty.create_member(
                effect.request,
                permit=permit,
                deadline_s=deadline_s,
                traceparent=effect.traceparent,
            )
        finally:
            permit.hand_back()
        match answer:
            case Registered(card=card, status=status):
                return Ended(Settlement(Outcome.APPLIED, status=status)), card
            case Missing(status=status):
                # Just made or read, and not to be seen everywhere yet.
                raise RetryableError("missing", "contact", status=status)

    async def look_up(self, doubt: Doubt) -> LookUp:
        effect = doubt.effect
        asked_at_ms = self._clock.now_ms()  # the answer is no younger than the question
        program, contact_id = _asked(effect)
        contact = await self._loyalty.read_contact(
            contact_id,
            deadline_s=self._clock.monotonic_s() + _LOOK_UP_S,
            traceparent=effect.traceparent,
        )
        if _card_of(contact, program) is not None:
            return LookUp(LookUpVerdict.FOUND)
        if asked_at_ms < doubt.absence_counts_from_ms:
            return LookUp(
                LookUpVerdict.UNKNOWN,
                reason="not_visible_yet",
                again_at_ms=doubt.absence_counts_from_ms,
            )
        return LookUp(LookUpVerdict.ABSENT)

    def _later(self, claim: Claim) -> Settlement:
        wait_s = min(backoff_s(claim.attempt, 1.0), _LONGEST_WAIT_S)
        return Settlement(
            Outcome.RETRY,
            reason="awaits_subscription",
            due_at_ms=self._clock.now_ms() + int(wait_s * 1000),
        )


def _card_of(contact: Contact | None, program: str) -> str | None:
    """The contact's first card of the programme."""
    cards = contact.cards if contact is not None else ()
    return next((card for card, of_program in cards if of_program == program), None)


def _asked(effect: ReadyEffect) -> tuple[str, str]:
    """Programme and contact of a stored request."""
    body: Mapping[str, Any] = orjson.loads(effect.request.body)
    return str(body["program_id"]), str(body["contact_id"])
