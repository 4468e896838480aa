"""`lanes`: the queues of Splio's rate categories, and what stops them."""

from collections.abc import Sequence
from typing import Annotated, Final

import typer

from service.cli.desk import Desk, Row
from service.cli.options import AsJson, Offline, at_desk
from service.cli.output import Column, moment, print_json, print_lines, print_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")


@app.callback()
def lanes() -> None:
    """
    Lanes: the queues of Splio's rate categories, and what stops them.

    contacts, sales and other are Splio's categories; intake plans what comes from the log.

    Examples:

        loyalty-relay lanes list
    """


_COLUMNS: Final = (
    Column("lane", "lane"),
    Column("queued", "queued", right=True),
    Column("in flight", "in_flight", right=True),
    Column("open", "open"),
    Column("paused", "paused"),
    Column("braked", "braked"),
    Column("braked since", "braked_since", moment),
    Column("storage low", "storage_low"),
)


@app.command("list")
def list_lanes(as_json: AsJson = False, offline: Offline = False) -> None:
    """
    List the lanes with what waits in them, and why one stands still.

    Paused: Splio refused in a way that nobody documented; probes go on. Braked: too many
    rejections; only `release` ends it. Offline only the brakes are known.

    Examples:

        loyalty-relay lanes list

        loyalty-relay lanes list --json | jq 'select(.braked)'
    """

    async def act(desk: Desk) -> Sequence[Row]:
        return await desk.lanes()

    rows = at_desk(act, offline=offline)
    if as_json:
        print_json(rows)
        return
    known = {name for row in rows for name in row}
    columns = [column for column in _COLUMNS if column.name in known]
    print_table(rows, columns, nothing="No lane is braked.")


@app.command("release")
def release_lane(
    lane: Annotated[str, typer.Argument(help="contacts, sales, other or intake.")],
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """
    Let a lane go on that a pause or the dead-letter brake stopped.

    See to the cause first: the brake is there because many effects in a row became dead letters.

    Examples:

        loyalty-relay dead-letters list --since 1h

        loyalty-relay lanes release sales
    """

    async def act(desk: Desk) -> None:
        await desk.release_lane(lane)

    at_desk(act, offline=offline)
    if as_json:
        print_json([{"lane": lane, "released": True}])
    else:
        print_lines([f"{lane} goes on."])
