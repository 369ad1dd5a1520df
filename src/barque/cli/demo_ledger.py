"""Compare the promises to a writer with the data: the arithmetic of `barque demo`. Pure.

Every key is incremented once, from nothing. So its value is 1 if that happened once, and more if it happened
twice.
"""

from collections.abc import Mapping

import msgspec


class Verdict(msgspec.Struct, frozen=True):
    """`lost`: acknowledged and missing. `duplicated`: happened twice. `false_refusals`: refused and done.

    `unknown` writes had no answer; `unknown_happened` of them happened, which is allowed.
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
    """The outcome of each write, as its writer was told."""

    def __init__(self) -> None:
        self.acknowledged: set[bytes] = set()
        self.unknown: set[bytes] = set()
        self.refused: set[bytes] = set()

    def keys(self) -> list[bytes]:
        """All keys that were tried."""
        return sorted(self.acknowledged | self.unknown | self.refused)

    def judge(self, found: Mapping[bytes, int]) -> Verdict:
        """Compare the outcomes with `found`, the value of each key that exists."""
        return Verdict(
            acknowledged=len(self.acknowledged),
            lost=sum(1 for key in self.acknowledged if found.get(key, 0) < 1),
            duplicated=sum(1 for value in found.values() if value > 1),
            unknown=len(self.unknown),
            unknown_happened=sum(1 for key in self.unknown if found.get(key, 0) > 0),
            refused=len(self.refused),
            false_refusals=sum(1 for key in self.refused if found.get(key, 0) > 0),
        )
