"""What the doctor says of questions that Splio did not answer."""

from typing import Final

from service.cli.checks import Finding, fail
from service.splio.probe import ProbeError

_ADVICE: Final = {
    "not_connected": "check RELAY_SPLIO_URL, the network and the firewall",
    "no_answer": "try again; if it lasts, ask Splio",
    "key_refused": "check RELAY_SPLIO_API_KEY; a key belongs to one universe",
    "rate_limited": "something else uses Splio's limits from this address; try again",
    "refused": "check RELAY_SPLIO_URL, and the rights of the API user",
    "unreadable": "check that RELAY_SPLIO_URL is Splio's API",
}


def failed(check: str, error: ProbeError) -> Finding:
    """A finding with what to do about it."""
    advice = _ADVICE.get(error.reason, "ask Splio")
    return fail(check, f"{error.reason}: {error.detail}; {advice}")
