"""Checks of the Splio universe, for `doctor`: reads only."""

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from service.cli.checkout_checks import check_checkout, check_spending
from service.cli.checks import Finding, fail, ok, warn
from service.cli.probing import failed
from service.configuration import splio_config
from service.domain.effects import Lane
from service.settings import Settings
from service.splio.probe import ProbeError, Program, SplioProbe, open_probe

_CLOCK_WARN_S: Final = 5.0  # the header tells whole seconds, and the reply takes its time
_CLOCK_FAIL_S: Final = 60.0  # tokens and the times of orders would be wrong


async def check_splio(settings: Settings) -> AsyncIterator[Finding]:
    """Whether we can get in, and whether the universe has what the settings name."""
    if settings.splio_url is None or settings.splio_api_key is None:
        if settings.sandbox:
            yield ok("splio", "the sandbox inside the service; there is nothing to check")
        else:
            yield fail("splio", "was not asked: RELAY_SPLIO_URL or RELAY_SPLIO_API_KEY is not set")
        return
    async with open_probe(splio_config(settings, url=settings.splio_url)) as probe:
        try:
            await probe.authenticate()
            await probe.ping()
        except ProbeError as error:
            yield failed("splio", error)
            return
        yield ok("splio", f"{settings.splio_url} lets us in")
        async for finding in _check_universe(probe, settings):
            yield finding
        yield check_clock(probe.clock_offset_s)
        for finding in check_limits(probe.limits, settings):
            yield finding


async def _check_universe(probe: SplioProbe, settings: Settings) -> AsyncIterator[Finding]:
    try:
        yield check_unique_key(await probe.unique_key(), settings)
    except ProbeError as error:
        yield failed("unique key", error)
    try:
        programs = await probe.programs()
    except ProbeError as error:
        yield failed("programme", error)
    else:
        for finding in (*check_programs(programs, settings), *check_checkout(programs, settings)):
            yield finding
    async for finding in check_spending(probe, settings):
        yield finding
    for store in sorted(_stores(settings)):
        try:
            if await probe.has_store(store):
                yield ok("store", f"{store} is there")
            else:
                yield warn(
                    "store",
                    f"{store} is not there; the first order makes it, so check that the name is"
                    " right",
                )
        except ProbeError as error:
            yield failed("store", error)


def check_unique_key(unique_key: str, settings: Settings) -> Finding:
    """Whether orders name contacts by what the universe knows them by."""
    ours = settings.splio_contact_key
    if unique_key == ours:
        return ok("unique key", f"{unique_key}, as RELAY_SPLIO_CONTACT_KEY has it")
    if unique_key in ("email", "cellphone"):
        return fail(
            "unique key",
            f"the universe's is {unique_key}, RELAY_SPLIO_CONTACT_KEY is {ours}: set it to"
            f" {unique_key}, else no order finds its contact",
        )
    if ours in ("email", "cellphone"):
        return fail(
            "unique key",
            f"the universe's is the custom field {unique_key}, RELAY_SPLIO_CONTACT_KEY is {ours}:"
            " set it to customer_id or reference_key, whichever that field holds",
        )
    return ok(
        "unique key",
        f"the custom field {unique_key}; make sure that it holds SCAYLE's {ours}",
    )


def check_programs(programs: tuple[Program, ...], settings: Settings) -> Iterator[Finding]:
    """Whether the programmes that the settings name exist and run, and whom they enrol."""
    known = {program.id: program for program in programs}
    running = [program for program in programs if program.is_running]
    wanted = sorted(_programs(settings))
    for number in wanted:
        program = known.get(number)
        if program is None:
            there = ", ".join(str(program.id) for program in programs) or "none"
            yield fail("programme", f"{number} is not there ({there}); set RELAY_SPLIO_PROGRAM")
        elif not program.is_running:
            yield fail("programme", f"{number} does not run, so no points count; start it in Splio")
        else:
            yield ok("programme", f"{number} runs")
    if not wanted and not running:
        yield fail("programme", "none runs, so no points can be booked; start one in Splio")
    elif not wanted:
        numbers = ", ".join(str(program.id) for program in running)
        yield ok("programme", f"RELAY_SPLIO_PROGRAM is not set; running: {numbers}")
    if settings.guest_orders == "post":
        enrolling = [
            str(program.id)
            for program in running
            if program.subscribes_automatically and (not wanted or program.id in wanted)
        ]
        if enrolling:
            yield warn(
                "guests",
                f"programme {', '.join(enrolling)} enrols every new contact, and orders of guests"
                " are posted: guests become members; set RELAY_GUEST_ORDERS=skip if they must not",
            )


def check_clock(offset_s: float | None) -> Finding:
    """This machine's clock against the `Date` of Splio's answers."""
    if offset_s is None:
        return warn("clock", "Splio's answers have no date to compare with; check it by NTP")
    side = "ahead of" if offset_s > 0 else "behind"
    if abs(offset_s) <= _CLOCK_WARN_S:
        return ok("clock", "agrees with Splio's")
    says = f"is {abs(offset_s):.0f} s {side} Splio's; set it by NTP"
    return fail("clock", says) if abs(offset_s) > _CLOCK_FAIL_S else warn("clock", says)


def check_limits(seen: Mapping[Lane, float], settings: Settings) -> Iterator[Finding]:
    """
    The limits that Splio's headers name against those that the service keeps.

    The window of the header is not documented, so a difference is a hint and no failure.
    """
    ours = settings.splio_limits
    if not seen:
        yield ok("limits", "Splio's answers name none; RELAY_SPLIO_LIMITS is kept")
    for lane, limit in seen.items():
        if ours is None:
            yield warn("limits", f"Splio names {limit:g} for {lane}, RELAY_SPLIO_LIMITS is off")
        elif limit < ours[lane]:
            yield warn(
                "limits",
                f"Splio names {limit:g} for {lane}, RELAY_SPLIO_LIMITS has {ours[lane]:g}: set"
                f" {lane}={limit:g} if that is per second",
            )
        else:
            yield ok("limits", f"Splio names {limit:g} for {lane}, {ours[lane]:g} is kept")


def _stores(settings: Settings) -> set[str]:
    return {shop.store for shop in settings.shops.values()} or {settings.splio_store}


def _programs(settings: Settings) -> set[int]:
    if settings.shops:
        return {shop.program for shop in settings.shops.values() if shop.program is not None}
    return set() if settings.splio_program is None else {settings.splio_program}
