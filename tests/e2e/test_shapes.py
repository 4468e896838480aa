"""What SCAYLE sends that nobody expected: told by its form on the operations door."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.e2e.test_checkout import SPENT, checkout
from tests.harness.relay import Relay, running_relay, running_sandbox


async def shapes_of(relay: Relay) -> Mapping[str, Mapping[str, Any]]:
    answer = await relay.operate("GET", "/api/shapes")
    assert answer.status == 200, answer
    return {shape["source"]: shape for shape in answer.json["items"]}


def deviations(shape: Mapping[str, Any]) -> Mapping[str, str]:
    return {each["path"]: each["difference"] for each in shape["differences"]}


async def test_a_refused_call_leaves_its_form_beside_that_of_a_good_one(tmp_path: Path) -> None:
    no_order = {name: value for name, value in SPENT.items() if name != "orderId"}
    async with checkout(tmp_path) as (relay, _):
        assert (await relay.call("POST", "collect", SPENT)).status == 200
        assert (await relay.call("POST", "collect", no_order)).status == 422
        assert (await relay.call("PUT", "capture", SPENT, Authorization="no")).status == 401
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await relay.call("PUT", "refund", SPENT, **form)).status == 415
        assert (await relay.call("PUT", "collect", SPENT, Authorization="no")).status == 401
        wrong_method = await relay.call("POST", "balance", SPENT)
        assert (wrong_method.status, wrong_method.headers["Allow"]) == (405, "GET")
        assert relay.metric("relay_loyalty_calls_total", operation="balance", outcome="malformed")
        shapes = await shapes_of(relay)
    assert shapes["loyalty:collect"]["fields"]["orderId"] == "integer"
    malformed = shapes["loyalty:collect:malformed"]
    assert malformed["fields"].keys() == no_order.keys()
    assert deviations(malformed)["orderId"] == "missing"
    refused = shapes["loyalty:capture:refused"]
    assert (refused["fields"], refused["differences"]) == ({"": "not read"}, [])
    assert refused["call"]["credentials"] == ["Authorization: bare token"]
    form_sent = shapes["loyalty:refund:malformed"]
    assert (form_sent["fields"], form_sent["differences"]) == ({"": "not read"}, [])
    assert form_sent["call"]["content_type"] == "application/x-www-form-urlencoded"
    assert "authorization" in form_sent["call"]["headers"]
    assert shapes["loyalty:balance:malformed"]["call"]["method"] == "POST"
    assert deviations(shapes["loyalty:balance:malformed"]) == {
        "?cardKey": "missing",
        "?type": "missing",
    }


async def test_shapes_survive_a_restart(tmp_path: Path) -> None:
    async with running_sandbox(tmp_path) as sandbox:
        async with running_relay(tmp_path, sandbox) as relay:
            assert (await relay.call("GET", "validate")).status == 405
        async with running_relay(tmp_path, sandbox) as relay:
            assert list(await shapes_of(relay)) == ["loyalty:validate:malformed"]
