"""A small operations API over real sockets, with rows in memory and answers on demand."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from aiohttp import web

PASSWORD = "operators-word"
AT_MS = 1_772_366_400_000  # 2026-03-01T12:00:00Z

Row = dict[str, Any]
Action = Callable[[web.Request], Awaitable[web.StreamResponse]]


def effect(order_id: str, kind: str = "order", state: str = "applied", **columns: Any) -> Row:
    """A row of the ledger's effects."""
    return {
        "effect_key": f"main:{kind}:{order_id}",
        "kind": kind,
        "lane": "other" if kind == "earn" else "sales",
        "order_key": order_id,
        "after": None,
        "fingerprint": "f1:0",
        "state": state,
        "attempt": 1,
        "due_at": AT_MS,
        "lease_owner": None,
        "lease_until": None,
        "reason": None,
        "event_id": "018f0000-0000-7000-8000-000000000000",
        "points": 0,
        "received_at": AT_MS,
        "created_at": AT_MS + 10,
        "settled_at": AT_MS + 500,
        "seen_at": None,
        "duplicates_seen": 0,
        **columns,
    }


def dead_letter(number: int, reason: str = "refused", **columns: Any) -> Row:
    """A row of the ledger's dead letters."""
    return {
        "id": number,
        "kind": "order",
        "effect_key": f"main:order:{number}",
        "order_id": str(number),
        "event_id": "018f0000-0000-7000-8000-000000000000",
        "event_type": "order-confirmed",
        "reason": reason,
        "detail": "ordered_at/wrong_value",
        "topic": "scayle.orders.v1",
        "partition": 0,
        "offset": number,
        "at": AT_MS + number,
        "times_seen": 1,
        "replayed_at": None,
        "dismissed_at": None,
        **columns,
    }


@dataclass(slots=True)
class OperationsApiServer:
    """
    What the API holds; `changes` are those that were made, `instead` answers in its place.

    `refuses` are dead letters that cannot be replayed or dismissed, with the problem.
    """

    port: int = 0
    password: str | None = PASSWORD
    effects: list[Row] = field(default_factory=list)
    attempts: dict[str, list[Row]] = field(default_factory=dict)
    dead_letters: list[Row] = field(default_factory=list)
    records: dict[int, bytes] = field(default_factory=dict)
    refuses: dict[int, str] = field(default_factory=dict)
    lanes: list[Row] = field(default_factory=list)
    shapes: list[Row] | None = None
    is_shared: bool = True
    verdict: str = "found"
    not_ready: list[str] = field(default_factory=list)
    changes: list[tuple[str, Any]] = field(default_factory=list)
    queries: list[list[tuple[str, str]]] = field(default_factory=list)
    instead: Action | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.instead is not None:
            return await self.instead(request)
        self.queries.append(list(request.query.items()))
        is_login = request.method == "POST" or "Authorization" in request.headers
        if is_login and (refusal := self._login_problem(request)) is not None:
            return refusal
        match request.path.removeprefix("/").split("/"):
            case ["readyz"]:
                document = {"ready": not self.not_ready, "reasons": self.not_ready}
                return _json(document, 503 if self.not_ready else 200)
            case ["api", "effects"]:
                return self._list_effects(request)
            case ["api", "orders", order_id]:
                return self._show_order(order_id)
            case ["api", "effects", key, what]:
                return self._change_effect(key, what)
            case ["api", "dead-letters"]:
                return self._list_dead_letters(request)
            case ["api", "dead-letters", "replay" | "dismiss" as what]:
                return self._change_dead_letters(what, orjson.loads(await request.read()))
            case ["api", "dead-letters", number]:
                return self._show_dead_letter(int(number), "Authorization" in request.headers)
            case ["api", "lanes"]:
                return _json({"items": self.lanes, "next": None})
            case ["api", "shapes"] if self.shapes is not None:
                page = {"items": self.shapes, "next": None, "is_shared": self.is_shared}
                return _json(page)
            case ["api", "lanes", lane, "release"]:
                if lane not in {row["lane"] for row in self.lanes}:
                    return problem(404, "not-found", f"no_such_lane: {lane}")
                self.changes.append(("release lane", lane))
                return _json({"lane": lane})
        return problem(404, "not-found")

    def _login_problem(self, request: web.Request) -> web.Response | None:
        if self.password is None:
            if request.method == "GET":
                return None
            return problem(403, "no-operations-password", "Set RELAY_OPERATIONS_PASSWORD.")
        right = aiohttp.encode_basic_auth("operator", self.password, "utf-8")
        if request.headers.get("Authorization") != right:
            return problem(401, "unauthorized", "wrong user or password")
        return None

    def _list_effects(self, request: web.Request) -> web.Response:
        query = request.query
        states = query.getall("state", [])
        found = [
            row
            for row in sorted(self.effects, key=lambda row: str(row["effect_key"]))
            if (not states or row["state"] in states)
            and query.get("kind", row["kind"]) == row["kind"]
            and query.get("order_id", row["order_key"]) == row["order_key"]
            and row["effect_key"] > query.get("after", "")
        ]
        return _page(found, int(query["limit"]), "effect_key")

    def _show_order(self, order_id: str) -> web.Response:
        effects = [
            {**row, "attempts": self.attempts.get(row["effect_key"], [])}
            for row in self.effects
            if row["order_key"] == order_id
        ]
        dead_letters = [row for row in self.dead_letters if row["order_id"] == order_id]
        if not effects and not dead_letters:
            return problem(404, "not-found", f"no_such_order: {order_id}")
        return _json({"order_id": order_id, "effects": effects, "dead_letters": dead_letters})

    def _change_effect(self, key: str, what: str) -> web.Response:
        row = next((row for row in self.effects if row["effect_key"] == key), None)
        if row is None:
            return problem(404, "not-found", f"no_such_effect: {key}")
        wanted = {"look-up": ("in_doubt",), "release": ("held",), "reject": ("held", "in_doubt")}
        if row["state"] not in wanted[what]:
            return problem(409, "wrong-state", f"not_held: {key} is {row['state']}")
        self.changes.append((what, key))
        return _json({"verdict": self.verdict, "effect": row} if what == "look-up" else row)

    def _list_dead_letters(self, request: web.Request) -> web.Response:
        query = request.query
        found = [
            row
            for row in self.dead_letters
            if query.get("reason", row["reason"]) == row["reason"]
            and int(query.get("since", 0)) <= row["at"] < int(query.get("until", 2**53))
            and not (query.get("open") == "true" and (row["replayed_at"] or row["dismissed_at"]))
            and row["id"] > int(query.get("after", 0))
        ]
        return _page(found, int(query["limit"]), "id")

    def _show_dead_letter(self, number: int, is_operator: bool) -> web.Response:
        row = next((row for row in self.dead_letters if row["id"] == number), None)
        if row is None:
            return problem(404, "not-found", f"no_such_dead_letter: {number}")
        if not is_operator or self.password is None:
            return _json(row)
        record = self.records.get(number, b"")
        try:
            return _json({**row, "record": record.decode()})
        except UnicodeDecodeError:
            return _json({**row, "record_base64": base64.b64encode(record).decode()})

    def _change_dead_letters(self, what: str, selection: Row) -> web.Response:
        known = {row["id"] for row in self.dead_letters}
        self.changes.append((what, selection["ids"]))
        items = []
        for number in selection["ids"]:
            unknown = "" if number in known else f"no_such_dead_letter: {number}"
            items.append({"id": number, "problem": self.refuses.get(number, unknown)})
        return _json({"items": items})


def answering(status: int, body: bytes, content_type: str = "text/html") -> Action:
    """Answer everything with this."""

    async def act(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, content_type=content_type)

    return act


async def hang_up(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def problem(status: int, slug: str, detail: str = "") -> web.Response:
    """A problem document as the service writes it."""
    document = {"type": f"urn:loyalty-relay:problem:{slug}", "status": status, "detail": detail}
    return web.Response(
        status=status, body=orjson.dumps(document), content_type="application/problem+json"
    )


@asynccontextmanager
async def open_operations_api_server() -> AsyncIterator[OperationsApiServer]:
    """A server on a free port of loopback."""
    server = OperationsApiServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


def _page(found: Sequence[Row], limit: int, name: str) -> web.Response:
    items = found[:limit]
    more = str(items[-1][name]) if len(found) > limit else None
    return _json({"items": items, "next": more})


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(document), content_type="application/json")
