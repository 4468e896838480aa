"""Checks of what SCAYLE Checkout's calls need at Splio, for `doctor`: reads only."""

from collections.abc import AsyncIterator, Iterator

from service.cli.checks import Finding, fail, ok, warn
from service.cli.probing import failed
from service.settings import Settings
from service.splio.probe import ProbeError, Program, Reward, SplioProbe


def check_checkout(programs: tuple[Program, ...], settings: Settings) -> Iterator[Finding]:
    """Whether the programmes of the calls run, and can register."""
    known = {program.id: program for program in programs}
    for key, number in settings.loyalty_programs.items():
        program = known.get(number)
        if program is None or not program.is_running:
            what = "is not there" if program is None else "does not run"
            says = f"programme {number} of {key} {what}; see RELAY_LOYALTY_PROGRAMS"
            yield fail("checkout", says)
        elif not program.makes_card_codes:
            yield warn(
                "checkout",
                f"programme {number} of {key} makes no card codes: register will be refused",
            )
        else:
            yield ok("checkout", f"programme {number} of {key} runs and makes card codes")


async def check_spending(probe: SplioProbe, settings: Settings) -> AsyncIterator[Finding]:
    """Whether captures and refunds can be understood, and what each reward of a debit costs."""
    if not settings.loyalty_programs:
        return
    yield check_amounts(settings)
    if settings.debit_by != "reward":
        yield ok("debits", "captures are held here until a person ends them (holds list)")
        return
    for points, external_id in sorted(settings.debit_rewards.items()):
        try:
            yield check_reward(points, external_id, await probe.reward(external_id))
        except ProbeError as error:
            yield failed("debits", error)


def check_amounts(settings: Settings) -> Finding:
    """Whether captures and refunds can be understood."""
    if settings.loyalty_amount_unit is None:
        return fail(
            "amounts",
            "RELAY_LOYALTY_AMOUNT_UNIT is not set: captures and refunds are answered 503; ask"
            " SCAYLE what `amount` counts",
        )
    if settings.loyalty_amount_unit == "points":
        return ok("amounts", "are points")
    lacking = settings.loyalty_programs.keys() - {key for key, _ in settings.loyalty_rates}
    if lacking:
        return warn(
            "amounts",
            "are money, and RELAY_LOYALTY_RATES has no rate of "
            f"{', '.join(sorted(lacking))}: the ratio of Splio's programme is taken, whose"
            " meaning is not documented",
        )
    return ok("amounts", "are money, by the rates of RELAY_LOYALTY_RATES")


def check_reward(points: int, external_id: str, reward: Reward | None) -> Finding:
    """Whether granting the reward takes just these points."""
    if reward is None:
        return fail("debits", f"reward {external_id} is not there; see RELAY_DEBIT_REWARDS")
    if reward.price is None:
        return warn(
            "debits",
            f"reward {external_id} does not tell its price; make sure that it is {points} points",
        )
    if reward.price != points:
        return fail(
            "debits",
            f"reward {external_id} costs {reward.price} points and not {points}: each capture would"
            " take a wrong number; see RELAY_DEBIT_REWARDS",
        )
    if reward.is_limited:
        return warn("debits", f"reward {external_id} has a limited stock: debits stop when it ends")
    return ok("debits", f"reward {external_id} costs {points} points")
