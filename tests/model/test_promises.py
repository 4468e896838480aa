"""The model test: the promises P2 to P5 under everything that can happen, in any order."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import RelayMachine


@pytest.mark.timeout(600)
def test_promises_hold_whatever_happens() -> None:
    run_state_machine_as_test(
        RelayMachine, settings=settings(max_examples=100, stateful_step_count=40)
    )


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_promises_hold_whatever_happens_for_long() -> None:
    run_state_machine_as_test(
        RelayMachine, settings=settings(max_examples=2_000, stateful_step_count=80)
    )
