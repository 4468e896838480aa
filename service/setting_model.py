"""The model of the settings: every field with unit, default and description."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
)

from service.domain.cards import CardForm
from service.loyalty_values import (
    format_card_form,
    format_field_names,
    format_programs,
    format_rates,
    format_rewards,
    parse_card_form,
    parse_field_names,
    parse_programs,
    parse_rates,
    parse_rewards,
    parse_tokens,
)
from service.setting_values import (
    DeadLetterBrake,
    ShopSettings,
    VisibleAfter,
    format_brake,
    format_duration,
    format_flag,
    format_ledger_url,
    format_limits,
    format_shops,
    format_size,
    format_visible_after,
    is_kafka,
    is_postgres,
    parse_brake,
    parse_credentials,
    parse_duration,
    parse_factor,
    parse_file,
    parse_flag,
    parse_host,
    parse_ledger_url,
    parse_limits,
    parse_log_url,
    parse_secret,
    parse_shops,
    parse_size,
    parse_splio_url,
    parse_sqlite_url,
    parse_store,
    parse_tenant,
    parse_timezone,
    parse_topic_prefix,
    parse_visible_after,
    parse_whole,
    sqlite_path,
)

Source = Literal["default", "environment", "file", "sandbox"]

PREFIX: Final = "RELAY_"

SPLIO_RATES: Final = {"contacts": 20.0, "sales": 20.0, "other": 10.0}
"""Splio's documented limits by lane: requests per second and client address."""

SANDBOX_VISIBLE_AFTER: Final = VisibleAfter(orders=1.0, credits=2.0, grants=2.0)
_MINUTE_S: Final = 60
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Shown:
    """How a value of a kind is written for people, and its unit."""

    write: Callable[[Any], str]
    unit: str = ""


def _from_text(parse: Callable[[str], object]) -> BeforeValidator:
    """Apply `parse` to text and leave values that code passes in as they are."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _read_visible_after(value: object, info: ValidationInfo) -> object:
    defaults = SANDBOX_VISIBLE_AFTER if info.data.get("sandbox") else VisibleAfter()
    return parse_visible_after(value, defaults) if isinstance(value, str) else value


def _read_shops(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    # A single value that has a problem of its own is absent here; any stand-in will do.
    defaults = ShopSettings(
        store=info.data.get("splio_store", "online"),
        program=info.data.get("splio_program"),
        timezone=info.data.get("timezone", ZoneInfo("UTC")),
    )
    return parse_shops(value, defaults)


def _set_or_not(secret: object) -> str:
    return "set" if secret else "not set"


def _number_or_not(number: Decimal | None) -> str:
    return "not set" if number is None else f"{number:f}"


Whole = Annotated[int, _from_text(parse_whole)]
Points = Annotated[int, _from_text(parse_whole), Shown(str, "points")]
Factor = Annotated[
    Decimal | None, _from_text(parse_factor), Shown(_number_or_not, "points per major unit")
]
Port = Annotated[int, _from_text(parse_whole), Field(ge=0, le=65_535)]
Flag = Annotated[bool, _from_text(parse_flag), Shown(format_flag)]
Duration = Annotated[float, _from_text(parse_duration), Shown(format_duration, "duration")]
Size = Annotated[int, _from_text(parse_size), Shown(format_size, "size")]
Host = Annotated[str, _from_text(parse_host)]
File = Annotated[Path, _from_text(parse_file)]
LogUrl = Annotated[str, _from_text(parse_log_url)]
Name = Annotated[str, _from_text(parse_topic_prefix)]
SqliteUrl = Annotated[str, _from_text(parse_sqlite_url)]
LedgerUrl = Annotated[str, _from_text(parse_ledger_url), Shown(format_ledger_url)]
Zone = Annotated[ZoneInfo, _from_text(parse_timezone), Shown(lambda zone: zone.key)]
Secret = Annotated[SecretStr | None, _from_text(parse_secret), Shown(_set_or_not)]
Credentials = Annotated[
    tuple[tuple[str, SecretStr], ...], _from_text(parse_credentials), Shown(_set_or_not)
]
Tokens = Annotated[tuple[tuple[str, SecretStr], ...], _from_text(parse_tokens), Shown(_set_or_not)]
Programs = Annotated[Mapping[str, int], _from_text(parse_programs), Shown(format_programs)]
Rates = Annotated[
    Mapping[tuple[str, str], Decimal], _from_text(parse_rates), Shown(format_rates, "money/point")
]
FieldNames = Annotated[tuple[str, ...], _from_text(parse_field_names), Shown(format_field_names)]
Form = Annotated[CardForm | None, _from_text(parse_card_form), Shown(format_card_form)]
Rewards = Annotated[Mapping[int, str], _from_text(parse_rewards), Shown(format_rewards)]
Limits = Annotated[
    Mapping[str, float] | None,
    _from_text(lambda text: parse_limits(text, SPLIO_RATES)),
    Shown(format_limits, "requests/s"),
]
Visibility = Annotated[
    VisibleAfter, BeforeValidator(_read_visible_after), Shown(format_visible_after, "duration")
]
Brake = Annotated[
    DeadLetterBrake | None, _from_text(parse_brake), Shown(format_brake, "rejections, share")
]
Shops = Annotated[Mapping[str, ShopSettings], BeforeValidator(_read_shops), Shown(format_shops)]


class Settings(BaseModel):
    """
    Effective settings. A field is its variable in lower case without `RELAY_`.

    Durations are seconds and end in `_s`, sizes are bytes. Rules that span fields are checked by
    `service.settings.load_settings`, not here.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )

    # Not read from the environment. `sandbox` stands first: later fields look at it.
    sandbox: bool = False
    warnings: tuple[str, ...] = ()
    sources: Mapping[str, Source] = Field(default={}, repr=False)

    http_host: Host = Field(
        default="127.0.0.1",
        description="Where the public listener listens; beyond loopback only with TLS.",
        examples=["127.0.0.1"],
    )
    http_port: Port = Field(
        default=8080, description="Port of the public listener; 0 takes any.", examples=["8080"]
    )
    operations_host: Host = Field(
        default="127.0.0.1",
        description="Where the operations listener listens; beyond loopback only with TLS.",
        examples=["127.0.0.1"],
    )
    operations_port: Port = Field(
        default=8081, description="Port of the operations listener; 0 takes any.", examples=["8081"]
    )
    operations_password: Secret = Field(
        default=None,
        description="Password of the user operator; without it nothing can be changed.",
        examples=["a-long-password"],
    )
    behind_tls: Flag = Field(
        default=False,
        description="Something in front ends TLS, so listening beyond loopback is fine.",
        examples=["1"],
    )
    tls_cert: File | None = Field(
        default=None,
        description="File with the certificate chain (PEM) of both listeners.",
        examples=["/etc/relay/tls.crt"],
    )
    tls_key: File | None = Field(
        default=None,
        description="File with the private key (PEM) of that certificate.",
        examples=["/etc/relay/tls.key"],
    )
    max_connections: Whole = Field(
        default=512,
        ge=1,
        le=65_535,
        description="Connections that the public listener holds at once.",
        examples=["512"],
    )
    body_limit: Size = Field(
        default=512 * 1024,
        ge=1024,
        le=64 * 1024 * 1024,
        description="The body of a webhook or a call beyond this is refused with 413.",
        examples=["512KiB"],
    )
    body_timeout_s: Duration = Field(
        default=10.0,
        ge=0.1,
        le=10 * _MINUTE_S,
        description="A webhook's body that takes longer to arrive is refused with 408.",
        examples=["10s"],
    )
    webhook_credentials: Credentials = Field(
        default=(),
        description="HTTP Basic pairs that SCAYLE may use; several for a rotation.",
        examples=["scayle:a-long-password"],
    )

    log_url: LogUrl = Field(
        default="sqlite:///data/relay-log.db",
        description="The durable log of events: a file, or kafka://host:9092,host2:9092.",
        examples=["sqlite:///data/relay-log.db"],
    )
    topic_prefix: Name | None = Field(
        default=None,
        description="Stands before the names of Kafka topics and of the consumer group.",
        examples=["shop."],
    )
    kafka_user: Annotated[str, _from_text(parse_store)] | None = Field(
        default=None, description="User at Kafka (SASL).", examples=["relay"]
    )
    kafka_password: Secret = Field(
        default=None, description="Password of that user.", examples=["a-long-password"]
    )
    kafka_mechanism: Literal["plain", "scram-sha-256", "scram-sha-512"] = Field(
        default="scram-sha-512",
        description="How that user proves itself: plain, scram-sha-256 or scram-sha-512.",
        examples=["scram-sha-512"],
    )
    kafka_tls: Flag = Field(
        default=False, description="Connections to Kafka are encrypted.", examples=["1"]
    )
    kafka_ca: File | None = Field(
        default=None,
        description="File with the authorities (PEM) of the brokers; unset: the system's.",
        examples=["/etc/relay/kafka-ca.crt"],
    )
    kafka_cert: File | None = Field(
        default=None,
        description="File with our certificate (PEM), where brokers ask for one.",
        examples=["/etc/relay/kafka.crt"],
    )
    kafka_key: File | None = Field(
        default=None,
        description="File with the private key (PEM) of that certificate.",
        examples=["/etc/relay/kafka.key"],
    )
    kafka_instance: Name | None = Field(
        default=None,
        description="Fixed name of this process in the group: a quick restart moves no streams.",
        examples=["relay-1"],
    )
    ledger_url: LedgerUrl = Field(
        default="sqlite:///data/relay-ledger.db",
        description="The ledger that decides what may be sent: sqlite:/// or postgresql://.",
        examples=["postgresql://relay:password@host/relay"],
    )
    spool_path: File | None = Field(
        default=None,
        description="Where events wait while the broker is away: a file on a persistent volume.",
        examples=["/var/lib/relay/spool.db"],
    )
    spool_limit: Size = Field(
        default=1024 * 1024 * 1024,
        ge=1024 * 1024,
        description="Events that the spool holds at most; beyond it webhooks get 503.",
        examples=["1GiB"],
    )
    disk_reserve: Size = Field(
        default=256 * 1024 * 1024,
        description="Free space below which webhooks get 503 and no effect is started.",
        examples=["256MiB"],
    )
    retention_s: Duration = Field(
        default=30.0 * _DAY_S,
        ge=1,
        le=3650 * _DAY_S,
        description="How long request bodies and dead letters are kept.",
        examples=["30d"],
    )

    splio_url: Annotated[str, _from_text(parse_splio_url)] | None = Field(
        default=None,
        description="Splio's address; http only to this machine.",
        examples=["https://api.splio.com"],
    )
    splio_api_key: Secret = Field(
        default=None,
        description="Splio's API key; it belongs to one universe.",
        examples=["the-key-of-the-universe"],
    )
    tenant: Annotated[str, _from_text(parse_tenant)] = Field(
        default="main",
        description="First part of every transaction key; never change it on a used ledger.",
        examples=["main"],
    )
    splio_contact_key: Literal["email", "cellphone", "customer_id", "reference_key"] = Field(
        default="email",
        description="What SCAYLE sends as the unique key of the universe's contacts.",
        examples=["email"],
    )
    splio_store: Annotated[str, _from_text(parse_store)] = Field(
        default="online",
        description="External id of the store that orders belong to.",
        examples=["online"],
    )
    splio_program: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Id of the loyalty programme.", examples=["1"]
    )
    splio_limits: Limits = Field(
        default=SPLIO_RATES,
        description="What Splio allows by lane; a lane not named keeps its default; or off.",
        examples=["contacts=20,sales=20,other=10"],
    )
    splio_hours: Literal["padded", "plain"] = Field(
        default="padded",
        description="How the hours 01 to 09 are written to Splio: 01 or 1.",
        examples=["padded"],
    )
    timezone: Zone = Field(
        default=ZoneInfo("UTC"),
        description="Time zone of the dates sent to Splio.",
        examples=["Europe/Berlin"],
    )
    shops: Shops = Field(
        default={},
        description="Store, program, timezone by SCAYLE's appId (JSON); empty: one for all.",
        examples=['{"1042": {"store": "de", "program": 1, "timezone": "Europe/Berlin"}}'],
    )
    request_timeout_s: Duration = Field(
        default=10.0,
        ge=0.1,
        le=5 * _MINUTE_S,
        description="Limit of one request to Splio, reply included.",
        examples=["10s"],
    )
    lease_margin_s: Duration = Field(
        default=20.0,
        ge=1,
        le=60 * _MINUTE_S,
        description="How much longer than its request a claim lasts.",
        examples=["20s"],
    )
    visible_after_s: Visibility = Field(
        default=VisibleAfter(),
        description="How long Splio may take to show what it did; absence counts only then.",
        examples=["orders=60s,credits=15m,grants=15m"],
    )
    card_patience_s: Duration = Field(
        default=3.0 * _DAY_S,
        le=400 * _DAY_S,
        description="How long points wait for a card that Splio does not know yet.",
        examples=["72h"],
    )
    dead_letter_brake: Brake = Field(
        default=DeadLetterBrake(),
        description="Rejections in a row, or share of the last 200, that pause a lane; or off.",
        examples=["20,10%"],
    )

    points_from: Literal["webhook", "collect", "rules"] = Field(
        default="webhook",
        description="Who books earned points: we by the webhook or by collect, or Splio's rules.",
        examples=["webhook"],
    )
    points_kind: Literal["nq", "q"] = Field(
        default="nq", description="Kind of the booked points at Splio.", examples=["nq"]
    )
    credit_is_final: Flag = Field(
        default=True,
        description="Sent as is_final with every booking; Splio does not document what it means.",
        examples=["true"],
    )
    points_limit: Points = Field(
        default=100_000,
        ge=1,
        description="An order with more points is held for a person.",
        examples=["100000"],
    )
    points_factor: Factor = Field(
        default=None,
        description="Points per major unit as set in SCAYLE; set: points are checked against it.",
        examples=["3"],
    )
    points_tolerance: Points = Field(
        default=1,
        description="Points by which an order may differ from that check before it is held.",
        examples=["1"],
    )
    points_rounding: Literal["up", "down"] = Field(
        default="down", description="Rounding of that check, as set in SCAYLE.", examples=["down"]
    )
    guest_orders: Literal["post", "skip"] = Field(
        default="post",
        description="What becomes of orders by guests without a card: post or skip.",
        examples=["post"],
    )

    loyalty_tokens: Tokens = Field(
        default=(),
        description="Tokens of SCAYLE Checkout's calls by operation, * for all; several to rotate.",
        examples=["balance=a-long-token,capture=another-token"],
    )
    loyalty_programs: Programs = Field(
        default={},
        description="Splio's id of each programme by SCAYLE's key of it.",
        examples=["splio_club=1,other=2"],
    )
    loyalty_rates: Rates = Field(
        default={},
        description="What a point is worth, by SCAYLE's key of the programme and currency.",
        examples=["splio_club:EUR=0.01,splio_club:CHF=0.01"],
    )
    loyalty_rate_fields: FieldNames = Field(
        default=("conversionFactor", "conversionRate", "factor", "rate"),
        description="Names that the answer to points-rate gives the rate under.",
        examples=["conversionFactor,conversionRate,factor,rate"],
    )
    loyalty_amount_unit: Literal["points", "money"] | None = Field(
        default=None,
        description="What SCAYLE's amount of a capture or refund counts: points or money.",
        examples=["points"],
    )
    loyalty_invalid_status: Annotated[Whole, Field(ge=200, le=499)] = Field(
        default=200,
        description="HTTP status of the answer no to validate and verify.",
        examples=["200"],
    )
    loyalty_card_form: Form = Field(
        default=None,
        description="What every card number is: ean13, luhn, digits, a length; unset: anything.",
        examples=["ean13"],
    )
    loyalty_timeout_s: Duration = Field(
        default=3.0,
        ge=0.1,
        le=_MINUTE_S,
        description="Limit of one call of SCAYLE Checkout, its body and our answer included.",
        examples=["3s"],
    )
    balance_fresh_s: Duration = Field(
        default=5.0,
        le=10 * _MINUTE_S,
        description="How long a balance that Splio told is answered without asking again.",
        examples=["5s"],
    )
    debit_by: Literal["hold", "reward"] = Field(
        default="hold",
        description="How captured points are taken: held by us only, or by rewards at Splio.",
        examples=["hold"],
    )
    debit_rewards: Rewards = Field(
        default={},
        description="Splio's id of a reward by the points it costs; one of 1 point is needed.",
        examples=["1=PT1,10=PT10,100=PT100,1000=PT1000"],
    )

    grace_s: Duration = Field(
        default=20.0,
        le=10 * _MINUTE_S,
        description="How long a stop waits for what is in hand.",
        examples=["20s"],
    )
    log_format: Literal["auto", "json", "human"] = Field(
        default="auto",
        description="Form of the logs; auto is human on a terminal.",
        examples=["json"],
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged.", examples=["info"]
    )
    sandbox_path: File = Field(
        default=Path("data/sandbox.db"),
        description="Books of the built-in sandbox.",
        examples=["data/sandbox.db"],
    )

    @property
    def log_path(self) -> Path | None:
        """The log's file; None when it is on Kafka."""
        return None if is_kafka(self.log_url) else sqlite_path(self.log_url)

    @property
    def ledger_path(self) -> Path | None:
        """The ledger's file, None when it is not one."""
        return None if is_postgres(self.ledger_url) else sqlite_path(self.ledger_url)


def variable(field: str) -> str:
    """The environment variable of a field of `Settings`."""
    return PREFIX + field.removesuffix("_s").upper()


FIELDS: Final = {name: info for name, info in Settings.model_fields.items() if info.examples}
"""The fields that a variable sets, in the order in which they are shown."""

FROM_FILE: Final = frozenset({"ledger_url"})
"""Further fields that a file may set, as they may hold a secret."""

SECRETS: Final = frozenset(
    {
        *("operations_password", "webhook_credentials", "loyalty_tokens"),
        *("splio_api_key", "kafka_password"),
    }
)
"""The fields that a file may set, and whose values are never shown."""
