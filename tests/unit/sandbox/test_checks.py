from __future__ import annotations

import pytest

from service.sandbox.behaviours import BEHAVIOURS, behaviours_as_markdown
from service.sandbox.checks import (
    Hours,
    days_after,
    is_date,
    is_ean13,
    months_after,
    normal_date,
)


@pytest.mark.parametrize(
    ("text", "hours", "good"),
    [
        ("2026-11-14 08:05:09", "padded", True),
        ("2026-11-14 8:05:09", "padded", False),
        ("2026-11-14 08:05:09", "plain", False),
        ("2026-11-14 8:05:09", "plain", True),
        ("2026-11-14 00:05:09", "plain", True),
        ("2026-11-14 18:05:09", "plain", True),
        ("2026-02-30 18:05:09", "padded", False),
        ("0000-01-01 18:05:09", "padded", False),
        ("2026-11-14T18:05:09", "padded", False),
        ("2026-11-14 18:05:09+00:00", "padded", False),
        ("2026-11-14 24:00:00", "padded", False),
        ("2026-11-14", "padded", False),
    ],
)
def test_dates(text: str, hours: Hours, good: bool) -> None:
    assert is_date(text, hours) is good


def test_dates_are_printed_padded() -> None:
    assert normal_date("0099-1-2 3:4:5") == "0099-01-02 03:04:05"


def test_later_dates_end_with_the_calendar() -> None:
    assert days_after("2024-02-29 10:00:00", 365) == "2025-02-28 10:00:00"
    assert days_after("9999-12-31 10:00:00", 365) == "9999-12-31 23:59:59"
    assert days_after("2024-02-29 10:00:00", 2**53) == "9999-12-31 23:59:59"
    assert months_after("2024-11-30 10:00:00", 3) == "2025-02-28 10:00:00"
    assert months_after("2024-11-30 10:00:00", 2**53) == "9999-12-31 23:59:59"


@pytest.mark.parametrize(
    ("code", "good"),
    [
        ("2171707962088", True),
        ("2171707962087", False),
        ("217170796208", False),
        ("217170796208X", False),
        ("٢171707962088", False),
    ],
)
def test_card_numbers(code: str, good: bool) -> None:
    assert is_ean13(code) is good


def test_behaviours_print_as_one_table() -> None:
    lines = behaviours_as_markdown().splitlines()
    assert len(lines) == len(BEHAVIOURS) + 2
    assert {line.count("|") for line in lines} == {4}
