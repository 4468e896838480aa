"""The disk fills up or turns read-only: webhooks get 503, nothing is lost, and it recovers."""

import asyncio
import re
import resource
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Final

import aiohttp
import psutil
import pytest

from service.sandbox.deliveries import DeliveryPlan, deliver
from service.sandbox.scayle import generate_orders
from tests.harness.account import compare
from tests.harness.files import assert_ledger_is_sound, backlog, count_open
from tests.harness.relay import running_relay, running_sandbox
from tests.harness.service_process import PASSWORD, USER, ServiceProcess
from tests.harness.waiting import until

_Usage = namedtuple("_Usage", "total used free")
_MIB: Final = 1024 * 1024


async def _refused(service: ServiceProcess) -> bool:
    """Whether some webhooks were answered 503."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{service.operations_url}/metrics") as response,
    ):
        found = re.search(
            r'^relay_webhooks_total{outcome="unavailable"} (\d+)', await response.text(), re.M
        )
        return found is not None and int(found[1]) >= 10


async def test_low_disk_refuses_webhooks_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1, P3: refused while there is still room for the outcomes of what is under way."""
    envelopes = list(generate_orders(2, 10))
    free = {"bytes": 500 * _MIB}

    def disk_usage(path: object) -> _Usage:
        return _Usage(1000 * _MIB, 0, free["bytes"])

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    async with (
        running_sandbox(tmp_path) as sandbox,
        running_relay(tmp_path, sandbox, {"disk_reserve": "256MiB"}) as relay,
    ):
        report = await relay.deliver(envelopes)
        await relay.rest()
        free["bytes"] = 100 * _MIB
        await until(lambda: relay.metric("relay_storage_low") == 1, what="the disk is low")
        refused = await relay.post(envelopes[0])
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert (await relay.operate("GET", "/readyz")).status == 503
        free["bytes"] = 500 * _MIB
        await until(lambda: relay.metric("relay_storage_low") == 0, what="there is room again")
        assert (await relay.operate("GET", "/readyz")).status == 200
        assert (await relay.post(envelopes[0])).status == 200
        await relay.rest()
        (await relay.account(envelopes, report)).assert_balances()


async def test_low_disk_at_start_refuses_from_the_first_webhook_on(tmp_path: Path) -> None:
    (envelope,) = generate_orders(2, 1)
    reserve = f"{shutil.disk_usage(tmp_path).free // (1024 * _MIB) + 100}GiB"
    async with (
        running_sandbox(tmp_path) as sandbox,
        running_relay(tmp_path, sandbox, {"disk_reserve": reserve}) as relay,
    ):
        assert (await relay.post(envelope)).status == 503
        assert await relay.runtime.backlog() == 0


async def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    """
    The process may write no file beyond a limit, which its system refuses as a full disk does.

    What was answered 200 before is booked afterwards, and deliveries go on until they are taken.
    """
    envelopes = list(generate_orders(6, 60, customers=6, products=6))
    async with running_sandbox(tmp_path) as sandbox:
        with ServiceProcess(tmp_path, splio_url=sandbox.url) as service:
            service.start()
            await service.wait_ready()
            process = psutil.Process(service.process_id)
            _, hard = process.rlimit(resource.RLIMIT_FSIZE)
            async with asyncio.TaskGroup() as group:
                plan = DeliveryPlan(
                    rate=60, duplicates=0.2, reordering=5, attempts=500, longest_wait_s=0.2
                )
                delivering = group.create_task(
                    deliver(service.webhook_url, envelopes, user=USER, password=PASSWORD, plan=plan)
                )

                async def some_are_booked() -> bool:
                    return len(await sandbox.credits()) >= 5

                await until(some_are_booked, what="some credits are booked")
                # The journal of neither file can grow, and no page of them can be written.
                process.rlimit(resource.RLIMIT_FSIZE, (4096, hard))
                await until(lambda: _refused(service), what="webhooks are refused", timeout_s=10)
                process.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
            report = delivering.result()
            assert report.by_status["503"] >= 1

            async def is_done() -> bool:
                place = service.place
                return not (await backlog(place.log, place.ledger) or count_open(place.ledger))

            await until(is_done, what="everything is settled", timeout_s=30)
            assert await service.stop() == 0
            assert_ledger_is_sound(service.place.ledger)
        account = compare(
            envelopes,
            accepted={order.order_id for order in report.accepted},
            orders=await sandbox.orders(),
            credits_=await sandbox.credits(),
        )
        account.assert_balances()
        assert len(report.accepted) == len(envelopes)
