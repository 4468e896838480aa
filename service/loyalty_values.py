"""
The text forms of the checkout's settings: tokens, programmes, rates, card form, rewards.

As in `service.setting_values`: messages complete the sentence '"text" …', and each `format_…`
gives text that its `parse_…` reads back to the same value.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final
from urllib.parse import quote

from pydantic import SecretStr

from service.domain.cards import EAN13_LENGTH, CardForm
from service.domain.checkout import CallOperation
from service.domain.money import UnknownCurrencyError, exponent
from service.setting_values import parse_factor, parse_whole, percent_decode
from service.web.tokens import ANY_OPERATION

_OPERATIONS: Final = (ANY_OPERATION, *CallOperation)
_MARKS: Final = ("ean13", "luhn", "digits")
_CARD_LIMIT: Final = 64  # characters
_TOKEN_LIMIT: Final = 2048  # characters; a header line may have 8190 bytes
_REWARD_LIMIT: Final = 128  # characters
_FIELDS_LIMIT: Final = 16  # names that the answer of a rate repeats it under
# Other characters have no form in a header that everybody agrees on, and its edges are trimmed.
_TOKEN = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_PROGRAM = re.compile(r"[A-Za-z0-9._-]{1,60}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_LENGTH = re.compile(r"([0-9]{1,3})(?:-([0-9]{1,3}))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def parse_tokens(text: str) -> tuple[tuple[str, SecretStr], ...]:
    """
    `operation=token` pairs, comma separated, tokens percent-encoded where they hold , or %.

    An operation may have several; `*` is every operation.
    """
    tokens = []
    for number, entry in enumerate(text.split(","), start=1):
        operation, equals, encoded = (part.strip() for part in entry.partition("="))
        if not equals or operation not in _OPERATIONS:
            raise ValueError(
                f"has an entry (number {number}) that is not operation=token with one of"
                f" {', '.join(_OPERATIONS)}"
            )
        try:
            token = percent_decode(encoded)
        except ValueError:
            raise ValueError(
                f"has an entry (number {number}) that is not percent-encoded text: write % as %25"
            ) from None
        if not _TOKEN.fullmatch(token) or len(token) > _TOKEN_LIMIT:
            raise ValueError(
                f"has a token (number {number}) that is not 1 to {_TOKEN_LIMIT} visible ASCII"
                " characters, which a header could not carry"
            )
        tokens.append((operation, SecretStr(token)))
    return tuple(tokens)


def parse_programs(text: str) -> dict[str, int]:
    """`splio_club=1,other=2`: Splio's id of a programme by SCAYLE's key of it."""
    programs: dict[str, int] = {}
    for number, name, identity in _entries(text, "key=id"):
        if not _PROGRAM.fullmatch(name):
            raise ValueError(
                f"has a key (number {number}) that is not letters, digits, '.', '_' and '-',"
                " 60 at most"
            )
        if name in programs:
            raise ValueError(f"has a key (number {number}) twice")
        programs[name] = _whole_above_zero(identity, f"has an id (number {number})")
    return programs


def format_programs(programs: Mapping[str, int]) -> str:
    """The inverse of `parse_programs`."""
    return _joined(f"{name}={identity}" for name, identity in programs.items())


def parse_rates(text: str) -> dict[tuple[str, str], Decimal]:
    """`splio_club:EUR=0.01`: what a point is worth, by programme and currency."""
    rates: dict[tuple[str, str], Decimal] = {}
    for number, name, rate in _entries(text, "programme:currency=rate"):
        program, _, currency = name.partition(":")
        if not _PROGRAM.fullmatch(program) or not _CURRENCY.fullmatch(currency):
            raise ValueError(
                f"has an entry (number {number}) that is not programme:currency=rate with a"
                " currency like EUR"
            )
        try:
            exponent(currency)
        except UnknownCurrencyError:
            raise ValueError(
                f"has a currency (number {number}) that ISO 4217 does not list"
            ) from None
        if (program, currency) in rates:
            raise ValueError(f"has the programme and currency of entry {number} twice")
        try:
            rates[program, currency] = parse_factor(rate)
        except ValueError as error:
            raise ValueError(f"has a rate (number {number}) that {error}") from None
    return rates


def format_rates(rates: Mapping[tuple[str, str], Decimal]) -> str:
    """The inverse of `parse_rates`."""
    return _joined(f"{program}:{currency}={rate:f}" for (program, currency), rate in rates.items())


def parse_field_names(text: str) -> tuple[str, ...]:
    """Names of JSON fields, comma separated."""
    names = tuple(name.strip() for name in text.split(","))
    if len(set(names)) < len(names) or len(names) > _FIELDS_LIMIT:
        raise ValueError(f"is not a list of at most {_FIELDS_LIMIT} names, each once")
    for number, name in enumerate(names, start=1):
        if not _FIELD.fullmatch(name):
            raise ValueError(f"has a name (number {number}) that is not letters, digits, '_', '-'")
    return names


def format_field_names(names: tuple[str, ...]) -> str:
    """The inverse of `parse_field_names`."""
    return ",".join(names)


def parse_card_form(text: str) -> CardForm:
    """`ean13`, `luhn`, `digits` and a length (`13`, `10-16`), comma separated."""
    parts = [part.strip() for part in text.split(",")]
    marks = [part for part in parts if part in _MARKS]
    lengths = [part for part in parts if part not in _MARKS]
    if len(set(marks)) < len(marks) or len(lengths) > 1:
        raise ValueError("is not a list of ean13, luhn, digits and one length, each at most once")
    shortest, longest = _parse_length(lengths[0]) if lengths else (1, _CARD_LIMIT)
    if "ean13" in marks and not shortest <= EAN13_LENGTH <= longest:
        raise ValueError("asks for ean13, which has 13 digits, and for another length")
    return CardForm(**dict.fromkeys(marks, True), min_length=shortest, max_length=longest)


def format_card_form(form: CardForm | None) -> str:
    """The inverse of `parse_card_form`."""
    if form is None:
        return "not set"
    parts = [mark for mark in _MARKS if getattr(form, mark)]
    if form.min_length == form.max_length:
        parts.append(str(form.min_length))
    elif (form.min_length, form.max_length) != (1, _CARD_LIMIT) or not parts:
        parts.append(f"{form.min_length}-{form.max_length}")
    return ",".join(parts)


def parse_rewards(text: str) -> dict[int, str]:
    """`1=PT1,10=PT10`: Splio's id of a reward by the points that it costs, percent-encoded."""
    rewards: dict[int, str] = {}
    for number, cost, encoded in _entries(text, "points=reward"):
        points = _whole_above_zero(cost, f"has points (number {number})")
        if points in rewards:
            raise ValueError(f"has the points of entry {number} twice")
        try:
            if "=" in encoded:
                raise ValueError
            reward = percent_decode(encoded)
        except ValueError:
            raise ValueError(
                f"has a reward (number {number}) that is not percent-encoded: write , as %2C,"
                " = as %3D and % as %25"
            ) from None
        if not reward or len(reward) > _REWARD_LIMIT or _CONTROL.search(reward):
            raise ValueError(
                f"has a reward (number {number}) that is not 1 to {_REWARD_LIMIT} characters"
            )
        rewards[points] = reward
    return rewards


def format_rewards(rewards: Mapping[int, str]) -> str:
    """The inverse of `parse_rewards`."""
    return _joined(f"{points}={quote(reward, safe='')}" for points, reward in rewards.items())


def _entries(text: str, form: str) -> Iterator[tuple[int, str, str]]:
    """The number, name and value of each `name=value`."""
    for number, entry in enumerate(text.split(","), start=1):
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not name or not equals or not value:
            raise ValueError(f"has an entry (number {number}) that is not {form}")
        yield number, name, value


def _whole_above_zero(text: str, subject: str) -> int:
    try:
        number = parse_whole(text)
    except ValueError:
        number = 0
    if not number:
        raise ValueError(f"{subject} that is not a whole number above zero")
    return number


def _parse_length(text: str) -> tuple[int, int]:
    if match := _LENGTH.fullmatch(text):
        shortest = int(match[1])
        longest = int(match[2] or match[1])
        if 1 <= shortest <= longest <= _CARD_LIMIT:
            return shortest, longest
    raise ValueError(
        f"has something beside ean13, luhn and digits that is no length from 1 to {_CARD_LIMIT},"
        " like 13 or 10-16"
    )


def _joined(entries: Iterator[str]) -> str:
    return ",".join(entries) or "not set"
