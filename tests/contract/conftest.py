"""Fixtures of the contract suites."""

from tests.contract.ledger_fixture import clock, ledger, ledger_home, records

__all__ = ["clock", "ledger", "ledger_home", "records"]
