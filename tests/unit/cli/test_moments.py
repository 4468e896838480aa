"""Times as people type them and as they are shown."""

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli.moments import parse_moment, show_iso, show_local

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", "2026-03-01T10:00:00+00:00"),
        ("3d", "2026-02-26T12:00:00+00:00"),
        ("0s", "2026-03-01T12:00:00+00:00"),
        ("2026-03-01", "2026-02-28T23:00:00+00:00"),
        ("2026-07-01", "2026-06-30T22:00:00+00:00"),
        ("2026-03-01T08:30", "2026-03-01T07:30:00+00:00"),
        ("2026-03-01 08:30:15", "2026-03-01T07:30:15+00:00"),
        ("2026-03-01T08:30Z", "2026-03-01T08:30:00+00:00"),
        ("2026-03-01T08:30+05:30", "2026-03-01T03:00:00+00:00"),
    ],
)
def test_durations_count_back_and_times_without_a_zone_are_local(text: str, moment: str) -> None:
    expected = datetime.fromisoformat(moment).timestamp() * 1000
    assert parse_moment(text, now=NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "2", "yesterday", "-2h", "2026-13-01", "0001-01-01", "999999999d", "2h 3m"]
)
def test_what_is_no_time_is_refused_with_the_forms_it_may_have(text: str) -> None:
    with pytest.raises(ValueError, match="write 2h, 3d, 2026-03-01"):
        parse_moment(text, now=NOW)


@given(st.text(max_size=30))
def test_any_text_is_a_moment_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(parse_moment(text, now=NOW), int)


def test_people_see_the_local_time_with_its_zone_and_machines_utc() -> None:
    at_ms = round(NOW.timestamp() * 1000) + 250
    assert show_local(at_ms) == "2026-03-01 13:00:00 CET"
    assert show_iso(at_ms) == "2026-03-01T12:00:00.250Z"


@given(st.integers())
def test_any_number_can_be_shown(at_ms: int) -> None:
    assert show_iso(at_ms)
    assert show_local(at_ms)


@given(st.integers(min_value=0, max_value=4_102_444_800_000))
def test_what_machines_see_is_exact(at_ms: int) -> None:
    shown = datetime.fromisoformat(show_iso(at_ms))
    assert round(shown.timestamp() * 1000) == at_ms
