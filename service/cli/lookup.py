"""`lookup`: effects that are in doubt or wait for a person."""

from typing import Final

import typer

from service.cli.desk import Desk
from service.cli.effects import show_effects
from service.cli.options import DEFAULT_LIMIT, All, AsJson, Key, Limit, Offline, at_desk
from service.cli.output import print_json, print_lines
from service.domain.effects import State

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")


@app.callback()
def lookup() -> None:
    """
    What is in doubt or held: look it up at Splio, release it or give it up.

    What is in doubt is looked up by itself; a person is needed for what is held.

    Examples:

        loyalty-relay lookup list

        loyalty-relay lookup now main:earn:2345234
    """


_VERDICTS: Final = {
    "found": "Splio has it: it is applied.",
    "different": "Splio holds something else under its identity: rejected, a dead letter.",
    "absent": "Splio does not have it: it is sent again, with the same idempotency key.",
    "hold": "Splio does not have it, and it may not be sent again by itself: held.",
    "unknown": "Splio gave no answer that decides: it is looked up again by itself.",
}


@app.command("list")
def list_open(
    limit: Limit = DEFAULT_LIMIT,
    everything: All = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """
    List the effects that are in doubt or held.

    In doubt: the request may have taken effect; Splio is asked by itself. Held: waits for you.

    Examples:

        loyalty-relay lookup list

        loyalty-relay lookup list --json | jq -r .effect_key
    """

    async def act(desk: Desk) -> None:
        await show_effects(
            desk,
            states=[State.IN_DOUBT, State.HELD],
            kind=None,
            order_id=None,
            limit=None if everything else limit,
            as_json=as_json,
            nothing="Nothing is in doubt or held.",
        )

    at_desk(act, offline=offline)


@app.command("now")
def look_up_now(key: Key, as_json: AsJson = False) -> None:
    """
    Ask Splio now about an effect in doubt; needs the running service.

    Absence counts only after Splio had time to show it, so the verdict may be `unknown` at first.

    Examples:

        loyalty-relay lookup now main:earn:2345234
    """

    async def act(desk: Desk) -> str:
        return await desk.look_up(key)

    verdict = at_desk(act, offline=False)
    if as_json:
        print_json([{"effect_key": key, "verdict": verdict}])
    else:
        print_lines([_VERDICTS.get(verdict, verdict)])


@app.command("release")
def release(key: Key, as_json: AsJson = False, offline: Offline = False) -> None:
    """
    Let a held effect be attempted, with the bytes that were planned.

    Look at why it was held first: points above RELAY_POINTS_LIMIT cannot be taken back.

    Examples:

        loyalty-relay effects show 2345234

        loyalty-relay lookup release main:earn:2345234
    """

    async def act(desk: Desk) -> None:
        await desk.release(key)

    at_desk(act, offline=offline)
    _tell(key, "released", as_json=as_json)


@app.command("reject")
def reject(key: Key, as_json: AsJson = False, offline: Offline = False) -> None:
    """
    Give up an effect that is held or in doubt; it becomes a dead letter.

    One in doubt may have taken effect: look at Splio first. What waits for it becomes void.

    Examples:

        loyalty-relay lookup reject main:earn:2345234
    """

    async def act(desk: Desk) -> None:
        await desk.reject(key)

    at_desk(act, offline=offline)
    _tell(key, "rejected", as_json=as_json)


def _tell(key: str, done: str, *, as_json: bool) -> None:
    if as_json:
        print_json([{"effect_key": key, "done": done}])
    else:
        print_lines([f"{key} is {done}."])
