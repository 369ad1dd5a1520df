"""Plans to read a log, while everything happens to its files: what a plan yields never changes.

The histories are those of the whole log (`test_segment_properties`). Plans are made, executed and closed at
any moment between its operations.
"""

import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.kit.storage import Node
from tests.properties.test_segment_properties import OPERATIONS, Checker, calm

from barque.errors import Stopped
from barque.log.log_views import LogViews
from barque.log.read_plan import ReadPlan

Found = list[tuple[int, int, bytes]]


class Reading(Checker):
    """A log, its model, and the open plans with what each has yielded first."""

    def __init__(self, seed: int) -> None:
        self.plans: list[tuple[ReadPlan, Found]] = []
        self.executed_after_moves = 0
        self.due: set[tuple[int, int]] = set()
        self.got: set[tuple[int, int]] = set()
        self.queued = 0
        super().__init__(seed)
        self.follow_anew()

    # --- a reader that follows -------------------------------------------------------------

    def follow_anew(self) -> None:
        """A reader registers."""
        self.views = LogViews(self.log, lambda: self.model.snapshot.index)
        self.seen: tuple[int, Found] = (0, [])
        self.due.clear()
        self.got.clear()

    def step(self, operation: str) -> None:
        """Note what is in segments after each step: the reader must get each of these entries."""
        super().step(operation)
        segments, terms = self.log.segments, self.model.terms
        last = segments.end.index
        self.due = {
            (i, term) for i, term in self.due if i <= last and terms.get(i, term) == term
        }  # not cut off
        self.due |= {(i, terms[i]) for i in range(segments.first, last + 1)} - self.got

    def follow(self) -> None:
        """Take the next view, read all of it, and acknowledge it, or an earlier one, or none.

        The view before has not changed until then.
        """
        if self.views.hold.ended is not None:
            assert "could not be kept" in self.views.hold.ended
            self.follow_anew()
        assert self.read_view() == self.seen[1]
        self.queued += len(self.views._noted) > 1
        view = self.views.take()
        if view is None:
            return
        self.seen = (view.last, [])
        found = self.read_view()
        self.seen = (view.last, found)
        assert [index for index, _, _ in found] == list(range(view.first, view.last + 1))
        assert all((index, term) in self.model.history for index, term, _ in found)
        self.got |= {(index, term) for index, term, _ in found}
        self.due -= self.got
        self.views.acknowledge(view.number - self.random.choice((0, 0, 1, 5)))

    def read_view(self) -> Found:
        """What the view has that was taken last."""
        with self.views.plan_read(range(self.seen[0] + 2), bytes) as made:
            return self.yielded(made)

    def follow_to_the_end(self) -> None:
        """The reader takes all views: nothing that was in segments has escaped it."""
        while self.views.hold.ended is None and self.views._noted:
            self.follow()
        assert self.views.hold.ended is not None or not self.due

    # --- plans -----------------------------------------------------------------------------

    def plan(self) -> None:
        """Plan to read some of the log; what is there is what the model says."""
        top = self.model.last + 2
        if self.random.random() < 0.5:
            first = self.random.randint(0, top)
            asked: Sequence[int] = range(first, self.random.randint(first, top) + 1)
        else:
            asked = [self.random.randint(0, top) for _ in range(self.random.randint(0, 8))]
        made = self.log.plan_read(asked, bytes)
        found = self.yielded(made)
        self.plans.append((made, found))
        self.judge_plan(asked, found)

    def judge_plan(self, asked: Sequence[int], found: Found) -> None:
        """Everything above the snapshot, and each survivor; below it nothing else than was there."""
        model, log = self.model, self.log
        low = max(model.snapshot.index, log.snapshot_index_term().index)
        live = set(model.live) if log.snapshot_index_term() == model.snapshot else set()
        needed = [i for i in asked if low < i <= model.last or i in live]
        indexes = [index for index, _, _ in found]
        assert [i for i in indexes if i > low or i in live] == needed
        assert [i for i in asked if i in indexes] == indexes
        for index, term, payload in found:
            assert model.terms.get(index, term) == term
            assert payload.endswith(f":{index}:{term}".encode())

    def yielded(self, made: ReadPlan) -> Found:
        """What a plan yields now. The disk fails for nodes only, not for this reading."""
        disk = self.node.disk
        fault, done, disk.fault = disk.fault, disk.operations, None
        try:
            return [(entry.index, entry.term, entry.command) for entry in made.execute()]
        finally:
            disk.fault, disk.operations = fault, done

    def execute(self) -> None:
        """Execute all open plans: each yields what it has yielded first, or was dropped by the disk."""
        for made, first in list(self.plans):
            if "could not be kept" in (made._hold.ended or ""):
                with pytest.raises(Stopped):
                    self.yielded(made)
                self.plans.remove((made, first))
                continue
            assert self.yielded(made) == first
            self.executed_after_moves += bool(self.log.segments.holds.kept)

    def close_plan(self) -> None:
        """Close one of them."""
        if self.plans:
            made, _ = self.plans.pop(self.random.randrange(len(self.plans)))
            made.close()

    def restart(self, *, power: bool) -> None:
        """Plans end with their process."""
        for made, _ in self.plans:
            made.close()
        self.plans.clear()
        super().restart(power=power)
        self.follow_anew()


READING = [*OPERATIONS, *(["plan", "plan", "execute", "execute", "close_plan", "follow"] * 2)]


def run(seed: int, operations: Sequence[str]) -> Reading:
    """Run these operations; at the end nothing is kept for closed plans, and no file stays open for them."""
    checker = Reading(seed)
    for operation in operations:
        checker.step(operation)
    checker.execute()
    calm(checker)
    checker.execute()
    checker.follow_to_the_end()
    checker.views.close()
    for made, _ in checker.plans:
        made.close()
    checker.plans.clear()
    for operation in ("tick", "work_on", "deliver"):  # the tick may begin a compaction
        checker.step(operation)
    holds = checker.log.segments.holds
    assert (len(holds), holds.kept_bytes) == (0, 0)
    assert all(part.segment.pins == 0 for part in checker.log.segments.parts)
    assert_no_other_file_is_pinned(checker.node)
    return checker


def assert_no_other_file_is_pinned(node: Node) -> None:
    """Nothing holds a file open but those that are pinned for something under way."""
    assert all(segment.pins for segment in node.storage._cache._held)
    assert not node.storage._cache._held


def random_reading(seed: int) -> Reading:
    """Run a history that this seed draws."""
    chance = random.Random(f"reading {seed}")
    return run(seed, chance.choices(READING, k=chance.randint(30, 140)))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.lists(st.sampled_from(READING), max_size=80))
def test_a_plan_yields_the_same_whatever_happens(seed: int, operations: list[str]) -> None:
    """EXT-03: flushes, compactions, truncations, installs and faults never change what a plan yields."""
    run(seed, operations)


def test_histories_read_files_that_have_moved() -> None:
    """The histories execute plans whose files have lost their names."""
    checkers = [random_reading(seed) for seed in range(60)]
    assert sum(checker.executed_after_moves for checker in checkers) > 25
    assert sum(checker.queued for checker in checkers) > 10, "readers are slower than snapshots"
