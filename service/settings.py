"""Builds the settings from an environment mapping."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from os.path import realpath
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from service.loyalty_rules import SANDBOX_LOYALTY, loyalty_problems
from service.setting_model import (
    FIELDS,
    FROM_FILE,
    PREFIX,
    SANDBOX_VISIBLE_AFTER,
    SECRETS,
    Settings,
    Shown,
    Source,
    variable,
)
from service.setting_values import (
    DeadLetterBrake,
    ShopSettings,
    VisibleAfter,
    format_visible_after,
    is_kafka,
    is_loopback,
    kafka_is_local,
    splio_is_local,
)
from service.web.tokens import ANY_OPERATION

__all__ = [
    "DeadLetterBrake",
    "Problem",
    "SettingRow",
    "Settings",
    "SettingsError",
    "ShopSettings",
    "VisibleAfter",
    "describe",
    "load_settings",
]

SANDBOX_WAITS: Final = {
    "request_timeout_s": "1s",
    "lease_margin_s": "1s",
    "visible_after_s": format_visible_after(SANDBOX_VISIBLE_AFTER),
}
"""Defaults beside the sandbox, which answers at once and soon shows what it did."""

SANDBOX_WEBHOOK_USER: Final = "scayle"
SANDBOX_PASSWORD: Final = "sandbox"  # of the webhook user and of the operations door
SANDBOX_API_KEY: Final = "sandbox-api-key"

_FILES: Final = SECRETS | FROM_FILE
# Not repeated in a problem: secrets, and what may hold one by mistake or is long.
_NOT_REPEATED: Final = SECRETS | {"log_url", "ledger_url", "splio_url", "shops"}
_SHOWN_LIMIT: Final = 40  # characters of a value that a problem repeats
_NAME_LIMIT: Final = 80  # characters of an unknown name; comparing names is quadratic
_FILE_LIMIT: Final = 64 * 1024  # bytes; a key or a list of credentials is far below
_FILE_SUFFIX: Final = "_FILE"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one variable."""

    variable: str
    message: str
    example: str

    def __str__(self) -> str:
        return f"{self.variable} {self.message}; for example {self.example}"


class SettingsError(Exception):
    """
    The settings cannot be used: print problems and warnings, one a line, and exit with code 2.

    The warnings name unknown variables, since a misspelt name often explains a missing value.
    """

    def __init__(self, problems: tuple[Problem, ...], warnings: tuple[str, ...] = ()) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
        self.warnings = warnings


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One effective setting as an operator may see it; a secret only as `set` or `not set`."""

    name: str
    value: str
    source: Source
    unit: str
    description: str


def load_settings(
    environ: Mapping[str, str],
    *,
    sandbox: bool = False,
    serving: bool = True,
    takes_webhooks: bool = True,
    takes_effect: bool = True,
) -> Settings:
    """
    The settings that `environ` asks for. Reads the files that `…_FILE` variables name.

    An empty value counts as not set. A `RELAY_` name that nobody knows becomes a warning.

    Args:
        sandbox: beside the built-in sandbox: its fixed credentials, where none are set and only
            on loopback, short waits, and the sandbox's programme with its rate and rewards.
        serving: whether the service itself will run; False for a command that only looks, which
            needs no credentials and opens no listener.
        takes_webhooks: False for a process that only consumes: it has no public listener.
        takes_effect: False for a process that only receives: it does not talk to Splio.

    Raises: SettingsError with all problems at once.
    """
    problems: list[Problem] = []
    texts, sources, failed = _read_variables(environ, problems)
    if sandbox:
        given = {**SANDBOX_WAITS, **SANDBOX_LOYALTY}
        if "loyalty_programs" in sources:
            del given["loyalty_rates"]  # it is of a programme that they may lack
        for field in given.keys() - sources.keys():
            texts[field], sources[field] = given[field], "sandbox"
    settings = _build(texts, sandbox=sandbox, problems=problems, failed=failed)
    if sandbox:
        supplied = {
            field: value
            for field, value in _sandbox_credentials(settings).items()
            if field not in sources
        }
        sources |= dict.fromkeys(supplied, "sandbox")
        settings = settings.model_copy(update=supplied)
    problems += _storage_problems(settings, failed)
    problems += _kafka_problems(settings, failed)
    problems += [
        _problem(field, message)
        for field, message in loyalty_problems(
            settings, failed, takes_calls=serving and takes_webhooks
        )
    ]
    if serving:
        problems += _tls_problems(settings, failed)
        problems += _listener_problems(settings, failed, takes_webhooks=takes_webhooks)
        if takes_webhooks:
            problems += _credential_problems(settings, failed)
        if takes_effect or (takes_webhooks and settings.loyalty_tokens):
            problems += _splio_problems(settings, failed)
        if not takes_effect and settings.loyalty_tokens and settings.ledger_path is not None:
            problems.append(
                _problem(
                    "ledger_url",
                    f"is a file, which only `serve` can share with {variable('loyalty_tokens')}:"
                    " their calls need the ledger",
                )
            )
    warnings = tuple(_unknown_names(environ))
    if problems:
        raise SettingsError(tuple(problems), warnings)
    return settings.model_copy(update={"warnings": warnings, "sources": sources})


def describe(settings: Settings) -> list[SettingRow]:
    """Every setting with its effective value and where that came from."""
    return [
        SettingRow(
            name=variable(field),
            value=_written(field, getattr(settings, field)),
            source=settings.sources.get(field, "default"),
            unit=_shown(field).unit,
            description=info.description or "",
        )
        for field, info in FIELDS.items()
    ]


def _read_variables(
    environ: Mapping[str, str], problems: list[Problem]
) -> tuple[dict[str, str], dict[str, Source], set[str]]:
    """The text and source of each field that is set, and the fields that could not be read."""
    texts: dict[str, str] = {}
    sources: dict[str, Source] = {}
    failed: set[str] = set()
    for field in FIELDS:
        name = variable(field)
        text = environ.get(name, "") if field in SECRETS else environ.get(name, "").strip()
        path = environ.get(name + _FILE_SUFFIX, "").strip() if field in _FILES else ""
        if text or path:
            sources[field] = "file" if path else "environment"
        try:
            if text and path:
                raise ValueError(f"and {name}{_FILE_SUFFIX} are both set")
            if path:
                texts[field] = _read_secret(path)
            elif text:
                text.encode()  # a value that is not UTF-8 arrives as lone surrogates
                texts[field] = text
        except UnicodeError:
            failed.add(field)
            problems.append(_problem(field, "is not UTF-8 text", sources))
        except ValueError as error:
            failed.add(field)
            problems.append(_problem(field, str(error), {} if text else sources))
    return texts, sources, failed


def _read_secret(path: str) -> str:
    """
    The text of a secret's file, without the line break at its end.

    The path is not repeated: it may be the secret itself, put into the wrong variable.
    """
    content = _read_file(Path(path))
    if len(content) > _FILE_LIMIT:
        raise ValueError(f"names a file of more than {_FILE_LIMIT} bytes")
    if not (text := content.decode("utf-8-sig").rstrip("\r\n")):
        raise ValueError("names an empty file")
    return text


def _read_file(path: Path) -> bytes:
    """The begin of a regular file; ValueError says why it cannot be read. A pipe would block."""
    if "\x00" in str(path):
        raise ValueError("names a file that cannot exist")
    try:
        if not S_ISREG(path.stat().st_mode):
            raise ValueError("does not name a regular file")
        with path.open("rb") as file:
            return file.read(_FILE_LIMIT + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"names a file that cannot be read ({reason})") from None
    except UnicodeError:
        raise ValueError("names a file that cannot exist") from None


def _build(
    texts: Mapping[str, str], *, sandbox: bool, problems: list[Problem], failed: set[str]
) -> Settings:
    """Settings from the texts that are right; the fields of the others are added to `failed`."""
    try:
        return Settings.model_validate({**texts, "sandbox": sandbox})
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            field = str(details["loc"][0])
            if field not in failed:
                failed.add(field)
                problems.append(_field_problem(field, texts[field], details))
    good = {field: text for field, text in texts.items() if field not in failed}
    return Settings.model_validate({**good, "sandbox": sandbox})


def _field_problem(field: str, text: str, details: ErrorDetails) -> Problem:
    context = details.get("ctx", {})
    match details["type"]:
        case "value_error":
            message = str(context["error"])
        case "literal_error":
            message = f"is not {context['expected']}"
        case "greater_than_equal":
            message = f"is less than {_written(field, context['ge'])}"
        case "less_than_equal":
            message = f"is more than {_written(field, context['le'])}"
        case other:
            message = f"is not usable ({other})"
    if field not in _NOT_REPEATED:
        shown = text if len(text) <= _SHOWN_LIMIT else text[:_SHOWN_LIMIT] + "…"
        message = f"= {shown!r} {message}"
    return _problem(field, message)


def _problem(field: str, message: str, sources: Mapping[str, Source] | None = None) -> Problem:
    name = variable(field)
    example = f"{name}={(FIELDS[field].examples or [''])[0]}"
    if sources and sources.get(field) == "file":
        name += _FILE_SUFFIX
    return Problem(name, message, example)


def _sandbox_credentials(settings: Settings) -> dict[str, Any]:
    """The sandbox's fixed credentials for those doors that only this machine can reach."""
    supplied: dict[str, Any] = {"splio_api_key": SecretStr(SANDBOX_API_KEY)}
    # What ends TLS in front of a loopback listener lets others in as well.
    if not settings.behind_tls:
        if is_loopback(settings.http_host):
            supplied["webhook_credentials"] = ((SANDBOX_WEBHOOK_USER, SecretStr(SANDBOX_PASSWORD)),)
            supplied["loyalty_tokens"] = ((ANY_OPERATION, SecretStr(SANDBOX_PASSWORD)),)
        if is_loopback(settings.operations_host):
            supplied["operations_password"] = SecretStr(SANDBOX_PASSWORD)
    return supplied


def _tls_problems(settings: Settings, failed: set[str]) -> Iterator[Problem]:
    if failed.isdisjoint({"tls_cert", "tls_key"}) and (
        (settings.tls_cert is None) != (settings.tls_key is None)
    ):
        missing, given = (
            ("tls_cert", "tls_key") if settings.tls_cert is None else ("tls_key", "tls_cert")
        )
        yield _problem(missing, f"is missing beside {variable(given)}")
    for field in ("tls_cert", "tls_key"):
        path: Path | None = getattr(settings, field)
        if path is not None:
            try:
                _read_file(path)
            except ValueError as error:
                yield _problem(field, str(error))


def _storage_problems(settings: Settings, failed: set[str]) -> Iterator[Problem]:
    files: dict[str, str] = {}
    for field, path in (
        ("log_url", settings.log_path),
        ("ledger_url", settings.ledger_path),
        ("sandbox_path", settings.sandbox_path),
    ):
        if field not in failed and path is not None:
            other = files.setdefault(realpath(path), field)
            if other != field:
                yield _problem(field, f"names the file of {variable(other)}; they must differ")


def _kafka_problems(settings: Settings, failed: set[str]) -> Iterator[Problem]:
    for one, other in (("kafka_user", "kafka_password"), ("kafka_cert", "kafka_key")):
        given = [field for field in (one, other) if getattr(settings, field) is not None]
        if failed.isdisjoint({one, other}) and len(given) == 1:
            missing = other if given == [one] else one
            yield _problem(missing, f"is missing beside {variable(given[0])}")
    for field in ("kafka_ca", "kafka_cert", "kafka_key"):
        path: Path | None = getattr(settings, field)
        if path is None or field in failed:
            continue
        if not settings.kafka_tls and "kafka_tls" not in failed:
            yield _problem(field, f"is set without {variable('kafka_tls')}=1")
        try:
            _read_file(path)
        except ValueError as error:
            yield _problem(field, str(error))
    if (
        failed.isdisjoint({"log_url", "kafka_tls", "kafka_mechanism"})
        and settings.kafka_password is not None
        and settings.kafka_mechanism == "plain"
        and not settings.kafka_tls
        and is_kafka(settings.log_url)
        and not kafka_is_local(settings.log_url)
    ):
        yield _problem(
            "kafka_mechanism",
            f"sends the password unencrypted beyond this machine; set {variable('kafka_tls')}=1",
        )


def _listener_problems(
    settings: Settings, failed: set[str], *, takes_webhooks: bool
) -> Iterator[Problem]:
    for field in ("http_host", "operations_host"):
        if (
            (takes_webhooks or field != "http_host")
            and failed.isdisjoint({field, "behind_tls", "tls_cert", "tls_key"})
            and not is_loopback(getattr(settings, field))
            and not settings.behind_tls
            and settings.tls_cert is None
            and settings.tls_key is None
        ):
            yield _problem(
                field,
                "is beyond loopback, which needs RELAY_TLS_CERT and RELAY_TLS_KEY, or"
                " RELAY_BEHIND_TLS=1 where something in front ends TLS",
            )
    if (
        takes_webhooks
        and failed.isdisjoint({"http_port", "operations_port"})
        and settings.http_port == settings.operations_port != 0
    ):
        yield _problem("operations_port", f"is also {variable('http_port')}; they must differ")


def _credential_problems(settings: Settings, failed: set[str]) -> Iterator[Problem]:
    if (
        failed.isdisjoint({"webhook_credentials", "http_host", "behind_tls"})
        and not settings.webhook_credentials
    ):
        reason = (
            "the sandbox's fixed ones are for loopback only"
            if settings.sandbox
            else "every webhook must authenticate"
        )
        yield _problem("webhook_credentials", f"is not set: {reason}")


def _splio_problems(settings: Settings, failed: set[str]) -> Iterator[Problem]:
    if not settings.sandbox:
        if "splio_url" not in failed and settings.splio_url is None:
            yield _problem("splio_url", "is not set (or start with --sandbox)")
        if "splio_api_key" not in failed and settings.splio_api_key is None:
            yield _problem("splio_api_key", "is not set (or start with --sandbox)")
    elif settings.splio_url is not None and not splio_is_local(settings.splio_url):
        # Else demonstration orders could reach a real universe.
        yield _problem("splio_url", "is beyond this machine, which --sandbox rules out")


def _unknown_names(environ: Mapping[str, str]) -> Iterator[str]:
    known = [variable(field).removeprefix(PREFIX) for field in FIELDS]
    known += [variable(field).removeprefix(PREFIX) + _FILE_SUFFIX for field in sorted(_FILES)]
    for name in sorted(environ):
        bare = name.removeprefix(PREFIX)
        if bare != name and bare not in known:
            nearest = get_close_matches(bare[:_NAME_LIMIT], known, n=1, cutoff=0.0)[0]
            shown = ascii(name[:_NAME_LIMIT])[1:-1]
            yield f"{shown} is not a setting and does nothing; the nearest is {PREFIX}{nearest}"


def _shown(field: str) -> Shown:
    """How values of `field` are written; plain text where its type does not say."""
    return next((mark for mark in FIELDS[field].metadata if isinstance(mark, Shown)), Shown(str))


def _written(field: str, value: object) -> str:
    shown = _shown(field)
    return "not set" if value is None and shown.write is str else shown.write(value)
