"""From the settings to each part's own small configuration."""

from urllib.parse import urlsplit
from uuid import uuid4
from zoneinfo import ZoneInfo

from consumers.brake import BrakeRule
from consumers.dispatcher import DispatcherConfig
from service.domain.call_planning import CallPolicy
from service.domain.effects import Kind, Lane
from service.domain.planning import ContactKey, GuestOrders, PlanningPolicy, PointsFrom, Shop
from service.domain.points import Rounding
from service.eventlog.kafka_config import KafkaConfig, Mechanism
from service.ledger.config import LedgerConfig
from service.sandbox.splio import SplioSandboxSettings
from service.setting_values import is_kafka, kafka_servers, splio_is_local
from service.settings import Settings
from service.splio.config import SplioConfig
from service.splio.requests import SplioRenderer
from service.splio.schedule import Rate, rate_of


def planning_policy(settings: Settings) -> PlanningPolicy:
    """What planning obeys, of the settings."""
    return PlanningPolicy(
        tenant=settings.tenant,
        shop=_shop(settings.splio_store, settings.splio_program, settings.timezone),
        shops={
            app_id: _shop(shop.store, shop.program, shop.timezone)
            for app_id, shop in settings.shops.items()
        },
        contact_key=ContactKey(settings.splio_contact_key),
        points_from=PointsFrom(settings.points_from),
        points_limit=settings.points_limit,
        points_factor=settings.points_factor,
        points_tolerance=settings.points_tolerance,
        points_rounding=Rounding(settings.points_rounding),
        guest_orders=GuestOrders(settings.guest_orders),
    )


def call_policy(settings: Settings) -> CallPolicy:
    """What planning of the checkout's calls obeys; without rewards a capture is a hold."""
    rewards = settings.debit_rewards if settings.debit_by == "reward" else {}
    return CallPolicy(
        tenant=settings.tenant,
        timezone=settings.timezone.key,
        points_limit=settings.points_limit,
        rewards=tuple(rewards.items()),
    )


def sandbox_settings(settings: Settings, *, port: int = 0) -> SplioSandboxSettings:
    """A sandbox that fits the settings: the same key, limits, unique key and hours."""
    settings.sandbox_path.parent.mkdir(parents=True, exist_ok=True)
    contact_key = settings.splio_contact_key
    assert settings.splio_api_key is not None
    return SplioSandboxSettings(
        path=str(settings.sandbox_path),
        port=port,
        api_keys=(settings.splio_api_key.get_secret_value(),),
        unique_key=contact_key if contact_key in ("email", "cellphone") else "c0",
        limits=settings.splio_limits,
        hours=settings.splio_hours,
    )


def _shop(store: str, program: int | None, timezone: ZoneInfo) -> Shop:
    return Shop(store=store, program=str(program) if program else None, timezone=timezone.key)


def ledger_config(settings: Settings) -> LedgerConfig:
    """What the ledger is told; every call names a new owner, so call it once a process."""
    visible_after = settings.visible_after_s
    return LedgerConfig(
        owner=str(uuid4()),
        tenant=settings.tenant,
        visible_after_s={
            Kind.ORDER: visible_after.orders,
            Kind.EARN: visible_after.credits,
            Kind.CAPTURE: visible_after.grants,  # for completeness: it is settled by its hold
            Kind.DEBIT: visible_after.grants,
            Kind.REFUND: visible_after.credits,
            Kind.MEMBER: visible_after.orders,  # a contact's card is shown as soon as an order
        },
        points_from=PointsFrom(settings.points_from),
        universe=_universe(settings),
        publishes_notices=settings.log_path is None,
        retention_s=settings.retention_s,
    )


def _universe(settings: Settings) -> str:
    """
    Which Splio a ledger belongs to: its host, as the settings know no more of a universe.

    It keeps a ledger of the sandbox from being taken for one of production, whose orders it
    would hold for posted already.
    """
    if settings.splio_url is None or splio_is_local(settings.splio_url):
        return "sandbox"
    return urlsplit(settings.splio_url).hostname or ""


def kafka_config(settings: Settings) -> KafkaConfig | None:
    """The Kafka cluster of the log; None when the log is a file."""
    if not is_kafka(settings.log_url):
        return None
    password = settings.kafka_password
    return KafkaConfig(
        servers=kafka_servers(settings.log_url),
        prefix=settings.topic_prefix or "",
        group_instance_id=settings.kafka_instance,
        user=settings.kafka_user,
        password=password.get_secret_value() if password else None,
        mechanism=Mechanism(settings.kafka_mechanism.upper()),
        tls=settings.kafka_tls,
        ca_file=settings.kafka_ca,
        cert_file=settings.kafka_cert,
        key_file=settings.kafka_key,
    )


def splio_rates(settings: Settings) -> dict[Lane, Rate]:
    """What Splio allows, by lane; empty without limits."""
    limits = settings.splio_limits or {}
    return {lane: rate_of(limits[lane.value]) for lane in Lane if lane.value in limits}


def reserves_checkout(settings: Settings) -> bool:
    """
    Whether the checkout's calls have a part of Splio's limit to themselves. The programmes tell,
    as every process knows them; tokens are for those alone that answer the calls.
    """
    return bool(settings.loyalty_programs)


def splio_config(settings: Settings, *, url: str) -> SplioConfig:
    """How to talk to the Splio at `url`, which is that of the settings or of the sandbox."""
    assert settings.splio_api_key is not None
    limits = settings.splio_limits or {}
    return SplioConfig(
        url=url,
        api_key=settings.splio_api_key.get_secret_value(),
        points_kind=settings.points_kind,
        limits={lane: limits.get(lane.value) for lane in Lane},
        reserves_checkout=reserves_checkout(settings),
        request_timeout_s=settings.request_timeout_s,
        contact_key=ContactKey(settings.splio_contact_key),
        timezone=settings.timezone,
    )


def renderer(settings: Settings) -> SplioRenderer:
    """How requests are written for this universe."""
    return SplioRenderer(
        points_kind=settings.points_kind,
        is_final=settings.credit_is_final,
        hours=settings.splio_hours,
        contact_key=ContactKey(settings.splio_contact_key),
    )


def brake_rule(settings: Settings) -> BrakeRule | None:
    """When a run of dead letters stops a lane; None for never."""
    brake = settings.dead_letter_brake
    return BrakeRule(run=brake.run, share=brake.share) if brake else None


def dispatcher_config(settings: Settings) -> DispatcherConfig:
    """Time limits and bounds of the dispatcher."""
    return DispatcherConfig(
        request_timeout_s=settings.request_timeout_s,
        lease_margin_s=settings.lease_margin_s,
        grace_s=settings.grace_s,
        brake_rule=brake_rule(settings),
    )
