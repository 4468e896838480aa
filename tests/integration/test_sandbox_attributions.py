"""Attributions are listed, read and used as Splio's documentation says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sandbox_client import (
    CARD,
    OTHER_CARD,
    Client,
    flat,
    no_store,
    open_client,
    problem,
)

CODE = "1006087183901"
OF_CONTACT = "/loyalty/v2/contacts/camille.roux%40example.com/rewards"
GRANTED, USED = "2026-11-15 09:12:40", "2026-11-15 09:14:02"
ENDS = "2030-05-15 09:12:40"
REASON = "main:capture:splio_club:4bd1f0a97c2e"
DEFINITION = {
    "name": "100 points",
    "external_id": "PT100",
    "monetary": False,
    "monetary_type": "",
    "monetary_value": 0,
    "nqp_value": 100,
    "image_url": "",
}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """One `PT100` was granted under `CODE`, to a card of the contact."""
    async with open_client(tmp_path) as opened:
        await opened.stock()
        await opened.own()
        await opened.credit()
        granted = await opened.grant("PT100", attribution_ids=[CODE], validity_end=ENDS)
        assert granted.json[0]["external_ids"] == [CODE]
        yield opened


async def listed(client: Client, path: str = OF_CONTACT, **query: str) -> Any:
    reply = await client.call("GET", path, query=query)
    assert reply.status == 200
    return reply.json


async def test_attributions_of_a_contact(client: Client) -> None:
    expected = {
        "external_id": CODE,
        "loyalty_status_id": 1,
        "card_code": CARD,
        "program_name": "Club",
        "individual_id": 1,
        "earned_date": GRANTED,
        "status": "valid",
        "burned_date": None,
        "expiration_date": ENDS,
        "interaction_details": "Attribution of the reward",
        "interaction_type": "reward_attribution",
        "reason_msg": REASON,
        "reason_rule_id": "",
        "reward_definition": DEFINITION,
    }
    assert await listed(client) == {
        "paging": {"cursors": {"after": None, "before": None}, "previous": "", "next": ""},
        "count_element": 1,
        "elements": [expected],
    }
    with_fields = await listed(client, with_custom_fields="true")
    assert with_fields["elements"] == [{**expected, "custom_fields": []}]
    unknown = await client.call("GET", "/loyalty/v2/contacts/nobody/rewards")
    text = "Record not found for id nobody."
    assert (unknown.status, unknown.json) == (404, problem("id", "wrong_value", text, 404))


async def test_attributions_of_a_contact_are_filtered_and_paged(client: Client) -> None:
    await client.own(OTHER_CARD)
    await client.credit(OTHER_CARD, idempotency_key="other")
    for number in range(3):
        await client.grant("PT1", card_code=OTHER_CARD, idempotency_key=str(number))

    async def cards(**query: str) -> list[str]:
        return [row["card_code"] for row in (await listed(client, **query))["elements"]]

    def equals(value: str) -> str:
        return json.dumps({"operator": "equals", "value": value})

    assert await cards() == [OTHER_CARD] * 3 + [CARD]
    assert await cards(card_code=equals(CARD)) == [CARD]
    assert await cards(program_name=equals("Club"), limit="2") == [OTHER_CARD] * 2
    assert await cards(program_name=equals("Partner club")) == []
    after = (await listed(client, limit="3"))["paging"]["cursors"]["after"]
    assert await cards(after=after) == [CARD]
    wrong = await client.call("GET", OF_CONTACT, query={"sort": "ID"})
    assert wrong.status == 400


async def test_attributions_of_a_reward_tell_no_cards(client: Client) -> None:
    page = await listed(client, "/loyalty/v1/rewards/PT100/attributions")
    assert page["elements"] == [
        {
            "external_id": CODE,
            "loyalty_status_id": 1,
            "earned_date": GRANTED,
            "status": "valid",
            "burned_date": None,
            "store_id": None,
            "expiration_date": ENDS,
            "reward_definition": DEFINITION,
        }
    ]
    unknown = await client.call("GET", "/loyalty/v1/rewards/E9/attributions")
    text = "Reward not found for given identifier."
    assert (unknown.status, unknown.json) == (404, problem("reward_id", "wrong_value", text, 404))


async def test_attribution_is_read_under_other_names(client: Client) -> None:
    read = (await client.call("GET", f"/loyalty/reward-attributions/{CODE}")).json
    assert (
        read.items()
        >= {
            "external_id": CODE,
            "earn_date": GRANTED,
            "claim_date": None,
            "expiration_date": ENDS,
            "status": "available",
            "coupon": None,
            "event": None,
            "store": None,
        }.items()
    )
    assert (read["reward"]["external_id"], read["reward"]["nqp_value"]) == ("PT100", 100)
    holder = read["contact_status"]
    assert (holder["card_code"], holder["nq_point"], holder["tier"]) == (CARD, 77, [])
    unknown = await client.call("GET", "/loyalty/reward-attributions/EG28")
    text = "Reward attribution not found for given identifier."
    assert (unknown.status, unknown.json) == (404, problem("ext_id", "wrong_value", text, 404))


async def test_attribution_is_used_once(client: Client) -> None:
    used = await client.burn(CODE, store_id="web-fr", reason_msg="scayle:order:2345388")
    assert (used.status, used.json) == (
        200,
        {
            "external_id": CODE,
            "card_code": CARD,
            "program_name": "Club",
            "earned_date": GRANTED,
            "status": "burned",
            "burned_date": USED,
            "expiration_date": ENDS,
            "store_id": "web-fr",
            "interaction_details": "Attribution of the reward",
            "interaction_type": "reward_attribution",
            "reason_msg": "scayle:order:2345388",
            "reward_definition": DEFINITION,
        },
    )
    again = await client.burn(CODE)
    text = f"reward attribution {CODE} already burned at {USED}"
    expected = flat("external_id", "external_id_already_burned", text)
    assert (again.status, again.json) == (400, expected)
    [row] = (await listed(client))["elements"]
    assert (row["status"], row["burned_date"], row["reason_msg"]) == ("burned", USED, REASON)
    assert await client.usable() == 77, "points went with the grant"


async def test_grant_can_be_used_in_the_same_call(client: Client) -> None:
    together = {"burned_date": GRANTED, "store_id": "web-fr", "idempotency_key": "2"}
    [code] = (await client.grant("PT1", **together)).json[0]["external_ids"]
    read = (await client.call("GET", f"/loyalty/reward-attributions/{code}")).json
    assert (read["status"], read["claim_date"], read["store"]) == ("burned", GRANTED, "web-fr")
    assert (await client.burn(code)).json["error"] == "external_id_already_burned"


async def test_use_needs_nothing_but_the_code(client: Client) -> None:
    used = await client.burn(CODE, card_code=None, burned_date=None)
    assert (used.status, used.json["status"], used.json["reason_msg"]) == (200, "burned", REASON)


@pytest.mark.parametrize(
    ("code", "changes", "status", "expected"),
    [
        (
            "7",
            {},
            404,
            flat("external_id", "external_id_not_found", "no reward attribution 7 found"),
        ),
        (CODE, {"store_id": "test_store_id"}, 404, no_store("test_store_id")),
        (
            CODE,
            {"card_code": "test"},
            400,
            flat(
                "card_code",
                "card_code_not_found",
                f"no membership found for cardcode test on the {USED}",
            ),
        ),
        (
            CODE,
            {"burned_date": "2021-12-31 23:59:59"},
            400,
            flat(
                "card_code",
                "card_code_not_found",
                f"no membership found for cardcode {CARD} on the 2021-12-31 23:59:59",
            ),
        ),
        (
            CODE,
            {"card_code": OTHER_CARD},
            400,
            flat(
                "card_code",
                "inconsistent_card_code",
                f"the given cardcode {OTHER_CARD} does not match the card_code of the given"
                f" reward attribution {CODE}",
            ),
        ),
        (
            CODE,
            {"burned_date": "2026-11-15 09:12:39"},
            400,
            flat(
                "burned_date",
                "inconsistent_dates",
                f"burn date should be after earned date {GRANTED}",
            ),
        ),
        (
            CODE,
            {"burned_date": "2050-01-01 00:00:00"},
            400,
            flat(
                "burned_date",
                "inconsistent_dates",
                f"burn date should be before expiration date {ENDS}",
            ),
        ),
        (CODE, {"store_id": 5}, 400, flat("", "wrong_field_type", "something went wrong")),
        (
            CODE,
            {"burned_date": "yesterday"},
            400,
            problem("burned_date", "wrong_value", "wrong_value"),
        ),
    ],
)
async def test_refused_use_leaves_the_code_good(
    client: Client, code: str, changes: dict[str, Any], status: int, expected: dict[str, Any]
) -> None:
    reply = await client.burn(code, **changes)
    assert (reply.status, reply.json) == (status, expected)
    assert (await client.burn(CODE)).status == 200


async def test_use_after_the_card_ended_is_refused(client: Client) -> None:
    await client.call("PATCH", f"/loyalty/members/{CARD}", {"card_expire_at": USED})
    assert (await client.burn(CODE)).json["error"] == "card_code_not_found"
    assert (await client.burn(CODE, burned_date="2026-11-15 09:14:01")).status == 200


async def test_status_tells_an_end_and_a_holding_period(client: Client) -> None:
    await client.call(
        "POST",
        "/loyalty/v1/rewards",
        {
            "external_id": "HELD",
            "name": "Held",
            "nqp_value": 0,
            "holding_days": 10,
            "auto_generated": True,
        },
    )
    await client.grant("HELD", grant_date="2099-01-01 00:00:00", idempotency_key="2")
    over = {"grant_date": "2023-01-01 00:00:00", "validity_end": "2023-02-01 00:00:00"}
    await client.grant("PT1", **over, idempotency_key="3")
    statuses = [row["status"] for row in (await listed(client))["elements"]]
    assert statuses == ["expired", "pending", "valid"]


async def test_control_door_shows_attributions_and_accounts(client: Client) -> None:
    await client.burn(CODE, reason_msg="scayle:order:2345388")
    rows = await client.call("GET", "/_sandbox/attributions", token="")
    [row] = [json.loads(line) for line in rows.text.splitlines()]
    assert (
        row.items()
        >= {
            "external_id": CODE,
            "reward_id": "PT100",
            "card_code": CARD,
            "nq_points": 100,
            "reason_msg": REASON,
            "idempotency_key": "b2b7d0a4-2f5b-5c58-8f4e-6a1d1f0a7f02",
            "earned_date": GRANTED,
            "expiration_date": ENDS,
            "burned_date": USED,
            "store_id": None,
            "burn_reason_msg": "scayle:order:2345388",
        }.items()
    )
    accounts = await client.call("GET", "/_sandbox/accounts", token="")
    [account] = [json.loads(line) for line in accounts.text.splitlines()]
    assert account == {"card_code": CARD, "earned": 177, "spent": 100, "balance": 77}
    books = (await client.call("GET", "/_sandbox/books", token="")).json
    assert books["points"] == {"earned": 177, "spent": 100, "balance": 77}
    assert books["requests"]["reward.burn"] == {"200": 1}
