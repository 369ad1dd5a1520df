"""Major compaction: files of which little is live become one; live entries can be read at any moment."""

import pytest
from hypothesis import given, settings, strategies as st
from tests.kit.crashes import FATES, Film, crashed
from tests.kit.storage import UID, Node, batch
from tests.log.test_segment_writer import SEGMENTS, TINY, grow, parts, rest, take_snapshot, writer

from barque.log.compaction import GROUP_FILES_MAX, plan_compaction
from barque.log.flush import SegmentLimits
from barque.types import Index

LIVE = (2, 9, 10, 23, 38, 41)
LIMITS = SegmentLimits(8)


def sparse(live: tuple[int, ...] = LIVE, last: int = 60, snapshot: int = 50) -> Node:
    """A log whose files below the snapshot hold a few live entries each."""
    node = Node(config=TINY, at_once=False)
    grow(node, last)
    rest(node)
    take_snapshot(node, snapshot, live)
    rest(node)
    return node


def check(node: Node, live: tuple[int, ...] = LIVE, last: int = 60, snapshot: int = 50) -> None:
    """Live entries are there with their payloads, and so is everything above the snapshot."""
    log = node.storage.log(UID)
    wanted = [Index(i) for i in (*live, *range(snapshot + 1, last + 1))]
    found = log.read_sparse(wanted)
    assert [one.first_index for one in found] == wanted
    assert [one.body for one in found] == [batch(i).body for i in wanted]
    assert log.last_index_term().index == last


def test_little_that_is_live_takes_little_space() -> None:
    """COMP-03: adjacent files become one; its entries, and those above the snapshot, are as before."""
    node = sparse()
    before = parts(node)
    assert node.storage.segment_writer.compact(UID)
    while node.worker.run_step():
        check(node)
    rest(node)
    assert len(parts(node)) < len(before)
    assert writer(node)["major_compactions"] == 1
    assert len(node.disk.listdir(SEGMENTS)) == len(node.storage.log(UID).segments.all_parts)
    held = node.storage.log(UID).segments.parts[0].segment.tail
    assert held.entries <= len(LIVE)
    check(node)
    node.crash()
    check(node)
    assert node.storage.segment_writer.compact(UID) is False, "what is live only needs no compaction"


def test_one_compaction_at_a_time() -> None:
    """COMP-05, B43: another one is not begun, nor is a flush of this server; it comes later (B45)."""
    node = sparse()
    assert node.storage.segment_writer.compact(UID)
    assert not node.storage.segment_writer.compact(UID)
    grow(node, 80)
    node.tick()
    assert writer(node)["flushing"] == 0
    rest(node)
    assert writer(node)["closed_files"] == 0
    check(node, last=80)


def test_a_failed_compaction_changes_nothing_and_another_one_can_begin() -> None:
    """COMP-09: whatever fails; no descriptor stays open for it."""
    for operation in ("create", "pwritev", "datasync", "rename"):
        node = sparse()
        assert node.storage.segment_writer.compact(UID)
        node.disk.fault = lambda op, path, bad=operation: (  # type: ignore[misc]
            OSError(5, "EIO", path) if op == bad and "compacting" in path else None
        )
        node.worker.run_until_idle()
        node.disk.fault = None
        assert "EIO" in str(writer(node)["last_failure"])
        check(node)
        assert node.storage.segment_writer.compact(UID)
        rest(node)
        check(node)
        assert writer(node)["major_compactions"] == 1
        assert not node.storage._cache._held
        node.crash()
        check(node)


def test_a_snapshot_during_a_compaction() -> None:
    """B45: sources may be dropped meanwhile; nothing is orphaned, nothing that is needed goes."""
    for steps in range(8):
        node = sparse()
        assert node.storage.segment_writer.compact(UID)
        for _ in range(steps):
            node.worker.run_step()
        take_snapshot(node, 55, (41,))
        rest(node)
        check(node, (41,), snapshot=55)
        names = node.disk.listdir(SEGMENTS)
        assert len(names) == len(node.storage.log(UID).segments.all_parts)
        node.crash()
        check(node, (41,), snapshot=55)


def test_a_server_that_is_deleted_during_its_compaction() -> None:
    """B50: no file of it comes back, and its descriptors are closed."""
    for steps in range(5):
        node = sparse()
        assert node.storage.segment_writer.compact(UID)
        for _ in range(steps):
            node.worker.run_step()
        node.storage.delete(UID)
        for name in node.disk.listdir(SEGMENTS):
            node.disk.unlink(f"{SEGMENTS}/{name}")
        rest(node)
        assert node.disk.listdir(SEGMENTS) == []
        assert not node.storage._cache._held


@pytest.mark.parametrize("fate", FATES)
def test_power_may_fail_at_any_operation(fate: str) -> None:
    """B42: of the compaction, of the deletion of its sources, and of a start that finds it half done."""
    node = sparse()
    assert node.storage.segment_writer.compact(UID)
    film = Film(node.disk, lambda: None)
    rest(node)
    node.disk.fault = None
    assert writer(node)["major_compactions"] == 1
    assert film.operations > 15
    for point in film.points:
        disk = crashed(point.disk, fate)
        again = Node(disk, TINY, at_once=False)
        check(again)
        rest(again)
        check(again)
        assert len(disk.listdir(SEGMENTS)) == len(again.storage.log(UID).segments.all_parts)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 50), unique=True, max_size=25).map(lambda live: tuple(sorted(live))),
    st.integers(1, 12),
)
def test_groups_are_bounded_and_worth_it(live: tuple[int, ...], entries: int) -> None:
    """COMP-03, B44: each source is less than half live; a group fits into one file, or is a single file."""
    node = sparse(live)
    log = node.storage.log(UID)
    plan = plan_compaction(log.segments, SegmentLimits(entries))
    if plan is not None:
        counts = [sum(last - first + 1 for first, last in source.live) for source in plan.sources]
        assert all(2 * n < s.segment.tail.entries for n, s in zip(counts, plan.sources, strict=True))
        assert 0 < len(counts) <= GROUP_FILES_MAX
        assert sum(counts) <= entries or len(counts) == 1
        numbers = [source.segment.number for source in plan.sources]
        known = [part.segment.number for part in log.segments.all_parts]
        place = known.index(numbers[0])
        assert known[place : place + len(numbers)] == numbers, "files of a group are adjacent"
    for _ in range(20):
        if not node.storage.segment_writer.compact(UID):
            break
        rest(node)
        check(node, live)
    else:
        raise AssertionError("compaction does not come to an end")
    node.crash()
    check(node, live)
