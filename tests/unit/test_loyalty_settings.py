"""The checkout's settings: text forms, rules among them, and what the sandbox supplies."""

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.configuration import ledger_config
from service.domain.cards import CardForm
from service.domain.effects import Kind
from service.loyalty_values import (
    format_card_form,
    format_programs,
    format_rates,
    format_rewards,
    parse_card_form,
    parse_programs,
    parse_rates,
    parse_rewards,
    parse_tokens,
)
from service.settings import Settings, describe, load_settings
from tests.unit.test_settings import load, problems_of, refused

PROGRAMS = {"LOYALTY_PROGRAMS": "splio_club=1,other=2"}


def tokens_of(settings: Settings) -> list[tuple[str, str]]:
    return [(operation, token.get_secret_value()) for operation, token in settings.loyalty_tokens]


def test_defaults_take_no_call_and_send_no_debit() -> None:
    settings = load()

    assert settings.loyalty_tokens == ()
    assert settings.loyalty_programs == {}
    assert settings.loyalty_rates == {}
    assert settings.loyalty_rate_fields == (
        "conversionFactor",
        "conversionRate",
        "factor",
        "rate",
    )
    assert settings.loyalty_amount_unit is None
    assert settings.loyalty_invalid_status == 200
    assert settings.loyalty_card_form is None
    assert (settings.loyalty_timeout_s, settings.balance_fresh_s) == (3.0, 5.0)
    assert (settings.debit_by, settings.debit_rewards) == ("hold", {})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("LOYALTY_PROGRAMS", "splio_club=1, other.x-2 = 7", {"splio_club": 1, "other.x-2": 7}),
        ("LOYALTY_RATE_FIELDS", "rate, conversionFactor", ("rate", "conversionFactor")),
        ("LOYALTY_AMOUNT_UNIT", "money", "money"),
        ("LOYALTY_INVALID_STATUS", "404", 404),
        ("LOYALTY_CARD_FORM", "ean13", CardForm(ean13=True)),
        ("LOYALTY_CARD_FORM", "10-16", CardForm(min_length=10, max_length=16)),
        (
            "LOYALTY_CARD_FORM",
            "13 , digits,luhn",
            CardForm(digits=True, luhn=True, min_length=13, max_length=13),
        ),
        ("LOYALTY_TIMEOUT", "1500ms", 1.5),
        ("BALANCE_FRESH", "0s", 0.0),
        ("DEBIT_REWARDS", "1=PT1, 10=a%2C%3D%25%C3%B6", {1: "PT1", 10: "a,=%ö"}),
    ],
)
def test_text_is_read(name: str, text: str, value: object) -> None:
    field = name.lower() + ("_s" if name in ("LOYALTY_TIMEOUT", "BALANCE_FRESH") else "")

    assert getattr(load(**{name: text}), field) == value


def test_rates_are_exact_by_programme_and_currency() -> None:
    settings = load(LOYALTY_RATES="splio_club:EUR=0.01,other:JPY=1", **PROGRAMS)

    assert settings.loyalty_rates == {
        ("splio_club", "EUR"): Decimal("0.01"),
        ("other", "JPY"): Decimal(1),
    }


def test_tokens_are_percent_encoded_and_may_repeat_for_a_rotation() -> None:
    settings = load(
        LOYALTY_TOKENS="balance=old, balance = n%2Cw%25==,*=two words,points-rate=x", **PROGRAMS
    )

    assert tokens_of(settings) == [
        ("balance", "old"),
        ("balance", "n,w%=="),
        ("*", "two words"),
        ("points-rate", "x"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "hidden",
        "hidden=a",
        "=hidden",
        "balance=",
        "balance=a,hidden",
        "balance=hid%den",
        "balance=%ff",
        "balance=hid%0Aden",
        "balance=hid%C3%B6den",
        "balance=%20hidden",
        "balance=" + "hid" * 700,
        "Balance=hidden",
        "balance=a,",
    ],
)
def test_wrong_tokens_are_refused_unseen(text: str) -> None:
    found = refused(LOYALTY_TOKENS=text, **PROGRAMS)

    assert list(found) == ["RELAY_LOYALTY_TOKENS"]
    assert "hid" not in found["RELAY_LOYALTY_TOKENS"]


def test_tokens_come_from_a_file_and_are_only_told_as_set(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("capture=hidden\n")
    settings = load(LOYALTY_TOKENS_FILE=str(path), **PROGRAMS)

    assert tokens_of(settings) == [("capture", "hidden")]
    rows = {row.name: row for row in describe(settings)}
    assert rows["RELAY_LOYALTY_TOKENS"].value == "set"
    assert rows["RELAY_LOYALTY_TOKENS"].source == "file"
    assert "hidden" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("LOYALTY_PROGRAMS", "splio_club", "an entry (number 1) that is not key=id"),
        ("LOYALTY_PROGRAMS", "a=1,b:c=2", "a key (number 2) that is not letters, digits"),
        ("LOYALTY_PROGRAMS", "a" * 61 + "=1", "60 at most"),
        ("LOYALTY_PROGRAMS", "a=1,a=2", "a key (number 2) twice"),
        ("LOYALTY_PROGRAMS", "a=0", "an id (number 1) that is not a whole number above zero"),
        ("LOYALTY_RATES", "a=0.01", "is not programme:currency=rate"),
        ("LOYALTY_RATES", "splio_club:eur=0.01", "is not programme:currency=rate"),
        ("LOYALTY_RATES", "splio_club:XYZ=0.01", "a currency (number 1) that ISO 4217"),
        ("LOYALTY_RATES", "splio_club:EUR=0", "a rate (number 1) that is not a decimal number"),
        ("LOYALTY_RATES", "splio_club:EUR=1e-2", "a rate (number 1) that is not a decimal number"),
        ("LOYALTY_RATES", "splio_club:EUR=1,splio_club:EUR=2", "of entry 2 twice"),
        ("LOYALTY_RATES", "splio_club:EUR=1,lost:EUR=2", "has a rate of lost, which RELAY_LOYALTY"),
        ("LOYALTY_RATE_FIELDS", "rate,rate", "each once"),
        ("LOYALTY_RATE_FIELDS", ",".join(f"f{n}" for n in range(17)), "at most 16 names"),
        ("LOYALTY_RATE_FIELDS", "rate,2nd", "a name (number 2)"),
        ("LOYALTY_AMOUNT_UNIT", "cents", "is not 'points' or 'money'"),
        ("LOYALTY_INVALID_STATUS", "500", "is more than 499"),
        ("LOYALTY_INVALID_STATUS", "199", "is less than 200"),
        ("LOYALTY_CARD_FORM", "ean8", "is no length from 1 to 64"),
        ("LOYALTY_CARD_FORM", "16-10", "is no length from 1 to 64"),
        ("LOYALTY_CARD_FORM", "0-65", "is no length from 1 to 64"),
        ("LOYALTY_CARD_FORM", "luhn,luhn", "each at most once"),
        ("LOYALTY_CARD_FORM", "10,12", "each at most once"),
        ("LOYALTY_CARD_FORM", "ean13,10-12", "which has 13 digits"),
        ("LOYALTY_TIMEOUT", "2m", "is more than 1m"),
        ("BALANCE_FRESH", "11m", "is more than 10m"),
        ("DEBIT_BY", "grant", "is not 'hold' or 'reward'"),
        ("DEBIT_REWARDS", "1", "an entry (number 1) that is not points=reward"),
        ("DEBIT_REWARDS", "0=PT0", "points (number 1) that is not a whole number above zero"),
        ("DEBIT_REWARDS", "1=a,1=b", "the points of entry 2 twice"),
        ("DEBIT_REWARDS", "1=a=b", "= as %3D"),
        ("DEBIT_REWARDS", "1=%zz", "that is not percent-encoded"),
        ("DEBIT_REWARDS", "1=" + "x" * 129, "is not 1 to 128 characters"),
        ("DEBIT_REWARDS", "1=a%00", "is not 1 to 128 characters"),
        ("VISIBLE_AFTER", "grant=1s", "each of orders, credits, grants at most once"),
    ],
)
def test_a_wrong_value_is_named_with_its_reason(name: str, text: str, message: str) -> None:
    found = refused(**{**PROGRAMS, name: text})

    assert list(found) == [f"RELAY_{name}"]
    assert message in found[f"RELAY_{name}"]


def test_tokens_need_a_programme() -> None:
    assert refused(LOYALTY_TOKENS="*=hidden") == {
        "RELAY_LOYALTY_PROGRAMS": "is missing beside RELAY_LOYALTY_TOKENS: no call could name a"
        " programme"
    }
    only_looks = load_settings({"RELAY_LOYALTY_TOKENS": "*=hidden"}, serving=False)
    assert tokens_of(only_looks) == [("*", "hidden")]


def test_debits_by_rewards_need_one_of_a_single_point() -> None:
    assert refused(DEBIT_BY="reward") == {
        "RELAY_DEBIT_REWARDS": "is missing beside RELAY_DEBIT_BY=reward"
    }
    assert refused(DEBIT_BY="reward", DEBIT_REWARDS="10=PT10") == {
        "RELAY_DEBIT_REWARDS": "has no reward of 1 point, without which not every amount can be"
        " composed"
    }
    assert load(DEBIT_BY="reward", DEBIT_REWARDS="10=PT10,1=PT1").debit_rewards[1] == "PT1"
    assert load(DEBIT_REWARDS="10=PT10").debit_by == "hold"


def test_a_wrong_text_is_not_also_told_as_missing() -> None:
    assert list(refused(LOYALTY_TOKENS="*=x", LOYALTY_PROGRAMS="a")) == ["RELAY_LOYALTY_PROGRAMS"]
    assert list(refused(DEBIT_BY="reward", DEBIT_REWARDS="1")) == ["RELAY_DEBIT_REWARDS"]
    assert list(refused(LOYALTY_RATES="a:EUR=1", LOYALTY_PROGRAMS="a")) == [
        "RELAY_LOYALTY_PROGRAMS"
    ]


def test_the_sandbox_supplies_a_programme_its_rate_rewards_and_a_token() -> None:
    settings = load_settings({}, sandbox=True)

    assert tokens_of(settings) == [("*", "sandbox")]
    assert settings.loyalty_programs == {"splio_club": 1}
    assert settings.loyalty_rates == {("splio_club", "EUR"): Decimal("0.01")}
    assert settings.loyalty_amount_unit == "points"
    assert settings.debit_by == "reward"
    assert settings.debit_rewards == {1: "PT1", 10: "PT10", 100: "PT100", 1000: "PT1000"}
    for field in ("loyalty_tokens", "loyalty_programs", "loyalty_rates", "debit_by"):
        assert settings.sources[field] == "sandbox"


def test_the_sandbox_keeps_what_is_set_of_the_checkout() -> None:
    settings = load_settings(
        {
            "RELAY_LOYALTY_TOKENS": "*=own",
            "RELAY_LOYALTY_PROGRAMS": "own=1",
            "RELAY_LOYALTY_AMOUNT_UNIT": "money",
            "RELAY_DEBIT_BY": "hold",
        },
        sandbox=True,
    )

    assert tokens_of(settings) == [("*", "own")]
    assert settings.loyalty_programs == {"own": 1}
    assert settings.loyalty_rates == {}, "the sandbox's rate is of a programme that is not there"
    assert (settings.loyalty_amount_unit, settings.debit_by) == ("money", "hold")


@pytest.mark.parametrize(
    "environ", [{"RELAY_HTTP_HOST": "0.0.0.0", "RELAY_BEHIND_TLS": "1"}, {"RELAY_BEHIND_TLS": "1"}]
)
def test_the_sandbox_token_never_opens_a_door_to_others(environ: Mapping[str, str]) -> None:
    own = {**environ, "RELAY_WEBHOOK_CREDENTIALS": "a:b"}

    assert load_settings(own, sandbox=True).loyalty_tokens == ()
    assert "RELAY_LOYALTY_TOKENS" not in problems_of(environ, sandbox=True)


def test_the_ledger_is_told_how_soon_each_kind_shows() -> None:
    config = ledger_config(load(VISIBLE_AFTER="orders=1s,credits=2s,grants=3s"))

    assert config.visible_after_s[Kind.DEBIT] == 3.0
    assert config.visible_after_s[Kind.REFUND] == 2.0
    assert set(config.visible_after_s) == set(Kind)


PROGRAM = st.from_regex(r"[A-Za-z0-9._-]{1,60}", fullmatch=True)
DECIMALS = st.decimals("0.000000001", "999999999", places=9)


@given(st.dictionaries(PROGRAM, st.integers(1, 10**15 - 1), min_size=1))
def test_programmes_are_written_as_they_are_read(programs: Mapping[str, int]) -> None:
    assert parse_programs(format_programs(programs)) == programs


@given(st.dictionaries(st.tuples(PROGRAM, st.sampled_from(["EUR", "JPY"])), DECIMALS, min_size=1))
def test_rates_are_written_as_they_are_read(rates: Mapping[tuple[str, str], Decimal]) -> None:
    assert parse_rates(format_rates(rates)) == rates


@given(
    st.dictionaries(
        st.integers(1, 10**15 - 1),
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=128),
        min_size=1,
    )
)
def test_rewards_are_written_as_they_are_read(rewards: Mapping[int, str]) -> None:
    assert parse_rewards(format_rewards(rewards)) == rewards


@given(
    st.booleans(), st.booleans(), st.booleans(), st.tuples(st.integers(1, 13), st.integers(13, 64))
)
def test_card_forms_are_written_as_they_are_read(
    digits: bool, ean13: bool, luhn: bool, length: tuple[int, int]
) -> None:
    form = CardForm(digits, ean13, luhn, *length)

    assert parse_card_form(format_card_form(form)) == form


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40))
def test_any_visible_token_can_be_set(token: str) -> None:
    encoded = token.replace("%", "%25").replace(",", "%2C")

    [(operation, read)] = parse_tokens(f"capture={encoded}")
    assert (operation, read.get_secret_value()) == ("capture", token)


@pytest.mark.parametrize(
    ("form", "card", "fits"),
    [
        (CardForm(), "x", True),
        (CardForm(), "", False),
        (CardForm(), "x" * 65, False),
        (CardForm(digits=True), "12x", False),
        (CardForm(digits=True), "١٢", False),
        (CardForm(min_length=2, max_length=3), "1", False),
        (CardForm(min_length=2, max_length=3), "123", True),
        (CardForm(ean13=True), "2171707962088", True),
        (CardForm(ean13=True), "2171707962089", False),
        (CardForm(ean13=True), "002171707962088", False),
        (CardForm(luhn=True), "79927398713", True),
        (CardForm(luhn=True), "79927398710", False),
        (CardForm(luhn=True), "4111111111111111", True),
    ],
)
def test_a_card_fits_its_form(form: CardForm, card: str, fits: bool) -> None:
    assert form.fits(card) is fits
