"""
A SCAYLE that delivers webhooks: at least once, out of order, at a rate, until each is answered.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from service.sandbox.scayle import respell

CONFIRMED = "order-confirmed"
_ACCEPTED = 200
LOST = "lost"
_FIRST_WAIT_S = 0.05


class DeliveryFileError(ValueError):
    """The file holds no deliveries as it is; the text names the line or element."""


@dataclass(frozen=True, slots=True)
class AcceptedOrder:
    """
    A confirmed order that was answered 200: what must be at Splio in the end.

    Attributes:
        points: earned with the card; 0 without one.
    """

    order_id: str
    card: str | None
    points: int


@dataclass(frozen=True, slots=True)
class DeliveryProgress:
    """Where a run is: deliveries settled, of them answered 200, and requests made."""

    settled: int
    accepted: int
    sent: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from request to answer, of the deliveries answered 200."""

    p50_s: float
    p95_s: float
    p99_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """
    What was delivered and how it was answered.

    Attributes:
        sent: requests made, repeats included.
        by_status: answers by status; `lost` where there was none.
        accepted: the confirmed orders with at least one 200, in the order of their first.
        deliveries: per order, how often it was answered 200.
        given_up: the orders (or keys of other events) that never got a 200; they may have
            been taken all the same.
    """

    sent: int
    by_status: Mapping[str, int]
    accepted: Sequence[AcceptedOrder]
    deliveries: Mapping[str, int]
    given_up: Sequence[str]
    latency: Latency
    duration_s: float


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """
    How deliveries are made.

    Attributes:
        rate: deliveries begun per second; None is as fast as they are answered.
        duplicates: share of envelopes delivered a second time; half of these spelled
            differently (see `respell`).
        reordering: by how many places a delivery may come late; a duplicate comes within
            as many after that.
        attempts: requests per delivery, the first included; anything but 200 and every lost
            connection is repeated, after a wait that doubles up to `longest_wait_s` or as
            long as `Retry-After` says, but never longer than `longest_wait_s`.
    """

    rate: float | None = None
    concurrency: int = 32
    duplicates: float = 0.0
    reordering: int = 0
    seed: int = 0
    attempts: int = 20
    longest_wait_s: float = 2.0
    timeout_s: float = 10.0


@dataclass(slots=True)
class _Run:
    url: str
    headers: dict[str, str]
    plan: DeliveryPlan
    draw: random.Random
    on_progress: Callable[[DeliveryProgress], None] | None
    sent: int = 0
    settled: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    accepted: dict[str, AcceptedOrder] = field(default_factory=dict)
    failed: dict[str, None] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)


async def deliver(
    url: str,
    envelopes: Iterable[Mapping[str, Any]],
    *,
    user: str,
    password: str,
    plan: DeliveryPlan | None = None,
    on_progress: Callable[[DeliveryProgress], None] | None = None,
) -> DeliveryReport:
    """
    Posts each envelope to the webhook at `url` with HTTP Basic until it is answered 200.

    Args:
        plan: how; by default each once, in order, as fast as they are answered.
        on_progress: called on the event loop after each delivery that is settled.
    """
    plan = DeliveryPlan() if plan is None else plan
    loop = asyncio.get_running_loop()
    credentials = b64encode(f"{user}:{password}".encode()).decode()
    run = _Run(
        url=url,
        headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        plan=plan,
        draw=random.Random(plan.seed),
        on_progress=on_progress,
    )
    queue: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue(maxsize=plan.concurrency)
    began = loop.time()
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=plan.concurrency),
            timeout=aiohttp.ClientTimeout(total=plan.timeout_s),
        ) as session,
        asyncio.TaskGroup() as group,
    ):
        for worker in range(plan.concurrency):
            group.create_task(_work(run, session, queue), name=f"deliver-{worker}")
        arranged = arrange(envelopes, plan)
        for place, envelope in enumerate(arranged):
            if plan.rate is not None:
                await asyncio.sleep(began + place / plan.rate - loop.time())
            await queue.put(envelope)
        for _ in range(plan.concurrency):
            await queue.put(None)
    return DeliveryReport(
        sent=run.sent,
        by_status=dict(sorted(run.by_status.items())),
        accepted=tuple(run.accepted.values()),
        deliveries=dict(run.answered),
        given_up=tuple(name for name in run.failed if name not in run.answered),
        latency=_quantiles(run.latencies),
        duration_s=loop.time() - began,
    )


def arrange(
    envelopes: Iterable[Mapping[str, Any]], plan: DeliveryPlan
) -> Iterator[Mapping[str, Any]]:
    """The deliveries of `envelopes` in the order they are made; see `DeliveryPlan`."""
    draw = random.Random(plan.seed)
    late: list[tuple[float, int, Mapping[str, Any]]] = []
    number = 0
    for place, envelope in enumerate(envelopes):
        due = place + draw.uniform(0, plan.reordering)
        heapq.heappush(late, (due, number, envelope))
        number += 1
        if draw.random() < plan.duplicates:
            again = envelope
            if envelope.get("type") == CONFIRMED and draw.choice((True, False)):
                again = respell(envelope)
            heapq.heappush(late, (due + 1 + draw.uniform(0, plan.reordering), number, again))
            number += 1
        while late and late[0][0] <= place:
            yield heapq.heappop(late)[2]
    while late:
        yield heapq.heappop(late)[2]


def read_deliveries(path: Path) -> list[dict[str, Any]]:
    """
    The envelopes of a file: one JSON object, an array of them, or one object a line.

    Raises: DeliveryFileError naming the line, OSError.
    """
    data = path.read_bytes()
    if not data.strip():
        raise DeliveryFileError(f"{path}: the file is empty")
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return _read_lines(path, data, error)
    if isinstance(document, list):
        for place, element in enumerate(document, start=1):
            if not isinstance(element, dict):
                raise DeliveryFileError(f"{path}: element {place} is not a JSON object")
        return document
    if not isinstance(document, dict):
        raise DeliveryFileError(f"{path}: line 1 is not a JSON object")
    return [document]


def _read_lines(path: Path, data: bytes, whole: orjson.JSONDecodeError) -> list[dict[str, Any]]:
    envelopes: list[dict[str, Any]] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if not envelopes:
                # Not even its first line stands alone: one document that is broken.
                raise DeliveryFileError(f"{path}: line {whole.lineno}: {whole.msg}") from error
            raise DeliveryFileError(f"{path}: line {number}: {error.msg}") from error
        if not isinstance(document, dict):
            raise DeliveryFileError(f"{path}: line {number} is not a JSON object")
        envelopes.append(document)
    return envelopes


async def _work(
    run: _Run, session: aiohttp.ClientSession, queue: asyncio.Queue[Mapping[str, Any] | None]
) -> None:
    while (envelope := await queue.get()) is not None:
        name = _name(envelope)
        if await _deliver_one(run, session, orjson.dumps(envelope)):
            run.answered[name] += 1
            if envelope.get("type") == CONFIRMED:
                run.accepted.setdefault(name, _expected(name, envelope))
        else:
            run.failed[name] = None
        run.settled += 1
        if run.on_progress is not None:
            accepted = run.answered.total()
            run.on_progress(DeliveryProgress(run.settled, accepted, run.sent))


async def _deliver_one(run: _Run, session: aiohttp.ClientSession, body: bytes) -> bool:
    """True as soon as one attempt is answered 200."""
    loop = asyncio.get_running_loop()
    wait_s = _FIRST_WAIT_S
    for attempt in range(1, run.plan.attempts + 1):
        began = loop.time()
        run.sent += 1
        told_s = 0.0
        try:
            async with session.post(run.url, data=body, headers=run.headers) as response:
                await response.read()
                status = str(response.status)
                told_s = retry_after_s(response.headers.get("Retry-After"))
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            status = LOST
        run.by_status[status] += 1
        if status == str(_ACCEPTED):
            run.latencies.append(loop.time() - began)
            return True
        if attempt < run.plan.attempts:
            pause_s = min(run.plan.longest_wait_s, max(told_s, wait_s * run.draw.uniform(0.5, 1)))
            await asyncio.sleep(pause_s)
            wait_s *= 2
    return False


def retry_after_s(text: str | None) -> float:
    """What a `Retry-After` of whole seconds says; 0 for any other."""
    return float(text) if text is not None and text.isdecimal() else 0.0


def _name(envelope: Mapping[str, Any]) -> str:
    payload = envelope.get("payload")
    number = payload.get("id") if isinstance(payload, dict) else None
    return str(envelope.get("key")) if number is None else str(number)


def _expected(name: str, envelope: Mapping[str, Any]) -> AcceptedOrder:
    card = envelope["payload"].get("loyaltyCard") or {}
    number = card.get("cardNumber")
    points = card.get("points")
    if number is None or not isinstance(points, int):
        return AcceptedOrder(name, number, 0)
    return AcceptedOrder(name, number, points)


def _quantiles(seconds: list[float]) -> Latency:
    if not seconds:
        return Latency(0.0, 0.0, 0.0, 0.0)
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return ordered[min(len(ordered), math.ceil(share * len(ordered))) - 1]

    return Latency(at(0.5), at(0.95), at(0.99), ordered[-1])
