"""I18 and I19: equal indexes mean equal machines, and a snapshot is what its entries make.

A test machine asks for snapshots at fixed indexes, the same on every member. There it notes a digest of its
state; it notes another when a snapshot is written, and when one is restored. All digests of one index must be
equal, whichever member applied, captured, sent, received or restored the state.
"""

from collections.abc import Iterable, Iterator
from typing import Any
from zlib import crc32

import msgspec

from barque.errors import InvariantViolation
from barque.machine.machine import slices

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Digests:
    """The digests of one cluster's states, by index. Raises `InvariantViolation` for two that differ."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, str]] = {}
        self.captured = 0
        self.restored = 0

    def applied(self, index: int, state: Any) -> None:
        """A member has applied the entries up to here."""
        self._note(index, _encode(state), "applied")

    def capture(self, index: int, state: Any) -> Iterable[bytes]:
        """Capture a state that goes on being changed: encoded now, noted when the store reads it."""
        self.captured += 1
        encoded = _encode(state)

        def pieces() -> Iterator[bytes]:
            self._note(index, encoded, "captured")
            yield from slices(encoded)

        return pieces()

    def restore(self, pieces: Iterator[bytes], index_of: str) -> Any:
        """Decode a state, which knows its own index under this key."""
        self.restored += 1
        encoded = b"".join(pieces)
        state = msgspec.msgpack.decode(encoded)
        self._note(state[index_of], encoded, "restored")
        return state

    def _note(self, index: int, encoded: bytes, how: str) -> None:
        known, first = self._known.setdefault(index, (crc32(encoded), how))
        if known != crc32(encoded):
            raise InvariantViolation(
                f"snapshot equivalence (I19): a state at {index} was {first}, and another is {how}"
            )
