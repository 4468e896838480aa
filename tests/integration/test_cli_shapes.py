"""`doctor --shapes` at a running service's operations API."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from typer.testing import Result

from tests.fakes.operations_api import (
    AT_MS,
    OperationsApiServer,
    Row,
    open_operations_api_server,
)
from tests.fakes.operations_listener import operations_listener
from tests.fakes.splio_server import closed_port
from tests.unit.cli.commands import objects, run


@pytest.fixture
async def api() -> AsyncIterator[OperationsApiServer]:
    async with open_operations_api_server() as server:
        yield server


async def doctor(port: int, *arguments: str) -> Result:
    environ = {"RELAY_OPERATIONS_PORT": str(port)}
    return await asyncio.to_thread(run, "doctor", "--shapes", *arguments, environ=environ)


def shape(source: str, differences: list[Row] | None, **columns: object) -> Row:
    return {
        "source": source,
        "count": 12,
        "last_at": AT_MS,
        "taken_at": AT_MS,
        "is_cut": False,
        "fields": {"cardNumber": "string", "items[].id": "integer", "?*": "string"},
        "call": None,
        "differences": differences,
        **columns,
    }


CAPTURE = shape(
    "loyalty:capture",
    [
        {
            "path": "cardNumber",
            "difference": "unexpected",
            "seen": "string",
            "assumed": None,
            "basis": None,
        },
        {
            "path": "",
            "difference": "other_type",
            "seen": "array",
            "assumed": "object",
            "basis": "inferred",
        },
        {
            "path": "amount",
            "difference": "missing",
            "seen": None,
            "assumed": "integer",
            "basis": "documented",
        },
    ],
    call={
        "method": "PUT",
        "credentials": ["x-api-key", "X-Access-Token"],
        "content_type": None,
        "headers": ["host", "x-shop"],
    },
)


async def test_sources_with_their_fields_and_differences_are_told(api: OperationsApiServer) -> None:
    api.shapes = [
        CAPTURE,
        shape("webhook:order-confirmed", [], is_cut=True),
        shape("webhook:customer-created", None),
    ]
    result = await doctor(api.port)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    rows = {line.split()[0]: line for line in lines[:4]}
    assert "PUT" in rows["loyalty:capture"]
    assert "x-api-key, X-Access-Token" in rows["loyalty:capture"]
    assert rows["loyalty:capture"].rstrip().endswith("differs at 3 path(s)")
    assert rows["webhook:order-confirmed"].rstrip().endswith("as assumed; cut")
    assert rows["webhook:customer-created"].rstrip().endswith("nothing is assumed of it")
    assert [line.split() for line in lines[4:12]] == [
        [],
        ["loyalty:capture", "seen", "difference", "assumed", "basis"],
        ["cardNumber", "string", "unexpected"],
        ["items[].id", "integer"],
        ["?*", "string"],
        ["(body)", "array", "other", "type", "object", "inferred"],
        ["amount", "missing", "integer", "documented"],
        ["loyalty:capture", "(headers):", "host,", "x-shop"],
    ]
    as_seen = [["cardNumber", "string"], ["items[].id", "integer"], ["?*", "string"]]
    assert [line.split() for line in lines[14:17]] == as_seen
    assert [line.split() for line in lines[19:]] == as_seen


async def test_a_body_that_was_not_read_is_not_called_as_assumed(api: OperationsApiServer) -> None:
    api.shapes = [shape("loyalty:capture:refused", [], fields={"": "not read"})]
    lines = (await doctor(api.port)).stdout.splitlines()
    assert lines[1].rstrip().endswith("  body not read")
    assert lines[-1].split() == ["(body)", "not", "read"]


async def test_machines_get_one_object_a_source(api: OperationsApiServer) -> None:
    api.shapes = [CAPTURE, shape("webhook:customer-created", None)]
    result = await doctor(api.port, "--json")
    at = "2026-03-01T12:00:00.000Z"
    assert objects(result) == [row | {"last_at": at, "taken_at": at} for row in api.shapes]


async def test_nothing_seen_is_said(api: OperationsApiServer) -> None:
    api.shapes = []
    result = await doctor(api.port)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines() == ["no request of SCAYLE was seen yet"]


async def test_what_one_process_alone_saw_is_said_to_be_that(api: OperationsApiServer) -> None:
    api.shapes, api.is_shared = [CAPTURE], False
    for options in ((), ("--json",)):
        result = await doctor(api.port, *options)
        assert "cardNumber" in result.stdout
        assert "only what this process saw" in result.stderr
    api.shapes = []
    assert "of SCAYLE" not in (await doctor(api.port)).stderr


async def test_a_service_that_keeps_none_or_does_not_run_is_said(
    api: OperationsApiServer,
) -> None:
    result = await doctor(api.port)
    assert result.exit_code == 4
    assert "keeps none" in result.stderr
    result = await doctor(closed_port())
    assert result.exit_code == 3


async def test_the_real_listener_is_understood() -> None:
    async with operations_listener() as running:
        result = await doctor(running.port, "--json")
        assert [row["source"] for row in objects(result)] == [
            "webhook:customer-created",
            "webhook:order-confirmed",
        ]
        assert "payload" in (await doctor(running.port)).stdout
