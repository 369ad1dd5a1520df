"""The contract of the log: the tests' log and the production's memtable read alike."""

import msgspec
from hypothesis import given, strategies as st

from barque.core.entries import EntryBatch, encode_body
from barque.core.log_contract import Log
from barque.log.memtable import Memtable
from barque.testing.core.memory_log import MemoryLog
from barque.types import Index, Term, Uid


@given(st.data())
def test_the_model_reads_as_the_memtable_does(data: st.DataObject) -> None:
    """After any appends, overwrites and truncations: the same batches, cut at the same places."""
    model, real, term = MemoryLog(Uid("u")), Memtable(), 1
    contract: Log = model
    for _ in range(data.draw(st.integers(0, 8))):
        first = data.draw(st.integers(1, real.next_index()))
        if first < real.next_index():
            term += 1
        count = data.draw(st.integers(1, 4))
        payloads = [msgspec.msgpack.encode("x" * data.draw(st.integers(0, 9))) for _ in range(count)]
        batch = EntryBatch(Index(first), Term(term), count, 0, encode_body(payloads))
        real.truncate(first - 1)
        real.append(batch)
        contract.write([batch])
        if data.draw(st.booleans()):
            last = data.draw(st.integers(0, real.next_index() - 1))
            term += 1
            real.truncate(last)
            contract.set_last_index(Index(last))
    assert contract.last_index_term() == real.last()
    assert contract.next_index() == real.next_index()
    assert [contract.fetch_term(Index(i)) for i in range(30)] == [real.fetch_term(i) for i in range(30)]
    first, last = (Index(data.draw(st.integers(1, 30))) for _ in range(2))
    entries, size = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 200))
    assert contract.read(first, last, entries, size) == real.read(first, last, entries, size)
    assert contract.overview()["entries"] == real.next_index() - 1
