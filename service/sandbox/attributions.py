"""Attributions: the codes that grants gave out, listed, read and used once."""

from __future__ import annotations

import sqlite3
from typing import Any

import orjson

from service.sandbox.answers import (
    Answer,
    Refused,
    answer_flat_problem,
    answer_json,
    answer_problem,
)
from service.sandbox.checks import days_after, normal_date
from service.sandbox.contacts import resolve_contact
from service.sandbox.listing import Column, Listing, answer_page, read_page
from service.sandbox.loyalty import member_document
from service.sandbox.members import find_member, is_member_at
from service.sandbox.programs import PROGRAMS
from service.sandbox.rewards import definition, find_reward, shown_fields
from service.sandbox.universe import Call
from service.sandbox.uses import refuse_bad_use, refuse_unknown_store, refuse_wrong_fields

BURN_TYPES = {
    "card_code": "string",
    "contact_id": "string",
    "reason_msg": "string",
    "burned_date": "string",
    "store_id": "string",
}
_COLUMNS = (
    "a.id, a.external_id, a.expires_at, a.burned_at, a.store_id, g.card_code, g.reason,"
    " g.grant_date, r.id AS reward_id, r.body AS reward, m.id AS member, m.contact, m.program_id"
)
_SOURCE = (
    "attributions a JOIN grants g ON g.id = a.grant_id JOIN rewards r ON r.id = g.reward"
    " LEFT JOIN members m ON m.card_code = g.card_code"
)
_PROGRAM_NAME = "CASE m.program_id {} END".format(
    " ".join(f"WHEN {number} THEN '{program.name}'" for number, program in PROGRAMS.items())
)
_OF_CONTACT = Listing(
    columns=_COLUMNS,
    source=_SOURCE,
    number="a.id",
    sorts={"": "a.id"},
    filters={"card_code": Column("g.card_code"), "program_name": Column(_PROGRAM_NAME)},
    others=frozenset({"with_custom_fields"}),
    ordered=False,
)
_OF_REWARD = Listing(
    columns=_COLUMNS, source=_SOURCE, number="a.id", sorts={"": "a.id"}, ordered=False
)


def list_contact_attributions(call: Call) -> Answer:
    """GET /loyalty/v2/contacts/{id}/rewards: of the cards that are the contact's now"""
    contact = resolve_contact(call)
    with_fields = call.query.get("with_custom_fields") in ("true", "1")
    page = read_page(
        call,
        _OF_CONTACT,
        "m.contact = ? AND g.granted_at <= ?",
        (contact["id"], _visible_until(call)),
    )
    return answer_page(page, [_of_contact(call, row, with_fields) for row, _ in page.rows])


def list_reward_attributions(call: Call) -> Answer:
    """GET /loyalty/v1/rewards/{id}/attributions: without the cards"""
    reward = find_reward(call.db, call.parts[0])
    if reward is None:
        text = "Reward not found for given identifier."
        raise Refused(answer_problem(404, "reward_id", "wrong_value", text))
    page = read_page(
        call,
        _OF_REWARD,
        "g.reward = ? AND g.granted_at <= ?",
        (reward["id"], _visible_until(call)),
    )
    return answer_page(page, [_of_reward(call, row) for row, _ in page.rows])


def read_attribution(call: Call) -> Answer:
    """GET /loyalty/reward-attributions/{id}: other names than in the lists"""
    row = _find(call.db, call.parts[0])
    if row is None:
        text = "Reward attribution not found for given identifier."
        raise Refused(answer_problem(404, "ext_id", "wrong_value", text))
    status = _status(call, row)
    return answer_json(
        200,
        {
            "id": row["id"],
            "external_id": row["external_id"],
            "earn_date": row["grant_date"],
            "claim_date": row["burned_at"],
            "expiration_date": row["expires_at"],
            "status": "available" if status == "valid" else status,
            "reward": _reward(row),
            "contact_status": _holder(call, row["card_code"]),
            "coupon": None,
            "event": None,
            "store": row["store_id"],
        },
    )


def burn_attribution(call: Call) -> Answer:
    """
    POST /loyalty/v1/reward-attributions/{id}/burn

    A card is compared when it is sent; Splio marks nothing as required. `contact_id`, of the
    couponing option, is not looked at. The answer shows the `reason_msg` of this call, the
    lists go on showing the grant's.
    """
    body = call.body
    refuse_wrong_fields(call, BURN_TYPES)
    row = _find(call.db, call.parts[0])
    if row is None:
        text = f"no reward attribution {call.parts[0]} found"
        return answer_flat_problem(404, "external_id", "external_id_not_found", text)
    refuse_unknown_store(call, body.get("store_id"))
    code = row["external_id"]
    if row["burned_at"] is not None:
        text = f"reward attribution {code} already burned at {row['burned_at']}"
        return answer_flat_problem(400, "external_id", "external_id_already_burned", text)
    burned = normal_date(body["burned_date"]) if body.get("burned_date") else call.date
    _refuse_card(call, row, burned)
    refuse_bad_use(burned, earned=row["grant_date"], expires=row["expires_at"])
    call.db.execute(
        "UPDATE attributions SET burned_at = ?, store_id = ?, burn_reason = ? WHERE id = ?",
        (burned, body.get("store_id") or None, body.get("reason_msg"), row["id"]),
    )
    used = _find(call.db, code)
    if used is None:
        raise RuntimeError("an attribution went away within its transaction")
    reason = body.get("reason_msg") or used["reason"]
    shown = _of_card(call, used) | {"reason_msg": reason, "store_id": used["store_id"]}
    return answer_json(200, shown)


def _refuse_card(call: Call, row: sqlite3.Row, burned: str) -> None:
    card_code = call.body.get("card_code")
    if not card_code:
        return
    member = find_member(call, card_code)
    if member is None or not is_member_at(member, burned):
        text = f"no membership found for cardcode {card_code} on the {burned}"
        raise Refused(answer_flat_problem(400, "card_code", "card_code_not_found", text))
    if card_code != row["card_code"]:
        text = (
            f"the given cardcode {card_code} does not match the card_code of the given reward"
            f" attribution {row['external_id']}"
        )
        raise Refused(answer_flat_problem(400, "card_code", "inconsistent_card_code", text))


def _find(db: sqlite3.Connection, code: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(
        f"SELECT {_COLUMNS} FROM {_SOURCE} WHERE a.external_id = ?", (code,)
    ).fetchone()
    return row


def _visible_until(call: Call) -> float:
    return call.now - call.universe.grants_visible_after_s


def _status(call: Call, row: sqlite3.Row) -> str:
    if row["burned_at"] is not None:
        return "burned"
    if row["expires_at"] is not None and row["expires_at"] < call.date:
        return "expired"
    holding_days = orjson.loads(row["reward"])["holding_days"]
    held = holding_days and days_after(row["grant_date"], holding_days) > call.date
    return "pending" if held else "valid"


def _of_card(call: Call, row: sqlite3.Row) -> dict[str, Any]:
    program = PROGRAMS.get(row["program_id"])
    return {
        "external_id": row["external_id"],
        "card_code": row["card_code"],
        "program_name": "" if program is None else program.name,
        "earned_date": row["grant_date"],
        "status": _status(call, row),
        "burned_date": row["burned_at"],
        "expiration_date": row["expires_at"],
        "interaction_details": "Attribution of the reward",
        "interaction_type": "reward_attribution",
        "reason_msg": row["reason"],
        "reward_definition": definition(orjson.loads(row["reward"])),
    }


def _of_contact(call: Call, row: sqlite3.Row, with_fields: bool) -> dict[str, Any]:
    element = _of_card(call, row) | {
        "loyalty_status_id": row["member"],
        "individual_id": row["contact"],
        "reason_rule_id": "",
    }
    if with_fields:
        element["custom_fields"] = shown_fields(orjson.loads(row["reward"]))
    return element


def _of_reward(call: Call, row: sqlite3.Row) -> dict[str, Any]:
    shown = _of_card(call, row)
    kept = ("external_id", "earned_date", "status", "burned_date", "expiration_date")
    return {
        **{name: shown[name] for name in kept},
        "loyalty_status_id": row["member"],
        "store_id": row["store_id"],
        "reward_definition": shown["reward_definition"],
    }


def _reward(row: sqlite3.Row) -> dict[str, Any]:
    reward = orjson.loads(row["reward"])
    names = (
        "external_id name nqp_value description holding_days validity_interval_type"
        " validity_interval_count max_attribution_count forced_validity forced_validity_start"
        " forced_validity_end monetary_type monetary_value"
    )
    return {
        "id": row["reward_id"],
        **{name: reward[name] for name in names.split()},
        "type": "",
        "price": 0,
        "coupons_category": "",
        "picture_path": reward["image_url"],
        "program": None,
        "custom_fields": shown_fields(reward),
    }


def _holder(call: Call, card_code: str) -> dict[str, Any] | None:
    member = find_member(call, card_code)
    if member is None:
        return None
    document = member_document(call, member) | {"individual": None, "program": None, "tier": []}
    document.pop("fields")
    return document
