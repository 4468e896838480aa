"""The orders that benchmarks use: as SCAYLE's bodies, in the log, and as requests to Splio."""

import asyncio
from collections.abc import Iterable, Iterator
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
from service.eventlog.sqlite import open_sqlite_log
from service.sandbox.scayle import Shares, generate_orders
from service.scayle.decode import decode_unreadable
from service.scayle.webhook import UsedWebhook, read_webhook
from service.settings import Settings, load_settings
from service.splio.requests import SplioRenderer
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import new_traceparent
from tests.benchmarks.surroundings import environment

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


def settings_of(folder: Path, splio_url: str) -> Settings:
    """Embedded, limits off, on files in `folder`."""
    return load_settings(environment(folder, splio_url), sandbox=True)


def envelopes(count: int, *, first: int = FIRST_ORDER_ID) -> Iterator[dict[str, Any]]:
    """Confirmed orders with a card, as SCAYLE sends them."""
    return generate_orders(7, count, first_order_id=first, shares=_PLAIN)


def orders(count: int, *, first: int = FIRST_ORDER_ID) -> Iterator[bytes]:
    """Bodies of the same."""
    return map(orjson.dumps, envelopes(count, first=first))


async def fill_log(settings: Settings, bodies: Iterable[bytes]) -> None:
    """Put these webhooks on the log, as the receiver does."""
    clock, metrics = SteadyClock(), Metrics(CollectorRegistry())
    assert settings.log_path is not None
    async with open_sqlite_log(settings.log_path, metrics=metrics, clock=clock) as log:
        publisher = EventPublisher(log, metrics=metrics, tenant=settings.tenant, clock=clock)
        waiting: set[asyncio.Task[str]] = set()
        for body in bodies:
            webhook = read_webhook(body)
            assert isinstance(webhook, UsedWebhook)
            task = asyncio.create_task(
                publisher.publish_event(
                    event_type=webhook.event_type,
                    order_id=webhook.order_id,
                    occurred_at=webhook.occurred_at,
                    source_key=webhook.source_key,
                    payload=webhook.payload,
                    traceparent=new_traceparent(),
                )
            )
            waiting.add(task)
            if len(waiting) >= _AT_ONCE:
                await asyncio.gather(*waiting)
                waiting.clear()
        await asyncio.gather(*waiting)


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
