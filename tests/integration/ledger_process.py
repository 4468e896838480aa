"""A process of its own that works on a ledger until it is killed; started by the tests."""

import asyncio
import itertools
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from service.domain.clock import SteadyClock
from service.domain.ledger import Ledger
from service.ledger.sqlite import open_sqlite_ledger
from service.telemetry.metrics import Metrics
from tests.contract.ledger_fixture import APPLIED, CONFIG, LEASE_S, Records, order_only


def tell(what: str) -> None:
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


async def claim_and_wait(ledger: Ledger) -> None:
    """Claim one effect and never tell how it ended."""
    (result,) = await Records().write(ledger, order_only("7"))
    claim = await ledger.claim(result.fresh[0], lease_s=LEASE_S)
    assert claim is not None
    tell("claimed main:order:7")
    await asyncio.Event().wait()


async def work(ledger: Ledger) -> None:
    """Plan, claim and settle as fast as it goes, and tell each that was committed."""
    records = Records()

    async def one(number: int) -> None:
        order_id = str(number)
        planned = records.planned(order_only(order_id))
        (result,) = await ledger.record_plans([planned], [])
        tell(f"planned {result.fresh[0].key}")
        claim = await ledger.claim(result.fresh[0], lease_s=LEASE_S)
        assert claim is not None
        tell(f"claimed {result.fresh[0].key}")
        await ledger.settle(claim, APPLIED)
        tell(f"settled {result.fresh[0].key}")

    for first in itertools.count(0, 16):
        await asyncio.gather(*(one(first + n) for n in range(16)))


async def main(path: Path, what: str) -> None:
    metrics = Metrics(CollectorRegistry())
    async with open_sqlite_ledger(
        path, config=CONFIG, clock=SteadyClock(), metrics=metrics
    ) as ledger:
        await {"claim": claim_and_wait, "work": work}[what](ledger)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
