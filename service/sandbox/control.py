"""
The control door, under `/_sandbox/` on the same port: books, faults, members, settings.

It takes no authentication and answers callers on loopback only.

| call | does |
| --- | --- |
| `GET books` | the statement of account |
| `GET orders`, `GET credits`, `GET attributions` | every row, as NDJSON |
| `GET accounts` | every card with the points it earned, spent and holds, as NDJSON |
| `GET faults` | the kinds, operations and rules in force |
| `POST faults` | a rule into force; answers its `id` |
| `DELETE faults`, `DELETE faults/{id}` | all rules, or one, out of force |
| `POST members` | `{"card_code", "contact_id"?, "program_id"?}`: a card becomes known |
| `GET settings`, `POST settings` | `points_visible_after_s`, `grants_visible_after_s`, \
`repeated_key`, `repeated_grant_key`, `too_few_points`, `holding_days`, `limits` |
"""

from __future__ import annotations

import sqlite3
from typing import Any

import orjson

from service.sandbox.answers import JSON, Answer, Refused, answer_json
from service.sandbox.checks import is_integer, is_text
from service.sandbox.faults import KINDS, BadRuleError, parse_rule
from service.sandbox.programs import PROGRAMS
from service.sandbox.routes import OPERATIONS
from service.sandbox.state import BadSettingError, State, register_member
from service.sandbox.statements import (
    all_accounts,
    all_attributions,
    all_credits,
    all_orders,
    rows_of,
    statement,
)

PREFIX = "_sandbox"
NDJSON = "application/x-ndjson"
_ROWS = {
    "orders": all_orders,
    "credits": all_credits,
    "attributions": all_attributions,
    "accounts": all_accounts,
}
_MEMBER_FIELDS = {"card_code", "contact_id", "program_id"}


async def answer_control(
    state: State, method: str, segments: tuple[str, ...], body: bytes
) -> Answer:
    """
    The answer of the control door.

    Args:
        segments: of the path, after the prefix.
    """
    try:
        document = orjson.loads(body) if method == "POST" else None
    except orjson.JSONDecodeError:
        return _wrong("the body is not JSON")
    match method, *segments:
        case "GET", "books":
            return answer_json(200, await statement(state))
        case "GET", name if name in _ROWS:
            return Answer(200, await rows_of(state, _ROWS[name]), NDJSON)
        case _, "faults", *rest:
            return _faults(state, method, rest, document)
        case "POST", "members":
            return await _members(state, document)
        case "GET", "settings":
            return answer_json(200, state.settings())
        case "POST", "settings":
            try:
                state.change_settings(document)
            except BadSettingError as error:
                return _wrong(str(error))
            return answer_json(200, state.settings())
    return _wrong("there is no such call", status=404)


def _faults(state: State, method: str, rest: list[str], document: Any) -> Answer:
    match method, *rest:
        case ("GET",):
            return answer_json(
                200,
                {"kinds": KINDS, "operations": OPERATIONS, "rules": state.faults.described()},
            )
        case ("POST",):
            try:
                return answer_json(201, {"id": state.faults.add(parse_rule(document))})
            except BadRuleError as error:
                return _wrong(str(error))
        case ("DELETE",):
            state.faults.clear()
            return Answer(204)
        case "DELETE", number if number.isdecimal() and state.faults.remove(int(number)):
            return Answer(204)
    return _wrong("there is no such rule", status=404)


async def _members(state: State, document: Any) -> Answer:
    if not isinstance(document, dict) or not document.keys() <= _MEMBER_FIELDS:
        return _wrong(f"a member is an object with some of: {', '.join(sorted(_MEMBER_FIELDS))}")
    card_code, contact_id = document.get("card_code"), document.get("contact_id")
    program_id = document.get("program_id", 1)
    if not is_text(card_code) or not card_code:
        return _wrong("card_code is a text")
    if contact_id is not None and not is_text(contact_id):
        return _wrong("contact_id is a text: the unique key of a contact")
    if not is_integer(program_id) or program_id not in PROGRAMS:
        return _wrong(f"program_id is one of: {', '.join(map(str, PROGRAMS))}")

    def register(db: sqlite3.Connection) -> Answer:
        try:
            member = register_member(
                state, db, card_code=card_code, contact_id=contact_id, program_id=program_id
            )
        except Refused as refused:
            return refused.answer
        return answer_json(201, member)

    return await state.books.run(register)


def _wrong(text: str, *, status: int = 400) -> Answer:
    return Answer(status, orjson.dumps({"error": text}), JSON)
