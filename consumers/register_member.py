"""Making a customer a member: the handler of `member` effects."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson

from consumers.backoff import backoff_s
from consumers.handlers import UNDOCUMENTED, Ended
from service.domain.clock import Clock, time_limit
from service.domain.effects import Outcome
from service.domain.errors import InDoubtError, LanePausedError, PermanentError, RetryableError
from service.domain.ledger import Claim, Doubt, LookUp, LookUpVerdict, ReadyEffect, Settlement
from service.domain.loyalty import Contact, LoyaltySplio, Registered
from service.domain.ports import Missing, Permit, Splio

_LOOK_UP_S = 10.0
_LONGEST_WAIT_S = 60.0
_SUBSCRIBED_WITHIN_MS = 5 * 60_000
_MAX_AGE_MS = 24 * 3_600_000  # nobody waits for a card that long; the customer asks again
_CARDS_COMPARED = 5  # of one customer in one programme; more is no customer


class RegisterMember:
    """
    Makes a contact a member, unless it is one: the contact is read before, so that no way to ask
    twice makes two cards. A membership that may have been made is looked for at its contact.

    Where the programme subscribes contacts by itself, it is left to do so with a contact that is
    made here, for a few minutes: how soon the card is there is not documented (contract D.1).

    A refusal that nobody documented concerns this customer (a telephone number, for one): it is
    tried again like what was not answered. It does not pause the lane, which bookings share.
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
        if self._clock.now_ms() - claim.first_attempt_at_ms > _MAX_AGE_MS:
            permit.hand_back()
            raise PermanentError("too_old")
        try:
            return await self._register(claim, permit=permit, deadline_s=deadline_s)
        except LanePausedError as error:
            if error.reason != UNDOCUMENTED:
                raise
            again = InDoubtError if claim.was_in_doubt else RetryableError
            raise again(error.reason, error.detail, status=error.status) from error

    async def look_up(self, doubt: Doubt) -> LookUp:
        effect = doubt.effect
        asked_at_ms = self._clock.now_ms()  # the answer is no younger than the question
        program, contact_id = _asked(effect)
        contact = await self._loyalty.read_contact(
            contact_id,
            deadline_s=self._clock.monotonic_s() + _LOOK_UP_S,
            traceparent=effect.traceparent,
        )
        if _cards(contact, program):
            return LookUp(LookUpVerdict.FOUND)
        if asked_at_ms < doubt.absence_counts_from_ms:
            return LookUp(
                LookUpVerdict.UNKNOWN,
                reason="not_visible_yet",
                again_at_ms=doubt.absence_counts_from_ms,
            )
        return LookUp(LookUpVerdict.ABSENT)

    async def card_of(
        self, contact: Contact | None, program: str, *, deadline_s: float, traceparent: str
    ) -> str | None:
        """
        The contact's card of the programme, None when it has none: of several the one that was
        joined first, the first in Splio's order else.
        """
        cards = _cards(contact, program)
        if len(cards) <= 1:
            return next(iter(cards), None)
        joined = []
        for place, card in enumerate(cards[:_CARDS_COMPARED]):
            member = await self._loyalty.read_member(
                card,
                permit=await self._permit(deadline_s),
                deadline_s=deadline_s,
                traceparent=traceparent,
            )
            since = member.joined_at if member else None
            joined.append((since is None, since.timestamp() if since else 0.0, place, card))
        return min(joined)[-1]

    async def _register(
        self, claim: Claim, *, permit: Permit, deadline_s: float
    ) -> tuple[Ended, str | None]:
        effect = claim.effect
        program, _ = _asked(effect)
        # The permit is used before another is waited for: it may be the probe that others wait for.
        found = await self._loyalty.read_program(
            program, permit=permit, deadline_s=deadline_s, traceparent=effect.traceparent
        )
        contact, card = await self._contact(effect, deadline_s)
        if card is not None:
            return Ended(Settlement(Outcome.DUPLICATE)), card
        if contact is None:
            (creation,) = effect.request.prerequisites
            async with self._until(deadline_s):
                await self._splio.create(creation, traceparent=effect.traceparent)
        if found is not None and found.subscribes_automatically:
            age_ms = self._clock.now_ms() - claim.first_attempt_at_ms
            is_ours = contact is None or claim.attempt > 1
            if is_ours and age_ms < _SUBSCRIBED_WITHIN_MS:
                _, card = await self._contact(effect, deadline_s)
                if card is not None:
                    return Ended(Settlement(Outcome.APPLIED)), card
                return Ended(self._later(claim)), None
        answer = await self._loyalty.create_member(
            effect.request,
            permit=await self._permit(deadline_s),
            deadline_s=deadline_s,
            traceparent=effect.traceparent,
        )
        match answer:
            case Registered(card=card, status=status):
                return Ended(Settlement(Outcome.APPLIED, status=status)), card
            case Missing(status=status):
                # Just made or read, and not to be seen everywhere yet.
                raise RetryableError("missing", "contact", status=status)

    async def _contact(
        self, effect: ReadyEffect, deadline_s: float
    ) -> tuple[Contact | None, str | None]:
        """The contact and its card, as far as there are."""
        program, contact_id = _asked(effect)
        contact = await self._loyalty.read_contact(
            contact_id, deadline_s=deadline_s, traceparent=effect.traceparent
        )
        card = await self.card_of(
            contact, program, deadline_s=deadline_s, traceparent=effect.traceparent
        )
        return contact, card

    async def _permit(self, deadline_s: float) -> Permit:
        async with self._until(deadline_s):
            return await self._loyalty.checkout_permit()

    @asynccontextmanager
    async def _until(self, deadline_s: float) -> AsyncIterator[None]:
        """Wait no longer. Raises: RetryableError `deadline_passed`."""
        try:
            async with time_limit(self._clock, deadline_s - self._clock.monotonic_s()):
                yield
        except TimeoutError as error:
            raise RetryableError("deadline_passed", "waited for a permit") from error

    def _later(self, claim: Claim) -> Settlement:
        wait_s = min(backoff_s(claim.attempt, 1.0), _LONGEST_WAIT_S)
        return Settlement(
            Outcome.RETRY,
            reason="awaits_subscription",
            due_at_ms=self._clock.now_ms() + int(wait_s * 1000),
        )


def _cards(contact: Contact | None, program: str) -> list[str]:
    """The contact's cards of the programme, in Splio's order."""
    return [card for card, of in contact.cards if of == program] if contact else []


def _asked(effect: ReadyEffect) -> tuple[str, str]:
    """Programme and contact of a stored request."""
    body: Mapping[str, Any] = orjson.loads(effect.request.body)
    return str(body["program_id"]), str(body["contact_id"])
