"""Orders: created once per external id, read, changed, deleted, listed."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import orjson

from service.sandbox.answers import Answer, Problem, Refused, answer_json, answer_problem
from service.sandbox.books import count_up
from service.sandbox.catalogue import custom_fields, stored
from service.sandbox.checks import (
    blank_problems,
    normal_date,
    refuse_bad_date,
    refuse_problems,
    type_problems,
)
from service.sandbox.contacts import find_contact, resolve_contact
from service.sandbox.universe import Call

TYPES = {
    "external_id": "string",
    "contact_id": "string",
    "card_code": "string",
    "store_external_id": "string",
    "ordered_at": "string",
    "discount_amount": "numeric",
    "shipping_amount": "numeric",
    "total_price": "numeric",
    "tax_amount": "numeric",
    "completed": "boolean",
    "sales_person": "string",
    "currency": "string",
    "products": "array",
    "custom_fields": "array",
}
LINE_TYPES = {
    "product_id": "string",
    "unit_price": "numeric",
    "quantity": "int",
    "discount_amount": "numeric",
    "tax_amount": "numeric",
    "total_line_amount": "numeric",
    "currency": "string",
    "custom_fields": "array",
}
_REQUIRED = ("external_id", "store_external_id", "contact_id")
_AMOUNTS = ("shipping_amount", "discount_amount", "total_price", "tax_amount")
_LINE_AMOUNTS = ("unit_price", "quantity", "discount_amount", "tax_amount")
_COLUMNS = "id, external_id, contact, completed, created_at, updated_at, body"
_LARGEST_PAGE = 1000


def create_order(call: Call) -> Answer:
    """
    POST /data/v1/orders

    Checks, in this order: types, required fields, date, external id, store, contact,
    products, custom fields. Nothing is stored when one fails.
    """
    body = call.body
    _check_types(body, required=_REQUIRED)
    refuse_bad_date(body, "ordered_at", call.universe.hours)
    external_id = body["external_id"]
    if _find(call.db, external_id) is not None:
        count_up(call.db, "orders_posted_twice")
        text = f"Order with external_id {external_id} already exists."
        return answer_problem(400, "external_id", "wrong_value", text)
    _refuse_unknown_store(call, body["store_external_id"])
    contact = _existing_contact(call, body["contact_id"])
    lines = _lines(call, body.get("products"))
    order = {name: body.get(name) or 0 for name in _AMOUNTS}
    order |= {
        "card_code": body.get("card_code"),
        "store_external_id": body["store_external_id"],
        "ordered_at": normal_date(body["ordered_at"]) if body.get("ordered_at") else call.date,
        "sales_person": body.get("sales_person") or "",
        "currency": body.get("currency") or "",
        "products": lines,
        "custom_fields": custom_fields(call.db, "orders", body.get("custom_fields")),
    }
    completed = body.get("completed") is not False
    row = call.db.execute(
        "INSERT INTO orders (external_id, contact, completed, created_at, updated_at, body)"
        f" VALUES (?, ?, ?, ?, ?, ?) RETURNING {_COLUMNS}",
        (external_id, contact, completed, call.date, call.date, orjson.dumps(order).decode()),
    ).fetchone()
    return answer_json(201, _shown(call, row))


def read_order_v1(call: Call) -> Answer:
    """GET /data/v1/orders/{id}"""
    return answer_json(200, _shown(call, _known(call)))


def read_order_v2(call: Call) -> Answer:
    """GET /data/v2/orders/{id}: with the status fields"""
    return answer_json(200, _shown(call, _known(call), with_status=True))


def update_order(call: Call) -> Answer:
    """PATCH /data/v3/orders/{id}: no card here; an empty `products` deletes the lines"""
    row = _known(call)
    body = call.body
    _check_types(body)
    refuse_bad_date(body, "ordered_at", call.universe.hours)
    order = orjson.loads(row["body"])
    if body.get("store_external_id") is not None:
        _refuse_unknown_store(call, body["store_external_id"])
    contact = row["contact"]
    if body.get("contact_id") is not None:
        contact = _existing_contact(call, body["contact_id"])
    if body.get("products") is not None:
        order["products"] = _lines(call, body["products"])
    fields = custom_fields(call.db, "orders", body.get("custom_fields"))
    merged = {value["id"]: value for value in [*order["custom_fields"], *fields]}
    order["custom_fields"] = [merged[number] for number in sorted(merged)]
    for name in (*_AMOUNTS, "sales_person", "currency", "store_external_id"):
        if body.get(name) is not None:
            order[name] = body[name]
    if body.get("ordered_at") is not None:
        order["ordered_at"] = normal_date(body["ordered_at"])
    completed = row["completed"] if body.get("completed") is None else body["completed"]
    changed = call.db.execute(
        "UPDATE orders SET contact = ?, completed = ?, updated_at = ?, body = ? WHERE id = ?"
        f" RETURNING {_COLUMNS}",
        (contact, completed, call.date, orjson.dumps(order).decode(), row["id"]),
    ).fetchone()
    return answer_json(200, _shown(call, changed))


def delete_order(call: Call) -> Answer:
    """DELETE /data/orders/{id}"""
    call.db.execute("DELETE FROM orders WHERE id = ?", (_known(call)["id"],))
    return Answer(204)


def list_orders_v1(call: Call) -> Answer:
    """GET /data/v1/orders"""
    return _list(call, "completed")


def list_orders_v2(call: Call) -> Answer:
    """GET /data/v2/orders: with the status fields"""
    return _list(call, "completed", with_status=True)


def list_abandoned(call: Call) -> Answer:
    """GET /data/v1/orders/abandoned: the carts"""
    return _list(call, "NOT completed")


def list_contact_orders(call: Call) -> Answer:
    """GET /data/contacts/{id}/orders"""
    return _list(call, "completed AND contact = ?", resolve_contact(call)["id"])


def list_contact_abandoned(call: Call) -> Answer:
    """GET /data/contacts/{id}/orders/abandoned"""
    return _list(call, "NOT completed AND contact = ?", resolve_contact(call)["id"])


def _check_types(body: Mapping[str, Any], *, required: tuple[str, ...] = ()) -> None:
    problems: list[Problem] = type_problems(body, TYPES)
    lines = body.get("products")
    for place, line in enumerate(lines if isinstance(lines, list) else ()):
        name = f"products[{place}]"
        if isinstance(line, dict):
            problems += type_problems(line, LINE_TYPES, prefix=f"{name}.")
        else:
            problems.append(Problem(name, "wrong_type", "This value should be of type object."))
    refuse_problems(problems or blank_problems(body, required))


def _refuse_unknown_store(call: Call, external_id: str) -> None:
    if stored(call.db, "stores", external_id) is None:
        text = f"Store not found for external id {external_id}"
        raise Refused(answer_problem(400, "store_external_id", "wrong_value", text))


def _existing_contact(call: Call, key: str) -> int:
    row = find_contact(call.db, key)
    if row is None:
        text = f"Individual not found for identifier {{{key}}}"
        raise Refused(answer_problem(400, "individual_id", "wrong_value", text))
    number: int = row["id"]
    return number


def _lines(call: Call, lines: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    kept = []
    for line in lines or ():
        product = line.get("product_id") or ""
        if stored(call.db, "products", product) is None:
            text = f"Product not found for external id {product}"
            raise Refused(answer_problem(400, "product_id", "wrong_value", text))
        custom_fields(call.db, "order_products", line.get("custom_fields"))
        entry = {name: line.get(name) or 0 for name in _LINE_AMOUNTS}
        entry["total_line_amount"] = line.get("total_line_amount") or 0
        kept.append({"product_id": product, **entry, "currency": line.get("currency") or ""})
    return kept


def _find(db: sqlite3.Connection, external_id: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(
        f"SELECT {_COLUMNS} FROM orders WHERE external_id = ?", (external_id,)
    ).fetchone()
    return row


def _known(call: Call) -> sqlite3.Row:
    row = _find(call.db, call.parts[0])
    if row is None:
        text = "Order not found for given identifier."
        raise Refused(answer_problem(404, "ext_id", "wrong_value", text))
    return row


def _shown(call: Call, row: sqlite3.Row, *, with_status: bool = False) -> dict[str, Any]:
    order = orjson.loads(row["body"])
    store = stored(call.db, "stores", order["store_external_id"]) or {}
    contact = _contact(call.db, row["contact"])
    shown = {
        "external_id": row["external_id"],
        "contact_id": contact["contact_id"],
        "contact": {
            "lastname": contact["name"],
            "firstname": contact["firstname"],
            "id": contact["id"],
            "contact_id": contact["contact_id"],
        },
        **_dates(row, order),
        **{name: order[name] for name in (*_AMOUNTS, "sales_person", "currency")},
        "products": [
            _line(call.db, line, status=_status(row) if with_status else None)
            for line in order["products"]
        ],
        "loyalty": _loyalty(call.db, order["card_code"]),
        "store": {
            name: store.get(name)
            for name in ("external_id", "name", "online", "store_type", "manager")
        },
        "custom_fields": _shown_fields(order),
    }
    if with_status:
        shown |= {"status": _status(row), "status_lastupdate": row["updated_at"]}
    return shown


def _dates(row: sqlite3.Row, order: Mapping[str, Any]) -> dict[str, Any]:
    # Splio's samples show carts without `ordered_at`.
    ordered_at = order["ordered_at"] if row["completed"] else None
    return {"created_at": row["created_at"], "ordered_at": ordered_at}


def _status(row: sqlite3.Row) -> str | None:
    return "paid" if row["completed"] else None


def _line(db: sqlite3.Connection, line: Mapping[str, Any], *, status: str | None) -> dict[str, Any]:
    product = stored(db, "products", line["product_id"]) or {}
    shown = {
        "external_id": line["product_id"],
        **{name: product.get(name, "") for name in ("name", "description", "brand")},
        **{name: line[name] for name in (*_LINE_AMOUNTS, "currency")},
    }
    if status is not None:
        shown["status"] = status
    shown["total_line_amount"] = line["total_line_amount"]
    return shown


def _loyalty(db: sqlite3.Connection, card_code: str | None) -> dict[str, Any] | None:
    if card_code is None:
        return None
    row = db.execute("SELECT program_id FROM members WHERE card_code = ?", (card_code,)).fetchone()
    return {"card_code": card_code, "id_program": 1 if row is None else row["program_id"]}


def _contact(db: sqlite3.Connection, number: int) -> dict[str, Any]:
    row = db.execute("SELECT contact_key, body FROM contacts WHERE id = ?", (number,)).fetchone()
    body = orjson.loads(row["body"])
    return {
        "id": number,
        "contact_id": row["contact_key"],
        "name": body["lastname"],
        "firstname": body["firstname"],
    }


def _shown_fields(order: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {name: value[name] for name in ("id", "name", "value")} for value in order["custom_fields"]
    ]


def _list(call: Call, condition: str, *values: Any, with_status: bool = False) -> Answer:
    if "fields" in call.query:
        text = "The filter fields is not offered here: its encoding is not documented."
        raise Refused(answer_problem(400, "fields", "wrong_value", text))
    per_page = _whole(call.query, "per_page", 50, largest=_LARGEST_PAGE)
    page = _whole(call.query, "page_number", 1, largest=2**31)
    count = call.db.execute(f"SELECT count(*) AS n FROM orders WHERE {condition}", values)
    rows = call.db.execute(
        f"SELECT {_COLUMNS} FROM orders WHERE {condition} ORDER BY id DESC LIMIT ? OFFSET ?",
        (*values, per_page, (page - 1) * per_page),
    )
    return answer_json(
        200,
        {
            "count_element": count.fetchone()["n"],
            "current_page": page,
            "per_page": per_page,
            "sort": {"id": "desc"},
            "elements": [_element(call, row, with_status=with_status) for row in rows.fetchall()],
        },
    )


def _element(call: Call, row: sqlite3.Row, *, with_status: bool) -> dict[str, Any]:
    order = orjson.loads(row["body"])
    store = stored(call.db, "stores", order["store_external_id"]) or {}
    element = {
        "external_id": row["external_id"],
        **_dates(row, order),
        **{name: order[name] for name in (*_AMOUNTS, "currency", "sales_person")},
        "contact": _contact(call.db, row["contact"]),
        "store": {name: store.get(name) for name in ("external_id", "name")},
        "custom_fields": _shown_fields(order),
    }
    if with_status:
        element |= {"status": _status(row), "status_lastupdate": row["updated_at"]}
    return element


def _whole(query: Mapping[str, str], name: str, absent: int, *, largest: int) -> int:
    text = query.get(name)
    if text is None:
        return absent
    if not text.isdecimal() or len(text) > len(str(largest)) or not 1 <= int(text) <= largest:
        raise Refused(answer_problem(400, name, "wrong_value", "wrong_value"))
    return int(text)
