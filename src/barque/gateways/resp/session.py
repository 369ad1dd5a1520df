"""One connection as the commands see it, and what all connections of one server share."""

import enum
import hmac
import random
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from barque.gateways.resp.command import CommandError
from barque.gateways.resp.transaction import TransactionQueue

REDIS_VERSION: Final = "7.0.15"
"""The version whose behaviour is kept: clients choose their features by it."""

READ_LEVELS: Final = ("local", "leader", "consistent")

_BAD_NAME: Final = "ERR Client names cannot contain spaces, newlines or special characters."


class Muted(enum.IntEnum):
    """Which replies CLIENT REPLY has turned off."""

    NOTHING = 0
    NEXT = 1
    ALL = 2


class Shared(msgspec.Struct):
    """What all connections of one server share."""

    passwords: tuple[str, ...]
    """Any of them lets a client in; none: every client is let in."""
    info: Callable[[], dict[str, dict[str, Any]]]
    clock_ms: Callable[[], int]
    sessions: Callable[[], Iterable["Session"]]
    settings: dict[str, str]
    random: random.Random
    new_queue: Callable[[], TransactionQueue]


class Session:
    """One connection as the commands see it."""

    __slots__ = (
        "address",
        "authenticated",
        "client_id",
        "client_name",
        "closing",
        "created_ms",
        "kill",
        "last_command",
        "library",
        "local_address",
        "muted",
        "queue",
        "read_level",
        "refused",
        "resp3",
        "shared",
        "speaks",
        "watched",
    )

    def __init__(self, shared: Shared, client_id: int, address: str, local_address: str) -> None:
        self.shared = shared
        self.client_id = client_id
        self.address = address
        self.local_address = local_address
        self.client_name = b""
        self.library: dict[bytes, bytes] = {}
        self.closing = False
        """Set by QUIT: nothing after it is answered."""
        self.kill: Callable[[], None] = lambda: None
        """Ends the connection, after its replies if it is the caller's own."""
        self.refused = False
        """Set by a wrong password."""
        self.created_ms = shared.clock_ms()
        self.last_command = ""
        self.reset()

    def reset(self) -> None:
        """As a new connection: RESP2, `consistent` reads, not authenticated if there is a password."""
        self.resp3 = False
        self.authenticated = not self.shared.passwords
        self.read_level = "consistent"
        self.client_name = b""
        self.muted = Muted.NOTHING
        self.speaks = False
        """Set by CLIENT REPLY ON: its own reply is sent although it found replies turned off."""
        self.queue: TransactionQueue | None = None
        """Since MULTI."""
        self.watched: dict[bytes, int | None] = {}
        """Keys, with the position of the log from which they are watched; None until it is known."""

    def now_ms(self) -> int:
        """Unix time, for the replies of TTL."""
        return self.shared.clock_ms()

    def log_in(self, user: bytes, password: bytes) -> bool:
        """Try a password; without one configured any will do, as in Redis."""
        passwords = self.shared.passwords
        # All are compared, so that the time says nothing about which one is near.
        right = [hmac.compare_digest(one.encode(), password) for one in passwords]
        if user != b"default" or (passwords and not any(right)):
            self.refused = True
            return False
        self.authenticated = True
        return True

    def watch(self, keys: list[bytes]) -> None:
        """Watch keys from the position on that the next reply tells."""
        for key in keys:
            self.watched.setdefault(key, None)

    def watch_failed(self) -> None:
        """A read failed: where its position is not known, a watch counts as broken."""
        self.watch_from(-1)

    def watch_from(self, position: int) -> None:
        """A position that was read after the keys had been named."""
        for key, known in self.watched.items():
            if known is None:
                self.watched[key] = position

    def rename(self, name: bytes) -> None:
        """Set the name that CLIENT LIST shows."""
        if any(not 33 <= byte <= 126 for byte in name):
            raise CommandError(_BAD_NAME)
        self.client_name = name

    def describe(self) -> bytes:
        """The connection's line of CLIENT LIST."""
        library = self.library.get(b"LIB-NAME", b""), self.library.get(b"LIB-VER", b"")
        queued = -1 if self.queue is None else self.queue.count
        return (
            b"id=%d addr=%b laddr=%b name=%b age=%d flags=%b db=0 sub=0 psub=0 multi=%d watch=%d "
            b"cmd=%b user=default resp=%d lib-name=%b lib-ver=%b\n"
        ) % (
            self.client_id,
            self.address.encode(),
            self.local_address.encode(),
            self.client_name,
            max(0, self.now_ms() - self.created_ms) // 1000,
            b"x" if self.queue is not None else b"N",
            queued,
            len(self.watched),
            (self.last_command or "NULL").encode(),
            3 if self.resp3 else 2,
            *library,
        )
