"""What was promised to a writer, and what is there: the arithmetic of `barque demo`. Pure.

Every key is incremented once, from nothing. So afterwards it is 1 if that happened once, and more
if it happened twice.
"""

from collections.abc import Mapping

import msgspec


class Verdict(msgspec.Struct, frozen=True):
    """`lost`: acknowledged and not there. `duplicated`: there twice. `false_refusals`: refused, yet there.

    `unknown` had no answer; `unknown_happened` of them did happen, which is allowed.
    """

    acknowledged: int
    lost: int
    duplicated: int
    unknown: int
    unknown_happened: int
    refused: int
    false_refusals: int

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.duplicated or self.false_refusals)


class Ledger:
    """The outcome of each write, as its writer heard it."""

    def __init__(self) -> None:
        self.acknowledged: set[bytes] = set()
        self.unknown: set[bytes] = set()
        self.refused: set[bytes] = set()

    def keys(self) -> list[bytes]:
        """All keys that were tried."""
        return sorted(self.acknowledged | self.unknown | self.refused)

    def judge(self, found: Mapping[bytes, int]) -> Verdict:
        """Compare with what is there: the value of each key that exists."""
        return Verdict(
            acknowledged=len(self.acknowledged),
            lost=sum(1 for key in self.acknowledged if found.get(key, 0) < 1),
            duplicated=sum(1 for value in found.values() if value > 1),
            unknown=len(self.unknown),
            unknown_happened=sum(1 for key in self.unknown if found.get(key, 0) > 0),
            refused=len(self.refused),
            false_refusals=sum(1 for key in self.refused if found.get(key, 0) > 0),
        )
