"""Ports for processes that must find their port free again after they were killed."""

import os
import random
import socket
from typing import Final

# Below the range from which the system draws ports for outgoing connections: a client that
# knocks at a dead service could otherwise connect to itself and keep the port.
_PORTS: Final = range(20_000, 32_000)


def _drawn_order() -> list[int]:
    """This process's share of the ports, shuffled; pytest's workers share none."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = list(_PORTS[worker::workers])
    random.shuffle(ports)
    return ports


_left: Final = _drawn_order()


def free_port() -> int:
    """
    A port on loopback that nobody listens on now, and that no other caller gets.

    Each is given once: the service that was promised it may be dead for a moment, or not yet
    started, and must not find a neighbour's service there.
    """
    while _left:
        port = _left.pop()
        with socket.socket() as endpoint:
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                endpoint.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port left in {_PORTS}")
