"""Points in time: as people type them, and as they are shown to people and machines."""

from datetime import UTC, datetime, timedelta
from typing import Final

from service.setting_values import parse_duration

MOMENT_FORMS: Final = "2h, 3d, 2026-03-01 or 2026-03-01T08:30"


def parse_moment(text: str, *, now: datetime) -> int:
    """
    Milliseconds since the epoch, from `2h` or `3d` (before `now`) or an ISO date or time.

    A time without a zone is local; a date is its first moment.
    Raises: ValueError whose message completes the sentence '"text" …'.
    """
    try:
        return _milliseconds(now - timedelta(seconds=parse_duration(text)))
    except (ValueError, OverflowError):
        pass
    try:
        # Also makes a time without a zone local; what has a zone keeps its moment.
        return _milliseconds(datetime.fromisoformat(text).astimezone())
    except (ValueError, OverflowError):
        raise ValueError(f"is neither a duration nor a date: write {MOMENT_FORMS}") from None


def show_local(at_ms: int) -> str:
    """`2026-03-01 12:00:07 CET`, in this machine's zone."""
    moment = _moment(at_ms)
    return str(at_ms) if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def show_iso(at_ms: int) -> str:
    """`2026-03-01T11:00:07.250Z`: in UTC, to the millisecond."""
    moment = _moment(at_ms)
    if moment is None:
        return str(at_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(at_ms: int) -> datetime | None:
    """None for a number that is no time of the calendar; it is shown as it is."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
