"""Registration: a customer becomes a member and gets a card, the same one however often asked."""

import asyncio
import hmac
import logging
import random
from dataclasses import dataclass
from typing import Final, Protocol

import orjson

from consumers.outcomes import settlement_of
from consumers.recording import record_outcome
from consumers.register_member import RegisterMember
from service.checkout.arrival import Arrival
from service.checkout.cards import Programs
from service.domain.call_planning import CallPlanner
from service.domain.checkout import Call, CallOperation, CheckoutLedger
from service.domain.clock import Clock
from service.domain.effects import Outcome
from service.domain.errors import PermanentError, RelayError, RetryableError
from service.domain.events import Customer
from service.domain.ledger import Claim, DispatchLedger, Disposition, ReadyEffect
from service.domain.loyalty import LoyaltySplio
from service.domain.planning import ContactKey, contact_key_of
from service.domain.ports import Permit

_HASH_DIGITS: Final = 32

logger = logging.getLogger("relay.checkout")


class RegistrationLedger(CheckoutLedger, DispatchLedger, Protocol):
    """The parts of the ledger that registering uses."""


@dataclass(frozen=True, slots=True)
class RegistrationConfig:
    """
    How a registration is attempted: `timeout_s` once it has a permit, and its claim lasts for
    that and `lease_margin_s`.
    """

    contact_key: ContactKey
    timeout_s: float
    lease_margin_s: float


@dataclass(frozen=True, slots=True)
class Card:
    """A customer's card; `is_new` when this call made it."""

    number: str
    is_new: bool


class Registrations:
    """
    Registers customers, one attempt at a time for each by an effect in the ledger.

    The attempt is this call's own where it can be; it goes on when the caller gives up, so that
    its outcome is known. Otherwise the dispatcher's and the next call finds the card.
    """

    def __init__(
        self,
        ledger: RegistrationLedger,
        splio: LoyaltySplio,
        handler: RegisterMember,
        planner: CallPlanner,
        programs: Programs,
        *,
        config: RegistrationConfig,
        clock: Clock,
        random_: random.Random,
    ) -> None:
        self._ledger = ledger
        self._splio = splio
        self._handler = handler
        self._planner = planner
        self._programs = programs
        self._config = config
        self._clock = clock
        self._random = random_
        self._hmac_key: bytes | None = None
        self._attempts: set[asyncio.Task[Card | None]] = set()

    async def close(self) -> None:
        """Attempts under way are abandoned with their claim in place: they are looked up."""
        for attempt in self._attempts:
            attempt.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)

    async def register(
        self, customer: Customer, program: str, arrival: Arrival, *, language: str | None
    ) -> Card:
        """
        The customer's card in the programme, made when there is none.

        Raises: NotFoundError `unknown_program`; PermanentError `contact_key_missing`, or what
            Splio refused for good; RetryableError when it is not known yet (asked again, the
            same card comes); the errors of reading; LedgerUnavailableError.
        """
        splio_id = self._programs.splio_id(program)
        contact_id = contact_key_of(customer, self._config.contact_key)
        if contact_id is None:
            raise PermanentError("contact_key_missing", self._config.contact_key.value)
        contact = await self._splio.read_contact(
            contact_id, deadline_s=arrival.deadline_s, traceparent=arrival.traceparent
        )
        card = await self._handler.card_of(
            contact, splio_id, deadline_s=arrival.deadline_s, traceparent=arrival.traceparent
        )
        if card is not None:
            return Card(card, is_new=False)
        plan = self._planner.membership(
            program=splio_id,
            contact_hash=await self._hash(contact_id),
            contact_id=contact_id,
            customer=customer,
            language=language,
        )
        (effect,) = plan.effects
        call = Call(
            operation=CallOperation.REGISTER,
            call_id=arrival.call_id,
            order_key=effect.order_key,
            body=orjson.dumps({"operation": CallOperation.REGISTER, "effect_key": effect.key}),
            received_at_ms=arrival.received_at_ms,
            traceparent=arrival.traceparent,
        )
        result = await self._ledger.record_call(call, plan)
        ready = next(iter(result.fresh), None)
        if ready is None and result.disposition is Disposition.REPEATED:
            ready = await self._ledger.register_again(call, effect)
        made = None
        if ready is not None:
            attempt = asyncio.create_task(self._attempt(ready), name="register")
            self._attempts.add(attempt)
            attempt.add_done_callback(self._attempts.discard)
            made = await asyncio.shield(attempt)
        if made is None:
            raise RetryableError("registration_under_way")
        return made

    async def _attempt(self, effect: ReadyEffect) -> Card | None:
        """
        Permit, claim, attempt: however long the limiter lets it wait, the lease outlasts it.

        Returns: the card, None when it is not known yet. Raises: the errors of Splio.
        """
        permit = await self._splio.checkout_permit()
        deadline_s = self._clock.monotonic_s() + self._config.timeout_s
        try:
            lease_s = self._config.timeout_s + self._config.lease_margin_s
            claim = await self._ledger.claim(effect, lease_s=lease_s)
            return None if claim is None else await self._carried_out(claim, permit, deadline_s)
        finally:
            permit.hand_back()

    async def _carried_out(self, claim: Claim, permit: Permit, deadline_s: float) -> Card | None:
        """Carry the claimed attempt out and record how it ended."""
        card: str | None = None
        failure: RelayError | None = None
        try:
            ended, card = await self._handler.register(claim, permit=permit, deadline_s=deadline_s)
            settlement = ended.settlement
        except RelayError as error:
            failure = error
            settlement = settlement_of(
                error, claim, now_ms=self._clock.now_ms(), random_=self._random
            )
        await record_outcome(self._ledger, claim, settlement, clock=self._clock)
        logger.info(
            "customer.registered" if card else "customer.not_registered",
            extra={
                "effect": claim.effect.key,
                "outcome": settlement.outcome.value,
                "reason": settlement.reason,
            },
        )
        if failure is not None:
            raise failure
        return Card(card, is_new=settlement.outcome is Outcome.APPLIED) if card else None

    async def _hash(self, contact_id: str) -> str:
        if self._hmac_key is None:
            self._hmac_key = await self._ledger.hmac_key()
        text = f"{self._config.contact_key}:{contact_id}"
        return hmac.new(self._hmac_key, text.encode(), "sha256").hexdigest()[:_HASH_DIGITS]
