"""The commands at the real doors of a running service."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import Result

from service.sandbox.scayle import generate_orders
from tests.harness.relay import Relay, running_relay, running_sandbox
from tests.unit.cli.commands import objects, run

TLS = Path(__file__).parent.parent / "fixtures" / "tls"


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    """A service that holds every booking of more than a point."""
    async with (
        running_sandbox(tmp_path) as sandbox,
        running_relay(tmp_path, sandbox, {"points_limit": "1"}) as relay,
    ):
        yield relay


async def at(relay: Relay, *arguments: str, **variables: str) -> Result:
    environ = {
        "RELAY_OPERATIONS_PORT": str(relay.runtime.listeners.operations.port),
        **variables,
    }
    return await asyncio.to_thread(run, *arguments, environ=environ)


async def test_held_points_are_found_released_and_booked(relay: Relay) -> None:
    envelopes = list(generate_orders(7, 6))
    cards = [envelope["payload"].get("loyaltyCard") or {} for envelope in envelopes]
    await relay.deliver(envelopes)
    await relay.rest(held=sum(card.get("points", 0) > 1 for card in cards))
    held = objects(await at(relay, "lookup", "list", "--json"))
    orders = objects(await at(relay, "effects", "list", "--kind", "order", "--all", "--json"))
    assert len(orders) == 6
    key, order_id = held[0]["effect_key"], held[0]["order_key"]
    assert (await at(relay, "lookup", "release", key)).exit_code == 0
    await relay.rest(held=len(held) - 1)
    (order,) = objects(await at(relay, "effects", "show", order_id, "--json"))
    earn = next(effect for effect in order["effects"] if effect["effect_key"] == key)
    assert earn["state"] == "applied"
    assert [attempt["outcome"] for attempt in earn["attempts"]] == ["released", "applied"]
    assert earn["attempts"][0]["by"] == "operator"
    shown = await at(relay, "effects", "show", order_id)
    assert "released" in shown.stdout
    again = await at(relay, "lookup", "release", key)
    assert again.exit_code == 1
    assert again.stderr == f"loyalty-relay: not_held: {key} is applied\n"


async def test_an_unreadable_webhook_is_shown_and_dismissed(relay: Relay) -> None:
    body = b'{"type": "order-confirmed", "payload": {"id": null, "note": "Jan\xc3\xa9"}}'
    assert (await relay.post(body)).status == 200
    await relay.rest()
    (row,) = objects(await at(relay, "dead-letters", "list", "--open", "--json"))
    assert (row["kind"], row["reason"]) == ("event", "unreadable")
    number = str(row["id"])
    assert "Jan" not in (await at(relay, "dead-letters", "show", number)).stdout
    raw = await at(relay, "dead-letters", "show", number, "--bytes")
    assert raw.stdout_bytes == body
    replayed = await at(relay, "dead-letters", "replay", number)
    assert replayed.exit_code == 1
    assert (await at(relay, "dead-letters", "dismiss", "--all", "--yes")).exit_code == 0
    assert objects(await at(relay, "dead-letters", "list", "--open", "--json")) == []
    assert (await at(relay, "dead-letters", "show", "999")).exit_code == 4


async def test_times_and_states_are_taken_by_the_service(relay: Relay) -> None:
    arguments = ("--since", "2h", "--until", "2030-01-01", "--reason", "refused", "--open")
    result = await at(relay, "dead-letters", "list", *arguments, "--json")
    assert (result.exit_code, result.stdout) == (0, "")
    result = await at(relay, "lookup", "list", "--json")
    assert (result.exit_code, result.stdout) == (0, "")


async def test_lanes_are_listed_and_released(relay: Relay) -> None:
    rows = objects(await at(relay, "lanes", "list", "--json"))
    assert {row["lane"] for row in rows} == {"contacts", "sales", "other", "intake"}
    assert (await at(relay, "lanes", "release", "sales")).exit_code == 0
    assert (await at(relay, "lanes", "release", "nope")).exit_code == 4


async def test_doctor_finds_the_service_ready(relay: Relay) -> None:
    result = await at(relay, "doctor", "--sandbox", "--json")
    findings = {row["check"]: row["result"] for row in objects(result)}
    assert findings["service"] == "ok"


async def test_over_tls_only_the_settings_own_certificate_is_trusted(tmp_path: Path) -> None:
    served = {"tls_cert": f"{TLS}/service.crt", "tls_key": f"{TLS}/service.key"}
    async with (
        running_sandbox(tmp_path) as sandbox,
        running_relay(tmp_path, sandbox, served) as relay,
    ):
        # Its name is not the address that is used here; that it is the same one is what counts.
        right = await at(relay, "lanes", "list", RELAY_TLS_CERT=f"{TLS}/service.crt")
        assert right.exit_code == 0, right.stderr
        changed = await at(relay, "lanes", "release", "sales", RELAY_TLS_CERT=f"{TLS}/service.crt")
        assert changed.exit_code == 0, changed.stderr
        stranger = await at(relay, "lanes", "list", RELAY_TLS_CERT=f"{TLS}/stranger.crt")
        assert stranger.exit_code == 3
        assert "not a good one of RELAY_TLS_CERT" in stranger.stderr
        plain = await at(relay, "lanes", "list")
        assert plain.exit_code == 3
        missing = await at(relay, "lanes", "list", RELAY_TLS_CERT=f"{TLS}/service.key")
        assert missing.exit_code == 2
