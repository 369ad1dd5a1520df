"""Ports for tests: each worker has a range of its own, so that two tests never get the same one."""

import contextlib
import itertools
import os
import socket

_FIRST, _RANGE = 20_000, 1_500  # below the ports that outgoing connections use
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_offsets = itertools.cycle(range(_RANGE))
for _ in range(os.getpid() * 7 % _RANGE):
    next(_offsets)  # another run may have left its last ports in use for a while


def free_port() -> int:
    """A port that nobody listens on now, and that no other call will return for a long time."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    base = _FIRST + _WORKER * _RANGE
    while True:
        start = next(_offsets)
        for _ in range(count - 1):
            next(_offsets)
        ports = range(base + start, base + start + count)
        if start + count <= _RANGE and all(map(_is_free, ports)):
            return ports[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False
