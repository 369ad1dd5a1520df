"""The state of the key-value machine: keys, when they end, and which of them changed lately."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final, Protocol

from barque.machine.kv_scan import ScanIndex

NEVER: Final = 2**200
"""Later than any time that fits a command."""

RECENT_BYTES: Final = 16 * 1024 * 1024
"""How much a generation of `KvState.recent` may hold. A change of it needs a new machine version."""

_CHANGE_BYTES: Final = 100  # what one remembered change takes beside its key


class Capture(Protocol):
    """A snapshot that is being written."""

    def keep(self, key: bytes) -> None:
        """Remember a key that is about to change."""


class KvState:
    """All keys, and when they end. Changed only by its own methods and by `kv_writes`.

    A transaction asks whether a key has changed since a position in the log. A version for each key would
    cost memory for all keys, absent ones too. Instead the state remembers the latest changes, whether a key
    was set, deleted or has expired, in two generations: `recent` grows until it is full, then it becomes
    `older`, and what was older is forgotten. Below `floor` nothing is known, so everything counts as changed.
    """

    __slots__ = (
        "armed_ms",
        "captures",
        "expired_total",
        "expiries",
        "floor",
        "heap",
        "index",
        "next_due_ms",
        "now_ms",
        "older",
        "recent",
        "room",
        "rotated",
        "scan_index",
        "values",
    )

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        """Every key that exists at `now_ms`."""
        self.expiries: dict[bytes, int] = {}
        """The expiry, in Unix ms, of each key that has one; all later than `now_ms`."""
        self.heap: list[tuple[int, bytes]] = []
        """`expiries` in order, and stale pairs: a pair counts only if `expiries` agrees with it."""
        self.next_due_ms = NEVER
        """The time of the heap's head: nothing is due before it."""
        self.now_ms = 0
        """The greatest timestamp of any command so far."""
        self.armed_ms: int | None = None
        """When the pending timer fires; never later than the earliest expiry."""
        self.expired_total = 0
        """How many keys have expired."""
        self.index = 0
        """The index of the latest command: a position that `changed_since` understands."""
        self.recent: dict[bytes, int] = {}
        """The index of the latest change of each key that changed after `rotated`, or in that entry."""
        self.older: dict[bytes, int] = {}
        """The same for changes after `floor`, up to `rotated`."""
        self.room = RECENT_BYTES
        """How many bytes `recent` may still take."""
        self.rotated = 0
        self.floor = 0
        self.scan_index: ScanIndex | None = None
        """Built by the first SCAN. No part of the state: members may differ."""
        self.captures: list[Callable[[], Capture | None]] = []
        """Snapshots that are being written. No part of the state either."""

    # --- keys and values

    def put(self, key: bytes, value: bytes) -> None:
        """Set a value and drop the expiry."""
        if self.captures:
            self.keep(key)
        self.values[key] = value
        if self.expiries:
            self.expiries.pop(key, None)
        self.note_change(key)

    def replace(self, key: bytes, value: bytes) -> None:
        """Set a value and keep the expiry."""
        if self.captures:
            self.keep(key)
        self.values[key] = value
        self.note_change(key)

    def remove(self, key: bytes) -> bool:
        """Delete a key; False if it was not there."""
        if self.captures:
            self.keep(key)
        if self.values.pop(key, None) is None:
            return False
        if self.expiries:
            self.expiries.pop(key, None)
        if self.scan_index is not None:
            self.scan_index.forget(key)
        self.note_change(key)
        return True

    def clear(self) -> None:
        """Delete everything. Every key counts as changed, an absent one too."""
        if self.values:
            self.recent, self.older = {}, {}
            self.room = RECENT_BYTES
            self.rotated = self.floor = self.index
        self.values = {}
        self.expiries = {}
        self.heap = []
        self.next_due_ms = NEVER
        self.scan_index = None

    # --- snapshots

    def keep(self, key: bytes) -> None:
        """Let captures keep the value of a key that is about to change. Forget captures that have ended."""
        for reference in list(self.captures):
            capture = reference()
            if capture is None:
                self.captures.remove(reference)
            else:
                capture.keep(key)

    # --- changes

    def note_change(self, key: bytes) -> None:
        """Remember that the present command has changed this key."""
        self.recent[key] = self.index
        self.room -= len(key) + _CHANGE_BYTES
        if self.room < 0:
            self.floor, self.rotated = self.rotated, self.index
            self.older, self.recent = self.recent, {}
            self.room = RECENT_BYTES

    def changed_since(self, key: bytes, position: int) -> bool:
        """Whether a command after `position` has set, deleted or expired the key, or may have done so."""
        if position < self.floor:
            return True
        return self.recent.get(key, self.older.get(key, 0)) > position

    # --- expiry

    def expire_at(self, key: bytes, at_ms: int) -> None:
        """Set the expiry of an existing key. An expiry in the past deletes the key."""
        if at_ms <= self.now_ms:
            self.remove(key)
            return
        self.note_change(key)
        if self.expiries.get(key) == at_ms:
            return
        if self.captures:
            self.keep(key)
        self.expiries[key] = at_ms
        heappush(self.heap, (at_ms, key))
        if len(self.heap) > 2 * len(self.expiries) + 64:  # a key whose expiry is often renewed
            self.heap = [(at, key) for key, at in self.expiries.items()]
            heapify(self.heap)
        self.next_due_ms = self.heap[0][0]

    def persist(self, key: bytes) -> bool:
        """Drop a key's expiry; False if it had none."""
        if self.captures:
            self.keep(key)
        if self.expiries.pop(key, None) is None:
            return False
        self.note_change(key)
        return True

    def drop_due(self) -> None:
        """Delete keys that are due at `now_ms`, and stale pairs at the head of the heap."""
        heap, expiries = self.heap, self.expiries
        while heap:
            at_ms, key = heap[0]
            if expiries.get(key) != at_ms:
                heappop(heap)
            elif at_ms <= self.now_ms:
                heappop(heap)
                self.remove(key)
                self.expired_total += 1
            else:
                break
        self.next_due_ms = heap[0][0] if heap else NEVER
