"""Checks of this machine and of the running service, for `doctor`."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from service.cli.desk_online import open_operations_api
from service.cli.exits import UnreachableError
from service.setting_values import format_size
from service.settings import Settings, SettingsError, load_settings

# What an operator does about a reason of /readyz; others are shown as they are.
_NOT_READY: Final = {
    "starting": "wait a moment and look again",
    "stopping": "it was asked to stop; start it again when it has ended",
    "storage_low": "free disk space; webhooks get 503 until then",
}


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, in a sentence that says what to do where something is to be done."""

    check: str
    result: Level
    says: str


def ok(check: str, says: str) -> Finding:
    return Finding(check, Level.OK, says)


def warn(check: str, says: str) -> Finding:
    return Finding(check, Level.WARN, says)


def fail(check: str, says: str) -> Finding:
    return Finding(check, Level.FAIL, says)


def check_settings(*, sandbox: bool) -> tuple[Settings | None, list[Finding]]:
    """The settings as a command sees them, and what would keep the service from starting."""
    findings: list[Finding] = []
    try:
        settings = load_settings(os.environ, sandbox=sandbox)
    except SettingsError as error:
        findings += [fail("settings", str(problem)) for problem in error.problems]
        findings += [warn("settings", warning) for warning in error.warnings]
        try:
            # What is missing only for serving does not keep the other checks from being made.
            return load_settings(os.environ, sandbox=sandbox, serving=False), findings
        except SettingsError:
            return None, findings
    findings += [warn("settings", warning) for warning in settings.warnings]
    return settings, findings or [ok("settings", "complete")]


async def check_service(settings: Settings) -> Finding:
    """Whether a service runs with these settings and is ready."""
    async with open_operations_api(settings) as api:
        try:
            is_ready, reasons = await api.readiness()
        except UnreachableError as error:
            if error.reason == "not_reachable":
                return warn(
                    "service", f"nothing answers at {api.url}; start it: loyalty-relay serve"
                )
            return fail("service", error.detail)
    if is_ready:
        return ok("service", f"ready at {api.url}")
    told = "; ".join(f"{reason}: {_NOT_READY.get(reason, 'see its log')}" for reason in reasons)
    return fail("service", f"at {api.url} is not ready: {told}")


def check_files(settings: Settings) -> Iterator[Finding]:
    """Whether log and ledger can be written, and whether there is room for them."""
    for name, variable, path in (
        ("log file", "RELAY_LOG_URL", settings.log_path),
        ("ledger file", "RELAY_LEDGER_URL", settings.ledger_path),
    ):
        if path is None:
            continue  # the log is on Kafka
        problem = _cannot_write(path)
        if problem is not None:
            yield fail(name, f"{path} ({variable}): {problem}")
            continue
        yield ok(name, f"{path} can be written" if path.exists() else f"{path} will be made")
        yield _room(name.replace("file", "disk"), path, reserve_bytes=settings.disk_reserve)


def check_dates(settings: Settings) -> Iterator[Finding]:
    """How dates are written to Splio, which only a person can compare with the universe."""
    now = datetime.now(UTC)
    zones = {settings.timezone.key: settings.timezone}
    zones |= {shop.timezone.key: shop.timezone for shop in settings.shops.values()}
    shown = ", ".join(f"{now.astimezone(zone):%H:%M} in {key}" for key, zone in zones.items())
    yield ok(
        "time zone",
        f"an order of this minute is sent as {shown}; if the universe's zone is another, set"
        " RELAY_TIMEZONE",
    )
    other = "plain" if settings.splio_hours == "padded" else "padded"
    yield ok(
        "hours",
        f"01 to 09 o'clock is written {settings.splio_hours}; Splio's description and its guides"
        f" disagree, so if orders are refused for ordered_at only then, set"
        f" RELAY_SPLIO_HOURS={other}",
    )


def _cannot_write(path: Path) -> str | None:
    """Why `path` and its companions cannot be written, None when they can."""
    if path.exists():
        if not path.is_file():
            return "is not a file; name another"
        if not os.access(path, os.R_OK | os.W_OK):
            return "cannot be read and written by this user; change its owner or mode"
    directory = _existing(path.parent)
    if not directory.is_dir():
        return f"{directory} is not a directory; name another"
    try:
        # Asked of the file system itself: it may be mounted read-only, or full.
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        return f"nothing can be written in {directory} ({error.strerror}); name another or allow it"
    return None


def _room(name: str, path: Path, *, reserve_bytes: int) -> Finding:
    free_bytes = shutil.disk_usage(_existing(path.parent)).free
    free, reserve = _shown(free_bytes), format_size(reserve_bytes)
    if free_bytes < reserve_bytes:
        return fail(
            name,
            f"{free} free is less than RELAY_DISK_RESERVE={reserve}; free some, as webhooks get"
            " 503 and no effect is started",
        )
    if free_bytes < 2 * reserve_bytes:
        return warn(name, f"{free} free is near RELAY_DISK_RESERVE={reserve}; free some")
    return ok(name, f"{free} free")


def _shown(size_bytes: int) -> str:
    """Whole MiB or GiB: nobody reads more digits of free space."""
    gib = size_bytes / (1 << 30)
    return f"{gib:.1f} GiB" if gib >= 1 else f"{size_bytes >> 20} MiB"


def _existing(directory: Path) -> Path:
    """The nearest directory above that is there; the service makes those below it."""
    directory = directory.absolute()
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory
