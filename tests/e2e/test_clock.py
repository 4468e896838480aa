"""The machine's clock jumps: leases, look-ups and retries go on as if it had not."""

import time
from pathlib import Path
from typing import Final

import pytest

from service.sandbox.faults import FaultRule
from service.sandbox.scayle import Shares, generate_orders
from tests.harness.relay import running_relay, running_sandbox
from tests.harness.waiting import until

_DAY_S: Final = 86_400


@pytest.mark.parametrize("jump_s", [_DAY_S, -_DAY_S], ids=["forward", "back"])
async def test_clock_jump_repeats_nothing(
    jump_s: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: a jump past every lease makes nothing absent that is still under way."""
    envelopes = list(
        generate_orders(8, 20, customers=4, products=4, shares=Shares(guests=0, without_card=0))
    )
    now_ns = time.time_ns  # of the service alone; the sandbox asks `time.time`
    async with running_sandbox(tmp_path, points_visible_after_s=0.5) as sandbox:
        sandbox.add_fault(FaultRule("credit", "lost_reply", count=6, skip=2))
        sandbox.add_fault(FaultRule("credit", "delay", count=4, skip=8, seconds=0.5))
        async with running_relay(tmp_path, sandbox) as relay:
            report = await relay.deliver(envelopes)

            async def replies_are_lost() -> bool:
                faults = (await sandbox.statement())["faults"]
                return bool(faults.get("credit", {}).get("lost_reply") == 6)

            await until(replies_are_lost, what="credits are in doubt")
            monkeypatch.setattr(time, "time_ns", lambda: now_ns() + jump_s * 1_000_000_000)
            await until(
                lambda: abs(relay.metric("relay_clock_drift_seconds") - jump_s) < 60,
                what="the drift shows",
            )
            await relay.rest()
            (await relay.account(envelopes, report)).assert_balances()
            assert await relay.requests("credit") == len(envelopes)


async def test_restart_after_a_jump_back_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that was an hour ahead and is set right while the service is down."""
    envelopes = list(generate_orders(8, 20, customers=4, products=4))
    now_ns = time.time_ns
    async with running_sandbox(tmp_path, limits={"sales": 20, "other": 10}) as sandbox:
        with monkeypatch.context() as ahead:
            ahead.setattr(time, "time_ns", lambda: now_ns() + 3600 * 1_000_000_000)
            async with running_relay(
                tmp_path, sandbox, {"splio_limits": "sales=20,other=10"}
            ) as relay:
                report = await relay.deliver(envelopes)
        assert len(await sandbox.orders()) < len(envelopes)
        async with running_relay(tmp_path, sandbox, {"splio_limits": "sales=20,other=10"}) as relay:
            await relay.rest()
            (await relay.account(envelopes, report)).assert_balances()
