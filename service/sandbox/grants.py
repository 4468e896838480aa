"""Grants: a reward given to a card, paid with its points."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from service.sandbox.answers import (
    Answer,
    Refused,
    answer_flat_problem,
    answer_json,
    answer_problem,
)
from service.sandbox.balance import GRANT_EVENT, read_balance_of
from service.sandbox.books import count_up
from service.sandbox.checks import LARGEST_INTEGER, blank_problems, normal_date, refuse_problems
from service.sandbox.members import find_member, is_member_at
from service.sandbox.rewards import expiry, find_reward, stock
from service.sandbox.universe import Call, TooFewPoints
from service.sandbox.uses import refuse_bad_use, refuse_unknown_store, refuse_wrong_fields

GRANT_TYPES = {
    "card_code": "string",
    "quantity": "int",
    "reason_msg": "string",
    "grant_date": "string",
    "burned_date": "string",
    "validity_start": "string",
    "validity_end": "string",
    "store_id": "string",
    "attribution_ids": "array",
    "idempotency_key": "string",
}
# Not documented; every one is a row and a code in the answer.
LARGEST_QUANTITY = 10_000
# Generated codes have 13 digits and count up.
_CODE_PREFIX = "1006"
_NO_STOCK = answer_flat_problem(
    400, "reward_stock", "not enough stock", "there's not enough stock to perform this action"
)
# No page documents the answer for too few points; the help page shows this text in a pop-up.
_TOO_FEW = "not enough NQ points"
_TOO_FEW_ANSWERS: dict[TooFewPoints, Answer] = {
    "flat": answer_flat_problem(400, "nq_points", "not enough points", _TOO_FEW),
    "listed": answer_problem(400, "nq_points", "wrong_value", _TOO_FEW),
    "stock": _NO_STOCK,
}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A grant as asked for, with its dates in normal form."""

    card_code: str
    codes: tuple[str, ...]
    quantity: int
    granted: str
    burned: str | None
    expires: str | None


def grant_reward(call: Call) -> Answer:
    """
    POST /loyalty/v1/rewards/{id}/grant

    Not documented, so settings: what too few points and a repeated idempotency key answer.
    A key is remembered with the grant it made, so not after a refusal.
    """
    body = call.body
    refuse_wrong_fields(call, GRANT_TYPES)
    refuse_problems(blank_problems(body, ("card_code",)))
    if body.get("store_id") and not body.get("burned_date"):
        text = "you have to put a burned date to use store_id"
        raise Refused(answer_problem(400, "store_id", "invalid_burn_data", text))
    row = find_reward(call.db, call.parts[0])
    if row is None:
        raise Refused(answer_flat_problem(404, "", "", f"{call.parts[0]} not found"))
    reward = orjson.loads(row["body"])
    wanted = _wanted(call, reward)
    _refuse_card(call, wanted)
    _refuse_closed(reward, wanted.granted)
    if wanted.burned is not None:
        refuse_bad_use(wanted.burned, earned=wanted.granted, expires=wanted.expires)
    refuse_unknown_store(call, body.get("store_id"))
    repeat = _repeat(call, body.get("idempotency_key"))
    if repeat is not None:
        return repeat
    _refuse_taken_codes(call, wanted.codes)
    if (reward["limited"] and not wanted.codes) and wanted.quantity > stock(call.db, row):
        raise Refused(_NO_STOCK)
    price = reward["nqp_value"] * wanted.quantity
    if price > LARGEST_INTEGER:
        raise Refused(answer_problem(400, "quantity", "wrong_value", "wrong_value"))
    refusal = _TOO_FEW_ANSWERS.get(call.universe.too_few_points)
    if refusal is not None and price > max(0, _usable(call, wanted.card_code)):
        count_up(call.db, "grants_without_points")
        return refusal
    return answer_json(200, [_book(call, row["id"], wanted, price)])


def _wanted(call: Call, reward: Mapping[str, Any]) -> _Wanted:
    body = call.body
    codes = body.get("attribution_ids") or ()
    if not all(isinstance(code, str) and code for code in codes):
        raise Refused(answer_flat_problem(400, "", "wrong_field_type", "something went wrong"))
    quantity = body.get("quantity")
    if quantity is None:
        quantity = len(codes) or 1
    if not 1 <= quantity <= LARGEST_QUANTITY:
        raise Refused(answer_problem(400, "quantity", "wrong_value", "wrong_value"))
    if codes and len(set(codes)) != quantity:
        raise Refused(answer_problem(400, "attribution_ids", "wrong_value", "wrong_value"))
    granted = _date(body, "grant_date") or call.date
    return _Wanted(
        card_code=body["card_code"],
        codes=tuple(codes),
        quantity=quantity,
        granted=granted,
        burned=_date(body, "burned_date"),
        expires=expiry(
            reward,
            start=_date(body, "validity_start") or granted,
            wanted_end=_date(body, "validity_end"),
        ),
    )


def _date(body: Mapping[str, Any], name: str) -> str | None:
    return normal_date(body[name]) if body.get(name) else None


def _refuse_card(call: Call, wanted: _Wanted) -> None:
    member = find_member(call, wanted.card_code)
    if member is None or not is_member_at(member, wanted.granted):
        text = f"card_code {wanted.card_code} not found"
        raise Refused(answer_flat_problem(400, "card_code", "not_found", text))


def _refuse_closed(reward: Mapping[str, Any], granted: str) -> None:
    if not reward["forced_validity"]:
        return
    start, end = reward["forced_validity_start"], reward["forced_validity_end"]
    if start is not None and granted < start:
        key, slug = "reward.force_validity_start", "reward_not_started"
        text = f'reward validity has not started the "{granted}", it starts the "{start}"'
        raise Refused(answer_flat_problem(400, key, slug, text))
    if end is not None and granted > end:
        # Splio documents the start only; these words are ours.
        key, slug = "reward.force_validity_end", "reward_ended"
        text = f'reward validity has ended the "{granted}", it ended the "{end}"'
        raise Refused(answer_flat_problem(400, key, slug, text))


def _repeat(call: Call, key: str | None) -> Answer | None:
    if key is None or call.universe.repeated_grant_key == "book":
        return None
    known = call.db.execute("SELECT 1 FROM grants WHERE idempotency_key = ?", (key,)).fetchone()
    if known is None:
        return None
    count_up(call.db, "grants_suppressed")
    if call.universe.repeated_grant_key == "suppress":
        return answer_json(200, [])
    text = f"idempotency key {key} already exists"
    return answer_flat_problem(400, "idempotency_key", "wrong_value", text)


def _refuse_taken_codes(call: Call, codes: tuple[str, ...]) -> None:
    for code in codes:
        if _is_taken(call.db, code):
            text = f"external id {code} is already attributed"
            raise Refused(answer_flat_problem(400, "external_id", "wrong_value", text))


def _usable(call: Call, card_code: str) -> int:
    """What may be spent now: grants that the ledger does not show yet have taken theirs."""
    return read_balance_of(call, card_code, all_grants=True).usable


def _book(call: Call, reward: int, wanted: _Wanted, price: int) -> dict[str, Any]:
    body, db = call.body, call.db
    name, reason = str(uuid.uuid4()), body.get("reason_msg") or ""
    number = db.execute(
        "INSERT INTO grants (uuid, reward, card_code, quantity, nq_points, reason,"
        " idempotency_key, grant_date, granted_at, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            name,
            reward,
            wanted.card_code,
            wanted.quantity,
            price,
            reason,
            body.get("idempotency_key"),
            wanted.granted,
            call.now,
            call.date,
        ),
    ).fetchone()["id"]
    codes = wanted.codes or _free_codes(db, wanted.quantity)
    db.executemany(
        "INSERT INTO attributions (external_id, grant_id, expires_at, burned_at, store_id,"
        " burn_reason) VALUES (?, ?, ?, ?, ?, NULL)",
        [
            (code, number, wanted.expires, wanted.burned, body.get("store_id") or None)
            for code in codes
        ],
    )
    if price:
        db.execute(
            "INSERT INTO points (card_code, event_type, points_type, points, event_date,"
            " booked_at, message) VALUES (?, ?, 'nq', ?, ?, ?, ?)",
            (wanted.card_code, GRANT_EVENT, -price, wanted.granted, call.now, reason),
        )
    return {"uuid": name, "external_ids": list(codes)}


def _free_codes(db: sqlite3.Connection, quantity: int) -> list[str]:
    number: int = db.execute("SELECT coalesce(max(id), 0) AS n FROM attributions").fetchone()["n"]
    codes: list[str] = []
    while len(codes) < quantity:
        number += 1
        code = f"{_CODE_PREFIX}{number:09d}"
        if not _is_taken(db, code):
            codes.append(code)
    return codes


def _is_taken(db: sqlite3.Connection, code: str) -> bool:
    found = db.execute("SELECT 1 FROM attributions WHERE external_id = ?", (code,)).fetchone()
    return found is not None
