"""Commands and roles on a real broker and a real PostgreSQL."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import aiohttp
import orjson
import psycopg
import pytest
from prometheus_client import CollectorRegistry

from service.domain.ledger import Chore
from service.ledger.postgres import open_postgres_ledger, server_clock
from service.ledger.postgres_schema import migrate
from service.sandbox.scayle import generate_orders
from service.stores import Role
from service.telemetry.metrics import Metrics
from tests.contract.ledger_fixture import CONFIG
from tests.harness.kafka_server import KafkaServer
from tests.harness.place import make_place
from tests.harness.postgres_server import PostgresServer
from tests.harness.relay import running_sandbox
from tests.harness.service_process import PASSWORD, USER, ServiceProcess
from tests.harness.waiting import until
from tests.unit.cli.commands import run


async def command(environ: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """A command of the line in this process: exit code and all that it printed."""
    result = await asyncio.to_thread(run, *arguments, environ=environ)
    return result.exit_code, result.output


async def test_migrate_can_be_repeated(postgres_server: PostgresServer) -> None:
    environ = {"RELAY_LEDGER_URL": postgres_server.new_database()}
    assert await command(environ, "migrate") == (
        0,
        "applied 0001_ledger.sql\napplied 0002_checkout.sql\n",
    )
    assert await command(environ, "migrate") == (
        0,
        "nothing to apply: the schema is this release's\n",
    )


async def test_migrate_says_when_it_is_not_needed() -> None:
    code, output = await command({}, "migrate")
    assert code == 1 and "SQLite" in output


async def test_migrate_names_a_server_that_is_away() -> None:
    environ = {"RELAY_LEDGER_URL": "postgresql://relay:secret@127.0.0.1:1/relay"}
    code, output = await command(environ, "migrate")
    assert code == 1 and "ledger_not_reachable" in output and "secret" not in output


async def test_two_starters_migrate_once(postgres_server: PostgresServer) -> None:
    address = postgres_server.new_database()
    applied = await asyncio.gather(*(asyncio.to_thread(migrate, address) for _ in range(4)))
    assert sorted(map(list, applied)) == [
        [],
        [],
        [],
        ["0001_ledger.sql", "0002_checkout.sql"],
    ]


async def test_consume_refuses_to_start_while_a_migration_is_pending(
    tmp_path: Path, kafka_server: KafkaServer, postgres_server: PostgresServer
) -> None:
    place = await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=kafka_server, postgres=postgres_server
    )
    environ = {**place.environment, "RELAY_LEDGER_URL": postgres_server.new_database()}
    place = type(place)(environ, place.log, place.ledger)
    with ServiceProcess(
        tmp_path, splio_url="http://127.0.0.1:1", place=place, role=Role.CONSUME
    ) as service:
        service.start()
        assert await service.wait_exit() == 1
        assert "migration_pending" in service.log_text()
        assert "loyalty-relay migrate" in service.log_text()


async def test_receive_needs_no_ledger_and_consume_no_public_listener(
    tmp_path: Path, kafka_server: KafkaServer, postgres_server: PostgresServer
) -> None:
    place = await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=kafka_server, postgres=postgres_server
    )
    no_ledger = {"RELAY_LEDGER_URL": "postgresql://relay@127.0.0.1:1/relay"}
    (envelope,) = generate_orders(1, 1, customers=1, products=1)
    async with running_sandbox(tmp_path) as sandbox:
        with (
            ServiceProcess(
                tmp_path,
                splio_url=sandbox.url,
                place=place,
                role=Role.RECEIVE,
                name="receive",
                settings=no_ledger,
            ) as receiver,
            ServiceProcess(
                tmp_path, splio_url=sandbox.url, place=place, role=Role.CONSUME, name="consume"
            ) as consumer,
        ):
            receiver.start()
            consumer.start()
            await receiver.wait_ready()
            await consumer.wait_ready()
            async with aiohttp.ClientSession() as session:
                async with session.post(
                    receiver.webhook_url,
                    data=orjson.dumps(envelope),
                    headers={
                        "Authorization": aiohttp.encode_basic_auth(USER, PASSWORD),
                        "Content-Type": "application/json",
                    },
                ) as response:
                    assert response.status == 200
                async with session.get(f"{receiver.operations_url}/api/effects") as response:
                    assert response.status == 404
                with pytest.raises(aiohttp.ClientConnectorError):
                    await session.get(consumer.webhook_url)

            async def is_posted() -> bool:
                return len(await sandbox.orders()) == 1

            await until(is_posted, what="the order is at Splio", timeout_s=30)
            assert await receiver.stop() == 0
            assert await consumer.stop() == 0


async def test_doctor_looks_at_broker_and_database(
    tmp_path: Path, kafka_server: KafkaServer, postgres_server: PostgresServer
) -> None:
    place = await make_place(
        tmp_path, log="kafka", ledger="postgres", kafka=kafka_server, postgres=postgres_server
    )
    found = await doctor(place.environment)
    assert found["kafka"] == found["topics"] == found["ledger"] == found["schema"] == "ok"
    assert (found["standby"], found["spool"], found["server clock"]) == ("warn", "warn", "ok")
    away = {
        "RELAY_LOG_URL": "kafka://127.0.0.1:1",
        "RELAY_LEDGER_URL": "postgresql://relay@127.0.0.1:1/relay",
    }
    found = await doctor(away)
    assert (found["kafka"], found["ledger"]) == ("fail", "fail")
    empty = {**place.environment, "RELAY_LEDGER_URL": postgres_server.new_database()}
    found = await doctor({**empty, "RELAY_TOPIC_PREFIX": "nothing-is-here."})
    assert (found["topics"], found["schema"]) == ("fail", "fail")


async def doctor(environ: Mapping[str, str]) -> dict[str, str]:
    _, output = await command({**environ, "RELAY_OPERATIONS_PORT": "1"}, "doctor", "--json")
    rows = [orjson.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {row["check"]: row["result"] for row in rows}


async def test_offline_commands_work_on_a_shared_ledger(postgres_server: PostgresServer) -> None:
    address = postgres_server.new_ledger()
    code, output = await command(
        {"RELAY_LEDGER_URL": address}, "effects", "list", "--offline", "--json"
    )
    assert (code, output) == (0, "")
    with psycopg.connect(address) as connection:
        row = connection.execute("SELECT value FROM meta WHERE name = 'tenant'").fetchone()
        assert row == ("main",)


async def test_who_books_points_is_not_changed_while_a_service_works(
    postgres_server: PostgresServer,
) -> None:
    """P2: it would go on booking one way while the next one that starts books the other."""
    address = postgres_server.new_ledger()
    environ = {"RELAY_LEDGER_URL": address}
    config = replace(CONFIG, owner="a service that works")
    metrics = Metrics(CollectorRegistry())
    clock = await server_clock(address)
    async with open_postgres_ledger(address, config=config, clock=clock, metrics=metrics) as ledger:
        assert await ledger.hold_duty(Chore.LOOK_UP, lease_s=60)
        code, output = await command(environ, "points-from", "rules")
        assert code == 1 and "consumers_run" in output
        await ledger.release_duties()
    code, output = await command(environ, "points-from", "rules")
    assert code == 0, output
    with psycopg.connect(address) as connection:
        row = connection.execute("SELECT value FROM meta WHERE name = 'points_from'").fetchone()
        assert row == ("rules",)
        assert connection.execute("SELECT * FROM duties").fetchall() == []
