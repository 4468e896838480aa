"""`settings`: the effective settings, and where each came from."""

import os
from dataclasses import asdict
from typing import Final

from service.cli.exits import say
from service.cli.options import AsJson, Sandbox
from service.cli.output import Column, print_json, print_table
from service.settings import describe, load_settings

_COLUMNS: Final = (
    Column("name", "name"),
    Column("value", "value"),
    Column("from", "source"),
    Column("meaning", "meaning"),
)


def settings(sandbox: Sandbox = False, as_json: AsJson = False) -> None:
    """
    Show every setting: its value, where that came from and what it means. No secret is shown.

    A secret may come from a file: RELAY_SPLIO_API_KEY_FILE=/run/secrets/splio.

    Examples:

        loyalty-relay settings

        loyalty-relay settings --json | jq 'select(.source != "default")'
    """
    loaded = load_settings(os.environ, sandbox=sandbox, serving=False)
    rows = [asdict(row) for row in describe(loaded)]
    if as_json:
        print_json(rows)
    else:
        shown = [
            {
                **row,
                "meaning": f"{row['description']} ({row['unit']})"
                if row["unit"]
                else row["description"],
            }
            for row in rows
        ]
        print_table(shown, _COLUMNS, nothing="")
    for warning in loaded.warnings:
        say(warning)
