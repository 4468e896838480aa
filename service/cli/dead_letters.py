"""`dead-letters`: what was set aside, to be looked at, replayed or dismissed."""

import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Final

import typer

from service.cli.desk import DeadLetterFilter, Desk, Row, all_rows
from service.cli.exits import FAILED, NOT_FOUND
from service.cli.options import DEFAULT_LIMIT, All, AsJson, Limit, Offline, Since, Until, at_desk
from service.cli.output import (
    Column,
    is_moment,
    moment,
    print_json,
    print_lines,
    print_pages,
    print_table,
    show_value,
)
from service.cli.progress import progress_line

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")


@app.callback()
def dead_letters() -> None:
    """
    Dead letters: what was set aside with its reason.

    Their bytes are kept for RELAY_RETENTION. Nothing of them is sent until somebody replays them.

    Examples:

        loyalty-relay dead-letters list --open

        loyalty-relay dead-letters show 17
    """


_COLUMNS: Final = (
    Column("id", "id", right=True),
    Column("time", "at", moment),
    Column("kind", "kind"),
    Column("order", "order_id"),
    Column("reason", "reason"),
    Column("detail", "detail"),
    Column("seen", "times_seen", right=True),
    Column("replayed", "replayed_at", moment),
    Column("dismissed", "dismissed_at", moment),
)
_CHANGED_COLUMNS: Final = (Column("id", "id", right=True), Column("problem", "problem"))
_UNKNOWN: Final = "no_such_dead_letter"  # how a problem begins
_AT_ONCE: Final = 50  # changed in one request, so that none takes long

Change = Callable[[Desk, Sequence[int]], Awaitable[Sequence[Row]]]

Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Dead letters by number.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Open ones with this reason.")]
Everything = Annotated[bool, typer.Option("--all", help="All that are open.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command("list")
def list_dead_letters(
    reason: Annotated[str | None, typer.Option("--reason", help="Only with this reason.")] = None,
    since: Since = None,
    until: Until = None,
    only_open: Annotated[
        bool, typer.Option("--open", help="Only those neither replayed nor dismissed.")
    ] = False,
    limit: Limit = DEFAULT_LIMIT,
    everything: All = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """
    List dead letters, the oldest first, without their bytes.

    The kind is that of the effect which was rejected, else `event`.

    Examples:

        loyalty-relay dead-letters list --open

        loyalty-relay dead-letters list --reason refused --since 2h

        loyalty-relay dead-letters list --open --all --json | jq -r .reason | sort | uniq -c
    """
    wanted = DeadLetterFilter(reason, since, until, only_open)

    async def act(desk: Desk) -> None:
        await print_pages(
            partial(desk.dead_letters, wanted),
            partial(print_table, columns=_COLUMNS, nothing="There are no such dead letters."),
            limit=None if everything else limit,
            as_json=as_json,
        )

    at_desk(act, offline=offline)


@app.command("show")
def show_dead_letter(
    dead_letter: Annotated[int, typer.Argument(metavar="ID", help="Its number.")],
    as_bytes: Annotated[
        bool,
        typer.Option(
            "--bytes",
            help="Write the original bytes and nothing else. They may hold personal data.",
        ),
    ] = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """
    Show one dead letter: where it comes from and why it was set aside.

    The bytes of its record are shown only when asked for.

    Examples:

        loyalty-relay dead-letters show 17

        loyalty-relay dead-letters show 17 --bytes > record.json
    """

    async def read_bytes(desk: Desk) -> bytes:
        return await desk.dead_letter_bytes(dead_letter)

    async def read(desk: Desk) -> Row:
        return await desk.dead_letter(dead_letter)

    if as_bytes:
        sys.stdout.buffer.write(at_desk(read_bytes, offline=offline))
        sys.stdout.buffer.flush()
        return
    row = at_desk(read, offline=offline)
    if as_json:
        print_json([row])
        return
    facts = [
        {"name": name, "value": (moment if is_moment(name) else show_value)(value)}
        for name, value in row.items()
        if value not in (None, "", {})
    ]
    print_table(facts, (Column("", "name"), Column("", "value")), nothing="")


@app.command("replay")
def replay(
    ids: Ids = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    yes: Yes = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """
    Plan dead letters again: from the event, by today's settings. See to the cause first.

    Names them one by one, or chooses among the open ones; --reason, --since and --until combine.
    What is in the ledger already is never sent twice.

    Examples:

        loyalty-relay dead-letters replay 17 18

        loyalty-relay dead-letters replay --reason unreadable --since 2026-03-01

        loyalty-relay dead-letters replay --all --yes --json
    """
    selection = _Selection(ids or [], DeadLetterFilter(reason, since, until, True), everything)

    async def change(desk: Desk, numbers: Sequence[int]) -> Sequence[Row]:
        return await desk.replay(numbers)

    _change("replay", change, selection, yes=yes, as_json=as_json, offline=offline)


@app.command("dismiss")
def dismiss(
    ids: Ids = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    yes: Yes = False,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """
    Mark dead letters as dealt with elsewhere; they are not replayed any more.

    Named one by one, or chosen among the open ones as for `replay`.

    Examples:

        loyalty-relay dead-letters dismiss 17

        loyalty-relay dead-letters dismiss --reason mismatch --until 7d
    """
    selection = _Selection(ids or [], DeadLetterFilter(reason, since, until, True), everything)

    async def change(desk: Desk, numbers: Sequence[int]) -> Sequence[Row]:
        return await desk.dismiss(numbers)

    _change("dismiss", change, selection, yes=yes, as_json=as_json, offline=offline)


class _Selection:
    """What a person named: numbers, or a choice among the open ones."""

    def __init__(self, ids: Sequence[int], wanted: DeadLetterFilter, everything: bool) -> None:
        self.ids = list(dict.fromkeys(ids))
        self.wanted = wanted
        chooses = wanted != DeadLetterFilter(only_open=True)
        if not (self.ids or chooses or everything):
            raise typer.BadParameter("name ids, --reason, --since, --until or --all")
        if bool(self.ids) + chooses + everything > 1:
            raise typer.BadParameter(
                "ids, --all and a choice by --reason, --since, --until exclude each other"
            )


def _change(
    verb: str,
    change: Change,
    selection: _Selection,
    *,
    yes: bool,
    as_json: bool,
    offline: bool,
) -> None:
    async def act(desk: Desk) -> Sequence[Row]:
        ids = selection.ids
        if not ids:
            # The choice is made once, here: what is asked about is what is changed.
            chosen = await all_rows(partial(desk.dead_letters, selection.wanted))
            ids = [row["id"] for row in chosen]
            if ids and not yes:
                _ask(verb, chosen, as_json=as_json)
        return await _in_batches(change, desk, ids, verb=verb)

    changed = at_desk(act, offline=offline)
    problems = [row for row in changed if row.get("problem")]
    if as_json:
        print_json(changed)
    elif not changed:
        print_lines([f"There is nothing to {verb}."])
    else:
        done = len(changed) - len(problems)
        print_lines([f"{verb.removesuffix('s')}: {done} done, {len(problems)} not."])
        if problems:
            print_table(problems, _CHANGED_COLUMNS, nothing="")
    if problems:
        unknown = all(str(row["problem"]).startswith(_UNKNOWN) for row in problems)
        raise typer.Exit(NOT_FOUND if unknown else FAILED)


def _ask(verb: str, chosen: Sequence[Row], *, as_json: bool) -> None:
    """Raises: typer.BadParameter where nobody can answer, typer.Exit when the answer is no."""
    if as_json or not sys.stdin.isatty():
        raise typer.BadParameter(
            f"{len(chosen)} would be changed and nobody can be asked: add --yes"
        )
    for reason, count in Counter(row.get("reason") for row in chosen).most_common():
        print(f"{count:>6}  {reason}", file=sys.stderr)
    if not typer.confirm(f"{verb} these {len(chosen)}?", err=True):
        raise typer.Exit(FAILED)


async def _in_batches(
    change: Change, desk: Desk, ids: Sequence[int], *, verb: str
) -> Sequence[Row]:
    changed: list[Row] = []
    hidden = len(ids) <= _AT_ONCE or not sys.stderr.isatty()
    with progress_line(verb, total=len(ids), quiet=hidden) as tell:
        for start in range(0, len(ids), _AT_ONCE):
            changed.extend(await change(desk, ids[start : start + _AT_ONCE]))
            tell(min(start + _AT_ONCE, len(ids)))
    return changed
