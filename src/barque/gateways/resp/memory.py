"""How much of the node's memory Redis clients may hold, in real bytes, and who waits for some.

There are two budgets. The one of requests counts commands that are on their way to the cluster: they stand
before everybody else's in the log, so a connection has a share, and large ones go one after the other. The
one of replies counts from the moment when a reply is asked for until the client has taken it: the gateway
asks with the size that it has room for, and asks again when it knows the size and has that much.

Little always gets through; the rest waits in a line. A client that keeps others waiting, and neither takes
its replies nor sends the rest of its request, is cut off.
"""

from typing import Final, Protocol

LITTLE_BYTES: Final = 64 * 1024
"""A connection that holds no more than this does not wait for others."""


class Claimant(Protocol):
    """A connection."""

    def pump(self) -> None:
        """There may be room now: try again."""


class Budget:
    """Bytes that all connections hold: a share for each, and a limit for all."""

    __slots__ = ("line", "share", "total", "used")

    def __init__(self, share: int, total: int) -> None:
        self.share = share
        self.total = total
        self.used = 0
        self.line: dict[Claimant, None] = {}
        """The connections that wait, in the order of their arrival."""

    def admits(self, claimant: Claimant, held: int, size: int) -> bool:
        """Whether a connection that holds `held` bytes may have `size` more.

        If its own share is the obstacle, its own replies will change that. Otherwise it stands in line.
        """
        if held and held + size > self.share:
            return False
        if held + size <= LITTLE_BYTES and self.used + size <= 2 * self.total:
            return True
        first = next(iter(self.line), claimant)
        if first is claimant and self.used + size <= max(self.total, size + self.total // 4):
            self.line.pop(claimant, None)
            return True
        self.line[claimant] = None
        return False

    def serve_line(self) -> None:
        """Let the claimants try again, in their order, until one must go on waiting."""
        for claimant in list(self.line):
            if claimant in self.line:
                claimant.pump()
            if claimant in self.line:
                return
