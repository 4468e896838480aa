"""Taking captured points at Splio: the handler of `debit` effects."""

from consumers.handlers import UNDOCUMENTED, Ended
from consumers.looked_for import RESEND_WITHIN_MS, conclude
from service.domain.clock import Clock
from service.domain.effects import Outcome
from service.domain.errors import InDoubtError, LanePausedError, PermanentError
from service.domain.ledger import Claim, Doubt, LookUp, Settlement
from service.domain.loyalty import LoyaltySplio
from service.domain.ports import Permit


class TakePoints:
    """
    Grants and uses a reward, which takes its points; one that may have been granted is looked
    for among the card's grants, not repeated.

    A refusal holds this debit, and those that wait for it, for a person: what Splio answers for
    too few points is not documented, and the order was confirmed with these points. It does not
    pause the lane. One proved absent is sent again as `BookPoints` does it.
    """

    def __init__(self, splio: LoyaltySplio, clock: Clock) -> None:
        self._splio = splio
        self._clock = clock

    async def attempt(self, claim: Claim, *, permit: Permit, deadline_s: float) -> Ended:
        effect = claim.effect
        age_ms = self._clock.now_ms() - claim.first_attempt_at_ms
        if claim.was_in_doubt and age_ms > RESEND_WITHIN_MS:
            permit.hand_back()
            raise InDoubtError("resend_too_late")
        try:
            granted = await self._splio.grant(
                effect.request,
                permit=permit,
                deadline_s=deadline_s,
                traceparent=effect.traceparent,
            )
        except PermanentError as error:
            return _refused(claim, error)
        except LanePausedError as error:
            if error.reason != UNDOCUMENTED:
                raise
            return _refused(claim, error)
        if not granted.codes and not claim.was_in_doubt:
            # Splio says that it knew the key, of a request never sent before: looked at.
            raise InDoubtError("nothing_granted", status=granted.status)
        return Ended(Settlement(Outcome.APPLIED, status=granted.status))

    async def look_up(self, doubt: Doubt) -> LookUp:
        effect = doubt.effect
        asked_at_ms = self._clock.now_ms()
        count = await self._splio.count_grants(
            effect.request, key=effect.key, traceparent=effect.traceparent
        )
        return conclude(
            doubt, count, asked_at_ms=asked_at_ms, now_ms=self._clock.now_ms(), what="granted"
        )


def _refused(claim: Claim, error: PermanentError | LanePausedError) -> Ended:
    """
    Held; in doubt when an earlier attempt ever was, as the refusal may be Splio's way to say
    that it has this already.
    """
    outcome = Outcome.IN_DOUBT if claim.was_in_doubt else Outcome.HELD
    return Ended(Settlement(outcome, reason=error.reason, detail=error.detail, status=error.status))
