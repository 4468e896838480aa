"""The OpenAPI documents describe the doors exactly: schemathesis tries to prove otherwise."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from service.web.openapi.operations import operations_document
from service.web.openapi.public import public_document
from tests.fakes import operations_listener as operations
from tests.fakes import public_listener as public
from tests.harness.relay import PASSWORD, running_relay, running_sandbox

EXAMPLES = 15  # per operation and phase
TIME_LIMIT_S = 100


@pytest.fixture
async def public_url() -> AsyncIterator[str]:
    async with public.public_listener() as running:
        yield running.url


@pytest.fixture
async def operations_url() -> AsyncIterator[str]:
    async with operations.operations_listener() as running:
        yield running.url


async def test_public_door_is_as_its_document_says(public_url: str, tmp_path: Path) -> None:
    await fuzz(public_url, public.AUTHORIZATION, tmp_path)


async def test_operations_door_is_as_its_document_says(operations_url: str, tmp_path: Path) -> None:
    await fuzz(operations_url, operations.AUTHORIZATION, tmp_path)


@pytest.mark.parametrize(
    "doors", ["points-rate|balance|validate|verify", "register|collect", "capture|refund"]
)
async def test_loyalty_doors_are_as_their_document_says(tmp_path: Path, doors: str) -> None:
    async with (
        running_sandbox(tmp_path) as sandbox,
        running_relay(tmp_path, sandbox, {"max_connections": "64"}) as relay,
    ):
        url = relay.runtime.listeners.public_url
        await fuzz(
            url,
            f"Bearer {PASSWORD}",
            tmp_path,
            f"--include-path-regex=^/loyalty/({doors})$",
            # The doors are tolerant: what breaks the document may be taken all the same.
            "--exclude-checks=negative_data_rejection",
        )


async def fuzz(url: str, authorization: str, folder: Path, *options: str) -> None:
    """Run schemathesis with all its checks against what listens at `url`."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{url}/openapi.json",
        "--checks=all",
        "--mode=all",
        f"--max-examples={EXAMPLES}",
        "--seed=1",
        "--no-color",
        "--generation-database=none",
        "--phases=examples,coverage,fuzzing",
        "--header",
        f"Authorization: {authorization}",
        *options,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(TIME_LIMIT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, output.decode()[-8000:]


@pytest.mark.parametrize("document", [public_document(), operations_document()])
def test_documents_refer_only_to_what_they_hold(document: bytes) -> None:
    parsed = orjson.loads(document)
    assert parsed["openapi"] == "3.1.0"
    for reference in references(parsed):
        place: Any = parsed
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


@pytest.mark.parametrize("door", ["public", "operations"])
async def test_every_documented_path_exists_and_is_served(
    door: str, public_url: str, operations_url: str
) -> None:
    url = public_url if door == "public" else operations_url
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/openapi.json") as response:
            assert response.content_type == "application/json"
            document = await response.json()
        for path, operations_of in document["paths"].items():
            async with session.request("PATCH", url + path.replace("{", "").replace("}", "")) as no:
                assert no.status == 405, path
                allowed = no.headers["Allow"].lower().split(", ")
                assert sorted(operations_of) == allowed


def references(part: Any) -> list[str]:
    """Every `$ref` in a document."""
    if isinstance(part, dict):
        found = [part["$ref"]] if "$ref" in part else []
        return found + [text for value in part.values() for text in references(value)]
    if isinstance(part, list):
        return [text for value in part for text in references(value)]
    return []
