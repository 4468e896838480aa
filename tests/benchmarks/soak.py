"""
A long run of mixed load with faults in turn: does anything grow, and do the books balance?

Three processes on one broker and one durable PostgreSQL (`serve`, `receive`, `consume`), the
sandbox in its own process. The `consume` process is among what is killed; the other two live from
the beginning to the end. At the end everything comes to rest, Splio's books are compared with what
was answered 200, and a line is laid through memory and open handles of the last two thirds.

`python -m tests.benchmarks.soak [--minutes 30] [--rate 20]`, or `make soak`.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from service.stores import Role
from tests.benchmarks.distributed import Servers, servers
from tests.benchmarks.soak_faults import Faults
from tests.benchmarks.soak_load import PASSWORD, USER, Delivered, Traffic, send
from tests.benchmarks.soak_samples import FLAT_HANDLES, FLAT_SHARE, Line, Sampler, Watched
from tests.benchmarks.surroundings import (
    RelayProcess,
    machine,
    sandbox_process,
    working_folder,
)
from tests.harness.account import Account, compare
from tests.harness.child_process import ROOT
from tests.harness.files import count_open, planned_orders
from tests.harness.place import Place
from tests.harness.ports import free_port
from tests.harness.sandbox_process import SandboxProcess
from tests.harness.waiting import until

_SAMPLE_S: Final = 10.0
_READY_S: Final = 60.0
_REST_S: Final = 180.0
_LATE_S: Final = 300.0  # the load may last so much longer than it should, after that it is given up
_FAULTS_EVERY_S: Final = 12.0
# Splio's limits times three, so that the schedule which the processes share is in use and a
# backlog is worked off before the next fault.
_LIMITS: Final = "contacts=60,sales=60,other=60"
_ROLES: Final = {"serve": Role.SERVE, "receive": Role.RECEIVE, "consume": Role.CONSUME}


@dataclass(frozen=True, slots=True)
class Ended:
    """How the run ended: what the books say, and what never came to rest."""

    account: Account
    accepted: int
    orders_posted_twice: int
    unsettled: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="default: %(default)s")
    parser.add_argument(
        "--rate", type=float, default=20.0, help="deliveries/s; default: %(default)s"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "data" / "soak.json")
    options = parser.parse_args()
    with working_folder() as folder, servers(folder) as both, sandbox_process(folder) as sandbox:
        document = asyncio.run(_soak(folder, both, sandbox, options.minutes, options.rate))
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    print(_table(document))


async def _soak(
    folder: Path, both: Servers, sandbox: SandboxProcess, minutes: float, rate: float
) -> dict[str, Any]:
    place = await both.open_place(folder)
    traffic = Traffic.lasting(
        minutes * 60, rate=rate, doors=sum(role.receives for role in _ROLES.values())
    )
    with ExitStack() as stack:
        doors: list[str] = []
        watched: list[Watched] = []
        for name in _ROLES:
            each, door = _process(name, folder, place, sandbox)
            watched.append(each)
            if _ROLES[name].receives:
                doors.append(door)
            stack.enter_context(each.process).start()
        for each in watched:
            ready = each.metrics_url.replace("/metrics", "/readyz")
            await each.process.wait_answer(ready, timeout_s=_READY_S)
        victim = next(each.process for each in watched if each.is_killed)
        faults, sampler = Faults(both, sandbox, victim), Sampler(watched)
        began_s = time.monotonic()
        helpers = [
            asyncio.create_task(sampler.run(every_s=_SAMPLE_S), name="samples"),
            asyncio.create_task(_tell(sampler, faults, began_s), name="progress"),
        ]
        breaking = asyncio.create_task(faults.run(every_s=_FAULTS_EVERY_S), name="faults")
        try:
            async with asyncio.timeout(minutes * 60 + _LATE_S):
                delivered = await send(doors, traffic, rate=rate)
        finally:
            breaking.cancel()
            await asyncio.wait([breaking])
        if not breaking.cancelled():
            breaking.result()  # a fault that could not be done ends the run
        await sandbox.clear_faults()
        loaded_s = time.monotonic() - began_s
        sampler.end_load()
        ended = await _rest(place, sandbox, traffic, delivered)
        for helper in helpers:
            helper.cancel()
        await asyncio.wait(helpers)
        codes = {each.name: await each.process.stop() for each in watched}
    return {
        "machine": machine(),
        "minutes": loaded_s / 60,
        "rate": rate,
        "orders": traffic.orders,
        "answers": delivered.by_status(),
        "no_json": {str(status): times for status, times in delivered.no_json.items()},
        "given_up": [name for report in delivered.reports for name in report.given_up],
        "faults": faults.struck,
        "accepted": ended.accepted,
        "books": {
            **{name: len(lines) for name, lines in asdict(ended.account).items()},
            "orders_posted_twice": ended.orders_posted_twice,
        },
        "differences": asdict(ended.account),
        "unsettled": ended.unsettled,
        "exit_codes": codes,
        "processes": {each.name: _verdict(each, sampler) for each in watched},
        "samples": sampler.documents(),
    }


def _process(name: str, folder: Path, place: Place, sandbox: SandboxProcess) -> tuple[Watched, str]:
    """One process with its ports, and where its door is."""
    public, operations = free_port(), free_port()
    settings = {
        **place.environment,
        "RELAY_HTTP_PORT": str(public),
        "RELAY_OPERATIONS_PORT": str(operations),
        "RELAY_WEBHOOK_CREDENTIALS": f"{USER}:{PASSWORD}",
        "RELAY_SPLIO_LIMITS": _LIMITS,
    }
    role = _ROLES[name]
    if role.receives:
        settings["RELAY_SPOOL_PATH"] = str(folder / f"spool-{name}.db")
    process = RelayProcess(folder, sandbox.url, settings, role=role, name=name)
    watched = Watched(
        name, process, f"http://127.0.0.1:{operations}/metrics", is_killed=role is Role.CONSUME
    )
    return watched, f"http://127.0.0.1:{public}/webhooks/scayle"


async def _tell(sampler: Sampler, faults: Faults, began_s: float) -> None:
    """A line on standard error now and then."""
    while True:
        await asyncio.sleep(_SAMPLE_S)
        each = "; ".join(
            f"{name} {sample.rss_mib:.0f} MiB {sample.handles} handles"
            + (f" {sample.open_effects:.0f} open" if sample.open_effects is not None else "")
            + (f" {sample.spool:.0f} spooled" if sample.spool else "")
            for name, sample in sampler.latest().items()
        )
        print(
            f"{time.monotonic() - began_s:.0f} s: {each}; last fault: {faults.last}",
            file=sys.stderr,
            flush=True,
        )


async def _rest(
    place: Place, sandbox: SandboxProcess, traffic: Traffic, delivered: Delivered
) -> Ended:
    """Wait until nothing is open any more, then compare the books."""
    accepted = delivered.accepted(traffic)

    def is_at_rest() -> bool:
        return planned_orders(place.ledger) >= accepted and not count_open(place.ledger)

    unsettled = ""
    try:
        await until(
            lambda: asyncio.to_thread(is_at_rest), what="everything settles", timeout_s=_REST_S
        )
    except AssertionError as error:
        missing = len(accepted - planned_orders(place.ledger))
        unsettled = f"{error}: {missing} orders not planned, {count_open(place.ledger)} open"
    dead = place.ledger.rows("SELECT order_key, kind FROM dead_letters WHERE effect_key <> ''")
    account = compare(
        list(traffic.envelopes()),
        accepted=accepted,
        orders=await sandbox.orders(),
        credits_=await sandbox.credits(),
        set_aside={(order_id, kind) for order_id, kind in dead},
    )
    statement = await sandbox.statement()
    return Ended(account, len(accepted), statement["orders_posted_twice"], unsettled)


def _verdict(watched: Watched, sampler: Sampler) -> dict[str, Any]:
    """Memory and handles of one process; one that was killed is not judged."""
    lines = sampler.lines(watched.name)
    if lines is None or watched.is_killed:
        last = sampler.latest().get(watched.name)
        return {
            "rss_mib": last.rss_mib if last else None,
            "handles": last.handles if last else None,
            "is_flat": None,
        }
    memory, handles = lines
    flat = (
        memory.growth <= FLAT_SHARE * memory.begins,
        handles.growth <= FLAT_HANDLES,
    )
    return {"memory": _drawn(memory), "handles": _drawn(handles), "is_flat": all(flat)}


def _drawn(line: Line) -> dict[str, float]:
    return {**asdict(line), "growth": line.growth}


def _table(document: Mapping[str, Any]) -> str:
    books = document["books"]
    rows = [
        "| what | found |",
        "|---|---|",
        f"| load | {document['minutes']:.1f} min, {document['orders']:,} orders, "
        f"{document['accepted']:,} answered 200; answers {document['answers']} |",
        f"| faults | {', '.join(f'{n} × {t}' for n, t in document['faults'].items())} |",
        f"| lost, twice, different, unexpected | {books['lost']}, {books['twice']} (orders sent "
        f"twice: {books['orders_posted_twice']}), {books['different']}, {books['unexpected']} |",
        f"| at rest | {document['unsettled'] or 'everything settled'}; exit codes "
        f"{document['exit_codes']} |",
    ]
    for name, found in document["processes"].items():
        if found["is_flat"] is None:
            rows.append(f"| `{name}` | {found.get('rss_mib') or 0:.0f} MiB, not judged |")
            continue
        memory, handles = found["memory"], found["handles"]
        rows.append(
            f"| `{name}` | memory {memory['begins']:.1f} → {memory['ends']:.1f} MiB "
            f"({memory['per_hour']:+.1f} MiB/h), handles {handles['begins']:.1f} → "
            f"{handles['ends']:.1f} ({handles['per_hour']:+.1f}/h): "
            f"{'flat' if found['is_flat'] else 'not flat'} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
