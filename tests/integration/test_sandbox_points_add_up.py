"""Whatever happens on the way, points at the sandbox add up."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from hypothesis import given, settings
from hypothesis import strategies as st

from service.sandbox.faults import FaultRule
from service.sandbox.splio import DEFAULT_REWARDS
from tests.integration.sandbox_client import CARD, OTHER_CARD, Client, open_client

FAULTS = (None, "lost_reply", "lost_request", "status", "status_after", "garbage", "429")
CARDS = (CARD, OTHER_CARD)


@dataclass(frozen=True, slots=True)
class Step:
    """One request, the faults of its attempts in turn, and whether it is repeated needlessly."""

    reward: str | None
    card: str
    amount: int
    key: int
    faults: tuple[str | None, ...]
    repeated: bool


STEPS = st.lists(
    st.builds(
        Step,
        reward=st.none() | st.sampled_from(sorted(DEFAULT_REWARDS)),
        card=st.sampled_from(CARDS),
        amount=st.integers(1, 300),
        key=st.integers(0, 20),
        faults=st.lists(st.sampled_from(FAULTS), max_size=2).map(tuple),
        repeated=st.booleans(),
    ),
    max_size=12,
)


async def attempt(client: Client, step: Step) -> None:
    """One request; what became of it, the client need not learn."""
    try:
        if step.reward is None:
            await client.credit(
                step.card,
                nq_points_quantity=step.amount,
                context=f"credit:{step.key}",
                idempotency_key=f"credit:{step.key}",
            )
        else:
            await client.grant(
                step.reward,
                card_code=step.card,
                quantity=step.amount % 10 + 1,
                reason_msg=f"grant:{step.key}",
                idempotency_key=f"grant:{step.key}",
            )
    except aiohttp.ClientError:
        pass


async def run(steps: list[Step], repeated_key: str, too_few_points: str) -> None:
    chosen: dict[str, Any] = {
        "repeated_key": "book" if repeated_key == "book" else "suppress",
        "repeated_grant_key": repeated_key,
        "too_few_points": too_few_points,
    }
    with tempfile.TemporaryDirectory() as folder:
        async with open_client(Path(folder), **chosen) as client:
            for step in steps:
                operation = "credit" if step.reward is None else "reward.grant"
                for fault in step.faults:
                    if fault is not None:
                        client.sandbox.add_fault(FaultRule(operation, fault, count=1))
                    await attempt(client, step)
                for _ in range(1 + step.repeated):
                    await attempt(client, step)
            await check(client, repeated_key, too_few_points)
        # The same from the file, after a restart.
        async with open_client(Path(folder), **chosen) as client:
            await check(client, repeated_key, too_few_points)


async def check(client: Client, repeated_key: str, too_few_points: str) -> None:
    accounts = await client.sandbox.accounts()
    for account in accounts:
        card, balance = account["card_code"], account["balance"]
        assert account["earned"] - account["spent"] == balance
        assert await client.usable(card) == balance
        if too_few_points != "grant":
            assert balance >= 0
    totals = (await client.sandbox.statement())["points"]
    assert totals == {
        name: sum(account[name] for account in accounts) for name in ("earned", "spent", "balance")
    }
    rows = await client.sandbox.attributions()
    spent = Counter[str]()
    for row in rows:
        assert row["nq_points"] == DEFAULT_REWARDS[row["reward_id"]]
        spent[row["card_code"]] += row["nq_points"]
    assert {account["card_code"]: account["spent"] for account in accounts if account["spent"]} == (
        dict(spent)
    )
    assert len({row["external_id"] for row in rows}) == len(rows)
    if repeated_key != "book":
        # Every key made one grant at most, however often it was sent.
        assert len({row["uuid"] for row in rows}) == len({row["idempotency_key"] for row in rows})
        credits = [row["idempotency_key"] for row in await client.sandbox.credits()]
        assert len(set(credits)) == len(credits)


@settings(max_examples=40, deadline=None)
@given(
    steps=STEPS,
    repeated_key=st.sampled_from(["suppress", "refuse", "book"]),
    too_few_points=st.sampled_from(["flat", "grant"]),
)
def test_credits_less_grants_are_the_balance_of_every_card(
    steps: list[Step], repeated_key: str, too_few_points: str
) -> None:
    asyncio.run(run(steps, repeated_key, too_few_points))
