"""SCAYLE Checkout's calls in a process that only receives, beside one that consumes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from service.domain.effects import OPEN_STATES
from service.ledger.postgres_schema import migrate
from service.sandbox.scayle import generate_orders
from service.settings import load_settings
from service.stores import Role
from tests.e2e.test_checkout import CARD, PROGRAM, SPENT, give
from tests.harness.kafka_server import KafkaServer
from tests.harness.place import make_place
from tests.harness.postgres_server import PostgresServer
from tests.harness.relay import PASSWORD, environment, relay_in_role, running_sandbox
from tests.harness.waiting import until

_TOKENS: Final = {
    "RELAY_LOYALTY_TOKENS": f"*={PASSWORD}",
    "RELAY_SPLIO_API_KEY": "sandbox-api-key",
    "RELAY_WEBHOOK_CREDENTIALS": f"scayle:{PASSWORD}",
}


def _sources(page: Mapping[str, Any]) -> set[str]:
    return {shape["source"] for shape in page["items"]}


async def test_receiver_takes_webhooks_before_its_ledger_is_there_and_captures_after(
    tmp_path: Path, kafka_server: KafkaServer, postgres_server: PostgresServer
) -> None:
    place = await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=kafka_server, postgres=postgres_server
    )
    not_migrated = postgres_server.new_database()
    (order,) = generate_orders(3, 1, customers=1, products=1)
    async with running_sandbox(tmp_path, grants_visible_after_s=0.1) as sandbox:
        environ = {
            **environment(tmp_path, {"splio_url": sandbox.url, "balance_fresh": "0s"}),
            **place.environment,
            **_TOKENS,
            "RELAY_LEDGER_URL": not_migrated,
        }
        settings = load_settings(environ, sandbox=True)
        async with relay_in_role(Role.RECEIVE, settings, sandbox) as receiver:
            assert (await receiver.post(order)).status == 200
            early = await receiver.call("PUT", "capture", SPENT)
            assert early.status == 503
            assert int(early.headers["Retry-After"]) >= 1
            ready = await receiver.operate("GET", "/readyz")
            assert (ready.status, ready.json["degraded"]) == (200, ["checkout_away"])
            early_shapes = (await receiver.operate("GET", "/api/shapes")).json
            assert early_shapes["is_shared"] is False
            assert "loyalty:capture" in _sources(early_shapes)
            migrate(not_migrated)
            async with relay_in_role(Role.CONSUME, settings, sandbox) as consumer:
                await give(sandbox, CARD, 2500)

                async def is_taken() -> bool:
                    return (await receiver.call("PUT", "capture", SPENT)).status == 200

                await until(is_taken, what="the capture is taken", timeout_s=15)
                balance = {"cardKey": CARD, "type": PROGRAM}

                async def is_spent() -> bool:
                    answer = await receiver.call("GET", "balance", balance)
                    return answer.status == 200 and answer.json == {"balance": 1500}

                await until(is_spent, what="the points are spent", timeout_s=10)

                async def is_debited() -> bool:
                    still_open = await consumer.effects(*OPEN_STATES)
                    return not still_open and bool(await sandbox.attributions())

                await until(is_debited, what="the consumer took the points", timeout_s=15)
                assert await is_spent()

                async def are_shared() -> bool:
                    page = (await consumer.operate("GET", "/api/shapes")).json
                    return page["is_shared"] and seen <= _sources(page)

                seen = {"loyalty:balance", "loyalty:capture", "webhook:order-confirmed"}
                await until(are_shared, what="the consumer shows them", timeout_s=10)
