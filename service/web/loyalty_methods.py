"""Which methods each of SCAYLE Checkout's calls may come with."""

from collections.abc import Mapping
from typing import Final

from service.domain.checkout import CallOperation

METHODS: Final[Mapping[CallOperation, tuple[str, ...]]] = {
    CallOperation.POINTS_RATE: ("GET",),
    CallOperation.BALANCE: ("GET",),
    CallOperation.VALIDATE: ("POST",),
    CallOperation.VERIFY: ("POST",),
    CallOperation.REGISTER: ("POST",),
    CallOperation.COLLECT: ("POST",),
    # The old page names no method; the middle one PUT for captures, POST for refunds.
    CallOperation.CAPTURE: ("PUT", "POST"),
    CallOperation.REFUND: ("POST", "PUT"),
}
