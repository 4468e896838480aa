"""What a soak sends: orders with repeats and guests, bodies nobody can read, types nobody uses."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from service.sandbox.deliveries import DeliveryPlan, DeliveryReport, deliver
from service.sandbox.scayle import Shares, generate_orders
from tests.benchmarks.events import FIRST_ORDER_ID

USER: Final = "scayle"
PASSWORD: Final = "soak"
_SEED: Final = 11
_SHARES: Final = Shares(guests=0.15)
_DUPLICATES: Final = 0.2
_BOTH_DOORS: Final = 10  # one order in so many is delivered at every door
_UNUSED: Final = 12  # one event in so many has a type that is not used
_UNREADABLE: Final = 25  # one in so many has a used type and cannot be read
_NO_JSON_EVERY_S: Final = 2.0
_NOT_TAKEN: Final = (400, 503)


@dataclass(frozen=True, slots=True)
class Traffic:
    """`orders` confirmed orders in all; made anew from the same seed whenever they are needed."""

    orders: int

    @classmethod
    def lasting(cls, seconds: float, *, rate: float, doors: int) -> "Traffic":
        """As many orders as make `rate` deliveries a second, repeats and other events included."""
        events = 1 + (doors - 1) / _BOTH_DOORS + 1 / _UNUSED + 1 / _UNREADABLE
        return cls(int(seconds * rate / (events * (1 + _DUPLICATES))))

    def envelopes(self) -> Iterator[dict[str, Any]]:
        """The orders alone."""
        return generate_orders(
            _SEED, self.orders, first_order_id=FIRST_ORDER_ID, customers=2_000, shares=_SHARES
        )

    def at_door(self, door: int, doors: int) -> Iterator[dict[str, Any]]:
        """What is delivered at one of the doors, other events among the orders."""
        for number, envelope in enumerate(self.envelopes()):
            if number % doors == door or number % _BOTH_DOORS == 0:
                yield envelope
            if number % doors != door:
                continue
            if number % _UNUSED == 0:
                yield {"type": "product-updated", "key": f"unused-{number}", "payload": {}}
            if number % _UNREADABLE == 0:
                yield _unreadable(number)

    def knows(self, order_id: str) -> bool:
        """Whether it is the id of one of the orders."""
        return FIRST_ORDER_ID <= int(order_id) < FIRST_ORDER_ID + self.orders


def _unreadable(number: int) -> dict[str, Any]:
    """Of a used type, without most of what that must have."""
    payload = {"id": 1 + number, "updatedAt": "2026-01-01T00:00:00+00:00", "items": []}
    return {"type": "order-confirmed", "key": f"unreadable-{number}", "payload": payload}


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came of it: reports by door, and the bodies that are no JSON by status."""

    reports: Sequence[DeliveryReport]
    no_json: Mapping[int, int]

    def accepted(self, traffic: Traffic) -> set[str]:
        """Ids of the orders that were answered 200 at a door."""
        ids = {order.order_id for report in self.reports for order in report.accepted}
        return set(filter(traffic.knows, ids))

    def by_status(self) -> dict[str, int]:
        """Answers at all doors."""
        found: dict[str, int] = {}
        for report in self.reports:
            for status, times in report.by_status.items():
                found[status] = found.get(status, 0) + times
        return found


async def send(urls: Sequence[str], traffic: Traffic, *, rate: float) -> Delivered:
    """Deliver at all doors until each delivery is answered 200; `rate` is that of all together."""
    plan = DeliveryPlan(
        rate=rate / len(urls),
        concurrency=16,
        duplicates=_DUPLICATES,
        reordering=20,
        attempts=10_000,
        longest_wait_s=1.0,
    )
    no_json: dict[int, int] = {}
    async with asyncio.TaskGroup() as group:
        deliveries = [
            group.create_task(
                deliver(
                    url,
                    traffic.at_door(door, len(urls)),
                    user=USER,
                    password=PASSWORD,
                    plan=plan,
                )
            )
            for door, url in enumerate(urls)
        ]
        noise = group.create_task(_send_no_json(urls[0], no_json))
        await asyncio.wait(deliveries)
        noise.cancel()
    return Delivered([delivery.result() for delivery in deliveries], no_json)


async def _send_no_json(url: str, statuses: dict[int, int]) -> None:
    """Bodies that SCAYLE would not send, until cancelled; they are refused."""
    login = {"Authorization": aiohttp.encode_basic_auth(USER, PASSWORD)}
    async with aiohttp.ClientSession(headers=login) as session:
        while True:
            try:
                async with session.post(url, data=b'{"type": "order-confirmed", ') as reply:
                    statuses[reply.status] = statuses.get(reply.status, 0) + 1
                    assert reply.status in _NOT_TAKEN, reply.status
            except (aiohttp.ClientError, TimeoutError):
                statuses[0] = statuses.get(0, 0) + 1
            await asyncio.sleep(_NO_JSON_EVERY_S)
