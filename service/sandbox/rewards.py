"""Rewards: what can be granted, at which price in points, in which number and until when."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import orjson

from service.sandbox.answers import (
    Answer,
    Refused,
    answer_flat_problem,
    answer_json,
    answer_problem,
    answer_problems,
)
from service.sandbox.catalogue import custom_fields
from service.sandbox.checks import (
    LARGEST_INTEGER,
    blank_problems,
    days_after,
    is_integer,
    months_after,
    normal_date,
    refuse_bad_date,
    refuse_problems,
    type_problems,
)
from service.sandbox.listing import Column, Listing, answer_page, read_page
from service.sandbox.universe import Call, Universe

REWARD_TYPES = {
    "external_id": "string",
    "name": "string",
    "monetary": "bool",
    "monetary_type": "string",
    "monetary_value": "numeric",
    "nqp_value": "int",
    "description": "string",
    "rich_description": "string",
    "image_url": "string",
    "holding_days": "int",
    "validity_interval_type": "string",
    "validity_interval_count": "int",
    "forced_validity": "bool",
    "forced_validity_start": "string",
    "forced_validity_end": "string",
    "limited": "bool",
    "auto_generated": "bool",
    "custom_fields": "array",
}
_REQUIRED = ("name", "nqp_value", "holding_days")
_CHOICES = {
    "monetary_type": ("percentage", "value"),
    "validity_interval_type": ("days", "weeks", "months", "years"),
}
_ABSENT: dict[str, Any] = {"string": "", "numeric": 0, "int": 0, "bool": False, "array": []}
_DATES = ("forced_validity_start", "forced_validity_end")
_LONGEST_NAME = 128
_DAYS = {"days": 1, "weeks": 7}
_MONTHS = {"months": 1, "years": 12}
_DEFINITION = (
    "name",
    "external_id",
    "monetary",
    "monetary_type",
    "monetary_value",
    "nqp_value",
    "image_url",
)


def _column(name: str, kind: str) -> Column:
    kinds = {"int": "number", "numeric": "number", "bool": "flag"}
    shown: Any = "date" if name in _DATES else kinds.get(kind, "text")
    return Column(f"json_extract(r.body, '$.{name}')", shown)


_REWARDS = Listing(
    columns="r.id, r.external_id, r.body",
    source="rewards r",
    number="r.id",
    sorts={"": "r.id", "nqp_value": "json_extract(r.body, '$.nqp_value')"},
    filters={
        name: _column(name, kind)
        for name, kind in {**REWARD_TYPES, "max_attribution_count": "int"}.items()
        if kind != "array"
    },
)


def seed_rewards(db: sqlite3.Connection, universe: Universe) -> None:
    """The universe's rewards, unless the books hold one of the same id: unlimited, for ever."""
    for external_id, points in universe.rewards.items():
        wanted = {
            "external_id": external_id,
            "name": f"{points} points",
            "nqp_value": points,
            "auto_generated": True,
            "validity_interval_type": "days",
        }
        db.execute(
            "INSERT OR IGNORE INTO rewards (external_id, body) VALUES (?, ?)",
            (external_id, orjson.dumps(_document(wanted, [], 0)).decode()),
        )


def create_reward(call: Call) -> Answer:
    """POST /loyalty/v1/rewards; its `type`, required but nowhere declared, is not asked for"""
    body = call.body
    if not body.get("external_id"):
        raise Refused(answer_flat_problem(400, "ExternalID", "", "ExternalID is missing"))
    refuse_problems(type_problems(body, REWARD_TYPES) or blank_problems(body, _REQUIRED))
    _refuse_bad_values(call)
    count = _count(body.get("max_attribution_count"))
    if find_reward(call.db, body["external_id"]) is not None:
        text = f"Another reward has ext id {body['external_id']}."
        raise Refused(answer_problem(400, "external_id", "wrong_value", text))
    _refuse_wrong_number(body, count)
    if body.get("monetary"):
        refuse_problems(blank_problems(body, ("monetary_type", "monetary_value")))
    document = _document(body, custom_fields(call.db, "rewards", body.get("custom_fields")), count)
    call.db.execute(
        "INSERT INTO rewards (external_id, body) VALUES (?, ?)",
        (body["external_id"], orjson.dumps(document).decode()),
    )
    return answer_json(201, _shown(document))


def read_reward(call: Call) -> Answer:
    """GET /loyalty/v1/rewards/{id}"""
    row = find_reward(call.db, call.parts[0])
    if row is None:
        return answer_problem(404, "", "", f"{call.parts[0]} not found")
    return answer_json(200, _shown(orjson.loads(row["body"])) | {"stock": stock(call.db, row)})


def list_rewards(call: Call) -> Answer:
    """GET /loyalty/v2/rewards"""
    page = read_page(call, _REWARDS, "1", ())
    elements = [
        _shown(orjson.loads(row["body"])) | {"stock": stock(call.db, row), "use_internal_id": True}
        for row, _ in page.rows
    ]
    return answer_page(page, elements)


def find_reward(db: sqlite3.Connection, external_id: str) -> sqlite3.Row | None:
    """The row of the reward with this external id."""
    row: sqlite3.Row | None = db.execute(
        "SELECT id, external_id, body FROM rewards WHERE external_id = ?", (external_id,)
    ).fetchone()
    return row


def stock(db: sqlite3.Connection, reward: sqlite3.Row) -> int:
    """How many can still be granted; 0 for one without limit, whose stock Splio does not tell."""
    count: int = orjson.loads(reward["body"])["max_attribution_count"]
    if not count:
        return 0
    granted: int = db.execute(
        "SELECT coalesce(sum(quantity), 0) AS n FROM grants WHERE reward = ?", (reward["id"],)
    ).fetchone()["n"]
    return max(0, count - granted)


def expiry(reward: Mapping[str, Any], *, start: str, wanted_end: str | None) -> str | None:
    """
    Until when a grant of `reward` can be used, None for ever.

    Args:
        start: from when it counts, in normal form.
        wanted_end: what the grant asks for; the reward's own validity goes first.
    """
    if reward["forced_validity"] and reward["forced_validity_end"]:
        end: str = reward["forced_validity_end"]
        return end
    count, kind = reward["validity_interval_count"], reward["validity_interval_type"]
    if count <= 0:
        return wanted_end
    if kind in _MONTHS:
        return months_after(start, count * _MONTHS[kind])
    return days_after(start, count * _DAYS.get(kind, 1))


def definition(reward: Mapping[str, Any]) -> dict[str, Any]:
    """What an attribution tells of its reward."""
    return {name: reward[name] for name in _DEFINITION}


def shown_fields(reward: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The custom fields of a reward as Splio shows them."""
    return [
        {name: value[name] for name in ("id", "name", "value")} for value in reward["custom_fields"]
    ]


def _document(body: Mapping[str, Any], fields: list[dict[str, Any]], count: int) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, kind in REWARD_TYPES.items():
        value = body.get(name)
        document[name] = _ABSENT[kind] if value is None else value
    for name in _DATES:
        document[name] = normal_date(document[name]) if document[name] else None
    return document | {"custom_fields": fields, "max_attribution_count": count}


def _shown(document: Mapping[str, Any]) -> dict[str, Any]:
    return {**document, "custom_fields": shown_fields(document)}


def _refuse_bad_values(call: Call) -> None:
    for name in _DATES:
        refuse_bad_date(call.body, name, call.universe.hours)
    for name in ("nqp_value", "holding_days", "validity_interval_count"):
        if not 0 <= (call.body.get(name) or 0) <= LARGEST_INTEGER:
            raise Refused(answer_problem(400, name, "wrong_value", "wrong_value"))
    for name, choices in _CHOICES.items():
        if call.body.get(name) and call.body[name] not in choices:
            raise Refused(answer_problem(400, name, "wrong_value", "wrong_value"))
    for name in ("external_id", "name"):
        if len(call.body[name]) > _LONGEST_NAME:
            raise Refused(answer_problem(400, name, "wrong_value", "wrong_value"))


def _count(value: Any) -> int:
    """Splio's file has it as text on creation and as a number everywhere else."""
    if value is None or value == "":
        return 0
    text = str(value) if is_integer(value) else value
    if not isinstance(text, str) or not text.isdecimal() or len(text) > len(str(2**31)):
        problem = type_problems({"max_attribution_count": {}}, {"max_attribution_count": "int"})
        raise Refused(answer_problems(400, problem))
    return int(text)


def _refuse_wrong_number(body: Mapping[str, Any], count: int) -> None:
    limited, generated = bool(body.get("limited")), bool(body.get("auto_generated"))
    key, slug = "max_attribution_count", "invalid_max_attribution_count"
    if not limited and not generated:
        key, slug = "limited", "unlimited_non_autogenerated"
        text = "reward cannot be unlimited and non-autogenerated"
    elif limited and generated and not count:
        text = "max_attribution_count cannot be set to 0 if the reward is limited"
    elif limited and not generated and count:
        text = (
            "max_attribution_count cannot be set if the reward is non-autogenerated."
            " the max_attribution_count is related to the upload of instances"
        )
    elif not limited and count:
        text = "you cannot have a max attribution count if the reward is unlimited"
    else:
        return
    raise Refused(answer_flat_problem(400, key, slug, text))
