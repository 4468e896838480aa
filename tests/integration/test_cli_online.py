"""The commands at a running service's operations API."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import Result

from tests.fakes.operations_api import (
    AT_MS,
    PASSWORD,
    OperationsApiServer,
    answering,
    dead_letter,
    effect,
    hang_up,
    open_operations_api_server,
)
from tests.fakes.splio_server import closed_port
from tests.unit.cli.commands import objects, run


@pytest.fixture
async def api() -> AsyncIterator[OperationsApiServer]:
    async with open_operations_api_server() as server:
        yield server


async def at(api: OperationsApiServer, *arguments: str, password: str = PASSWORD) -> Result:
    """The result of a command whose settings name `api`."""
    environ = {"RELAY_OPERATIONS_PORT": str(api.port), "RELAY_OPERATIONS_PASSWORD": password}
    return await asyncio.to_thread(run, *arguments, environ=environ)


async def test_effects_are_listed_with_the_tables_columns(api: OperationsApiServer) -> None:
    api.effects = [effect("1"), effect("1", "earn", "held", points=7, reason="points_limit")]
    result = await at(api, "effects", "list", "--state", "held", "--json")
    assert result.exit_code == 0
    (row,) = objects(result)
    assert row == {**effect("1", "earn", "held", points=7, reason="points_limit")} | {
        "due_at": "2026-03-01T12:00:00.000Z",
        "received_at": "2026-03-01T12:00:00.000Z",
        "created_at": "2026-03-01T12:00:00.010Z",
        "settled_at": "2026-03-01T12:00:00.500Z",
    }
    table = await at(api, "effects", "list")
    assert "main:earn:1" in table.stdout
    assert "points_limit" in table.stdout


async def test_filters_reach_the_service(api: OperationsApiServer) -> None:
    arguments = ("--state", "held", "--state", "due", "--kind", "earn", "--order", "a/b ü")
    await at(api, "effects", "list", *arguments, "--limit", "7")
    assert api.queries == [
        [
            ("state", "held"),
            ("state", "due"),
            ("kind", "earn"),
            ("order_id", "a/b ü"),
            ("limit", "7"),
        ]
    ]


async def test_all_walks_every_page_and_a_limit_says_that_there_is_more(
    api: OperationsApiServer,
) -> None:
    api.effects = [effect(f"{number:04}") for number in range(450)]
    everything = await at(api, "effects", "list", "--all", "--json")
    assert len(objects(everything)) == 450
    assert everything.stderr == ""
    some = await at(api, "effects", "list", "--limit", "201", "--json")
    assert len(objects(some)) == 201
    assert "There are more" in some.stderr


async def test_an_order_is_shown_as_a_timeline(api: OperationsApiServer) -> None:
    api.effects = [effect("5", state="rejected", reason="refused")]
    api.attempts["main:order:5"] = [
        {"attempt": 1, "ended_at": AT_MS + 200, "outcome": "retry", "status": 429},
        {"attempt": 2, "ended_at": AT_MS + 400, "outcome": "rejected", "status": 400},
    ]
    api.dead_letters = [dead_letter(5, dismissed_at=AT_MS + 999, dismissed_by="operator")]
    result = await at(api, "effects", "show", "5")
    assert result.exit_code == 0
    # Dead letter 5 was made at AT_MS + 5, before the attempts of this made-up order.
    words = ["dead letter 5 ", "planned", "retry", "429", "rejected  400", "dismissed"]
    timeline = " ".join(result.stdout.partition("time")[2].split())
    places = [timeline.find(" ".join(word.split())) for word in words]
    assert -1 not in places
    assert places == sorted(places)
    (document,) = objects(await at(api, "effects", "show", "5", "--json"))
    assert len(document["effects"][0]["attempts"]) == 2
    assert document["dead_letters"][0]["dismissed_at"] == "2026-03-01T12:00:00.999Z"


async def test_what_is_not_there_is_four(api: OperationsApiServer) -> None:
    api.lanes = [{"lane": "sales"}]
    for arguments in (
        ("effects", "show", "9"),
        ("dead-letters", "show", "9"),
        ("dead-letters", "replay", "9"),
        ("dead-letters", "dismiss", "9"),
        ("lookup", "now", "main:earn:9"),
        ("lookup", "release", "main:earn:9"),
        ("lanes", "release", "nope"),
    ):
        assert (await at(api, *arguments)).exit_code == 4, arguments


async def test_dead_letters_are_listed_without_bytes(api: OperationsApiServer) -> None:
    api.dead_letters = [dead_letter(1), dead_letter(2, "mismatch", replayed_at=AT_MS)]
    api.records[1] = b"secret bytes"
    rows = objects(await at(api, "dead-letters", "list", "--json"))
    assert [row["id"] for row in rows] == [1, 2]
    names = {"id", "reason", "kind", "order_id", "at", "replayed_at", "dismissed_at"}
    assert all(names <= set(row) for row in rows)
    rows = objects(await at(api, "dead-letters", "list", "--open", "--json"))
    assert [row["id"] for row in rows] == [1]
    shown = await at(api, "dead-letters", "list")
    assert "secret" not in shown.stdout


async def test_times_reach_the_service_as_milliseconds(api: OperationsApiServer) -> None:
    since, until = "2026-03-01T12:00:00Z", "2026-03-01T13:00:00+01:00"
    await at(api, "dead-letters", "list", "--since", since, "--until", until)
    query = dict(api.queries[0])
    assert query["since"] == query["until"] == str(AT_MS)


async def test_bytes_are_written_only_when_asked_for(api: OperationsApiServer) -> None:
    api.dead_letters = [dead_letter(1)]
    api.records[1] = '{"name": "Jane É"}\r\n'.encode()
    for arguments in (("dead-letters", "show", "1"), ("dead-letters", "show", "1", "--json")):
        result = await at(api, *arguments)
        assert result.exit_code == 0
        assert "Jane" not in result.stdout
        assert "ordered_at/wrong_value" in result.stdout
    for content in (api.records[1], b"\x00\xff\n"):
        api.records[1] = content
        raw = await at(api, "dead-letters", "show", "1", "--bytes")
        assert raw.stdout_bytes == content


async def test_bytes_are_for_the_operator_only(api: OperationsApiServer) -> None:
    api.dead_letters = [dead_letter(1)]
    arguments = ("dead-letters", "show", "1", "--bytes")
    assert (await at(api, *arguments, password="wrong")).exit_code == 2
    api.password = None
    result = await at(api, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "RELAY_OPERATIONS_PASSWORD" in result.stderr


async def test_named_dead_letters_are_replayed_without_a_question(
    api: OperationsApiServer,
) -> None:
    api.dead_letters = [dead_letter(1), dead_letter(2)]
    result = await at(api, "dead-letters", "replay", "2", "1", "2", "--json")
    assert result.exit_code == 0
    assert objects(result) == [{"id": 2, "problem": ""}, {"id": 1, "problem": ""}]
    assert api.changes == [("replay", [2, 1])]


async def test_a_choice_is_made_once_and_changed_in_batches(api: OperationsApiServer) -> None:
    api.dead_letters = [dead_letter(number) for number in range(1, 121)]
    api.dead_letters[3]["dismissed_at"] = AT_MS
    result = await at(api, "dead-letters", "dismiss", "--reason", "refused", "--yes")
    assert result.exit_code == 0
    assert "119 done, 0 not" in result.stdout
    assert [len(ids) for _, ids in api.changes] == [50, 50, 19]
    assert 4 not in api.changes[0][1]


async def test_a_choice_that_nobody_confirms_changes_nothing(api: OperationsApiServer) -> None:
    api.dead_letters = [dead_letter(1)]
    for arguments in (("--all",), ("--all", "--json"), ("--since", "2h", "--until", "1h")):
        result = await at(api, "dead-letters", "replay", *arguments)
        assert result.exit_code == (2 if arguments[0] == "--all" else 0)
    assert api.changes == []


async def test_a_choice_that_fits_nothing_is_done(api: OperationsApiServer) -> None:
    result = await at(api, "dead-letters", "replay", "--all")
    assert (result.exit_code, result.stdout) == (0, "There is nothing to replay.\n")


@pytest.mark.parametrize(
    "arguments", [(), ("1", "--all"), ("1", "--reason", "x"), ("--all", "--since", "1h")]
)
async def test_a_selection_must_be_one(
    api: OperationsApiServer, arguments: tuple[str, ...]
) -> None:
    for verb in ("replay", "dismiss"):
        assert (await at(api, "dead-letters", verb, *arguments)).exit_code == 2
    assert api.changes == []


async def test_one_that_cannot_be_replayed_does_not_hide_the_others(
    api: OperationsApiServer,
) -> None:
    api.dead_letters = [dead_letter(1), dead_letter(2)]
    api.refuses[1] = "dead_letter_closed: it was replayed or dismissed before"
    result = await at(api, "dead-letters", "replay", "1", "2")
    assert result.exit_code == 1
    assert "1 done, 1 not" in result.stdout
    assert "dead_letter_closed" in result.stdout


async def test_what_is_in_doubt_or_held_is_listed_and_dealt_with(
    api: OperationsApiServer,
) -> None:
    api.effects = [
        effect("1", state="in_doubt"),
        effect("2", state="held"),
        effect("3", state="due"),
    ]
    rows = objects(await at(api, "lookup", "list", "--json"))
    assert [row["state"] for row in rows] == ["in_doubt", "held"]
    found = await at(api, "lookup", "now", "main:order:1", "--json")
    assert objects(found) == [{"effect_key": "main:order:1", "verdict": "found"}]
    assert (await at(api, "lookup", "release", "main:order:2")).exit_code == 0
    assert (await at(api, "lookup", "reject", "main:order:1")).exit_code == 0
    assert api.changes == [
        ("look-up", "main:order:1"),
        ("release", "main:order:2"),
        ("reject", "main:order:1"),
    ]
    wrong = await at(api, "lookup", "release", "main:order:3")
    assert wrong.exit_code == 1
    assert "main:order:3 is due" in wrong.stderr


@pytest.mark.parametrize("verdict", ["found", "different", "absent", "hold", "unknown"])
async def test_every_verdict_is_explained(api: OperationsApiServer, verdict: str) -> None:
    api.effects = [effect("1", state="in_doubt")]
    api.verdict = verdict
    result = await at(api, "lookup", "now", "main:order:1")
    assert result.stdout.startswith("Splio ")


async def test_lanes_are_listed_and_released(api: OperationsApiServer) -> None:
    api.lanes = [
        {"lane": "sales", "queued": 3, "in_flight": 1, "open": False, "braked": "21 in a row"}
    ]
    assert objects(await at(api, "lanes", "list", "--json")) == api.lanes
    assert "21 in a row" in (await at(api, "lanes", "list")).stdout
    assert (await at(api, "lanes", "release", "sales")).exit_code == 0
    assert api.changes == [("release lane", "sales")]


async def test_without_access_the_password_is_named(api: OperationsApiServer) -> None:
    api.lanes = [{"lane": "sales"}]
    assert (await at(api, "lanes", "list", password="wrong")).exit_code == 0
    wrong = await at(api, "lanes", "release", "sales", password="wrong")
    assert wrong.exit_code == 2
    assert "RELAY_OPERATIONS_PASSWORD" in wrong.stderr
    api.password = None
    unset = await at(api, "lanes", "release", "sales")
    assert unset.exit_code == 2
    assert "RELAY_OPERATIONS_PASSWORD" in unset.stderr
    assert api.changes == []


async def test_the_sandboxs_password_needs_no_setting(api: OperationsApiServer) -> None:
    api.lanes = [{"lane": "sales"}]
    api.password = "sandbox"
    assert (await at(api, "lanes", "release", "sales", password="")).exit_code == 0


async def test_nobody_there_is_three_and_says_where_it_was_looked_for() -> None:
    port = closed_port()
    result = await asyncio.to_thread(
        run, "effects", "list", environ={"RELAY_OPERATIONS_PORT": str(port)}
    )
    assert result.exit_code == 3
    assert result.stdout == ""
    assert f"http://127.0.0.1:{port}" in result.stderr
    assert "running?" in result.stderr


@pytest.mark.parametrize(
    "instead",
    [
        hang_up,
        answering(200, b"<html>somebody else</html>"),
        answering(404, b"404 page not found", "text/plain"),
        answering(302, b""),
        answering(500, b'{"type": "about:blank"}', "application/problem+json"),
        answering(200, b'{"items": 3}', "application/json"),
        answering(200, b"[]", "application/json"),
    ],
)
async def test_a_stranger_at_the_address_is_three(
    api: OperationsApiServer, instead: object
) -> None:
    api.instead = instead  # type: ignore[assignment]
    result = await at(api, "effects", "list", "--json")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert str(api.port) in result.stderr


async def test_a_plain_listener_is_not_taken_for_one_with_tls(api: OperationsApiServer) -> None:
    environ = {
        "RELAY_OPERATIONS_PORT": str(api.port),
        "RELAY_TLS_CERT": str(Path(__file__).parent.parent / "fixtures/tls/service.crt"),
    }
    result = await asyncio.to_thread(run, "lanes", "list", environ=environ)
    assert result.exit_code == 3
    assert "does not speak TLS" in result.stderr
    assert api.queries == []


async def test_what_the_service_does_not_take_is_two(api: OperationsApiServer) -> None:
    api.instead = answering(
        400,
        b'{"type": "urn:loyalty-relay:problem:bad-parameter", "detail": "since is wrong"}',
        "application/problem+json",
    )
    result = await at(api, "dead-letters", "list", "--since", "1960-01-01")
    assert result.exit_code == 2
    assert "since is wrong" in result.stderr


async def test_a_port_that_only_the_service_knows_is_three() -> None:
    result = await asyncio.to_thread(run, "lanes", "list", environ={"RELAY_OPERATIONS_PORT": "0"})
    assert result.exit_code == 3
    assert "RELAY_OPERATIONS_PORT" in result.stderr
