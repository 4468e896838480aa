"""
The text forms of settings: durations, sizes, addresses, lists.

Each `parse_…` turns text into a value and raises ValueError whose message completes the sentence
'"text" …' without repeating the text, so that a secret is never printed. Each `format_…` gives
text that its `parse_…` reads back to the same value.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit
from zoneinfo import ZoneInfo

import orjson
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

LANES = ("contacts", "sales", "other")

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
OFF = "off"

# At most nine digits before the point: no sum of these overflows anything we compute with.
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,9})(B|KiB|MiB|GiB|TiB)")
_WHOLE = re.compile(r"[0-9]{1,15}")
_DECIMAL = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PASSWORD_FIELD = re.compile(r"((?<=[?&])(?:ssl)?password)=[^&]*")
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")
_VISIBLE_AFTER_LIMIT_S = 86400.0
_STORE_LIMIT = 100  # characters
_KAFKA = "kafka://"
_KAFKA_PORT = 9092
_LAST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class VisibleAfter:
    """How long Splio may take to show what it did, in seconds; absence counts only after that."""

    orders: float = 60.0
    credits: float = 900.0
    grants: float = 900.0


@dataclass(frozen=True, slots=True)
class DeadLetterBrake:
    """
    Rejections that pause a lane.

    Args:
        run: more than this many in a row.
        share: more than this part (0 to 1) of the last 200.
    """

    run: int = 20
    share: float = 0.1


@dataclass(frozen=True, slots=True)
class ShopSettings:
    """What one SCAYLE shop (`appId`) is at Splio."""

    store: str
    program: int | None
    timezone: ZoneInfo


def parse_duration(text: str) -> float:
    """Seconds, from `500ms`, `10s`, `15m`, `72h` or `14d`."""
    if not (match := _DURATION.fullmatch(text)):
        raise ValueError("is not a duration (a number followed by ms, s, m, h or d)")
    number, unit = match.groups()
    # Rounded to the microsecond, so that 100ms is 0.1 and not 0.1 and a bit.
    return round(float(number) * _SECONDS[unit], 6)


def format_duration(seconds: float) -> str:
    """The shortest exact form: `15m` rather than `900s`."""
    for unit in ("d", "h", "m", "s"):
        amount = seconds / _SECONDS[unit]
        if amount >= 1 and amount == int(amount):
            return f"{int(amount)}{unit}"
    if seconds >= 1 or seconds == 0:
        return f"{_plain(seconds)}s"
    return f"{_plain(round(seconds * 1000, 3))}ms"


def parse_size(text: str) -> int:
    """Bytes, from `512KiB`, `1GiB`."""
    if not (match := _SIZE.fullmatch(text)):
        raise ValueError("is not a size (a whole number followed by B, KiB, MiB, GiB or TiB)")
    return int(match[1]) * _BYTES[match[2]]


def format_size(size_bytes: int) -> str:
    """The shortest exact form: `512KiB` rather than `524288B`."""
    unit = max(
        (unit for unit, factor in _BYTES.items() if size_bytes and size_bytes % factor == 0),
        key=_BYTES.__getitem__,
        default="B",
    )
    return f"{size_bytes // _BYTES[unit]}{unit}"


def parse_flag(text: str) -> bool:
    """True from `1`, `true`, `yes`; False from `0`, `false`, `no`."""
    if (flag := _FLAGS.get(text.lower())) is None:
        raise ValueError("is neither yes (1, true, yes) nor no (0, false, no)")
    return flag


def format_flag(flag: bool) -> str:
    """`true` or `false`."""
    return "true" if flag else "false"


def parse_whole(text: str) -> int:
    """A whole number, not negative."""
    if not _WHOLE.fullmatch(text):
        raise ValueError("is not a whole number")
    return int(text)


def parse_factor(text: str) -> Decimal:
    """An exact decimal above zero."""
    if not _DECIMAL.fullmatch(text) or not (factor := Decimal(text)):
        raise ValueError("is not a decimal number above zero")
    return factor


def parse_host(text: str) -> str:
    """A name or an address to listen on, without port."""
    if _is_address(text) or _HOST_NAME.fullmatch(text):
        return text
    raise ValueError("is not a host name or an IP address")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. Any name but `localhost` counts as no."""
    return host.lower() == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def parse_tenant(text: str) -> str:
    """A tenant's name; no colon, which separates the parts of a transaction key."""
    if not _TENANT.fullmatch(text):
        raise ValueError("may hold letters, digits, '.', '_' and '-', 40 at most")
    return text


def parse_store(text: str) -> str:
    """The external id of a store at Splio."""
    if _CONTROL.search(text) or len(text) > _STORE_LIMIT:
        raise ValueError(f"is not one line of at most {_STORE_LIMIT} characters")
    return text


def parse_timezone(text: str) -> ZoneInfo:
    """A zone of the IANA data base."""
    try:
        return ZoneInfo(text)
    # What comes of an unknown name, of one that is a path, of one that is a folder.
    except (KeyError, ValueError, OSError):
        raise ValueError("is not a time zone of the IANA data base") from None


def parse_file(text: str) -> Path:
    """A path; whether something is there is not asked."""
    if "\x00" in text:
        raise ValueError("is not a path")
    return Path(text)


def parse_sqlite_url(text: str) -> str:
    """`sqlite:///relative/path` or `sqlite:////absolute/path`, unchanged."""
    scheme, separator, _ = text.partition("://")
    if not separator:
        raise ValueError("is not an address like sqlite:///data/file.db")
    if scheme in ("kafka", "postgres", "postgresql"):
        raise ValueError(f"asks for {scheme}://, which cannot serve here")
    if scheme != "sqlite":
        raise ValueError("does not begin with sqlite:///")
    path = sqlite_path(text)
    if not text.startswith("sqlite:///") or "?" in text or "#" in text:
        raise ValueError("is not sqlite:/// and a path, nothing else")
    if path.name in ("", "..", ":memory:") or text.endswith("/") or "\x00" in str(path):
        raise ValueError("does not name a file")
    return text


def parse_ledger_url(text: str) -> str:
    """What `parse_sqlite_url` takes, or `postgresql://user:password@host/database`, unchanged."""
    if not text.startswith(("postgresql://", "postgres://")):
        return parse_sqlite_url(text)
    try:
        # The driver itself knows best what it takes, its parameters after ? included.
        conninfo_to_dict(text)
    except ProgrammingError:
        raise ValueError("is not an address like postgresql://user@host/database") from None
    return text


def format_ledger_url(url: str) -> str:
    """The address without its passwords."""
    return _PASSWORD_FIELD.sub(r"\1=…", _PASSWORD.sub(r"\1:…@", url))


def is_postgres(url: str) -> bool:
    """Whether an address that `parse_ledger_url` accepted is one of PostgreSQL."""
    return url.startswith("postgres")


def parse_log_url(text: str) -> str:
    """`kafka://host:9092,host2:9092`, or what `parse_sqlite_url` takes; unchanged."""
    if not text.startswith(_KAFKA):
        return parse_sqlite_url(text)
    for number, server in enumerate(text.removeprefix(_KAFKA).split(","), start=1):
        if "@" in server:
            raise ValueError("holds credentials; they belong in RELAY_KAFKA_USER and _PASSWORD")
        if not _split_server(server):
            raise ValueError(f"has a server (number {number}) that is not host or host:port")
    return text


def is_kafka(url: str) -> bool:
    """Whether an address that `parse_log_url` accepted is that of a cluster."""
    return url.startswith(_KAFKA)


def kafka_servers(url: str) -> tuple[str, ...]:
    """The `host:port` of each server of such an address."""
    split = map(_split_server, url.removeprefix(_KAFKA).split(","))
    return tuple(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for host, port in filter(None, split)
    )


def kafka_is_local(url: str) -> bool:
    """Whether every server of such an address is this machine."""
    split = map(_split_server, url.removeprefix(_KAFKA).split(","))
    return all(is_loopback(host) for host, _ in filter(None, split))


def _split_server(server: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(f"//{server}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    is_bare = parts.netloc == server and port != 0
    if not is_bare or not (_is_address(host) or _HOST_NAME.fullmatch(host)):
        return None
    return host, port or _KAFKA_PORT


def parse_topic_prefix(text: str) -> str:
    """What stands before the names of topics and of the consumer group."""
    if not _NAME.fullmatch(text):
        raise ValueError("may hold letters, digits, '.', '_' and '-', 100 at most")
    return text


def sqlite_path(url: str) -> Path:
    """The file of an address that `parse_sqlite_url` accepted; percent escapes are resolved."""
    return Path(unquote(url.removeprefix("sqlite:///")))


def parse_splio_url(text: str) -> str:
    """Splio's address without a trailing slash: https, or http to this machine."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("is not an https address")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not an https address") from None
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise ValueError("is not an https address")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds credentials; they belong in RELAY_SPLIO_API_KEY")
    if "?" in text or "#" in text:
        raise ValueError("has a query or a fragment")
    if not (_is_address(host) or _HOST_NAME.fullmatch(host)):
        raise ValueError("is not an https address")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("is http, which is allowed to this machine only")
    return text.rstrip("/")


def splio_is_local(url: str) -> bool:
    """Whether an address that `parse_splio_url` accepted stays on this machine."""
    return is_loopback(urlsplit(url).hostname or "")


def parse_secret(text: str) -> SecretStr:
    """A secret of one line."""
    if _CONTROL.search(text):
        raise ValueError("holds a line break or a control character")
    return SecretStr(text)


def parse_credentials(text: str) -> tuple[tuple[str, SecretStr], ...]:
    """`user:password` pairs, comma separated, both percent-encoded where they hold , : or %."""
    credentials = []
    for number, entry in enumerate(text.split(","), start=1):
        user, colon, password = entry.strip().partition(":")
        if not colon or not user or not password:
            raise ValueError(f"has an entry (number {number}) that is not user:password")
        if ":" in password:
            raise ValueError(f"has an entry (number {number}) with a second colon: write %3A")
        try:
            pair = percent_decode(user), percent_decode(password)
        except ValueError:
            raise ValueError(
                f"has an entry (number {number}) that is not percent-encoded text: write % as %25"
            ) from None
        if ":" in pair[0]:
            raise ValueError(f"has a user (number {number}) with a colon, which Basic forbids")
        if any(_CONTROL.search(part) for part in pair):
            raise ValueError(f"has an entry (number {number}) with a control character")
        credentials.append((pair[0], SecretStr(pair[1])))
    return tuple(credentials)


def parse_limits(text: str, defaults: Mapping[str, float]) -> dict[str, float] | None:
    """Requests per second by lane; a lane not named keeps its default. None from `off`."""
    if text == OFF:
        return None
    limits = dict(defaults)
    for lane, number in _pairs(text, LANES):
        if not _DECIMAL.fullmatch(number) or not float(number):
            raise ValueError(f"has no number above zero for {lane}")
        limits[lane] = float(number)
    return limits


def format_limits(limits: Mapping[str, float] | None) -> str:
    """The inverse of `parse_limits`."""
    if limits is None:
        return OFF
    return ",".join(f"{lane}={_plain(rate)}" for lane, rate in limits.items())


def parse_visible_after(text: str, defaults: VisibleAfter) -> VisibleAfter:
    """`orders=60s,credits=15m,grants=15m`; what is not named keeps its default."""
    given = asdict(defaults)
    for name, duration in _pairs(text, tuple(given)):
        try:
            given[name] = parse_duration(duration)
        except ValueError as error:
            raise ValueError(f"has for {name} what {error}") from None
        if given[name] > _VISIBLE_AFTER_LIMIT_S:
            raise ValueError(f"has more than {format_duration(_VISIBLE_AFTER_LIMIT_S)} for {name}")
    return VisibleAfter(**given)


def format_visible_after(visible_after: VisibleAfter) -> str:
    """The inverse of `parse_visible_after`."""
    return ",".join(
        f"{name}={format_duration(seconds)}" for name, seconds in asdict(visible_after).items()
    )


def parse_brake(text: str) -> DeadLetterBrake | None:
    """`20,10%`: a run, a share. None from `off`."""
    if text == OFF:
        return None
    run, _, share = (part.strip() for part in text.partition(","))
    percent = share.removesuffix("%")
    if not _WHOLE.fullmatch(run) or percent == share or not _DECIMAL.fullmatch(percent):
        raise ValueError("is not a whole number, a comma and a percentage")
    brake = DeadLetterBrake(run=int(run), share=float(Decimal(percent) / 100))
    if brake.run < 1 or not 0 < brake.share <= 1:
        raise ValueError("needs a run of at least 1 and a share above 0% and up to 100%")
    return brake


def format_brake(brake: DeadLetterBrake | None) -> str:
    """The inverse of `parse_brake`."""
    return OFF if brake is None else f"{brake.run},{_plain(round(brake.share * 100, 9))}%"


def parse_shops(text: str, defaults: ShopSettings) -> dict[str, ShopSettings]:
    """Shops by SCAYLE's `appId`; what a shop leaves out is taken from `defaults`."""
    try:
        shops = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is not JSON (line {error.lineno}, column {error.colno})") from None
    if not isinstance(shops, dict) or not all(isinstance(shop, dict) for shop in shops.values()):
        raise ValueError("is not a JSON object of one object per appId")
    return {
        app_id: _parse_shop(f"shop number {number}", shop, defaults)
        for number, (app_id, shop) in enumerate(shops.items(), start=1)
    }


def format_shops(shops: Mapping[str, ShopSettings]) -> str:
    """The inverse of `parse_shops`."""
    return orjson.dumps(
        {
            app_id: {
                "store": shop.store,
                **({} if shop.program is None else {"program": shop.program}),
                "timezone": shop.timezone.key,
            }
            for app_id, shop in shops.items()
        }
    ).decode()


def _parse_shop(where: str, shop: Mapping[str, object], defaults: ShopSettings) -> ShopSettings:
    if unknown := set(shop) - {"store", "program", "timezone"}:
        raise ValueError(
            f"has in {where} {len(unknown)} unknown name(s) beside store, program, timezone"
        )
    store = shop.get("store", defaults.store)
    program = shop.get("program", defaults.program)
    timezone = shop.get("timezone", defaults.timezone)
    if not isinstance(store, str) or not store:
        raise ValueError(f"has in {where} a store that is not a text")
    if isinstance(program, str) and _WHOLE.fullmatch(program):
        program = int(program)
    if program is not None and (type(program) is not int or program < 1):
        raise ValueError(f"has in {where} a program that is not a whole number above zero")
    if isinstance(timezone, str):
        try:
            timezone = parse_timezone(timezone)
        except ValueError as error:
            raise ValueError(f"has in {where} a timezone that {error}") from None
    if not isinstance(timezone, ZoneInfo):
        raise ValueError(f"has in {where} a timezone that is not a text")
    return ShopSettings(store=parse_store(store), program=program, timezone=timezone)


def _pairs(text: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """The `name=value` parts of `text`, each of `names` at most once."""
    names = tuple(names)
    pairs = []
    for part in text.split(","):
        name, _, value = part.partition("=")
        pairs.append((name.strip(), value.strip()))
    found = [name for name, _ in pairs]
    if not set(found) <= set(names) or len(set(found)) < len(found):
        raise ValueError(
            f"is not a list of name=value with each of {', '.join(names)} at most once"
        )
    return pairs


def percent_decode(text: str) -> str:
    """Text from its percent-encoded UTF-8; ValueError where it is none."""
    if _BROKEN_ESCAPE.search(text):
        raise ValueError("has a percent sign that is no escape")
    return unquote_to_bytes(text).decode()


def _is_address(text: str) -> bool:
    if not text.isprintable():
        return False
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _plain(number: float) -> str:
    """`number` without an exponent and without a needless `.0`."""
    return f"{Decimal(repr(number)).normalize():f}"
