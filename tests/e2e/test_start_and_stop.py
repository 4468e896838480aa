"""Starting, stopping and dying: in order, with an exit code, and nothing left behind."""

import asyncio
import gc
import signal
import socket
import threading
from functools import partial
from pathlib import Path
from typing import Final

import psutil
import pytest
from typer.testing import CliRunner

from service.cli import serve as serve_command
from service.cli.main import app
from service.domain.errors import StartupError
from service.domain.ports import Step, StepHook
from service.runtime import open_runtime
from service.sandbox.deliveries import DeliveryPlan, deliver
from service.sandbox.faults import FaultRule
from service.sandbox.scayle import Shares, generate_orders
from tests.harness.account import compare
from tests.harness.child_process import ChildProcess
from tests.harness.files import LedgerView, assert_ledger_is_sound
from tests.harness.ports import free_port
from tests.harness.relay import environment, running_relay, running_sandbox
from tests.harness.sandbox_process import SandboxProcess
from tests.harness.service_process import PASSWORD, USER, ServiceProcess
from tests.harness.waiting import until

_WITH_CARDS: Final = Shares(guests=0, without_card=0)


def _states(ledger: LedgerView) -> set[str]:
    return {state for (state,) in ledger.rows("SELECT DISTINCT state FROM effects")}


def _raise_at(step: Step) -> StepHook:
    def hook(reached: Step) -> None:
        if reached is step:
            raise RuntimeError("the worker cannot go on")

    return hook


async def test_sigterm_finishes_what_is_in_flight(tmp_path: Path) -> None:
    """Requests under way end and their outcomes are written; the exit code is 0."""
    envelopes = list(generate_orders(1, 20, customers=4, products=4, shares=_WITH_CARDS))
    async with running_sandbox(tmp_path) as sandbox:
        sandbox.add_fault(FaultRule("credit", "delay", count=None, seconds=0.6))
        with ServiceProcess(tmp_path, splio_url=sandbox.url) as service:
            service.start()
            await service.wait_ready()
            await deliver(service.webhook_url, envelopes, user=USER, password=PASSWORD)

            async def credits_are_under_way() -> bool:
                statement = await sandbox.statement()
                return bool(statement["faults"].get("credit", {}).get("delay", 0) >= 10)

            await until(credits_are_under_way, what="credits are under way")
            assert await service.stop() == 0, service.log_text()
            booked = len(await sandbox.credits())
            assert booked >= 10
            assert _states(service.place.ledger) <= {"due", "applied"}
            ((known,),) = service.place.ledger.rows(
                "SELECT count(*) FROM effects WHERE kind = 'earn' AND state = 'applied'"
            )
            assert known == booked


async def test_splio_that_hangs_does_not_keep_the_service_from_stopping(tmp_path: Path) -> None:
    """Past the grace period work is left with its claim; the next run looks it up."""
    envelopes = list(generate_orders(1, 6, customers=2, products=2, shares=_WITH_CARDS))
    settings = {"RELAY_GRACE": "300ms", "RELAY_REQUEST_TIMEOUT": "20s"}
    async with running_sandbox(tmp_path) as sandbox:
        sandbox.add_fault(FaultRule("credit", "delay", count=None, seconds=60))
        with ServiceProcess(tmp_path, splio_url=sandbox.url, settings=settings) as service:
            service.start()
            await service.wait_ready()
            report = await deliver(service.webhook_url, envelopes, user=USER, password=PASSWORD)

            async def credits_are_under_way() -> bool:
                return len(await sandbox.credits()) == len(envelopes)

            await until(credits_are_under_way, what="credits are booked and not answered")
            assert await service.stop() == 0, service.log_text()
            assert "attempting" in _states(service.place.ledger)
            sandbox.clear_faults()
            service.start(settings={"RELAY_REQUEST_TIMEOUT": "1s"})
            await service.wait_ready()
            await until(
                lambda: _states(service.place.ledger) == {"applied"}, what="all is looked up"
            )
            assert await service.stop() == 0
        account = compare(
            envelopes,
            accepted={order.order_id for order in report.accepted},
            orders=await sandbox.orders(),
            credits_=await sandbox.credits(),
        )
        account.assert_balances()


async def test_splio_is_killed_and_comes_back(tmp_path: Path) -> None:
    """What Splio answered is in its books; what it did not answer is looked up."""
    envelopes = list(generate_orders(4, 40, customers=4, products=4, shares=_WITH_CARDS))
    with SandboxProcess(tmp_path) as sandbox:
        sandbox.start()
        await sandbox.wait_ready()
        with ServiceProcess(tmp_path, splio_url=sandbox.url) as service:
            service.start()
            await service.wait_ready()
            async with asyncio.TaskGroup() as group:
                plan = DeliveryPlan(rate=60, duplicates=0.3, reordering=5)
                delivering = group.create_task(
                    deliver(service.webhook_url, envelopes, user=USER, password=PASSWORD, plan=plan)
                )

                async def some_are_booked() -> bool:
                    return len(await sandbox.credits()) >= 10

                await until(some_are_booked, what="some credits are booked")
                sandbox.kill()
            sandbox.start()
            await sandbox.wait_ready()
            await until(
                lambda: _states(service.place.ledger) == {"applied"},
                what="everything is booked",
                timeout_s=30,
            )
            assert await service.stop() == 0
            assert_ledger_is_sound(service.place.ledger)
        account = compare(
            envelopes,
            accepted={order.order_id for order in delivering.result().accepted},
            orders=await sandbox.orders(),
            credits_=await sandbox.credits(),
        )
        account.assert_balances()
        assert (await sandbox.statement())["orders_posted_twice"] == 0


@pytest.mark.parametrize(
    ("step", "worker"),
    [(Step.RECORDS_FETCHED, "intake"), (Step.OUTCOME_RECORDED, "dispatcher")],
)
async def test_worker_that_dies_ends_the_service(step: Step, worker: str, tmp_path: Path) -> None:
    (envelope,) = generate_orders(1, 1)
    async with (
        running_sandbox(tmp_path) as sandbox,
        running_relay(tmp_path, sandbox, step=_raise_at(step)) as relay,
    ):
        await relay.post(envelope)
        death = await relay.ended()
        assert death is not None
        assert death.worker == worker
        assert "RuntimeError" in death.reason
        answer = await relay.operate("GET", "/readyz")
        assert answer.status == 503


def test_worker_that_dies_gives_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the real command, with a step that fails as soon as the chores begin."""
    monkeypatch.setattr(
        serve_command, "open_runtime", partial(open_runtime, step=_raise_at(Step.LEDGER_PURGED))
    )
    result = CliRunner().invoke(app, ["serve", "--sandbox"], env=environment(tmp_path, {}))
    assert result.exit_code == 1, result.output
    assert "died" in result.output


async def _run_command(directory: Path, **settings: str) -> tuple[int, str]:
    """`python -m service serve` until it ends; its exit code and output."""
    with ChildProcess("service", log_path=directory / "command.log") as command:
        command.spawn(["serve", "--sandbox"], environment=environment(directory, settings))
        return await command.wait_exit(), command.log_text()


async def test_port_in_use_is_said_and_ends_the_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, output = await _run_command(tmp_path, http_port=str(port))
    assert code in (1, 2)
    assert str(port) in output
    assert "RELAY_HTTP_PORT" in output
    assert "Traceback" not in output


async def test_second_process_on_the_same_files_is_refused(tmp_path: Path) -> None:
    async with running_sandbox(tmp_path) as sandbox, running_relay(tmp_path, sandbox):
        code, output = await _run_command(tmp_path)
    assert code in (1, 2)
    assert "in use" in output
    assert "Traceback" not in output


async def test_command_serves_until_sigterm(tmp_path: Path) -> None:
    port = free_port()
    with ChildProcess("service", log_path=tmp_path / "command.log") as command:
        settings = {"operations_port": str(port), "log_format": "json"}
        command.spawn(["serve", "--sandbox"], environment=environment(tmp_path, settings))
        await command.wait_answer(f"http://127.0.0.1:{port}/readyz")
        assert await command.stop() == 0
        assert '"service.stopped"' in command.log_text()


async def test_sigint_stops_it_too(tmp_path: Path) -> None:
    port = free_port()
    with ChildProcess("service", log_path=tmp_path / "command.log") as command:
        command.spawn(
            ["serve", "--sandbox"],
            environment=environment(tmp_path, {"operations_port": str(port)}),
        )
        await command.wait_answer(f"http://127.0.0.1:{port}/readyz")
        command.send_signal(signal.SIGINT)
        assert await command.wait_exit() == 0


async def test_starting_and_stopping_leaves_nothing_behind(tmp_path: Path) -> None:
    """No task, thread, or file handle, after work was done and also when the start fails."""
    process = psutil.Process()

    def standing() -> tuple[int, int, int]:
        gc.collect()
        # Threads of the event loop's own pool stay for the next call.
        threads = [each for each in threading.enumerate() if not each.name.startswith("asyncio_")]
        return process.num_fds(), len(threads), len(asyncio.all_tasks())

    async def live() -> None:
        async with running_sandbox(tmp_path) as sandbox:
            async with running_relay(tmp_path, sandbox) as relay:
                await relay.deliver(list(generate_orders(2, 10)))
                await relay.rest()
            with pytest.raises(StartupError):
                async with running_relay(tmp_path, sandbox, {"points_from": "rules"}):
                    pass

    await live()  # what is opened once for the whole process is open now
    before = standing()
    for _ in range(3):
        await live()
    await until(lambda: standing() <= before, what="everything is closed")
