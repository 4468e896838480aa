"""Cards: whether one is good, and whose it is."""

from collections.abc import Mapping
from datetime import datetime

from service.checkout.arrival import Arrival
from service.domain.cards import CardForm
from service.domain.clock import Clock
from service.domain.errors import NotFoundError
from service.domain.loyalty import LoyaltySplio, Member


class Programs:
    """The programmes of the settings: SCAYLE's key to Splio's id."""

    def __init__(self, programs: Mapping[str, int]) -> None:
        self._programs = programs

    @property
    def only(self) -> str | None:
        """The one programme that there is, None of several: what a call without one means."""
        return next(iter(self._programs)) if len(self._programs) == 1 else None

    def splio_id(self, key: str) -> str:
        """Splio's id, as text. Raises: NotFoundError `unknown_program`."""
        program = self._programs.get(key)
        if program is None:
            raise NotFoundError("unknown_program", "RELAY_LOYALTY_PROGRAMS does not name it")
        return str(program)


class Cards:
    """Asks Splio for the member behind a card. Raises: the errors of reading, NotFoundError."""

    def __init__(
        self,
        splio: LoyaltySplio,
        programs: Programs,
        *,
        form: CardForm,
        clock: Clock,
    ) -> None:
        self._splio = splio
        self._programs = programs
        self._form = form
        self._clock = clock

    async def is_good(self, card: str, program: str, arrival: Arrival) -> bool:
        """Whether the card has the form, exists, is of this programme and has not expired."""
        return await self._member(card, program, arrival) is not None

    async def belongs_to(self, card: str, email: str, program: str, arrival: Arrival) -> bool:
        """Whether a good card is that of the customer with this e-mail address, case ignored."""
        member = await self._member(card, program, arrival)
        if member is None:
            return False
        held_by = member.email
        if held_by is None and member.contact_id is not None:
            contact = await self._splio.read_contact(
                member.contact_id,
                is_internal=True,
                deadline_s=arrival.deadline_s,
                traceparent=arrival.traceparent,
            )
            held_by = contact.email if contact else None
        return held_by is not None and held_by.casefold() == email.strip().casefold()

    async def _member(self, card: str, program: str, arrival: Arrival) -> Member | None:
        splio_id = self._programs.splio_id(program)
        if not self._form.fits(card):
            return None
        permit = await self._splio.checkout_permit()
        member = await self._splio.read_member(
            card, permit=permit, deadline_s=arrival.deadline_s, traceparent=arrival.traceparent
        )
        if member is None or member.program != splio_id or self._has_expired(member.expires_at):
            return None
        return member

    def _has_expired(self, expires_at: datetime | None) -> bool:
        return expires_at is not None and expires_at.timestamp() * 1000 <= self._clock.now_ms()
