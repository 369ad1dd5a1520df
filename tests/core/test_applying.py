"""Applying committed entries to the machine (COMMIT-05, VER-01, VER-02)."""

from typing import Any

import pytest

from barque.core.entries import EntryBatch, encode_body
from barque.core.messages import AppendEntriesRpc, Commands
from barque.testing.core_cluster import CLIENT, CoreCluster
from barque.types import Index, ReplyMode, Term


@pytest.mark.parametrize(
    "payloads",
    [[b"\x01\x02", b""], [b"", b"\x01\x02"], [b"\x92\x01", b"\x02\x03"], [b"\xa3ab", b"c\x01"]],
    ids=["two-and-none", "none-and-two", "broken-array", "broken-text"],
)
def test_entries_mean_the_same_however_their_batch_is_cut(payloads: list[bytes]) -> None:
    """Payloads whose bytes are good commands only together are refused: members cut batches differently."""

    def state_after(parts: list[EntryBatch]) -> Any:
        cluster = CoreCluster("a", "b")
        rpc = AppendEntriesRpc(
            Term(1), cluster["a"].id, Index(len(payloads)), Index(0), Term(0), tuple(parts)
        )
        cluster.witness.committed += [(part, Term(1)) for part in parts]
        server = cluster.server("b")
        cluster.witness.look = lambda *_: None  # type: ignore[method-assign]  # no leader here
        cluster["b"].handle(rpc)
        return server.last_applied, server.machine_state

    body = encode_body(payloads, mode=ReplyMode.AWAIT_CONSENSUS, origin=CLIENT)
    whole = EntryBatch(Index(1), Term(1), len(payloads), 0, body)
    assert state_after([whole]) == state_after([whole.cut(1, 1), whole.cut(2, 2)])


def test_a_command_that_is_none_is_refused_and_its_neighbours_are_not() -> None:
    """The reply of each entry stands at its place; only the broken one has an error."""
    cluster = CoreCluster("a")
    cluster.elect("a")
    body = encode_body([b"\x01", b"\xc1", b"\x02"], mode=ReplyMode.AWAIT_CONSENSUS, origin=CLIENT)
    cluster["a"].handle(Commands(3, body))
    cluster.settle()
    [answer] = cluster.answers
    assert answer.replies == [(1,), None, (1, 2)]
    assert list(answer.errors) == [1]
