"""The memtable: consecutive batches, cut anywhere, read within bounds."""

from hypothesis import example, given, strategies as st
from tests.kit.storage import batch

from barque.log.memtable import Memtable
from barque.types import Index


def table(*counts: int) -> Memtable:
    """Batches of these sizes; batch number `i` has term `i`."""
    memtable = Memtable()
    for term, count in enumerate(counts, 1):
        memtable.append(batch(memtable.next_index(), term, count))
    return memtable


def ranges(
    memtable: Memtable, first: int, last: int, entries: int = 99, size: int = 1 << 30
) -> list[tuple[int, int]]:
    """The index ranges of the batches read."""
    return [(part.first_index, part.last_index) for part in memtable.read(first, last, entries, size)]


def test_an_empty_table_owns_no_containers_and_has_no_entries() -> None:
    """Thousands of servers hold none."""
    one, two = Memtable(), Memtable()
    assert one._batches is two._batches
    assert one.last() == (0, 0) or (one.last().index, one.last().term) == (0, 0)
    assert one.fetch_term(0) == 0
    assert one.fetch_term(1) is None
    assert one.read(1, 5, 9, 9) == []
    two.append(batch(1))
    assert len(one) == 0


def test_terms_are_found_by_index() -> None:
    """Inside any batch, at its edges, and nowhere else."""
    memtable = table(3, 1, 4)
    assert [memtable.fetch_term(index) for index in range(10)] == [0, 1, 1, 1, 2, 3, 3, 3, 3, None]
    assert memtable.fetch_term(-1) is None


def test_truncation_cuts_batches() -> None:
    """At every index, the entries above go and the others stay."""
    for last in range(10):
        memtable = table(3, 1, 4)
        memtable.truncate(last)
        assert memtable.last().index == min(last, 8)
        assert memtable.next_index() == min(last, 8) + 1


def test_reads_respect_their_bounds() -> None:
    """Cut to the range; at least one batch; later batches only if they fit whole."""
    memtable = table(3, 1, 4)
    assert ranges(memtable, 1, 8) == [(1, 3), (4, 4), (5, 8)]
    assert ranges(memtable, 2, 6) == [(2, 3), (4, 4), (5, 6)]
    assert ranges(memtable, 1, 8, entries=2) == [(1, 2)]
    assert ranges(memtable, 1, 8, entries=4) == [(1, 3), (4, 4)]
    assert ranges(memtable, 1, 8, entries=5) == [(1, 3), (4, 4)]
    assert ranges(memtable, 1, 8, size=1) == [(1, 3)]
    assert ranges(memtable, 9, 12) == []
    assert ranges(memtable, 5, 4) == []
    assert ranges(memtable, 8, 99) == [(8, 8)]


@given(st.lists(st.tuples(st.sampled_from(("append", "truncate", "forget", "reset")), st.integers(0, 40))))
@example([("append", 4), ("truncate", 2), ("append", 4), ("forget", 4)])
def test_bytes_are_counted_as_batches_come_and_go(steps: list[tuple[str, int]]) -> None:
    """The count is the sum of what is there, after any appends, cuts at both ends, and resets."""
    memtable = Memtable()
    for what, number in steps:
        match what:
            case "append":
                memtable.append(batch(memtable.next_index(), 1, number % 5 + 1))
            case "truncate":
                memtable.truncate(max(memtable.base().index, memtable.last().index - number))
            case "forget":
                index = min(memtable.last().index, memtable.base().index + number)
                position = memtable.position(Index(index))
                assert position is not None
                memtable.forget(position)
            case "reset":
                memtable.reset(memtable.base() if number % 2 else memtable.last())
        held = memtable.read(memtable.base().index + 1, 1 << 60, 1 << 60, 1 << 60)
        assert memtable.size_bytes() == sum(len(part.body) for part in held)
