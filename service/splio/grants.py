"""Finds grants again by their reason: in attributions and in the points ledger. Pure; no I/O."""

from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlencode

import orjson

from service.domain.effects import EffectKey, RenderedRequest
from service.splio.readback import points_path, reason_of
from service.splio.requests import path_part

_PAGE_SIZE: Final = 200  # attributions, each with its reward: some 200 KB


def granted_card(request: RenderedRequest) -> str:
    """The card of a grant's stored request."""
    card = orjson.loads(request.body)["card_code"]
    assert isinstance(card, str)
    return card


def granted_reward(request: RenderedRequest) -> str:
    """The external id of the reward of a grant's stored request."""
    return unquote(request.path.rsplit("/", 2)[1])


def attributions_path(unique_key: str, *, after: str | None = None) -> str | None:
    """
    Where a page of a contact's attributions is listed, the newest first; None for a key that
    cannot be a part of a path.

    There is no filter for the card: its format is documented for the points ledger only, and a
    grant that a filter hides would be made again.
    """
    query = {"limit": str(_PAGE_SIZE)}
    if after is not None:
        query["after"] = after
    try:
        part = path_part(unique_key)
    except ValueError:
        return None
    return f"/loyalty/v2/contacts/{part}/rewards?{urlencode(query)}"


def debits_path(card: str, *, after: str | None = None) -> str:
    """Where a page of what grants took of a card is listed, the newest first."""
    return points_path("nq", "reward_attribution", order="desc", card=card, after=after)


def grants_in_attributions(
    elements: Iterable[Mapping[str, Any]], *, key: EffectKey, card: str
) -> frozenset[str]:
    """
    The dates of those of our grants that these attributions show; one for each grant.

    Each code of a grant is an attribution of its own, and none names the grant. What is of one
    date is taken for one: the date stands in the request.
    """
    return frozenset(
        _date(element, "earned_date")
        for element in elements
        if _is(element.get("reason_msg"), key) and str(element.get("card_code")) == card
    )


def grants_in_ledger(
    elements: Iterable[Mapping[str, Any]], *, key: EffectKey, card: str
) -> frozenset[str]:
    """
    The dates of those of our grants that these entries of the points ledger show.

    Whether it has one entry for a grant or one for each code is not documented: as above.
    """
    return frozenset(
        _date(element, "event_date")
        for element in elements
        if reason_of(element) == key and str(element.get("card_code")) == card
    )


def _is(reason: Any, key: EffectKey) -> bool:
    return isinstance(reason, str) and reason.strip() == key


def _date(element: Mapping[str, Any], name: str) -> str:
    date = element.get(name)
    return date if isinstance(date, str) else ""
