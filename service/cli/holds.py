"""`holds`: points that customers spent in a checkout and that Splio still counts as theirs."""

from functools import partial
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from service.cli.desk import Desk, Row
from service.cli.options import DEFAULT_LIMIT, All, AsJson, Limit, Offline, at_desk
from service.cli.output import Column, moment, print_json, print_lines, print_pages, print_table


class _ListsByDefault(TyperGroup):
    """`holds` is `holds list`, with its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        names_none = not args or args[0].startswith("-")
        if names_none and args[:1] != ["--help"]:
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_ListsByDefault, rich_markup_mode="markdown")

HoldKey = Annotated[str, typer.Argument(help="The capture's key: main:capture:splio_club:68ff….")]

_COLUMNS: Final = (
    Column("capture", "effect_key"),
    Column("order", "order_id"),
    Column("card", "card"),
    Column("captured", "points", right=True),
    Column("given back", "given_back", right=True),
    Column("at Splio", "shown", right=True),
    Column("held", "held", right=True),
    Column("since", "received_at", moment),
    Column("ended", "ended_at", moment),
    Column("by", "ended_by"),
)
_PART_COLUMNS: Final = (
    Column("effect", "effect_key"),
    Column("state", "state"),
    Column("points", "points", right=True),
    Column("reason", "reason"),
)


@app.callback()
def holds() -> None:
    """
    Captures that lower the balances we answer, because Splio does not show them as spent.

    With RELAY_DEBIT_BY=reward a hold ends by itself when Splio's balance shows its points as
    taken. With RELAY_DEBIT_BY=hold nothing is sent: take the points at Splio in your own way,
    then end the hold. Without a command they are listed.

    Examples:

        loyalty-relay holds

        loyalty-relay holds end main:capture:splio_club:68ff99b453c1d302c26b46b68ffc
    """


@app.command("list")
def list_holds(
    ended: Annotated[bool, typer.Option("--ended", help="Those that have ended, too.")] = False,
    limit: Limit = DEFAULT_LIMIT,
    everything: All = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """
    List the holds, with the last four characters of their cards.

    Examples:

        loyalty-relay holds list

        loyalty-relay holds list --all --json | jq '[.held] | add'
    """

    async def act(desk: Desk) -> None:
        await print_pages(
            partial(desk.holds, only_open=not ended),
            partial(print_table, columns=_COLUMNS, nothing="Nothing is held."),
            limit=None if everything else limit,
            as_json=as_json,
        )

    at_desk(act, offline=offline)


@app.command("show")
def show_hold(key: HoldKey, as_json: AsJson = False, offline: Offline = False) -> None:
    """
    Show one hold with its card, its debits and the refunds of its order.

    The whole card number is for the operator only (RELAY_OPERATIONS_PASSWORD).

    Examples:

        loyalty-relay holds show main:capture:splio_club:68ff99b453c1d302c26b46b68ffc
    """

    async def act(desk: Desk) -> Row:
        return await desk.hold(key)

    document = at_desk(act, offline=offline)
    if as_json:
        print_json([document])
        return
    print_table([document], _COLUMNS, nothing="")
    for part, nothing in (("debits", "Nothing is sent to Splio."), ("refunds", "No refunds.")):
        print_lines(["", part])
        print_table(document.get(part) or (), _PART_COLUMNS, nothing=nothing)


@app.command("end")
def end_hold(key: HoldKey, as_json: AsJson = False, offline: Offline = False) -> None:
    """
    End a hold: its points were taken at Splio by other means.

    Debits that were not sent are given up; a hold with debits under way cannot be ended. The
    next balance of the card is asked of Splio. A refund that comes afterwards is credited: end no
    hold whose points were not taken, or they are given back without. Its refund ends it.

    Examples:

        loyalty-relay holds end main:capture:splio_club:68ff99b453c1d302c26b46b68ffc
    """

    async def act(desk: Desk) -> None:
        await desk.end_hold(key)

    at_desk(act, offline=offline)
    if as_json:
        print_json([{"effect_key": key, "done": "ended"}])
    else:
        print_lines([f"{key} holds nothing any more."])
