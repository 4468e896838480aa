"""The orders that benchmarks use: as SCAYLE's bodies, in the log, and as requests to Splio."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
from prometheus_client import CollectorRegistry

from producers.events import EventPublisher
from service.configuration import planning_policy
from service.domain.clock import SteadyClock
from service.domain.effects import Kind, RenderedRequest, effect_key
from service.domain.planning import Shop, contact_id
from service.sandbox.scayle import Shares, generate_orders
from service.scayle.decode import decode_unreadable
from service.scayle.webhook import UsedWebhook, read_webhook
from service.settings import Settings, load_settings
from service.splio.requests import SplioRenderer
from service.stores import open_log
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import new_traceparent
from tests.benchmarks.surroundings import EMBEDDED, environment

JSON: Final = {"Content-Type": "application/json"}
FIRST_ORDER_ID: Final = 20_000_001
_AT_ONCE: Final = 512
# Every order has a card that earns points, so that every event has two effects.
_PLAIN: Final = Shares(
    guests=0, without_card=0, vouchers=0.15, points_spent=0, text_ids=0, meta=0, missing_fields=0
)


@dataclass(frozen=True, slots=True)
class Requests:
    """The two requests that an order asks for."""

    order_id: str
    order: RenderedRequest
    credit: RenderedRequest


def settings_of(folder: Path, splio_url: str, place: Mapping[str, str] = EMBEDDED) -> Settings:
    """Limits off; embedded, on files in `folder`, where no `place` is named."""
    return load_settings(environment(folder, splio_url, place), sandbox=True)


def envelopes(count: int, *, first: int = FIRST_ORDER_ID) -> Iterator[dict[str, Any]]:
    """Confirmed orders with a card, as SCAYLE sends them."""
    return generate_orders(7, count, first_order_id=first, shares=_PLAIN)


def orders(count: int, *, first: int = FIRST_ORDER_ID) -> Iterator[bytes]:
    """Bodies of the same."""
    return map(orjson.dumps, envelopes(count, first=first))


async def fill_log(settings: Settings, bodies: Iterable[bytes]) -> None:
    """Put these webhooks on the log, as the receiver does."""
    async with open_publisher(settings) as publish:
        waiting: set[asyncio.Task[None]] = set()
        for body in bodies:
            waiting.add(asyncio.create_task(publish(body)))
            if len(waiting) >= _AT_ONCE:
                await asyncio.gather(*waiting)
                waiting.clear()
        await asyncio.gather(*waiting)


@asynccontextmanager
async def open_publisher(
    settings: Settings,
) -> AsyncIterator[Callable[[bytes], Coroutine[None, None, None]]]:
    """Puts one webhook on the log, as the receiver does; returns once it is there."""
    clock, metrics = SteadyClock(), Metrics(CollectorRegistry())
    async with open_log(settings, metrics=metrics, clock=clock, receives=False) as log:
        publisher = EventPublisher(log.writer, metrics=metrics, tenant=settings.tenant, clock=clock)

        async def publish(body: bytes) -> None:
            webhook = read_webhook(body)
            assert isinstance(webhook, UsedWebhook)
            await publisher.publish_event(
                event_type=webhook.event_type,
                order_id=webhook.order_id,
                occurred_at=webhook.occurred_at,
                source_key=webhook.source_key,
                payload=webhook.payload,
                traceparent=new_traceparent(),
            )

        yield publish


def rendered(bodies: Iterable[bytes]) -> Iterator[Requests]:
    """What the service would send for each of these webhooks."""
    policy = planning_policy(load_settings({}, sandbox=True))
    renderer = SplioRenderer()
    shop = Shop(store="online", program=None, timezone="UTC")
    for body in bodies:
        order = decode_unreadable(body, received_at=datetime.now(UTC))
        contact = contact_id(order, policy.contact_key)
        assert contact is not None and order.card is not None and order.card.points
        yield Requests(
            order.order_id,
            renderer.order(
                order,
                contact_id=contact,
                shop=shop,
            ),
            renderer.earned_points(
                order,
                key=effect_key("main", Kind.EARN, order.order_id),
                card=order.card.number,
                points=order.card.points,
                shop=shop,
            ),
        )


async def log_in(session: aiohttp.ClientSession) -> None:
    """Ask Splio for a token and use it for every request of `session`."""
    async with session.post("/authenticate", json={"api_key": "sandbox-api-key"}) as reply:
        token = (await reply.json())["token"]
    session.headers["Authorization"] = f"Bearer {token}"


async def create_prerequisites(splio_url: str, requests: Iterable[Requests]) -> None:
    """Create the contacts, products and stores that these orders need."""
    wanted = {(need.path, need.body) for each in requests for need in each.order.prerequisites}
    async with aiohttp.ClientSession(splio_url) as session:
        await log_in(session)
        for path, body in sorted(wanted):
            # A product at another price exists already; that is refused, and fine.
            async with session.post(path, data=body, headers=JSON) as reply:
                assert reply.status in (200, 201, 400), await reply.text()
