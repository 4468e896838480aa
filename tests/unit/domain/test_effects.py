"""The identity of effects: what must never change between two versions of this service."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.effects import (
    LANE_OF,
    OPEN_STATES,
    PREREQUISITE_LANE,
    SETTLED_STATES,
    Kind,
    PrerequisiteKind,
    State,
    contradicts,
    effect_key,
    fingerprint,
    idempotency_key,
)

IDS = st.from_regex(r"[0-9A-Za-z._~-]{1,50}", fullmatch=True)
FACTS = st.lists(
    st.none() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")), max_size=8
)


def test_keys_name_tenant_kind_and_order() -> None:
    assert effect_key("main", Kind.EARN, "2345234") == "main:earn:2345234"
    assert effect_key("main", Kind.ORDER, "2345234") == "main:order:2345234"
    assert effect_key("eu", Kind.EARN, "1", "2") == "eu:earn:1:2"


@given(st.tuples(IDS, st.sampled_from(Kind), IDS), st.tuples(IDS, st.sampled_from(Kind), IDS))
def test_different_effects_have_different_keys(
    one: tuple[str, Kind, str], other: tuple[str, Kind, str]
) -> None:
    assert (effect_key(*one) == effect_key(*other)) == (one == other)


@pytest.mark.parametrize(
    ("key", "uuid"),
    [
        ("main:earn:2345234", "feade021-029d-5dc8-a56f-e75c83df1be5"),
        ("main:earn:1", "ecfd846f-3e83-5987-95ad-09ef4650c9d9"),
        ("eu-1:earn:A~b.c_d-9", "3b0be4b6-d310-5116-8c71-a6ac49e1537d"),
    ],
)
def test_idempotency_keys_are_the_same_for_ever(key: str, uuid: str) -> None:
    """A change here books points twice: a rebuilt ledger must send the keys that Splio knows."""
    tenant, kind, order = key.split(":")
    assert idempotency_key(effect_key(tenant, Kind(kind), order)) == uuid


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (["2990000000017", 177], "f1:3c41b397352f39c32088bda9ac4fd037"),
        (
            [None, None, "EUR", 6485, [["1", "p1", 5995]], "é"],
            "f1:1d6ea76c559a64480bf16df35303c855",
        ),
    ],
)
def test_fingerprints_of_version_1_are_the_same_for_ever(facts: list[Any], expected: str) -> None:
    assert fingerprint(facts) == expected


@given(FACTS, FACTS)
def test_fingerprints_tell_facts_apart(one: list[Any], other: list[Any]) -> None:
    same = [(type(fact), fact) for fact in one] == [(type(fact), fact) for fact in other]

    assert (fingerprint(one) == fingerprint(other)) == same
    assert contradicts(fingerprint(one), fingerprint(other)) != same


@pytest.mark.parametrize(
    ("known", "other", "contradicting"),
    [
        ("f1:aa", "f1:aa", False),
        ("f1:aa", "f1:bb", True),
        ("f0:aa", "f1:bb", False),
        ("f1:aa", "f2:bb", False),
        ("f2:aa", "f2:bb", False),
        ("", "f1:bb", False),
        ("aa", "bb", False),
    ],
)
def test_a_fingerprint_of_another_version_counts_as_the_same(
    known: str, other: str, contradicting: bool
) -> None:
    assert contradicts(known, other) is contradicting


def test_every_state_is_open_or_settled() -> None:
    assert sorted([*OPEN_STATES, *SETTLED_STATES]) == sorted(State)


def test_every_kind_has_its_lane() -> None:
    assert set(LANE_OF) == set(Kind)
    assert set(PREREQUISITE_LANE) == set(PrerequisiteKind)
