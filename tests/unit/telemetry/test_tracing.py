"""Trace context: valid traces are continued, everything else begins a new one."""

import random
import re
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.telemetry.tracing import continue_trace, new_traceparent, trace_id

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"
VALID: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]")


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        (f"00-{TRACE}-{PARENT}-01", "01"),
        (f"00-{TRACE}-{PARENT}-00", "00"),
        (f"00-{TRACE}-{PARENT}-03", "01"),  # an unknown flag is sent as 0
        (f"00-{TRACE}-{PARENT}-fe", "00"),
        (f"01-{TRACE}-{PARENT}-01", "01"),  # a later version is read as far as it is known
        (f"cc-{TRACE}-{PARENT}-01-what-comes-later", "01"),
    ],
)
def test_a_valid_trace_is_continued_under_a_new_parent(header: str, flags: str) -> None:
    continued = continue_trace(header)

    assert VALID.fullmatch(continued)
    assert trace_id(continued) == TRACE
    assert continued[36:52] != PARENT
    assert continued.endswith(f"-{flags}")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT.upper()}-01",
        f"00-{TRACE}-{PARENT}-zz",
        f"00-{TRACE}-{PARENT}-0",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-more",  # version 00 ends at its flags
        f"00-{TRACE}-{PARENT}-01 ",
        f" 00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\n",
        f"cc-{TRACE}-{PARENT}-01more",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"00-{TRACE[:-1]}\u0661-{PARENT}-01",
    ],
)
def test_anything_else_begins_a_new_trace(header: str | None) -> None:
    begun = continue_trace(header)

    assert VALID.fullmatch(begun)
    assert trace_id(begun) != TRACE


def test_new_traces_differ() -> None:
    one, other = new_traceparent(), new_traceparent()

    assert VALID.fullmatch(one) and VALID.fullmatch(other)
    assert trace_id(one) != trace_id(other)


def test_random_ids_are_never_all_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor longer than they may be."""
    monkeypatch.setattr(random, "randrange", lambda least, _: least)
    assert new_traceparent() == f"00-{1:032x}-{1:016x}-01"
    monkeypatch.setattr(random, "randrange", lambda _, beyond: beyond - 1)
    assert new_traceparent() == f"00-{'f' * 32}-{'f' * 16}-01"


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-z]{2}.*"))
@example(f"00-{TRACE}-{PARENT}-\u0660\u0661")
def test_any_header_gives_a_valid_trace(header: str) -> None:
    continued = continue_trace(header)

    assert VALID.fullmatch(continued)
