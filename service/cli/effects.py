"""`effects`: what is asked of Splio and how far it is."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final

import typer

from service.cli.desk import Desk, Row
from service.cli.options import DEFAULT_LIMIT, All, AsJson, Limit, Offline, at_desk
from service.cli.output import Column, moment, print_json, print_lines, print_pages, print_table
from service.domain.effects import Kind, State

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")


@app.callback()
def effects() -> None:
    """
    Effects: what is asked of Splio for each order, and how far it is.

    Each has a transaction key, such as main:order:2345234 and main:earn:2345234, and is applied
    at most once.

    Examples:

        loyalty-relay effects list --state due

        loyalty-relay effects show 2345234
    """


_EFFECT_COLUMNS: Final = (
    Column("effect", "effect_key"),
    Column("state", "state"),
    Column("attempts", "attempt", right=True),
    Column("points", "points", right=True),
    Column("received", "received_at", moment),
    Column("due", "due_at", moment),
    Column("reason", "reason"),
)
_TIMELINE_COLUMNS: Final = (
    Column("time", "at", moment),
    Column("effect", "effect_key"),
    Column("attempt", "attempt", right=True),
    Column("what", "what"),
    Column("status", "status", right=True),
    Column("reason", "reason"),
    Column("detail", "detail"),
    Column("by", "by"),
)
_WAITING: Final = ("due", "blocked", "in_doubt", "attempting")  # whose due time says something


@app.command("list")
def list_effects(
    state: Annotated[
        list[State] | None, typer.Option("--state", help="Only in this state; may be repeated.")
    ] = None,
    kind: Annotated[Kind | None, typer.Option("--kind", help="Only of this kind.")] = None,
    order: Annotated[
        str | None, typer.Option("--order", metavar="ID", help="Only of this order.")
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    everything: All = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """
    List effects by transaction key.

    Open ones are blocked, due, attempting, in_doubt or held; settled ones are applied, duplicate,
    rejected or void.

    Examples:

        loyalty-relay effects list --state held --state in_doubt

        loyalty-relay effects list --order 2345234

        loyalty-relay effects list --kind earn --all --json | jq .state
    """

    async def act(desk: Desk) -> None:
        await show_effects(
            desk,
            states=state or [],
            kind=kind,
            order_id=order,
            limit=None if everything else limit,
            as_json=as_json,
            nothing="There are no such effects.",
        )

    at_desk(act, offline=offline)


async def show_effects(
    desk: Desk,
    *,
    states: list[State],
    kind: Kind | None,
    order_id: str | None,
    limit: int | None,
    as_json: bool,
    nothing: str,
) -> None:
    """Print effects, as `print_pages`."""
    await print_pages(
        partial(desk.effects, states=states, kind=kind, order_id=order_id),
        partial(_print_effects, nothing=nothing),
        limit=limit,
        as_json=as_json,
    )


def _print_effects(rows: Sequence[Row], *, nothing: str) -> None:
    shown = [row if row.get("state") in _WAITING else {**row, "due_at": None} for row in rows]
    print_table(shown, _EFFECT_COLUMNS, nothing=nothing)


@app.command("show")
def show_order(
    order: Annotated[str, typer.Argument(help="The order's id.")],
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """
    Show one order: its effects, every attempt, and its dead letters, in the order of time.

    Times are local; with --json the order is one object, its times in UTC.

    Examples:

        loyalty-relay effects show 2345234

        loyalty-relay effects show 2345234 --json | jq '.effects[].attempts'
    """

    async def act(desk: Desk) -> Row:
        return await desk.order(order)

    document = at_desk(act, offline=offline)
    if as_json:
        print_json([document])
        return
    _print_effects(document.get("effects") or (), nothing="The order has no effects.")
    print_lines([""])
    print_table(timeline(document), _TIMELINE_COLUMNS, nothing="Nothing was tried yet.")


def timeline(order: Row) -> list[Mapping[str, Any]]:
    """What happened to an order, oldest first: planned, attempts, changes, dead letters."""
    entries: list[dict[str, Any]] = []
    for effect in order.get("effects") or ():
        key = effect.get("effect_key")
        entries.append({"at": effect.get("created_at"), "effect_key": key, "what": "planned"})
        for attempt in effect.get("attempts") or ():
            entries.append(
                {
                    **attempt,
                    "at": attempt.get("ended_at"),
                    "effect_key": key,
                    "what": attempt.get("outcome"),
                }
            )
        if (seen_at := effect.get("seen_at")) is not None:
            entries.append({"at": seen_at, "effect_key": key, "what": "seen at Splio"})
    for dead_letter in order.get("dead_letters") or ():
        number = f"dead letter {dead_letter.get('id')}"
        about = {"effect_key": dead_letter.get("effect_key")}
        entries.append(
            {
                **about,
                "at": dead_letter.get("at"),
                "what": number,
                "reason": dead_letter.get("reason"),
                "detail": dead_letter.get("detail"),
            }
        )
        for end in ("replayed", "dismissed"):
            if (at := dead_letter.get(f"{end}_at")) is not None:
                by = dead_letter.get(f"{end}_by")
                entries.append({**about, "at": at, "what": f"{number} {end}", "by": by})
    return sorted(entries, key=lambda entry: entry["at"] or 0)
