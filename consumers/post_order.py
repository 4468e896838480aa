"""Posting an order: the handler of `order` effects."""

from typing import assert_never

from consumers.backoff import MAX_AGE_S, backoff_s
from consumers.handlers import MISSING_RETRY_MS, Ended
from service.domain.clock import Clock
from service.domain.effects import Outcome, Prerequisite, PrerequisiteKind
from service.domain.errors import (
    InDoubtError,
    PayloadMismatchError,
    PermanentError,
    RetryableError,
)
from service.domain.ledger import Claim, Doubt, LookUp, LookUpVerdict, ReadyEffect, Settlement
from service.domain.ports import (
    Accepted,
    AlreadyExists,
    Missing,
    OrderComparison,
    OrderMatch,
    Permit,
    Splio,
    UnknownCard,
)


class PostOrder:
    """
    Posts the order; on "already exists" compares what Splio holds with what we would post.

    When Splio names a contact, product or store that is missing, the attempt ends as `retry`
    with the request that creates it: one call in the common case, self-healing in the rare one.
    """

    def __init__(
        self, splio: Splio, clock: Clock, *, missing_retry_ms: int = MISSING_RETRY_MS
    ) -> None:
        self._splio = splio
        self._clock = clock
        self._missing_retry_ms = missing_retry_ms

    async def attempt(self, claim: Claim, *, permit: Permit, deadline_s: float) -> Ended:
        effect = claim.effect
        answer = await self._splio.post_order(
            effect.request,
            permit=permit,
            deadline_s=deadline_s,
            traceparent=effect.traceparent,
        )
        match answer:
            case Accepted(status):
                return Ended(Settlement(Outcome.APPLIED, status=status))
            case AlreadyExists(status):
                return await self._adopt(claim, status)
            case Missing():
                return self._create_first(claim, answer)
            case UnknownCard(status):
                raise PermanentError("refused", "unknown card", status=status)
            case _:
                assert_never(answer)

    async def look_up(self, doubt: Doubt) -> LookUp:
        asked_at_ms = self._clock.now_ms()  # the answer is no younger than the question
        comparison = await self._splio.compare_order(
            doubt.effect.request, traceparent=doubt.effect.traceparent
        )
        match comparison.match:
            case OrderMatch.EQUAL:
                return LookUp(LookUpVerdict.FOUND)
            case OrderMatch.DIFFERENT | OrderMatch.CART_WITHOUT_CARD:
                return LookUp(LookUpVerdict.DIFFERENT, reason="mismatch", detail=comparison.detail)
            case OrderMatch.ABSENT | OrderMatch.CART:
                # A cart is not the order yet; posting again finds and completes it.
                if asked_at_ms < doubt.absence_counts_from_ms:
                    return LookUp(
                        LookUpVerdict.UNKNOWN,
                        reason="not_visible_yet",
                        again_at_ms=doubt.absence_counts_from_ms,
                    )
                return LookUp(LookUpVerdict.ABSENT)
            case _:
                assert_never(comparison.match)

    async def _adopt(self, claim: Claim, status: int) -> Ended:
        """Decide whether the order that exists already is ours."""
        effect = claim.effect
        comparison = await self._read_back(effect)
        match comparison.match:
            case OrderMatch.EQUAL:
                return Ended(Settlement(Outcome.DUPLICATE, status=status))
            case OrderMatch.CART:
                answer = await self._splio.complete_cart(
                    effect.request, traceparent=effect.traceparent
                )
                if isinstance(answer, Missing):
                    return self._create_first(claim, answer)
                return Ended(Settlement(Outcome.APPLIED, reason="cart_completed", status=status))
            case OrderMatch.CART_WITHOUT_CARD | OrderMatch.DIFFERENT:
                raise PayloadMismatchError("mismatch", comparison.detail, status=status)
            case OrderMatch.ABSENT:
                raise RetryableError("not_connected", "exists, yet cannot be read", status=status)
            case _:
                assert_never(comparison.match)

    async def _read_back(self, effect: ReadyEffect) -> OrderComparison:
        try:
            return await self._splio.compare_order(effect.request, traceparent=effect.traceparent)
        except InDoubtError as error:
            # Reading changes nothing, and the POST before it was refused as existing.
            raise RetryableError("not_connected", error.reason, status=error.status) from error

    def _create_first(self, claim: Claim, missing: Missing) -> Ended:
        now_ms = self._clock.now_ms()
        if now_ms - claim.first_attempt_at_ms > MAX_AGE_S * 1000:
            raise PermanentError("too_old", f"{missing.kind.value} missing", status=missing.status)
        prerequisites = claim.effect.request.prerequisites
        wanted = _find(prerequisites, missing)
        # One round for contact and store each, one for every product; Splio that names something
        # again although it was created has not taken it.
        if wanted is None or claim.rounds >= len(prerequisites):
            raise PermanentError(
                "missing_not_accepted", f"{missing.kind.value} missing", status=missing.status
            )
        # For when it cannot be created; otherwise the creation makes it due at once.
        wait_ms = max(self._missing_retry_ms, int(backoff_s(claim.attempt, 1.0) * 1000))
        return Ended(
            Settlement(
                Outcome.RETRY,
                reason="missing",
                status=missing.status,
                detail=missing.kind.value,
                due_at_ms=now_ms + wait_ms,
                is_round=True,
            ),
            create=wanted,
        )


def _find(prerequisites: tuple[Prerequisite, ...], missing: Missing) -> Prerequisite | None:
    candidates = [each for each in prerequisites if each.kind is missing.kind]
    for each in candidates:
        if each.name == missing.name:
            return each
    # Contact and store are one each: named in another form, they are meant all the same. So is
    # the only product of an order when none is named.
    is_clear = missing.kind is not PrerequisiteKind.PRODUCT or missing.name is None
    return candidates[0] if is_clear and len(candidates) == 1 else None
