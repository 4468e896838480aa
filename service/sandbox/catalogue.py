"""Products, stores and custom fields: what must exist before an order can name it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from service.sandbox.answers import Answer, Problem, Refused, answer_json, answer_problem
from service.sandbox.checks import (
    blank_problems,
    is_date,
    is_integer,
    is_text,
    refuse_problems,
    type_problems,
)
from service.sandbox.universe import Call, Universe

PRODUCT_TYPES = {
    "external_id": "string",
    "name": "string",
    "description": "string",
    "brand": "string",
    "sku": "string",
    "category": "string",
    "img_url": "string",
    "price": "numeric",
    "custom_fields": "array",
}
STORE_TYPES = {
    "external_id": "string",
    "name": "string",
    "online": "boolean",
    "store_type": "string",
    "manager": "string",
    "custom_fields": "array",
}
_FIELD_TYPES = ("date", "text", "int", "double")
_SCOPES = ("contacts", "stores", "products", "order_products", "orders", "rewards", "loyalty")
# The lists of custom fields use other words than the scopes.
_LISTS = {"order-lines": "order_products", "members": "loyalty"}
_ABSENT: dict[str, Any] = {"string": "", "numeric": 0, "boolean": False, "array": []}

SEED_FIELDS = (
    ("contacts", 0, "scayle_customer_id", "text"),
    ("contacts", 5, "last_visit", "date"),
    ("orders", 0, "scayle_public_key", "text"),
)


def seed_fields(db: sqlite3.Connection, universe: Universe) -> None:
    """The custom fields that every sandbox universe has, the unique key's among them."""
    rows = list(SEED_FIELDS)
    if universe.unique_field is not None:
        rows.append(("contacts", universe.unique_field, "unique_key", "text"))
    db.executemany("INSERT OR IGNORE INTO custom_fields VALUES (?, ?, ?, ?)", rows)


def create_product(call: Call) -> Answer:
    """POST /data/v1/products"""
    return _create(call, "products", "Product", PRODUCT_TYPES, ("external_id",))


def create_store(call: Call) -> Answer:
    """POST /data/v1/stores"""
    return _create(call, "stores", "Store", STORE_TYPES, ("external_id", "name"))


def read_product(call: Call) -> Answer:
    """GET /data/v1/products/{id}"""
    return _read(call, "products", "Product")


def read_store(call: Call) -> Answer:
    """GET /data/v1/stores/{id}"""
    return _read(call, "stores", "Store")


def create_field(call: Call) -> Answer:
    """POST /data/fields"""
    refuse_problems(
        type_problems(call.body, {"scope": "string", "name": "string", "type": "string"})
        or blank_problems(call.body, ("scope", "name", "type"))
    )
    scope, name, kind = call.body["scope"], call.body["name"], call.body["type"]
    if scope not in _SCOPES or kind not in _FIELD_TYPES:
        wrong = "type" if scope in _SCOPES else "scope"
        raise Refused(answer_problem(400, wrong, "wrong_value", "wrong_value"))
    if _field(call.db, scope, {"name": name}) is not None:
        text = f"Custom field {name} already exists."
        raise Refused(answer_problem(400, "name", "wrong_value", text))
    row = call.db.execute(
        "INSERT INTO custom_fields SELECT ?, coalesce(max(id), -1) + 1, ?, ?"
        " FROM custom_fields WHERE scope = ? RETURNING id",
        (scope, name, kind, scope),
    ).fetchone()
    return answer_json(201, {"id": row["id"], "name": name, "data_type": kind})


def list_fields(call: Call) -> Answer:
    """GET /data/fields/{contacts, orders, order-lines, ...}"""
    scope = _LISTS.get(call.parts[0], call.parts[0])
    rows = call.db.execute(
        "SELECT id, name, type AS data_type FROM custom_fields WHERE scope = ? ORDER BY id",
        (scope,),
    )
    return answer_json(200, [dict(row) for row in rows])


def stored(db: sqlite3.Connection, table: str, external_id: str) -> dict[str, Any] | None:
    """A product or store as it was created, or None."""
    row = db.execute(f"SELECT body FROM {table} WHERE external_id = ?", (external_id,)).fetchone()
    return None if row is None else orjson.loads(row["body"])


def custom_fields(
    db: sqlite3.Connection, scope: str, values: Iterable[Any] | None
) -> list[dict[str, Any]]:
    """
    The custom field values of a request with id, name, value and type, by id.

    Raises: Refused for an unknown field or a value that is not of the field's type.
    """
    found: dict[int, dict[str, Any]] = {}
    for value in values or ():
        if not isinstance(value, dict):
            text = "This value should be of type object."
            raise Refused(answer_problem(400, "custom_fields", "wrong_type", text))
        row = _field(db, scope, value)
        if row is None:
            known_by = f"id {value['id']}" if "id" in value else f"name {value.get('name')}"
            text = f"Custom field not found for {known_by}."
            raise Refused(answer_problem(400, "custom_fields", "wrong_value", text))
        content = value.get("value")
        if not _fits(content, row["type"]):
            text = (
                f"Custom field with id {row['id']} and name {row['name']}"
                f" must be of type {row['type']}."
            )
            raise Refused(answer_problem(400, "custom_fields", "wrong_type", text))
        found[row["id"]] = {
            "id": row["id"],
            "name": row["name"],
            "value": content,
            "data_type": row["type"],
        }
    return [found[number] for number in sorted(found)]


def _create(
    call: Call, table: str, noun: str, types: Mapping[str, str], required: tuple[str, ...]
) -> Answer:
    problems: list[Problem] = type_problems(call.body, types)
    refuse_problems(problems or blank_problems(call.body, required))
    external_id = call.body["external_id"]
    if stored(call.db, table, external_id) is not None:
        text = f"{noun} with external_id {external_id} already exists."
        raise Refused(answer_problem(400, "external_id", "wrong_value", text))
    document: dict[str, Any] = {}
    for name, kind in types.items():
        value = call.body.get(name)
        document[name] = _ABSENT[kind] if value is None else value
    document["custom_fields"] = custom_fields(call.db, table, document["custom_fields"])
    document |= {"created_at": call.date, "updated_at": call.date}
    call.db.execute(
        f"INSERT INTO {table} VALUES (?, ?)", (external_id, orjson.dumps(document).decode())
    )
    return answer_json(201, document)


def _read(call: Call, table: str, noun: str) -> Answer:
    document = stored(call.db, table, call.parts[0])
    if document is None:
        text = f"{noun} not found for given identifier."
        return answer_problem(404, "ext_id", "wrong_value", text)
    return answer_json(200, document)


def _field(db: sqlite3.Connection, scope: str, value: Mapping[str, Any]) -> sqlite3.Row | None:
    column = "id" if value.get("id") is not None else "name"
    wanted = value.get(column)
    if not (is_text(wanted) or (is_integer(wanted) and 0 <= wanted < 2**31)):
        return None
    row: sqlite3.Row | None = db.execute(
        f"SELECT id, name, type FROM custom_fields WHERE scope = ? AND {column} = ?",
        (scope, wanted),
    ).fetchone()
    return row


def _fits(value: Any, kind: str) -> bool:
    if value is None or value == "":
        return True
    if kind == "text":
        return is_text(value)
    if kind == "date":
        return is_text(value) and (is_date(value, "padded") or is_date(value, "plain"))
    try:
        float(value) if kind == "double" else int(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
