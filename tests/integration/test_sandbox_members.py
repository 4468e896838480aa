"""Members change, expire and hold a balance as Splio's documentation says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sandbox_client import (
    CARD,
    CONTACT,
    Client,
    flat,
    open_client,
    problem,
)

NOT_THERE = "0000000000001"
MEMBER = f"/loyalty/members/{CARD}"
FORM = "%Y-%m-%d %H:%M:%S"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with open_client(tmp_path) as opened:
        await opened.stock()
        yield opened


async def test_member_is_changed(client: Client) -> None:
    field = {"scope": "loyalty", "name": "shop", "type": "text"}
    await client.call("POST", "/data/fields", field)
    changes = {
        "card_expire_at": "2030-01-12 15:00:00",
        "birthday": "1991-06-18",
        "contact_id": CONTACT,
        "program_joined_at": "2024-02-11 10:00:12",
        "custom_fields": [{"name": "shop", "value": "Lyon"}],
    }
    changed = await client.call("PATCH", MEMBER, changes)
    assert changed.status == 200
    expected = {name: changes[name] for name in ("card_expire_at", "birthday")} | {
        "program_joined_at": "2024-02-11 10:00:12",
        "fields": [{"id": 0, "name": "shop", "value": "Lyon"}],
    }
    assert changed.json.items() >= expected.items()
    assert changed.json["individual"]["email"] == CONTACT
    assert (await client.call("GET", MEMBER)).json == changed.json
    # What a change leaves out stays, and the contact tells its card.
    again = await client.call("PATCH", MEMBER, {"contact_id": CONTACT})
    assert again.json == changed.json
    contact = (await client.call("GET", "/data/contacts/camille.roux%40example.com")).json
    assert contact["loyalty"] == [{"card_code": CARD, "id_program": "1"}]


async def test_created_member_keeps_its_end_and_fields(client: Client) -> None:
    await client.call("POST", "/data/fields", {"scope": "loyalty", "name": "shop", "type": "text"})
    made = await client.call(
        "POST",
        "/loyalty/members",
        {
            "program_id": 1,
            "card_expire_at": "2030-01-12 15:00:00",
            "custom_fields": [{"id": 0, "value": "Lyon"}],
        },
    )
    assert (made.status, made.json["card_expire_at"]) == (201, "2030-01-12 15:00:00")
    read = (await client.call("GET", f"/loyalty/members/{made.json['card_code']}")).json
    assert read["fields"] == [{"id": 0, "name": "shop", "value": "Lyon"}]


@pytest.mark.parametrize(
    ("card", "changes", "status", "key", "slug", "text"),
    [
        (NOT_THERE, {}, 404, "id", "wrong_value", f"Record not found for id {NOT_THERE}."),
        (
            CARD,
            {"contact_id": "other@example.com"},
            400,
            "individual_id",
            "wrong_value",
            "You can not change the owner of a loyalty card",
        ),
        (
            CARD,
            {"program_id": 2},
            400,
            "program_id",
            "not_updatable_field",
            'The field "program_id" can\'t be updated.',
        ),
        (
            CARD,
            {"contact_id": "nobody@example.com"},
            400,
            "individual_id",
            "wrong_value",
            "Individual not found for unique key nobody@example.com.",
        ),
        (
            CARD,
            {"card_expire_at": 1},
            400,
            "card_expire_at",
            "wrong_type",
            "This value should be of type string.",
        ),
        (
            CARD,
            {"card_expire_at": "2030-01-12T15:00:00"},
            400,
            "card_expire_at",
            "wrong_value",
            "wrong_value",
        ),
    ],
)
async def test_refused_change(
    client: Client,
    card: str,
    changes: dict[str, Any],
    status: int,
    key: str,
    slug: str,
    text: str,
) -> None:
    await client.call("POST", "/data/contacts", {"email": "other@example.com"})
    await client.own()
    reply = await client.call("PATCH", f"/loyalty/members/{card}", changes)
    assert (reply.status, reply.json) == (status, problem(key, slug, text, status))


async def test_optout_ends_the_card_once(client: Client) -> None:
    await client.credit()
    ended = await client.call("POST", f"{MEMBER}/optout")
    assert ended.status == 200
    end = ended.json["card_expire_at"]
    assert end <= f"{datetime.now(UTC):{FORM}}"
    again = await client.call("POST", f"{MEMBER}/optout", data=b"no JSON")
    assert again.json["card_expire_at"] == end
    unknown = await client.call("POST", f"/loyalty/members/{NOT_THERE}/optout")
    text = "Membership not found for given identifier."
    assert (unknown.status, unknown.json) == (404, problem("card_code", "wrong_value", text, 404))
    # Reading goes on, granting ends.
    assert (await client.call("GET", MEMBER)).status == 200
    refused = await client.grant(grant_date=end)
    expected = flat("card_code", "not_found", f"card_code {CARD} not found")
    assert (refused.status, refused.json) == (400, expected)


async def test_card_with_an_end_to_come_can_spend_until_then(client: Client) -> None:
    await client.credit()
    await client.call("PATCH", MEMBER, {"card_expire_at": "2026-11-20 00:00:00"})
    assert (await client.grant(grant_date="2026-11-19 23:59:59")).status == 200
    late = await client.grant(grant_date="2026-11-20 00:00:00", idempotency_key="2")
    assert late.json["error"] == "not_found"


async def test_balance_shows_what_was_redeemed_on_demand(client: Client) -> None:
    await client.credit(q_points_quantity=5)
    await client.grant(quantity=3)

    async def balance(**query: str) -> Any:
        return (await client.call("GET", f"{MEMBER}/balance", query=query)).json

    plain = await balance()
    assert plain == {
        "pending": {
            "nq_points": {"next_movement": None, "total": 0},
            "q_points": {"next_movement": None, "total": 0},
        },
        "remaining": {
            "nq_points": {"next_movement": None, "total": 147},
            "q_points": {"next_movement": None, "total": 5},
        },
    }
    assert await balance(with_redeemed="false") == plain
    redeemed = (await balance(with_redeemed="true"))["redeemed"]
    assert redeemed["nq_points"] == {"next_movement": None, "total": 30}
    wrong = await balance(with_redeemed="perhaps")
    assert wrong["errors"][0]["error_key"] == "with_redeemed"


async def test_points_in_the_holding_period_are_pending(tmp_path: Path) -> None:
    today = datetime.now(UTC).replace(hour=12, minute=0, second=0)
    async with open_client(tmp_path, holding_days=14) as client:
        for days, points in ((20, 100), (10, 40), (10, 2), (5, 30)):
            await client.credit(
                event_date=f"{today - timedelta(days=days):{FORM}}",
                nq_points_quantity=points,
                idempotency_key=f"{days}:{points}",
            )
        balance = (await client.call("GET", f"{MEMBER}/balance")).json
        assert balance["remaining"]["nq_points"]["total"] == 100
        assert balance["pending"]["nq_points"] == {
            "next_movement": {"date": f"{today + timedelta(days=4):{FORM}}", "value": 42},
            "total": 72,
        }
        member = (await client.call("GET", MEMBER)).json
        assert member["nq_point"] == 100
        assert member["program"]["default_nq_points_holding_days"] == 14
        assert (await client.grant("PT1", quantity=101)).status == 400
        assert (await client.grant("PT1", quantity=100)).status == 200
        assert await client.usable() == 0
        client.sandbox.change_settings(holding_days=0)
        assert await client.usable() == 72
