"""Tables for people, objects for machines."""

import orjson
import pytest

from service.cli.output import Column, moment, print_json, print_lines, print_table

HOSTILE = "\x1b[31mred\x1b[0m\r\n[bold]x[/bold]"


def test_machines_get_one_object_a_line_with_times_in_utc(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_json(
        [
            {"id": 1, "at": 1_772_366_400_000, "replayed_at": None, "attempts": [{"ended_at": 0}]},
            {"id": 2, "braked_since": 1, "points": 1, "was_in_doubt": True},
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [orjson.loads(line) for line in lines] == [
        {
            "id": 1,
            "at": "2026-03-01T12:00:00.000Z",
            "replayed_at": None,
            "attempts": [{"ended_at": "1970-01-01T00:00:00.000Z"}],
        },
        {
            "id": 2,
            "braked_since": "1970-01-01T00:00:00.001Z",
            "points": 1,
            "was_in_doubt": True,
        },
    ]


def test_people_get_a_table_without_what_could_move_their_cursor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(
        [{"key": HOSTILE, "on": True}], (Column("key", "key"), Column("on", "on")), nothing=""
    )
    print_lines([HOSTILE])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert shown.count("[bold]x[/bold]") == 2
    assert "yes" in shown


def test_a_piped_table_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"key": "x" * 300}], (Column("key", "key"),), nothing="")
    assert "x" * 300 in capsys.readouterr().out


def test_without_rows_standard_output_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([], (Column("key", "key", moment),), nothing="There is nothing.")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "There is nothing.\n"
