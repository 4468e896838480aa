"""Ports for processes that must find their port free again after they were killed."""

import random
import socket
from typing import Final

# Below the range from which the system draws ports for outgoing connections: a client that
# knocks at a dead service could otherwise connect to itself and keep the port.
_PORTS: Final = range(20_000, 32_000)
_TRIES: Final = 100


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    for _ in range(_TRIES):
        port = random.choice(_PORTS)
        with socket.socket() as endpoint:
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                endpoint.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port in {_PORTS}")
