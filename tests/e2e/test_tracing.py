"""One trace leads from SCAYLE's webhook to Splio's requests and the log lines."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from service.sandbox.scayle import Shares, generate_orders
from tests.fakes.splio_server import open_splio_server
from tests.harness.relay import Relay, running_relay, running_sandbox

_TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
_TRACEPARENT: Final = f"00-{_TRACE_ID}-00f067aa0ba902b7-01"
_WITH_CARD: Final = Shares(guests=0, without_card=0)


@asynccontextmanager
async def _served(directory: Path) -> AsyncIterator[Relay]:
    async with running_sandbox(directory) as sandbox, running_relay(directory, sandbox) as relay:
        yield relay


async def test_trace_of_the_webhook_is_in_the_log_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (envelope,) = generate_orders(1, 1, shares=_WITH_CARD)
    async with _served(tmp_path) as relay:
        answer = await relay.post(envelope, traceparent=_TRACEPARENT)
        await relay.rest()
    for event in ("webhook.accepted", "effect.attempted"):
        lines = [vars(record) for record in caplog.records if record.getMessage() == event]
        assert lines
        assert {line["trace_id"] for line in lines} == {_TRACE_ID}
        assert {line["event_id"] for line in lines} == {answer.json["event_id"]}


async def test_trace_of_the_webhook_reaches_splio(tmp_path: Path) -> None:
    (envelope,) = generate_orders(1, 1, shares=_WITH_CARD)
    async with (
        open_splio_server() as splio,
        running_sandbox(tmp_path) as unused,
        running_relay(tmp_path, unused, {"splio_url": splio.url}) as relay,
    ):
        await relay.post(envelope, traceparent=_TRACEPARENT)
        await relay.rest()
        posted = [
            request.headers["traceparent"]
            for request in splio.received
            if request.method == "POST" and request.path != "/authenticate"
        ]
    assert len(posted) == 2
    for traceparent in posted:
        version, trace, parent, flags = traceparent.split("-")
        assert (version, trace, flags) == ("00", _TRACE_ID, "01")
        assert parent != "00f067aa0ba902b7"


async def test_webhook_without_a_trace_begins_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with _served(tmp_path) as relay:
        for envelope in generate_orders(1, 2, shares=_WITH_CARD):
            await relay.post(envelope)
        await relay.rest()
    traces = {
        vars(record)["order_id"]: vars(record)["trace_id"]
        for record in caplog.records
        if record.getMessage() == "webhook.accepted"
    }
    assert len(set(traces.values())) == 2
