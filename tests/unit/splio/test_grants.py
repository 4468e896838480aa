"""Finding grants again by their reason."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.effects import EffectKey, RenderedRequest
from service.splio.grants import (
    attributions_path,
    debits_path,
    granted_card,
    granted_reward,
    grants_in_attributions,
    grants_in_ledger,
)
from service.splio.readback import ListPage, UnreadableReplyError, read_page

CARD = "2171707962088"
KEY = EffectKey("main:debit:club:C-1:PT100")
DATE, LATER = "2026-11-15 09:12:40", "2026-11-15 09:12:41"


def attribution(**changes: Any) -> dict[str, Any]:
    element = {
        "external_id": "1006087183901",
        "loyalty_status_id": 9,
        "card_code": CARD,
        "program_name": "Club",
        "earned_date": DATE,
        "status": "burned",
        "burned_date": DATE,
        "interaction_type": "reward_attribution",
        "reason_msg": KEY,
        "reward_definition": {"external_id": "PT100", "nqp_value": 100},
    }
    return element | changes


def entry(message: Any = KEY, **changes: Any) -> dict[str, Any]:
    element = {
        "event_type": "reward_attribution",
        "points_type": "non-qualifying",
        "event_date": DATE,
        "card_code": CARD,
        "points_credited": -100,
        "reason": {"interaction_type": "manual", "message": message},
        "id": 10222,
    }
    return element | changes


def in_attributions(*elements: dict[str, Any]) -> int:
    return len(grants_in_attributions(elements, key=KEY, card=CARD))


def in_ledger(*elements: dict[str, Any]) -> int:
    return len(grants_in_ledger(elements, key=KEY, card=CARD))


def test_codes_of_one_grant_are_one() -> None:
    codes = [attribution(external_id=str(number)) for number in range(3)]

    assert in_attributions(*codes) == 1
    assert in_attributions(*codes, attribution(external_id="9", earned_date=LATER)) == 2
    assert in_ledger(entry(), entry(id=2)) == 1
    assert in_ledger(entry(), entry(id=2, event_date=LATER)) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"reason_msg": f"{KEY}0"},
        {"reason_msg": "main:debit:club:C-1"},
        {"reason_msg": None},
        {"reason_msg": [KEY]},
        {"reason_msg": ""},
        {"card_code": "0000000000000"},
        {"card_code": None},
    ],
)
def test_other_attribution_is_not_counted(changes: dict[str, Any]) -> None:
    assert in_attributions(attribution(**changes), {}) == 0


@pytest.mark.parametrize("changes", [{"card_code": int(CARD)}, {"reason_msg": f" {KEY}\n"}])
def test_attribution_may_be_written_otherwise(changes: dict[str, Any]) -> None:
    assert in_attributions(attribution(**changes)) == 1


@pytest.mark.parametrize("date", [None, 5, "", {}])
def test_grant_without_a_date_is_one(date: Any) -> None:
    assert in_attributions(attribution(earned_date=date)) == 1
    assert in_ledger(entry(event_date=date)) == 1


def test_other_entry_of_the_ledger_is_not_counted() -> None:
    others = [entry(f"{KEY}0"), entry(None), entry(card_code="1"), {}, entry(reason=None)]

    assert in_ledger(*others) == 0
    assert in_ledger(*others, entry(reason=f" {KEY}")) == 1


values = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers())


@given(st.lists(st.dictionaries(st.sampled_from([*attribution(), *entry()]), values)))
def test_no_element_breaks_the_search(elements: list[dict[str, Any]]) -> None:
    assert in_attributions(*elements) == in_ledger(*elements) == 0


def test_stored_grant_tells_where_to_look() -> None:
    stored = RenderedRequest(
        path="/loyalty/v1/rewards/5%20%2F%201/grant",
        body=orjson.dumps({"card_code": "a/b", "quantity": 1}),
    )

    assert granted_card(stored) == "a/b"
    assert granted_reward(stored) == "5 / 1"


def query_of(path: str | None) -> tuple[str, dict[str, str]]:
    assert path is not None
    parts = urlsplit(path)
    return parts.path, {name: value for name, (value,) in parse_qs(parts.query).items()}


def test_attributions_are_listed_without_a_filter() -> None:
    path, query = query_of(attributions_path("a+b@example.com", after="c=&"))

    assert path == "/loyalty/v2/contacts/a%2Bb%40example.com/rewards"
    assert query == {"limit": "200", "after": "c=&"}
    assert query_of(attributions_path("7"))[1] == {"limit": "200"}
    assert attributions_path("..") is None


def test_debits_are_listed_with_both_defaults_set() -> None:
    path, query = query_of(debits_path(CARD, after="c=="))

    filters = {name: orjson.loads(query.pop(name)) for name in ("event_type", "points_type")}
    assert path == "/loyalty/points"
    assert filters == {
        "event_type": {"operator": "equals", "value": "reward_attribution"},
        "points_type": {"operator": "equals", "value": "nq"},
    }
    assert orjson.loads(query.pop("card_code")) == {"operator": "equals", "value": CARD}
    assert query == {"limit": "500", "sort": "ID", "order": "desc", "after": "c=="}


def test_page_of_a_list_ends_or_goes_on() -> None:
    document: dict[str, Any] = {"paging": {"cursors": {"after": "c"}}, "elements": [{"a": 1}, None]}

    assert read_page(document) == ListPage(({"a": 1},), "c")
    document["paging"]["cursors"]["after"] = None
    assert read_page(document).following is None


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"elements": [], "paging": None},
        {"elements": [], "paging": {"cursors": []}},
        {"elements": {"0": {}}, "paging": {"cursors": {"after": None}}},
        {"elements": [], "paging": {"cursors": {"after": ["c"]}}},
    ],
)
def test_other_list_is_unreadable(document: dict[str, Any]) -> None:
    with pytest.raises(UnreadableReplyError):
        read_page(document)
