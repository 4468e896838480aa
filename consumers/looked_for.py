"""What a look-up concludes of something that Splio shows so many times: booked, or to be resent."""

from typing import Final

from service.domain.ledger import Doubt, LookUp, LookUpVerdict

MAX_RESENDS: Final = 2
RESEND_WITHIN_MS: Final = 24 * 3_600_000


def conclude(doubt: Doubt, count: int, *, asked_at_ms: int, now_ms: int, what: str) -> LookUp:
    """
    Of a booking or a debit that was looked for.

    Found counts at any time. Absent, it is sent again with the same stored bytes and idempotency
    key, at most twice and within 24 h of its first attempt; then a person decides.

    Args:
        count: how often Splio shows it.
        asked_at_ms: when Splio was asked: the answer is no younger than the question.
        what: happened, for people: `booked`.
    """
    if count:
        detail = f"{what} {count} times" if count > 1 else ""
        return LookUp(LookUpVerdict.FOUND, reason="double" if count > 1 else None, detail=detail)
    if asked_at_ms < doubt.absence_counts_from_ms:
        return LookUp(
            LookUpVerdict.UNKNOWN,
            reason="not_visible_yet",
            again_at_ms=doubt.absence_counts_from_ms,
        )
    if doubt.resends >= MAX_RESENDS:
        return LookUp(LookUpVerdict.HOLD, reason="absent_after_resends")
    if now_ms - doubt.first_attempt_at_ms > RESEND_WITHIN_MS:
        return LookUp(LookUpVerdict.HOLD, reason="absent_too_late")
    return LookUp(LookUpVerdict.ABSENT)
