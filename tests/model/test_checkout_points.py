"""The model test of points: no balance has what was spent, whatever happens in any order."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.checkout_machine import CheckoutMachine


@pytest.mark.timeout(300)
def test_points_add_up_whatever_happens() -> None:
    run_state_machine_as_test(
        CheckoutMachine, settings=settings(max_examples=120, stateful_step_count=50)
    )


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_points_add_up_whatever_happens_for_long() -> None:
    run_state_machine_as_test(
        CheckoutMachine, settings=settings(max_examples=2_000, stateful_step_count=80)
    )
