"""Memory that many connections share: a bound for all of them, and a fair share for each."""


class Budget:
    """`total_max` bytes for all holders, of which one may hold `each_max`, and no more than is left.

    So one holder gets half of the total at most, and whoever comes later always finds something left.
    """

    __slots__ = ("each_max", "total_max", "used")

    def __init__(self, total_max: int, each_max: int) -> None:
        self.total_max = total_max
        self.each_max = each_max
        self.used = 0

    def room(self, held: int) -> int:
        """How many bytes a holder of `held` bytes may take now."""
        return max(0, min(self.each_max - held, (self.total_max - self.used - held) // 2))

    def change(self, held: int, now: int) -> int:
        """A holder of `held` bytes has `now`; returns that."""
        self.used += now - held
        return now
