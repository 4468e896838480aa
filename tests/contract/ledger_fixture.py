"""What the ledger's contract suite shares: every implementation, opened anew, and its records."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from service.domain.effects import (
    LANE_OF,
    EffectKey,
    Kind,
    Lane,
    Outcome,
    Prerequisite,
    PrerequisiteKind,
    RenderedRequest,
    State,
    effect_key,
    idempotency_key,
)
from service.domain.ledger import Claim, Ledger, PlannedRecord, PlanResult, ReadyEffect, Settlement
from service.domain.planning import OrderFacts, Plan, PlannedEffect, PointsFrom, Reason
from service.domain.records import Advance, Record, Stream, Topic
from service.ledger.config import LedgerConfig
from service.ledger.postgres import open_postgres_ledger
from service.ledger.sqlite import open_sqlite_ledger
from service.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.harness.postgres_server import PostgresServer

LEASE_S = 30.0
ORDERS_VISIBLE_AFTER_S = 60.0
CREDITS_VISIBLE_AFTER_S = 900.0
RETENTION_S = 30 * 86_400.0
ORDERS_RETENTION_S = 400 * 86_400.0
STREAM = Stream(Topic.ORDERS, 0)
APPLIED = Settlement(Outcome.APPLIED, status=201)

CONFIG = LedgerConfig(
    owner="first",
    tenant="main",
    points_from=PointsFrom.WEBHOOK,
    visible_after_s={
        **dict.fromkeys(Kind, CREDITS_VISIBLE_AFTER_S),
        Kind.ORDER: ORDERS_VISIBLE_AFTER_S,
    },
    retention_s=RETENTION_S,
    orders_retention_s=ORDERS_RETENTION_S,
)


class ServerClock(FakeClock):
    """Makes the clock of the server's ledger stand still as well, and moves both."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address

    def __enter__(self) -> Self:
        self._connection = psycopg.connect(self._address, autocommit=True)
        self._connection.execute("CREATE TABLE test_clock AS SELECT 0::bigint AS now_ms")
        self._connection.execute(
            "CREATE OR REPLACE FUNCTION relay_now_ms() RETURNS bigint LANGUAGE sql VOLATILE "
            "AS 'SELECT now_ms FROM test_clock'"
        )
        self._tell()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._tell()

    def _tell(self) -> None:
        self._connection.execute("UPDATE test_clock SET now_ms = %s", (self.now_ms(),))


OpenLedger = Callable[[LedgerConfig], AbstractAsyncContextManager[Ledger]]


@dataclass(slots=True)
class LedgerHome:
    """Where one ledger lives; it can be opened again after it was closed."""

    open: OpenLedger
    clock: FakeClock


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LedgerHome]:
    """A place for a new ledger; one parameter per implementation."""
    if request.param == "sqlite":
        clock = FakeClock()

        def open_sqlite(config: LedgerConfig) -> AbstractAsyncContextManager[Ledger]:
            return open_sqlite_ledger(
                tmp_path / "ledger.db",
                config=config,
                clock=clock,
                metrics=Metrics(CollectorRegistry()),
            )

        yield LedgerHome(open_sqlite, clock)
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    address = server.new_ledger()
    with ServerClock(address) as server_clock:

        def open_postgres(config: LedgerConfig) -> AbstractAsyncContextManager[Ledger]:
            return open_postgres_ledger(
                address, config=config, clock=server_clock, metrics=Metrics(CollectorRegistry())
            )

        yield LedgerHome(open_postgres, server_clock)


@pytest.fixture
def clock(ledger_home: LedgerHome) -> FakeClock:
    return ledger_home.clock


@pytest.fixture
async def ledger(ledger_home: LedgerHome) -> AsyncIterator[Ledger]:
    async with ledger_home.open(CONFIG) as ledger:
        yield ledger


def order_key(order_id: str) -> EffectKey:
    return effect_key("main", Kind.ORDER, order_id)


def earn_key(order_id: str) -> EffectKey:
    return effect_key("main", Kind.EARN, order_id)


def planned_effect(order_id: str, kind: Kind = Kind.ORDER) -> PlannedEffect:
    """A due effect; vary it with `dataclasses.replace`."""
    key = effect_key("main", kind, order_id)
    if kind is Kind.ORDER:
        prerequisites = (
            Prerequisite(
                PrerequisiteKind.CONTACT, "c1", "/data/v2/contacts", b'{"id": "\xc3\xa9"}'
            ),
            Prerequisite(PrerequisiteKind.PRODUCT, "p1", "/data/v2/products", b'{"id":"p1"}'),
        )
        request = RenderedRequest("/data/v2/orders", b'{"external_id": "1"}', None, prerequisites)
    else:
        request = RenderedRequest("/loyalty/v2/cards/7/credit", b'{"p":1}', idempotency_key(key))
    return PlannedEffect(
        key=key,
        kind=kind,
        lane=LANE_OF[kind],
        order_key=order_id,
        fingerprint=f"f1:{kind}-facts",
        state=State.DUE,
        request=request,
        points=0 if kind is Kind.ORDER else 12,
    )


def order_and_earn(order_id: str) -> Plan:
    """What a confirmed order with a card asks for."""
    effects = (planned_effect(order_id, Kind.ORDER), planned_effect(order_id, Kind.EARN))
    return Plan(order_id, effects, facts_of(order_id))


def order_only(order_id: str) -> Plan:
    return Plan(order_id, (planned_effect(order_id),), facts_of(order_id))


def earn_only(order_id: str) -> Plan:
    return Plan(order_id, (planned_effect(order_id, Kind.EARN),), facts_of(order_id))


def plan_with(order_id: str, *effects: PlannedEffect) -> Plan:
    return Plan(order_id, effects, facts_of(order_id))


def facts_of(order_id: str) -> OrderFacts:
    return OrderFacts(
        order_key=order_id,
        card="4006381333931",
        points=12,
        points_from=PointsFrom.WEBHOOK,
        currency="EUR",
        items=(("1", 1999), ("2", -50)),
    )


@dataclass(slots=True)
class Records:
    """Makes planned records with growing offsets and advances that fit them."""

    received_at_ms: int = 1_799_999_999_000
    next_offset: int = 0
    headers: Mapping[str, str] = field(default_factory=lambda: {"event_type": "order-confirmed"})

    def planned(self, plan: Plan, *, value: bytes = b'{"payload":{"id":"1"}}') -> PlannedRecord:
        offset = self.next_offset
        self.next_offset += 1
        return PlannedRecord(
            record=Record(STREAM, offset, plan.order_key, value, self.headers, 1_799_999_999_500),
            plan=plan,
            event_id=f"event-{offset}",
            event_type="order-confirmed",
            received_at_ms=self.received_at_ms + offset,
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )

    async def write(self, ledger: Ledger, *plans: Plan) -> list[PlanResult]:
        """Plan each in one call and move the position behind them."""
        start = self.next_offset
        planned = [self.planned(plan) for plan in plans]
        advance = Advance(STREAM, start, self.next_offset)
        return list(await ledger.record_plans(planned, [advance]))


@pytest.fixture
def records() -> Records:
    return Records()


def dead_letter_plan(order_id: str | None, reason: Reason = Reason.SHOP_MISSING) -> Plan:
    return Plan(order_id, dead_letter=reason, detail="the order has no appId")


def rejected_effect(order_id: str) -> PlannedEffect:
    return replace(
        planned_effect(order_id),
        state=State.REJECTED,
        request=None,
        reason=Reason.CONTACT_KEY_MISSING,
    )


def held_effect(order_id: str) -> PlannedEffect:
    return replace(
        planned_effect(order_id, Kind.EARN), state=State.HELD, reason=Reason.POINTS_OVER_LIMIT
    )


async def plan_one(ledger: Ledger, records: Records, plan: Plan) -> ReadyEffect:
    """The one fresh effect of a plan."""
    (result,) = await records.write(ledger, plan)
    (effect,) = result.fresh
    return effect


async def claim(ledger: Ledger, effect: ReadyEffect) -> Claim:
    """Claim what must be claimable."""
    claim = await ledger.claim(effect, lease_s=LEASE_S)
    assert claim is not None
    return claim


async def planned_and_claimed(ledger: Ledger, records: Records, plan: Plan) -> Claim:
    return await claim(ledger, await plan_one(ledger, records, plan))


async def in_doubt(ledger: Ledger, records: Records, plan: Plan) -> Claim:
    """The claim of an effect that its own attempt left in doubt."""
    taken = await planned_and_claimed(ledger, records, plan)
    await ledger.settle(taken, Settlement(Outcome.IN_DOUBT, reason="timeout"))
    return taken


async def state_of(ledger: Ledger, key: EffectKey) -> str:
    state: str = (await ledger.show_effect(key))["state"]
    return state


async def ready_keys(ledger: Ledger, lane: Lane, *, before_ms: int) -> list[EffectKey]:
    effects = await ledger.ready(lane, limit=100, due_before_ms=before_ms)
    return [effect.key for effect in effects]
