"""Rules among the checkout's settings, and what the sandbox has them be."""

from collections.abc import Iterator, Set
from typing import Final

from service.setting_model import Settings, variable

SANDBOX_LOYALTY: Final = {
    "loyalty_programs": "splio_club=1",
    "loyalty_rates": "splio_club:EUR=0.01",
    "loyalty_amount_unit": "points",
    "debit_by": "reward",
    "debit_rewards": "1=PT1,10=PT10,100=PT100,1000=PT1000",
}
"""Defaults beside the sandbox: its programme, and rewards that it offers."""


def loyalty_problems(
    settings: Settings, failed: Set[str], *, takes_calls: bool
) -> Iterator[tuple[str, str]]:
    """
    The field and message of each rule that is broken; at most one a field.

    Args:
        failed: fields whose own text is wrong: nothing is said of what hangs on them.
        takes_calls: whether the process will answer SCAYLE Checkout.
    """
    programs, tokens = settings.loyalty_programs, settings.loyalty_tokens
    if failed.isdisjoint({"loyalty_programs", "loyalty_tokens"}) and (
        takes_calls and tokens and not programs
    ):
        yield (
            "loyalty_programs",
            f"is missing beside {variable('loyalty_tokens')}: no call could name a programme",
        )
    lacking = sorted({program for program, _ in settings.loyalty_rates} - programs.keys())
    if failed.isdisjoint({"loyalty_programs", "loyalty_rates"}) and lacking:
        yield (
            "loyalty_rates",
            f"has a rate of {', '.join(lacking)}, which {variable('loyalty_programs')} lacks",
        )
    if failed.isdisjoint({"debit_by", "debit_rewards"}) and settings.debit_by == "reward":
        if not settings.debit_rewards:
            yield "debit_rewards", f"is missing beside {variable('debit_by')}=reward"
        elif 1 not in settings.debit_rewards:
            yield (
                "debit_rewards",
                "has no reward of 1 point, without which not every amount can be composed",
            )
