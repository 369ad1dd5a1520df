"""I18 and I19: equal indexes mean equal machines, and a snapshot is what its entries make.

A test machine asks for snapshots at fixed indexes, the same on every member. There it notes a digest of its
state; it notes another when a snapshot is written, and when one is restored. All digests of one index must be
equal, whichever member applied, captured, sent, received or restored the state.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any
from zlib import crc32

import msgspec

from barque.errors import InvariantViolation
from barque.machine.machine import slices

_encode = msgspec.msgpack.encode  # the order of a dict is part of the state: a machine may look at it


class Digests:
    """The digests of one cluster's states, by index. Raises `InvariantViolation` for two that differ.

    `index_of` reads from a state, which must hold it, after which entry of which cluster it is.
    """

    def __init__(self, index_of: Callable[[Any], Hashable]) -> None:
        self._index_of = index_of
        self._known: dict[Hashable, tuple[int, str]] = {}
        self.captured = 0
        self.restored = 0

    def applied(self, state: Any) -> None:
        """A member has applied the entries up to here."""
        self._note(state, _encode(state), "applied")

    def capture(self, state: Any) -> Iterable[bytes]:
        """Capture a state that goes on being changed: encoded now, noted when the store reads it."""
        self.captured += 1
        encoded = _encode(state)

        def pieces() -> Iterator[bytes]:
            self._note(msgspec.msgpack.decode(encoded), encoded, "captured")
            yield from slices(encoded)

        return pieces()

    def restore(self, pieces: Iterator[bytes]) -> Any:
        """Decode a state."""
        self.restored += 1
        encoded = b"".join(pieces)
        state = msgspec.msgpack.decode(encoded)
        self._note(state, encoded, "restored")
        return state

    def _note(self, state: Any, encoded: bytes, how: str) -> None:
        index = self._index_of(state)
        known, first = self._known.setdefault(index, (crc32(encoded), how))
        if known != crc32(encoded):
            raise InvariantViolation(
                f"snapshot equivalence (I19): a state at {index} was {first}, and another is {how}"
            )
