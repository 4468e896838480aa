"""Log lines: one object a line, with the fields of the caller, whatever they hold."""

import io
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.effects import Outcome
from service.telemetry.logs import HumanFormatter, JsonFormatter, configure_logs, fields_of


def line(**fields: Any) -> logging.LogRecord:
    record = logging.makeLogRecord(
        {"name": "relay.test", "levelno": logging.INFO, "levelname": "INFO", "msg": "it.happened"}
    )
    vars(record).update(fields)
    return record


def test_a_line_carries_event_and_fields() -> None:
    text = JsonFormatter().format(line(effect="main:earn:1", attempt=2, outcome=Outcome.RETRY))

    assert "\n" not in text
    parsed = json.loads(text)
    assert parsed.pop("at").endswith("+00:00")
    assert parsed == {
        "level": "info",
        "logger": "relay.test",
        "event": "it.happened",
        "effect": "main:earn:1",
        "attempt": 2,
        "outcome": "retry",
    }


def test_fields_are_what_the_caller_passed() -> None:
    assert fields_of(line(effect="k")) == {"effect": "k"}


@pytest.mark.parametrize(
    "value", [2**70, "\ud800", b"bytes", {1: 2}, ["\udfff", 2**65], object(), float("nan"), {"a"}]
)
def test_no_value_loses_its_line(value: object) -> None:
    parsed = json.loads(JsonFormatter().format(line(odd=value, effect="k")))

    assert parsed["effect"] == "k"
    assert "odd" in parsed


def test_a_traceback_is_part_of_the_line() -> None:
    try:
        raise ValueError("boom")
    except ValueError as error:
        record = line(exc_info=(ValueError, error, error.__traceback__))

    text = JsonFormatter().format(record)

    assert "\n" not in text
    assert "ValueError: boom" in json.loads(text)["traceback"]
    assert "ValueError: boom" in HumanFormatter().format(record)


@given(st.text(max_size=20))
def test_a_value_cannot_begin_a_line_of_its_own(value: str) -> None:
    text = HumanFormatter().format(line(reason=value, effect="k"))

    assert len(text.splitlines()) == 1
    assert text.endswith("effect=k")


def test_people_read_plain_values_plainly() -> None:
    text = HumanFormatter().format(line(reason="rate_limited", detail="two words", n=1.5))

    assert text.endswith('reason=rate_limited detail="two words" n=1.5')


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_auto_is_json_except_on_a_terminal() -> None:
    pipe, terminal = io.StringIO(), Terminal()

    configure_logs(log_format="auto", stream=pipe)
    logging.getLogger("relay.test").info("it.happened", extra={"n": 1})
    configure_logs(log_format="auto", stream=terminal)
    logging.getLogger("relay.test").info("it.happened", extra={"n": 1})

    assert json.loads(pipe.getvalue())["n"] == 1
    assert "info    it.happened" in terminal.getvalue()


def test_the_level_holds_and_chatty_libraries_are_quiet() -> None:
    stream = io.StringIO()

    configure_logs(log_format="json", level="WARNING", stream=stream)
    logging.getLogger("relay.test").info("quiet")
    configure_logs(log_format="json", stream=stream)
    logging.getLogger("aiohttp.access").info("GET /healthz")

    assert stream.getvalue() == ""
