"""What `doctor` makes of what it saw at Splio."""

from collections.abc import Mapping
from decimal import Decimal

import pytest

from service.cli.checkout_checks import check_reward
from service.cli.checks import Level
from service.cli.splio_checks import check_clock, check_limits, check_programs, check_unique_key
from service.domain.effects import Lane
from service.settings import Settings, load_settings
from service.splio.probe import Program, Reward

CLUB = Program(1, "Club", True, False, makes_card_codes=True)
ENROLLING = Program(2, "Partner", True, True, makes_card_codes=True)
DRAFT = Program(3, "Next", False, False, makes_card_codes=True)


def settings(**variables: str) -> Settings:
    return load_settings(
        {f"RELAY_{name}": value for name, value in variables.items()}, serving=False
    )


@pytest.mark.parametrize(
    ("universe", "ours", "level"),
    [
        ("email", "email", Level.OK),
        ("cellphone", "cellphone", Level.OK),
        ("email", "customer_id", Level.FAIL),
        ("cellphone", "email", Level.FAIL),
        ("c0", "email", Level.FAIL),
        ("c0", "customer_id", Level.OK),
        ("c3", "reference_key", Level.OK),
    ],
)
def test_the_unique_key_must_be_what_orders_carry(universe: str, ours: str, level: Level) -> None:
    finding = check_unique_key(universe, settings(SPLIO_CONTACT_KEY=ours))
    assert finding.result is level


@pytest.mark.parametrize(
    ("variables", "programs", "results"),
    [
        ({"SPLIO_PROGRAM": "1"}, (CLUB, DRAFT), [Level.OK]),
        ({"SPLIO_PROGRAM": "3"}, (CLUB, DRAFT), [Level.FAIL]),
        ({"SPLIO_PROGRAM": "9"}, (CLUB, DRAFT), [Level.FAIL]),
        ({"SPLIO_PROGRAM": "9"}, (), [Level.FAIL]),
        ({}, (CLUB, DRAFT), [Level.OK]),
        ({}, (DRAFT,), [Level.FAIL]),
        ({}, (CLUB, ENROLLING), [Level.OK, Level.WARN]),
        ({"GUEST_ORDERS": "skip"}, (CLUB, ENROLLING), [Level.OK]),
        ({"SPLIO_PROGRAM": "1"}, (CLUB, ENROLLING), [Level.OK]),
        ({"SPLIO_PROGRAM": "2"}, (CLUB, ENROLLING), [Level.OK, Level.WARN]),
        (
            {"SHOPS": '{"7": {"program": 1}, "8": {"program": 3}}'},
            (CLUB, DRAFT),
            [Level.OK, Level.FAIL],
        ),
    ],
)
def test_the_programme_must_run_and_should_not_enrol_guests(
    variables: Mapping[str, str], programs: tuple[Program, ...], results: list[Level]
) -> None:
    findings = check_programs(programs, settings(**variables))
    assert [finding.result for finding in findings] == results


@pytest.mark.parametrize(
    ("offset_s", "level", "word"),
    [
        (None, Level.WARN, "NTP"),
        (0.9, Level.OK, "agrees"),
        (-4.0, Level.OK, "agrees"),
        (30.0, Level.WARN, "30 s ahead of"),
        (-3600.0, Level.FAIL, "3600 s behind"),
    ],
)
def test_the_clock_is_compared_with_splios(offset_s: float | None, level: Level, word: str) -> None:
    finding = check_clock(offset_s)
    assert finding.result is level
    assert word in finding.says


@pytest.mark.parametrize(
    ("limits", "seen", "results"),
    [
        ("contacts=20", {}, [Level.OK]),
        ("other=10", {Lane.OTHER: 10.0, Lane.SALES: 20.0}, [Level.OK, Level.OK]),
        ("other=10", {Lane.OTHER: 6.0}, [Level.WARN]),
        ("other=5", {Lane.OTHER: 6.0}, [Level.OK]),
        ("off", {Lane.OTHER: 10.0}, [Level.WARN]),
    ],
)
def test_limits_that_splio_names_are_compared_with_ours(
    limits: str, seen: Mapping[Lane, float], results: list[Level]
) -> None:
    findings = check_limits(seen, settings(SPLIO_LIMITS=limits))
    assert [finding.result for finding in findings] == results


@pytest.mark.parametrize(
    ("reward", "level", "words"),
    [
        (Reward(Decimal("100.0"), is_limited=False), Level.OK, "costs 100 points"),
        (Reward(Decimal(100), is_limited=True), Level.WARN, "limited stock"),
        (Reward(Decimal("99.5"), is_limited=False), Level.FAIL, "costs 99.5 points and not 100"),
        (Reward(None, is_limited=False), Level.WARN, "does not tell its price"),
        (None, Level.FAIL, "is not there"),
    ],
)
def test_a_reward_must_cost_just_its_points(
    reward: Reward | None, level: Level, words: str
) -> None:
    finding = check_reward(100, "PT100", reward)
    assert finding.result is level
    assert words in finding.says
