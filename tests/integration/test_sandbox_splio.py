"""The sandbox answers as Splio's documentation says."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sandbox_client import (
    CARD,
    CONTACT,
    OTHER_CARD,
    Client,
    open_client,
    order,
    points_query,
    problem,
    wait_until,
)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with open_client(tmp_path) as opened:
        await opened.stock()
        yield opened


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, problem("api_key", "is_blank", "Api key is missing.")),
        (
            {"api_key": "unknown"},
            problem("username", "authentication.failed", "User authentication failed."),
        ),
    ],
)
async def test_wrong_api_key_is_refused(
    client: Client, body: dict[str, Any], expected: dict[str, Any]
) -> None:
    reply = await client.call("POST", "/authenticate", body, token="")
    assert (reply.status, reply.json) == (400, expected)


async def test_token_tells_its_expiry(client: Client) -> None:
    claims = json.loads(base64.urlsafe_b64decode(client.token.split(".")[1] + "=="))
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["user"]["universe"]


async def test_token_expires(tmp_path: Path) -> None:
    async with open_client(tmp_path, token_lifetime_s=0.05) as client:

        async def refused() -> bool:
            return (await client.call("GET", "/ping")).status == 401

        await wait_until(refused)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "e30.e30."])
async def test_request_without_a_good_token_is_refused_as_text(client: Client, token: str) -> None:
    reply = await client.call("GET", "/ping", token=token)
    assert (reply.status, reply.text) == (401, "Authentication failed.")


async def test_ping_and_unique_key(client: Client) -> None:
    assert (await client.call("GET", "/ping")).json == {"user_id": 1}
    assert (await client.call("GET", "/universes/unique-key")).json == {"unique_key": "email"}


async def test_wrong_method_is_refused_as_text(client: Client) -> None:
    reply = await client.call("POST", "/ping", {})
    assert (reply.status, reply.text) == (405, "Method Not Allowed.")


async def test_unknown_path_is_404(client: Client) -> None:
    reply = await client.call("GET", "/data/v9/orders")
    assert reply.status == 404
    assert reply.json["status"] == 404


@pytest.mark.parametrize("data", [b'{"external_id": ', b"", b"[1]"])
async def test_invalid_json_is_refused(client: Client, data: bytes) -> None:
    reply = await client.call("POST", "/data/v1/orders", data=data)
    text = "Json payload is invalid, verify its syntax."
    assert (reply.status, reply.json) == (400, problem("payload", "invalid_json", text))


async def test_body_over_one_mebibyte_is_refused(client: Client) -> None:
    assert (await client.call("POST", "/data/v1/orders", data=b" " * 2**20)).status == 400
    reply = await client.call("POST", "/data/v1/orders", data=b" " * (2**20 + 1))
    assert reply.status == 413


async def test_order_is_created_and_read_back(client: Client) -> None:
    created = await client.call("POST", "/data/v1/orders", order())
    assert created.status == 201
    body = created.json
    assert (
        body.items()
        >= {
            "external_id": "2345234",
            "contact_id": CONTACT,
            "ordered_at": "2026-11-14 08:22:31",
            "total_price": 64.85,
            "loyalty": {"card_code": CARD, "id_program": 1},
            "custom_fields": [{"id": 0, "name": "scayle_public_key", "value": "FR-2345234"}],
        }.items()
    )
    assert body["contact"]["lastname"] == "Roux"
    assert body["store"]["name"] == "Web shop"
    assert [line["external_id"] for line in body["products"]] == ["JKT-001-M", "CAP-014-U"]
    assert body["products"][0]["name"] == "Rain jacket"
    assert (await client.call("GET", "/data/v1/orders/2345234")).json == body
    read = (await client.call("GET", "/data/v2/orders/2345234")).json
    assert read["status"] == "paid"
    assert read["products"][0]["status"] == "paid"


DATE_PROBLEM = problem("ordered_at", "wrong_value", "wrong_value")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"contact_id": "48213"},
            problem("individual_id", "wrong_value", "Individual not found for identifier {48213}"),
        ),
        (
            {"products": [{"product_id": "SHOE"}]},
            problem("product_id", "wrong_value", "Product not found for external id SHOE"),
        ),
        (
            {"store_external_id": "attic"},
            problem("store_external_id", "wrong_value", "Store not found for external id attic"),
        ),
        (
            {"custom_fields": [{"id": 99, "value": "x"}]},
            problem("custom_fields", "wrong_value", "Custom field not found for id 99."),
        ),
        (
            {"products": [{"product_id": "JKT-001-M", "unit_price": "39,95"}]},
            problem(
                "products[0].unit_price", "wrong_type", "This value should be of type numeric."
            ),
        ),
        ({"ordered_at": "2026-11-14T17:22:31+00:00"}, DATE_PROBLEM),
        ({"ordered_at": "2026-11-14 8:22:31"}, DATE_PROBLEM),
        ({"ordered_at": "2026-02-30 08:22:31"}, DATE_PROBLEM),
        (
            {"contact_id": 48213},
            problem("contact_id", "wrong_type", "This value should be of type string."),
        ),
    ],
)
async def test_refused_order_leaves_nothing(
    client: Client, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    reply = await client.call("POST", "/data/v1/orders", order(**changes))
    assert (reply.status, reply.json) == (400, expected)
    missing = await client.call("GET", "/data/v2/orders/2345234")
    text = "Order not found for given identifier."
    assert (missing.status, missing.json) == (404, problem("ext_id", "wrong_value", text, 404))
    assert (await client.sandbox.statement())["orders"] == 0


async def test_second_order_of_the_same_id_is_refused_and_counted(client: Client) -> None:
    await client.call("POST", "/data/v1/orders", order())
    again = await client.call("POST", "/data/v1/orders", order(total_price=1))
    text = "Order with external_id 2345234 already exists."
    assert (again.status, again.json) == (400, problem("external_id", "wrong_value", text))
    statement = await client.sandbox.statement()
    assert (statement["orders"], statement["orders_posted_twice"]) == (1, 1)
    assert (await client.sandbox.orders())[0]["total_price"] == 64.85


async def test_errors_of_an_order_come_in_a_fixed_order(client: Client) -> None:
    """Types, date, duplicate, store, contact, products, custom fields."""
    await client.call("POST", "/data/v1/orders", order())
    wrong: dict[str, Any] = {
        "total_price": "1",
        "ordered_at": "yesterday",
        "store_external_id": "attic",
        "contact_id": "nobody",
        "products": [{"product_id": "SHOE"}],
        "custom_fields": [{"id": 99, "value": "x"}],
    }
    seen: list[str] = []
    for cured in ("total_price", "ordered_at", None, *list(wrong)[2:]):
        external_id = "2345234" if len(seen) < 3 else "2345235"
        reply = await client.call("POST", "/data/v1/orders", order(external_id, **wrong))
        seen.append(reply.json["errors"][0]["error_key"])
        wrong.pop(cured or "", None)
    assert seen == [
        "total_price",
        "ordered_at",
        "external_id",
        "store_external_id",
        "individual_id",
        "product_id",
        "custom_fields",
    ]
    assert (await client.call("POST", "/data/v1/orders", order("2345235"))).status == 201


async def test_refund_order_has_negative_amounts_and_no_quantity(client: Client) -> None:
    line = {"product_id": "CAP-014-U", "unit_price": -20.0, "quantity": 0}
    refund = order("2345234-R1", total_price=-20.0, products=[line])
    reply = await client.call("POST", "/data/v1/orders", refund)
    assert (reply.status, reply.json["total_price"]) == (201, -20.0)


async def test_cart_becomes_an_order(client: Client) -> None:
    await client.call("POST", "/data/v1/orders", order(completed=False))
    cart = (await client.call("GET", "/data/v2/orders/2345234")).json
    assert (cart["ordered_at"], cart["status"]) == (None, None)
    assert (await client.call("GET", "/data/v1/orders")).json["count_element"] == 0
    assert (await client.call("GET", "/data/v1/orders/abandoned")).json["count_element"] == 1
    changed = await client.call("PATCH", "/data/v3/orders/2345234", {"completed": True})
    assert (changed.status, changed.json["ordered_at"]) == (200, "2026-11-14 08:22:31")
    assert (await client.call("GET", "/data/v2/orders")).json["elements"][0]["status"] == "paid"


async def test_change_of_an_order(client: Client) -> None:
    await client.call("POST", "/data/v1/orders", order(card_code=None))
    path = "/data/v3/orders/2345234"
    kept = await client.call("PATCH", path, {"products": None, "card_code": CARD, "tax_amount": 1})
    assert (kept.json["loyalty"], kept.json["tax_amount"]) == (None, 1)
    assert len(kept.json["products"]) == 2
    emptied = await client.call("PATCH", path, {"products": []})
    assert emptied.json["products"] == []
    assert (await client.call("PATCH", "/data/v3/orders/1", {})).status == 404


async def test_deleted_order_is_gone(client: Client) -> None:
    await client.call("POST", "/data/v1/orders", order())
    assert (await client.call("DELETE", "/data/orders/2345234")).status == 204
    assert (await client.call("DELETE", "/data/orders/2345234")).status == 404


async def test_orders_are_listed_newest_first_in_pages(client: Client) -> None:
    for number in range(3):
        await client.call("POST", "/data/v1/orders", order(str(number)))
    query = {"per_page": "2", "page_number": "2"}
    page = (await client.call("GET", "/data/v1/orders", query=query)).json
    assert (page["count_element"], [row["external_id"] for row in page["elements"]]) == (3, ["0"])
    path = f"/data/contacts/{CONTACT.replace('@', '%40')}/orders"
    assert (await client.call("GET", path)).json["count_element"] == 3
    assert (await client.call("GET", "/data/v1/orders", query={"per_page": "0"})).status == 400


@pytest.mark.parametrize("kind", ["product", "store"])
async def test_products_and_stores(client: Client, kind: str) -> None:
    path, document = f"/data/v1/{kind}s", {"external_id": "a/b", "name": "A"}
    created = await client.call("POST", path, document)
    assert created.status == 201
    assert (await client.call("GET", f"{path}/a%2Fb")).json == created.json
    again = await client.call("POST", path, document)
    text = f"{kind.title()} with external_id a/b already exists."
    assert (again.status, again.json) == (400, problem("external_id", "wrong_value", text))
    missing = await client.call("GET", f"{path}/none")
    text = f"{kind.title()} not found for given identifier."
    assert (missing.status, missing.json) == (404, problem("ext_id", "wrong_value", text, 404))
    blank = await client.call("POST", path, {"name": "A"})
    assert blank.json["errors"][0]["error_key"] == "external_id"


async def test_contact_is_created_read_and_changed(client: Client) -> None:
    read = await client.call("GET", "/data/contacts/camille.roux%40example.com")
    assert (read.status, read.json["loyalty"]) == (200, [])
    number = read.json["id"]
    by_id = await client.call("GET", f"/data/contacts/{number}", query={"key": "internal_id"})
    assert by_id.json == read.json
    change = {
        "firstname": "Cam",
        "custom_fields": [{"name": "scayle_customer_id", "value": "48213"}],
    }
    changed = await client.call("PATCH", "/data/contacts/camille.roux%40example.com", change)
    assert (changed.status, changed.json["firstname"]) == (200, "Cam")
    assert changed.json["lastname"] == "Roux"
    assert changed.json["custom_fields"][0]["value"] == "48213"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            {"email": CONTACT},
            problem("id", "wrong_value", f"contact with unique key {CONTACT} already exists"),
        ),
        (
            {"lastname": "Roux"},
            problem(
                "contact_key",
                "wrong_contact_key",
                "Bad key formating against universe key, email is empty",
            ),
        ),
        (
            {"email": "nowhere"},
            problem("email", "wrong_email", "This value is not a valid email address."),
        ),
        (
            {"email": "a@example.com", "custom_fields": [{"id": 5, "value": "not a date"}]},
            problem(
                "custom_fields",
                "wrong_type",
                "Custom field with id 5 and name last_visit must be of type date.",
            ),
        ),
        (
            {"email": "a@example.com", "custom_fields": [{"id": 77, "value": "x"}]},
            problem("custom_fields", "wrong_value", "Custom field not found for id 77."),
        ),
    ],
)
async def test_refused_contact(
    client: Client, document: dict[str, Any], expected: dict[str, Any]
) -> None:
    reply = await client.call("POST", "/data/contacts", document)
    assert (reply.status, reply.json) == (400, expected)
    assert (await client.sandbox.statement())["contacts"] == 1


async def test_refused_change_of_a_contact(client: Client) -> None:
    unknown = await client.call("PATCH", "/data/contacts/48213", {"lastname": "X"})
    text = "Record not found for id 48213."
    assert (unknown.status, unknown.json) == (404, problem("id", "wrong_value", text, 404))
    assert (await client.call("GET", "/data/contacts/48213")).json == unknown.json
    path = "/data/contacts/camille.roux%40example.com"
    moved = await client.call("PATCH", path, {"email": "c.roux@example.com"})
    text = 'unique key "email" can\'t be updated'
    assert (moved.status, moved.json) == (400, problem("unique_key", "wrong_value", text))
    assert (await client.call("PATCH", path, {"email": CONTACT})).status == 200


async def test_custom_field_as_unique_key(tmp_path: Path) -> None:
    async with open_client(tmp_path, unique_key="c0", automatic_subscription=True) as client:
        assert (await client.call("GET", "/universes/unique-key")).json == {"unique_key": "c0"}
        missing = await client.call("POST", "/data/contacts", {"email": CONTACT})
        assert missing.json["errors"][0]["error_description"].endswith("c0 is empty")
        fields = [{"name": "scayle_customer_id", "value": "48213"}]
        document = {"email": CONTACT, "custom_fields": fields}
        assert (await client.call("POST", "/data/contacts", document)).status == 201
        loyalty = (await client.call("GET", "/data/contacts/48213")).json["loyalty"]
        assert [card["id_program"] for card in loyalty] == ["1"]
        assert (await client.credit(loyalty[0]["card_code"])).status == 202


async def test_custom_field_can_be_made(client: Client) -> None:
    field = {"scope": "orders", "name": "channel", "type": "int"}
    made = await client.call("POST", "/data/fields", field)
    assert (made.status, made.json) == (201, {"id": 1, "name": "channel", "data_type": "int"})
    listed = (await client.call("GET", "/data/fields/orders")).json
    assert [row["name"] for row in listed] == ["scayle_public_key", "channel"]
    fields = [{"name": "channel", "value": "7"}]
    assert (await client.call("POST", "/data/v1/orders", order(custom_fields=fields))).status == 201


async def test_programs(client: Client) -> None:
    listed = (await client.call("GET", "/loyalty/programs")).json
    assert [program["id"] for program in listed["elements"]] == [3, 2, 1]
    one = (await client.call("GET", "/loyalty/programs/1")).json
    assert (one["status"], one["start_at"]) == ("running", "2022-01-01 00:00:00")
    assert (await client.call("GET", "/loyalty/programs/9")).status == 404


async def test_member_is_created_with_a_generated_card(client: Client) -> None:
    document = {"program_id": 1, "contact_id": CONTACT, "program_joined_at": "2026-11-14 18:19:58"}
    made = await client.call("POST", "/loyalty/members", document)
    assert made.status == 201
    assert made.json["program_join_at"] == "2026-11-14 18:19:58"
    card = made.json["card_code"]
    member = (await client.call("GET", f"/loyalty/members/{card}")).json
    assert member["individual"]["email"] == CONTACT
    assert member["program_joined_at"] == "2026-11-14 18:19:58"
    contact = (await client.call("GET", "/data/contacts/camille.roux%40example.com")).json
    assert contact["loyalty"] == [{"card_code": card, "id_program": "1"}]


SUBSCRIPTION_PROBLEM = "Subscription request could not be done because of validation error(s)"
NO_CODE = (
    "status must have a card code if the program doesn't have the card code auto generation option"
)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            {"program_id": 1, "contact_id": "48213"},
            problem("individual_id", "wrong_value", "Individual not found for unique key 48213."),
        ),
        (
            {"program_id": "1"},
            problem("program_id", "wrong_type", "This value should be of type int."),
        ),
        (
            {"program_id": 3},
            problem("program_id", "wrong_status", "Program must be in running state."),
        ),
        (
            {"program_id": 2},
            {"statusCode": "Bad Request", "message": SUBSCRIPTION_PROBLEM, "errors": [NO_CODE]},
        ),
    ],
)
async def test_refused_member(
    client: Client, document: dict[str, Any], expected: dict[str, Any]
) -> None:
    reply = await client.call("POST", "/loyalty/members", document)
    assert (reply.status, reply.json) == (400, expected)


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"program_joined_at": "2021-01-01 00:00:00"}, "loyalty program could not be found"),
        ({"card_code": CARD}, f"card code {CARD}"),
        ({"forced_tier_name": "Gold"}, "tier Gold"),
    ],
)
async def test_refused_subscription(client: Client, changes: dict[str, Any], begins: str) -> None:
    await client.credit()
    reply = await client.call("POST", "/loyalty/members", {"program_id": 1, **changes})
    assert (reply.status, reply.json["statusCode"]) == (400, "Bad Request")
    assert reply.json["errors"][0].startswith(begins)


async def test_credit_is_accepted_without_a_body_and_counts(client: Client) -> None:
    reply = await client.credit()
    assert (reply.status, reply.text) == (202, "")
    balance = (await client.call("GET", f"/loyalty/members/{CARD}/balance")).json
    assert balance["remaining"]["nq_points"] == {"next_movement": None, "total": 177}
    assert balance["pending"]["nq_points"]["total"] == 0
    assert (await client.call("GET", f"/loyalty/members/{CARD}")).json["nq_point"] == 177


async def test_credit_with_wrong_types_names_each_field(client: Client) -> None:
    reply = await client.credit(q_points_quantity="0", context=12, is_final="true")
    assert (reply.status, reply.json["status"]) == (400, 400)
    assert [(each["error_key"], each["error_description"]) for each in reply.json["errors"]] == [
        ("context", "This value should be of type string."),
        ("q_points_quantity", "This value should be of type int."),
        ("is_final", "This value should be of type boolean."),
    ]


async def test_refused_credit(client: Client) -> None:
    early = await client.credit(event_date="2001-01-01 00:00:00")
    expected = {"error_key": "", "error": "", "error_description": "program not found"}
    assert (early.status, early.json) == (400, expected)
    unknown = await client.credit("0000000000001")
    text = "Membership not found for given identifier."
    assert (unknown.status, unknown.json) == (404, problem("card_code", "wrong_value", text, 404))
    read = await client.call("GET", "/loyalty/members/0000000000001")
    assert read.json == problem("id", "wrong_value", text, 404)
    huge = await client.credit(nq_points_quantity=2**63)
    assert huge.json["errors"][0]["error_key"] == "nq_points_quantity"
    assert (await client.sandbox.statement())["credits"]["count"] == 0


async def test_registered_members_only(tmp_path: Path) -> None:
    async with open_client(tmp_path, members="registered") as client:
        assert (await client.credit()).status == 404
        made = await client.call("POST", "/_sandbox/members", {"card_code": CARD}, token="")
        assert made.status == 201
        assert (await client.credit()).status == 202


async def test_repeated_idempotency_key_is_suppressed(client: Client) -> None:
    assert [(await client.credit()).status for _ in range(3)] == [202, 202, 202]
    statement = await client.sandbox.statement()
    assert statement["credits"]["count"] == 1
    assert (statement["credits_suppressed"], statement["doubles"]) == (2, [])


async def test_repeated_idempotency_key_is_booked_when_told(tmp_path: Path) -> None:
    async with open_client(tmp_path, repeated_key="book") as client:
        await client.credit()
        await client.credit()
        statement = await client.sandbox.statement()
    assert statement["credits"] == {
        "count": 2,
        "nq_points": 354,
        "q_points": 0,
        "distinct_contexts": 1,
    }
    double = {"context": "main:earn:2345234", "times": 2, "nq_points": 354}
    assert (statement["doubles"], statement["credits_suppressed"]) == ([double], 0)


async def test_credit_shows_in_the_ledger_after_a_delay(tmp_path: Path) -> None:
    async with open_client(tmp_path, points_visible_after_s=3600.0) as client:
        await client.credit()
        hidden = await client.call("GET", "/loyalty/points", query=points_query())
        assert hidden.json["elements"] == []
        client.sandbox.change_settings(points_visible_after_s=0)
        shown = (await client.call("GET", "/loyalty/points", query=points_query())).json
    assert shown["count_element"] == 1
    element = shown["elements"][0]
    assert element["reason"]["message"] == "main:earn:2345234"
    assert (
        element.items()
        >= {
            "card_code": CARD,
            "event_type": "credit_points",
            "points_type": "non-qualifying",
            "points_credited": 177,
            "event_date": "2026-11-14 08:22:31",
            "program_name": "Club",
        }.items()
    )


async def test_ledger_filters(client: Client) -> None:
    for day, context in (("14", "a"), ("15", "b")):
        await client.credit(
            event_date=f"2026-11-{day} 08:00:00", context=context, idempotency_key=context
        )
    await client.credit(
        OTHER_CARD, context="c", idempotency_key="c", nq_points_quantity=0, q_points_quantity=5
    )

    async def found(**changes: str) -> list[str]:
        reply = await client.call("GET", "/loyalty/points", query={**points_query(), **changes})
        assert reply.status == 200
        return [element["reason"]["message"] for element in reply.json["elements"]]

    on_date = '{"operator":"on date","value":"2026-11-15"}'
    assert await found() == ["b", "a"]
    assert await found(order="asc") == ["a", "b"]
    assert await found(event_date=on_date) == ["b"]
    assert await found(event_date='{"operator":"lt","value":"2026-11-15"}') == ["a"]
    assert await found(points_credited='{"operator":"gt","value":"177"}') == []
    other = f'{{"operator":"equals","value":"{OTHER_CARD}"}}'
    assert await found(card_code=other) == []
    assert await found(card_code=other, points_type='{"operator":"equals","value":"q"}') == ["c"]
    # Its documented default matches nothing.
    query = {"card_code": points_query()["card_code"]}
    assert (await client.call("GET", "/loyalty/points", query=query)).json["elements"] == []


@pytest.mark.parametrize("sort", ["ID", "EventDate"])
async def test_ledger_pages_forward_and_back(client: Client, sort: str) -> None:
    for number in range(5):
        await client.credit(context=str(number), idempotency_key=str(number))

    async def page(**cursor: str) -> tuple[list[str], dict[str, Any]]:
        query = points_query(limit="2", order="asc", sort=sort, **cursor)
        document = (await client.call("GET", "/loyalty/points", query=query)).json
        contexts = [element["reason"]["message"] for element in document["elements"]]
        return contexts, document["paging"]["cursors"]

    first, cursors = await page()
    assert (first, cursors["before"]) == (["0", "1"], None)
    second, cursors = await page(after=cursors["after"])
    third, last = await page(after=cursors["after"])
    assert (second, third, last["after"]) == (["2", "3"], ["4"], None)
    assert (await page(before=cursors["before"]))[0] == ["0", "1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"card_code": "2171707962088"},
        {"card_code": '{"operator":"like","value":"2"}'},
        {"event_date": '{"operator":"on date","value":"Monday"}'},
        {"limit": "1001"},
        {"sort": "Card"},
        {"after": "!"},
        {"colour": '{"operator":"equals","value":"red"}'},
    ],
)
async def test_ledger_refuses_a_wrong_query(client: Client, changes: dict[str, str]) -> None:
    query = {**points_query(), **changes}
    reply = await client.call("GET", "/loyalty/points", query=query)
    assert (reply.status, reply.json["errors"][0]["error_description"]) == (400, "Wrong payload.")


async def test_plain_hours_as_in_splios_own_file(tmp_path: Path) -> None:
    async with open_client(tmp_path, hours="plain") as client:
        await client.stock()
        assert (await client.call("POST", "/data/v1/orders", order())).status == 400
        plain = order(ordered_at="2026-11-14 8:22:31")
        created = await client.call("POST", "/data/v1/orders", plain)
        assert (created.status, created.json["ordered_at"]) == (201, "2026-11-14 08:22:31")


async def test_control_door_shows_every_row(client: Client) -> None:
    await client.call("POST", "/data/v1/orders", order())
    await client.credit()
    orders = await client.call("GET", "/_sandbox/orders", token="")
    [row] = [json.loads(line) for line in orders.text.splitlines()]
    assert (row["external_id"], row["card_code"], row["total_price"]) == ("2345234", CARD, 64.85)
    assert row["products"][0]["product_id"] == "JKT-001-M"
    credits = await client.call("GET", "/_sandbox/credits", token="")
    [booked] = [json.loads(line) for line in credits.text.splitlines()]
    assert booked.items() >= {"card_code": CARD, "nq_points": 177, "is_final": True}.items()
    books = (await client.call("GET", "/_sandbox/books", token="")).json
    assert books["requests"]["order.create"] == {"201": 1}
    assert books["credits"]["nq_points"] == 177


@pytest.mark.parametrize(
    ("path", "document", "says"),
    [
        ("settings", {"hours": "plain"}, "points_visible_after_s"),
        ("settings", {"repeated_key": "perhaps"}, "suppress, book"),
        ("settings", {"limits": {"mail": 1}}, "unknown category"),
        ("settings", {"grants_visible_after_s": -1}, "grants_visible_after_s"),
        ("settings", {"repeated_grant_key": "perhaps"}, "suppress, refuse, book"),
        ("settings", {"too_few_points": "perhaps"}, "flat, listed, stock, grant"),
        ("settings", {"holding_days": 1.5}, "holding_days"),
        ("faults", {"operation": "tea", "fault": "reset"}, "operation is one of"),
        ("faults", {"operation": "*", "fault": "gremlin"}, "fault is one of"),
        ("faults", {"operation": "*", "fault": "reset", "count": 0}, "count"),
        ("faults", {"operation": "*", "fault": "reset", "colour": 1}, "unknown field"),
        ("members", {"card_code": 1}, "card_code"),
        ("members", {"card_code": "1", "program_id": 8}, "program_id"),
    ],
)
async def test_control_door_says_what_is_wrong(
    client: Client, path: str, document: dict[str, Any], says: str
) -> None:
    reply = await client.call("POST", f"/_sandbox/{path}", document, token="")
    assert reply.status == 400
    assert says in reply.json["error"]


async def test_settings_change_while_it_runs(client: Client) -> None:
    changes = {"repeated_key": "book", "too_few_points": "grant", "limits": {"other": 1}}
    changed = await client.call("POST", "/_sandbox/settings", changes, token="")
    assert changed.json == {
        "points_visible_after_s": 0.0,
        "grants_visible_after_s": 0.0,
        "repeated_key": "book",
        "repeated_grant_key": "suppress",
        "too_few_points": "grant",
        "holding_days": 0,
        "limits": {"other": 1},
    }
    assert (await client.call("GET", "/ping")).status == 200
    assert (await client.call("GET", "/ping")).status == 429
