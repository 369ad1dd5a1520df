"""Whether a server's files may still be written, for work beside the loop.

A server can be deleted while a job writes its files. The job takes the lease for each step; the deletion ends
it. When `end` returns, no step is under way and none begins, so that no file comes back after the deletion.
"""

import contextlib
import threading
from collections.abc import Iterator


class LeaseEndedError(Exception):
    """The server is gone. The job stops, and its owner has nothing to retry."""


class Lease:
    """The right to write one server's files."""

    __slots__ = ("_lock", "ended")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # in a simulation, the worker is the loop's own thread
        self.ended = False

    def end(self) -> None:
        """Wait for the step under way, and let no other one begin."""
        with self._lock:
            self.ended = True

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Hold the files while a block runs. Never yield to a worker inside. Raises `LeaseEndedError`."""
        with self._lock:
            if self.ended:
                raise LeaseEndedError
            yield
