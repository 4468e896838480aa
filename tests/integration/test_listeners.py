"""Listeners: bounds, time limits, TLS, start and stop."""

import asyncio
import os
import shutil
import ssl
import subprocess
from pathlib import Path

import orjson
import pytest

from service.domain.errors import StartupError
from service.web.dispatch import Router
from service.web.listeners import Listener, ListenerConfig, load_tls
from service.web.public_door import answer_alive
from tests.fakes.public_listener import AUTHORIZATION, PATH, public_listener
from tests.fakes.raw_http import RawConnection, exchange, request
from tests.fakes.scayle_bodies import order_confirmed_bytes
from tests.fakes.waiting import until

HEALTH = request("GET", "/healthz")
WEBHOOK = request(
    "POST", PATH, headers={"Authorization": AUTHORIZATION}, body=order_confirmed_bytes()
)


def listener(
    port: int = 0, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Listener:
    router = Router()
    router.add("GET", "/healthz", answer_alive)
    return Listener(ListenerConfig("public", host, port, "RELAY_HTTP_PORT", tls=tls), router)


async def test_slow_head_is_answered_408_and_closed() -> None:
    async with public_listener(head_timeout_s=0.1) as running:
        async with RawConnection(running.port) as connection:
            await connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            answer = await connection.answer()
            assert answer is not None
            assert answer.status == 408
            assert orjson.loads(answer.body)["status"] == 408
            assert await connection.is_closed()
        await until(lambda: running.listener.connections == 0)


async def test_head_that_drips_after_a_served_request_is_closed_too() -> None:
    async with (
        public_listener(head_timeout_s=0.1) as running,
        RawConnection(running.port) as connection,
    ):
        await connection.send(HEALTH)
        assert await connection.answer() is not None
        dripping = asyncio.create_task(_drip(connection, WEBHOOK))
        answer = await connection.answer()
        assert answer is not None
        assert answer.status == 408
        assert await connection.is_closed()
        dripping.cancel()


async def _drip(connection: RawConnection, data: bytes) -> None:
    for at in range(len(data)):
        await connection.send(data[at : at + 1])
        await asyncio.sleep(0.005)


async def test_silent_and_idle_connections_are_closed() -> None:
    async with public_listener(head_timeout_s=0.1, idle_timeout_s=0.2) as running:
        async with RawConnection(running.port) as silent, RawConnection(running.port) as idle:
            await idle.send(HEALTH)
            assert await idle.answer() is not None
            assert await silent.is_closed()
            assert await idle.is_closed()
        await until(lambda: running.listener.connections == 0)


async def test_request_that_waits_for_its_answer_is_not_idle() -> None:
    async with public_listener(head_timeout_s=0.05, idle_timeout_s=0.05) as running:
        running.log.gate.clear()
        async with RawConnection(running.port) as connection, RawConnection(running.port) as other:
            await connection.send(WEBHOOK)
            await until(lambda: running.log.waiting)
            # The sweeper has been round by the time it closes this one.
            assert await other.is_closed()
            running.log.gate.set()
            answer = await connection.answer()
            assert answer is not None
            assert answer.status == 200


async def test_full_listener_closes_the_quiet_and_refuses_when_all_are_at_work() -> None:
    async with public_listener(max_connections=2) as running:
        running.log.gate.clear()
        async with RawConnection(running.port) as first:
            await first.send(WEBHOOK)
            await until(lambda: running.log.waiting == 1)
            async with RawConnection(running.port) as quiet, RawConnection(running.port) as second:
                assert await quiet.is_closed()
                await second.send(WEBHOOK)
                await until(lambda: running.log.waiting == 2)
                refused = await exchange(running.port, HEALTH)
                assert refused is not None
                assert refused.status == 503
                assert refused.headers["retry-after"] == "1"
                running.log.gate.set()
                for connection in (first, second):
                    answer = await connection.answer()
                    assert answer is not None
                    assert answer.status == 200


async def test_flood_of_silent_connections_keeps_nobody_out() -> None:
    async with public_listener(max_connections=8) as running:
        async with asyncio.TaskGroup() as tasks:
            flood = [RawConnection(running.port) for _ in range(40)]
            for connection in flood:
                tasks.create_task(connection.__aenter__())
        answer = await exchange(running.port, WEBHOOK)
        assert answer is not None
        assert answer.status == 200
        assert running.listener.connections <= 8
        for connection in flood:
            await connection.__aexit__(None, None, None)


async def test_stop_lets_a_request_in_hand_finish_and_takes_no_more() -> None:
    async with public_listener() as running:
        running.log.gate.clear()
        async with RawConnection(running.port) as connection, RawConnection(running.port) as idle:
            await idle.send(HEALTH)
            assert await idle.answer() is not None
            await connection.send(WEBHOOK)
            await until(lambda: running.log.waiting)
            port = running.port
            stopping = asyncio.create_task(running.listener.stop(grace_s=5))
            assert await idle.is_closed()
            with pytest.raises(ConnectionError):
                await exchange(port, HEALTH)
            assert not stopping.done()
            running.log.gate.set()
            answer = await connection.answer()
            assert answer is not None
            assert answer.status == 200
            assert await connection.is_closed()
            await stopping


async def test_stop_gives_up_on_a_request_after_the_grace_period() -> None:
    async with public_listener() as running:
        running.log.gate.clear()
        async with RawConnection(running.port) as connection:
            await connection.send(WEBHOOK)
            await until(lambda: running.log.waiting)
            await running.listener.stop(grace_s=0.05)
            assert await connection.answer() is None
        await until(lambda: running.log.waiting == 0)


async def test_port_in_use_is_said_with_the_setting_to_change() -> None:
    first = listener()
    await first.start()
    try:
        with pytest.raises(StartupError) as caught:
            await listener(first.port).start()
        assert str(caught.value) == (
            f"cannot_listen: the public listener cannot use 127.0.0.1:{first.port}: another "
            "program listens there; stop it or set RELAY_HTTP_PORT to another port"
        )
    finally:
        await first.stop(grace_s=1)


async def test_port_is_free_again_after_a_stop() -> None:
    first = listener()
    await first.start()
    port = first.port
    assert await exchange(port, HEALTH) is not None
    await first.stop(grace_s=1)
    again = listener(port)
    await again.start()
    await again.stop(grace_s=1)


@pytest.mark.parametrize("host", ["192.0.2.77", "no-such-host.invalid", "x" * 300])
async def test_address_of_another_machine_is_said(host: str) -> None:
    with pytest.raises(StartupError, match="cannot_listen"):
        await listener(host=host).start()


async def test_listener_that_never_started_can_be_stopped() -> None:
    await listener().stop(grace_s=0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None and not os.environ.get("CI"):
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost -out cert.pem -keyout key.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return files


async def test_tls_is_served_and_old_versions_and_plain_text_are_not(
    certificate: tuple[Path, Path],
) -> None:
    served = listener(tls=load_tls(*certificate))
    await served.start()
    try:
        client = ssl.create_default_context(cafile=str(certificate[0]))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", served.port, ssl=client, server_hostname="localhost"
        )
        writer.write(HEALTH)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()
        assert await exchange(served.port, HEALTH) is None
    finally:
        await served.stop(grace_s=1)


def test_tls_files_that_do_not_fit_are_said(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="tls_files"):
        load_tls(certificate[1], certificate[0])
    with pytest.raises(StartupError, match="tls_files"):
        load_tls(tmp_path / "absent.pem", certificate[1])
