"""Commands on their way into the log (L-7 to L-10, CMD-06, CMD-18)."""

import msgspec
import pytest

from barque.core.configuration import may_change
from barque.core.decoders import command_decoder_of
from barque.core.entries import decode_head, encode_body
from barque.core.messages import (
    AwaitConditionTimeout,
    ElectionTimeout,
    FlushCommands,
    MachineTimeout,
    TimeoutNow,
    WalFailed,
    WalUp,
)
from barque.core.state import RaftState
from barque.core.transfer import best_successor
from barque.core.user_commands import decode_commands
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, ReplyMode


def test_a_leader_whose_noop_found_no_disk_appends_it_later() -> None:
    """Without its noop a leader commits nothing of former terms and answers no consistent read."""
    cluster = CoreCluster("a")
    cluster["a"].handle(WalFailed("planned"))
    cluster["a"].handle(ElectionTimeout())
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    cluster["a"].handle(WalUp())
    cluster.settle()
    assert cluster.server("a").raft_state is RaftState.LEADER
    assert cluster.log_terms("a") == [1]
    assert may_change(cluster.server("a"))


def test_a_leader_whose_log_stays_away_keeps_trying_to_append_its_noop() -> None:
    """When the wait for the log runs out, the noop is tried again, and the wait begins anew."""
    cluster = CoreCluster("a")
    cluster["a"].handle(WalFailed("planned"))
    cluster["a"].handle(ElectionTimeout())
    cluster["a"].handle(AwaitConditionTimeout())
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    cluster["a"].handle(WalUp())
    cluster.settle()
    assert cluster.log_terms("a") == [1]


def test_low_priority_commands_go_on_when_the_log_is_back() -> None:
    """What still was queued when the log failed is appended afterwards (semantics §10.4)."""
    cluster = CoreCluster("a", settings={"low_priority_commands_flush_size": 1})
    cluster.elect("a")
    cluster["a"].log._up = False  # the log fails, and nobody has said so yet
    cluster.command("a", "x", "y", "z", low_priority=True)
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    assert cluster.refusals() == ["wal_down"]
    cluster["a"].handle(WalUp())
    cluster.settle()
    assert cluster.replies() == [("y",), ("y", "z")]


def test_a_command_is_answered_when_it_is_appended_if_so_wished() -> None:
    """CMD-09, L-7: with its index and term, before any disk has it."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x", "y", mode=ReplyMode.AFTER_LOG_APPEND)
    assert cluster.replies() == [(2, 1), (3, 1)]


def test_a_command_for_which_nobody_waits_is_dropped_in_silence() -> None:
    """CMD-12: a follower refuses only commands with a waiting caller."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("b", "x", mode=ReplyMode.NOREPLY)
    assert cluster.answers == []


def test_low_priority_commands_take_turns_with_normal_ones() -> None:
    """CMD-06: a few at each flush; batches are cut to that; correlations stay right."""
    cluster = CoreCluster("a", settings={"low_priority_commands_flush_size": 2}, defer_flush=True)
    cluster.elect("a")
    cluster.command("a", "l1", "l2", "l3", low_priority=True)
    cluster.command("a", "l4", low_priority=True)
    cluster["a"].read_mail()
    cluster.command("a", "n")
    for _ in range(4):
        cluster["a"].read_mail()
    cluster.settle()
    assert cluster.server("a").machine_state == ("l1", "l2", "n", "l3", "l4")
    firsts = [answer.first_correlation for answer in cluster.answers]
    assert firsts == [0, 4, 2, 3]
    assert not cluster["a"].mail


def test_one_flush_appends_all_requests_up_to_the_limit() -> None:
    """CMD-06: many small requests of low priority need no turn, and no sync, each."""
    cluster = CoreCluster("a", settings={"low_priority_commands_flush_size": 3}, defer_flush=True)
    cluster.elect("a")
    for name in "abcd":
        cluster.command("a", name, low_priority=True)
    cluster["a"].read_mail()
    cluster["a"].sync()
    assert cluster.server("a").machine_state == ("a", "b", "c")
    cluster["a"].read_mail()
    assert not cluster["a"].mail
    cluster.settle()
    assert cluster.server("a").machine_state == ("a", "b", "c", "d")


def test_a_flush_ends_when_its_bytes_would_fill_a_pipeline() -> None:
    """Large commands of low priority do not fill the log in one turn; one of any size gets through."""
    cluster = CoreCluster("a", settings={"max_pipeline_bytes": 100}, defer_flush=True)
    cluster.elect("a")
    for name in "abc":
        cluster.command("a", name * 60, low_priority=True)
    cluster["a"].read_mail()
    cluster["a"].sync()
    assert [command[0] for command in cluster.server("a").machine_state] == ["a", "b"]
    cluster["a"].read_mail()
    cluster.settle()
    assert [command[0] for command in cluster.server("a").machine_state] == ["a", "b", "c"]


def test_a_flush_with_nothing_to_flush_does_nothing() -> None:
    """Two chains of flushes may meet at one queue."""
    cluster = CoreCluster("a")
    cluster.elect("a")
    assert cluster["a"].handle(FlushCommands()) == []


def test_the_most_advanced_voter_is_asked_to_take_over() -> None:
    """CMD-18: the one with most on its disk; of equals the first; a single member asks nobody.

    A member on none of the nodes that count is not asked.
    """
    cluster = CoreCluster("a", "b", "c", "d")
    server = cluster.elect("a")
    assert best_successor(server) == cluster["b"].id
    server.cluster[cluster["c"].id].match_index = Index(9)
    server.cluster[cluster["d"].id].match_index = Index(10)
    server.cluster[cluster["d"].id].voter = False
    assert best_successor(server) == cluster["c"].id
    assert best_successor(server, ["node_b", "node_d"]) == cluster["b"].id
    assert best_successor(server, []) is None
    assert best_successor(CoreCluster("a").elect("a")) is None


def test_a_command_that_finds_no_disk_is_refused_and_did_not_happen() -> None:
    """L-9: the leader offers its place; the machine's own commands are dropped."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster["a"].log._up = False
    effects = cluster.command("a", "x")
    assert cluster.refusals() == ["wal_down"]
    assert [to for to, _ in sent(effects, TimeoutNow)] == ["b"]
    assert cluster.log_terms("a") == [1]
    cluster["a"].handle(AwaitConditionTimeout())
    cluster["a"].handle(MachineTimeout("t"))
    assert cluster.server("a").raft_state is RaftState.AWAIT_CONDITION
    assert cluster.answers == []


@pytest.mark.parametrize("size", [3, 5_000])
def test_commands_are_decoded_within_their_own_bytes(size: int) -> None:
    """Small commands are decoded together and large ones where they are: both with the same result."""
    decoder = command_decoder_of(str)
    texts = [letter * size for letter in "abc"]
    whole = [msgspec.msgpack.encode(text) for text in texts]
    body = encode_body(whole)
    assert decode_commands(decoder, body, 3, decode_head(body), admitted=False) == (texts, None)
    across = [whole[0], whole[1][:-1], whole[1][-1:] + whole[2]]  # commands only when read across the edges
    body = encode_body(across)
    commands, errors = decode_commands(decoder, body, 3, decode_head(body), admitted=False)
    assert commands == [texts[0], None, None]
    assert errors is not None
    assert sorted(errors) == [1, 2]
    body = encode_body([*whole[:2], msgspec.msgpack.encode(list(range(size)))])
    assert decode_commands(decoder, body, 3, decode_head(body), admitted=False) == (
        [*texts[:2], None],
        {2: "Expected `str`, got `array` - at `$[0]`"},
    )
