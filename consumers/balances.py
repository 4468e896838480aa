"""Reading a card's balance so that each point spent counts once: in a hold, or at Splio."""

from dataclasses import replace

from service.domain.checkout import CheckoutLedger, KnownBalance, Reading
from service.domain.clock import Clock
from service.domain.effects import EffectKey
from service.domain.errors import RetryableError
from service.domain.loyalty import LoyaltySplio
from service.domain.ports import Permit, Step, StepHook, no_step

_ROUNDS = 3  # in each of them a debit must have been sent in between; one is rare


class BalanceReader:
    """
    Asks Splio for balances and records them.

    A debit that was sent may be in the balance that Splio answers, or not yet. Splio's points
    ledger tells, when it is asked after the balance: what it does not show then, the balance did
    not hold; when it does, a balance asked after that does. So a hold ends in the same step in
    which a balance without its points is taken. That balance and ledger show a debit at one time
    is inferred.
    """

    def __init__(
        self,
        ledger: CheckoutLedger,
        splio: LoyaltySplio,
        clock: Clock,
        *,
        step: StepHook = no_step,
    ) -> None:
        self._ledger = ledger
        self._splio = splio
        self._clock = clock
        self._step = step

    async def read(
        self, card: str, *, permit: Permit, deadline_s: float, traceparent: str
    ) -> KnownBalance:
        """
        Ask Splio for the balance; further permits are taken where debits are under way.

        Raises: the errors of reading; LedgerUnavailableError; RetryableError `debits_under_way`
            when debits were sent again and again in between.
        """
        for round_ in range(_ROUNDS):
            known = await self._ledger.known_balance(card)
            if round_:
                permit = await self._splio.checkout_permit()
            reading = await self._ask(
                card, known, permit=permit, deadline_s=deadline_s, traceparent=traceparent
            )
            if known.unseen:
                reading = await self._consider(
                    reading, known, deadline_s=deadline_s, traceparent=traceparent
                )
            recorded = await self._ledger.record_balance(reading)
            if recorded is not None:
                self._step(Step.BALANCE_RECORDED)
                return recorded
        raise RetryableError("debits_under_way", "Splio shows them one after the other")

    async def _consider(
        self,
        reading: Reading,
        known: KnownBalance,
        *,
        deadline_s: float,
        traceparent: str,
    ) -> Reading:
        """A reading of which it is known which of the debits that were sent it shows."""
        sent, shown = frozenset(known.unseen), frozenset[EffectKey]()
        for _ in range(_ROUNDS):
            permit = await self._splio.checkout_permit()
            listed = await self._splio.shown_debits(
                reading.card, permit=permit, deadline_s=deadline_s, traceparent=traceparent
            )
            listed_now = sent.intersection(map(EffectKey, listed))
            if listed_now == shown:
                return replace(reading, considered=sent, shown=shown)
            shown = listed_now
            permit = await self._splio.checkout_permit()
            reading = await self._ask(
                reading.card, known, permit=permit, deadline_s=deadline_s, traceparent=traceparent
            )
        raise RetryableError("debits_under_way", "Splio shows them one after the other")

    async def _ask(
        self,
        card: str,
        known: KnownBalance,
        *,
        permit: Permit,
        deadline_s: float,
        traceparent: str,
    ) -> Reading:
        asked_at_ms = self._clock.now_ms()
        points = await self._splio.read_balance(
            card, permit=permit, deadline_s=deadline_s, traceparent=traceparent
        )
        return Reading(card, points, asked_at_ms, generation=known.generation)
