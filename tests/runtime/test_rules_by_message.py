"""Ra's rules that whole nodes seldom meet by themselves: a member is brought into a role, and told something.

`testing.checkers.rules` judges each step; `simulation/test_rare_paths.py` shows the rules that simulations
meet without help.
"""

from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Nodes, nodes
from tests.runtime.test_rules_on_nodes import member

from barque.core import messages as m
from barque.core.log_contract import ChunkFlag, ChunkState, SnapshotMeta
from barque.core.roles import PreVoteRole, RaftState
from barque.core.state import records_of
from barque.runtime.server_process import ServerProcess
from barque.testing.checkers.rules import watched_rules
from barque.transport.wire import Envelope
from barque.types import NOBODY, Index, IndexTerm, ServerId, Term

PEER, OTHER, STRANGER = ServerId("sum", "n2"), ServerId("sum", "n3"), ServerId("sum", "n9")


class Subject:
    """The member on n1, whose peers are silent: it hears what a test says, and nothing else."""

    def __init__(self, some: Nodes) -> None:
        self.node = some.running["n1"]
        self.process: ServerProcess = member(some, "n1")
        self.server = self.process.server

    def term(self, more: int = 0) -> Term:
        """Its term, and so many more."""
        return Term(self.server.current_term + more)

    def become(self, role: RaftState) -> None:
        """Bring it into this role, in a term of its own."""
        self.process.handle(m.RequestVoteRpc(self.term(1), PEER, Index(0), Term(0)))
        if role in (RaftState.PRE_VOTE, RaftState.CANDIDATE, RaftState.LEADER):
            self.process.handle(m.ElectionTimeout())
        if role in (RaftState.CANDIDATE, RaftState.LEADER):
            assert isinstance(self.server.role, PreVoteRole)
            for voter in (PEER, OTHER):
                if isinstance(self.server.role, PreVoteRole):
                    self.process.handle(m.PreVoteResult(voter, self.term(), self.server.role.token, True))
        if role is RaftState.LEADER:
            for voter in (PEER, OTHER):
                if self.server.raft_state is RaftState.CANDIDATE:
                    self.process.handle(m.RequestVoteResult(voter, self.term(), True))
        if role is RaftState.RECEIVE_SNAPSHOT:
            self.process.handle(self.chunk())
        if role is RaftState.AWAIT_CONDITION:
            self.process.handle(m.AppendEntriesRpc(self.term(), PEER, Index(0), Index(9_999), self.term()))
        assert self.server.raft_state is role

    def chunk(self, more: int = 0, version: int = 0, number: int = 1) -> m.InstallSnapshotRpc:
        """A first chunk of a snapshot, from the peer, in its term and so many more."""
        position = IndexTerm(Index(9_999), self.term())
        meta = SnapshotMeta(position, records_of(self.server.cluster), version)
        return m.InstallSnapshotRpc(self.term(more), PEER, meta, ChunkState(number, ChunkFlag.NEXT), b"\x90")

    def append(self, more: int, success: bool = True) -> m.AppendEntriesReply:
        """An acknowledgement."""
        return m.AppendEntriesReply(PEER, self.term(more), success, Index(1), Index(0), Term(0))


def the_message(name: str, subject: Subject) -> Any:
    """A message of this name, with its term relative to the subject's: `heartbeat +1`."""
    kind, _, more = name.partition(" ")
    step = int(more or 0)
    term = subject.term(step)
    made: dict[str, Any] = {
        "chunk": subject.chunk(step),
        "chunk_of_newer_machine": subject.chunk(step, version=99),
        "stray_chunk": subject.chunk(step, number=7),
        "heartbeat": m.HeartbeatRpc(1, term, PEER),
        "heartbeat_reply": m.HeartbeatReply(PEER, 1, term),
        "append_reply": subject.append(step),
        "append": m.AppendEntriesRpc(term, PEER, Index(0), Index(0), Term(0)),
        "vote": m.RequestVoteRpc(term, PEER, Index(9_999), term),
        "voted": m.RequestVoteResult(PEER, term, False),
        "trial": m.PreVoteRpc(1, 0, term, 7, PEER, Index(9_999), term, in_own_config=True),
        "info": m.InfoRpc(PEER, term, ("machine_version",)),
        "info_reply": m.InfoReply(PEER, term, ("machine_version",), {"machine_version": 0}),
        "installed": m.InstallSnapshotResult(
            PEER,
            term,
            term,
            IndexTerm(Index(9), term),
            ChunkState(1, ChunkFlag.LAST),
            m.ChunkOutcome.REFUSED,
        ),
        "written": m.Written(subject.server.cfg.uid, term, Index(1), Index(1)),
        "force": m.ForceMemberChange(NOBODY, 0),
        "election_timeout": m.ElectionTimeout(),
    }
    return made[kind]


CASES = [
    ("L-14", RaftState.LEADER, "installed +1"),
    ("L-18", RaftState.LEADER, "chunk +1"),
    ("L-27", RaftState.LEADER, "heartbeat_reply -1"),
    ("C-2", RaftState.CANDIDATE, "voted +1"),
    ("C-6", RaftState.CANDIDATE, "heartbeat"),
    ("C-6", RaftState.CANDIDATE, "heartbeat -1"),
    ("C-7", RaftState.CANDIDATE, "append_reply +1"),
    ("C-7", RaftState.CANDIDATE, "heartbeat_reply +1"),
    ("C-8", RaftState.CANDIDATE, "append_reply"),
    ("C-12", RaftState.CANDIDATE, "chunk"),
    ("C-12", RaftState.CANDIDATE, "chunk +1"),
    ("C-13", RaftState.CANDIDATE, "chunk -1"),
    ("C-14", RaftState.CANDIDATE, "written"),
    ("C-17", RaftState.CANDIDATE, "info +1"),
    ("C-17", RaftState.CANDIDATE, "info_reply +1"),
    ("P-2", RaftState.PRE_VOTE, "heartbeat -1"),
    ("P-5", RaftState.PRE_VOTE, "chunk"),
    ("P-10", RaftState.PRE_VOTE, "info_reply +1"),
    ("P-12", RaftState.PRE_VOTE, "append -1"),
    ("F-12", RaftState.FOLLOWER, "chunk -1"),
    ("F-14", RaftState.FOLLOWER, "stray_chunk"),
    ("F-15", RaftState.FOLLOWER, "chunk_of_newer_machine"),
    ("F-20", RaftState.FOLLOWER, "info_reply +1"),
    ("S-7", RaftState.RECEIVE_SNAPSHOT, "append"),
    ("S-8", RaftState.RECEIVE_SNAPSHOT, "written"),
    ("S-10", RaftState.RECEIVE_SNAPSHOT, "info +1"),
    ("S-10", RaftState.RECEIVE_SNAPSHOT, "info_reply +1"),
    ("S-11", RaftState.RECEIVE_SNAPSHOT, "vote"),
    ("S-11", RaftState.RECEIVE_SNAPSHOT, "vote +1"),
    ("S-12", RaftState.RECEIVE_SNAPSHOT, "trial"),
    ("S-13", RaftState.RECEIVE_SNAPSHOT, "heartbeat"),
    ("W-3", RaftState.AWAIT_CONDITION, "election_timeout"),
]
FORCED = [[("C-16", RaftState.CANDIDATE, "force")], [("P-11", RaftState.PRE_VOTE, "force")]]
"""Afterwards the cluster has one member."""


@pytest.mark.parametrize("cases", [CASES, *FORCED], ids=["all", "C-16", "P-11"])
async def test_members_keep_the_rules(tmp_path: Path, cases: list[tuple[str, RaftState, str]]) -> None:
    """L-14, L-18, L-27, C-2 … W-3: in each role, on a node with its performer and log."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        await three.stop("n2", "n3")
        subject = Subject(three)
        for rule, role, said in cases:
            subject.become(role)
            with watched_rules() as watch:
                subject.process.handle(the_message(said, subject))
            assert not watch.broken, (rule, said)
            assert watch.applied[rule] == 1, (rule, said)
            assert subject.process.failure is None, (rule, said)


@pytest.mark.parametrize("more", [0, 1])
async def test_a_stranger_is_not_counted(tmp_path: Path, more: int) -> None:
    """L-1, L-3, L-5, L-34: what makes majorities counts from members only, whatever term it names."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        await three.stop("n2", "n3")
        subject = Subject(three)
        subject.become(RaftState.LEADER)
        server, term = subject.server, subject.term(more)
        before = (server.current_term, server.commit_index, dict(server.cluster))
        for message in (
            m.AppendEntriesReply(STRANGER, term, True, Index(99), Index(98), term),
            m.AppendEntriesReply(STRANGER, term, False, Index(99), Index(98), term),
            m.HeartbeatReply(STRANGER, 99, term),
            m.InfoReply(STRANGER, term, ("machine_version",), {"machine_version": 9}),
            m.InstallSnapshotResult(
                STRANGER,
                term,
                term,
                IndexTerm(Index(98), term),
                ChunkState(1, ChunkFlag.LAST),
                m.ChunkOutcome.INSTALLED,
            ),
        ):
            envelope = Envelope("sum", message, subject.process.cluster_id, server.cfg.uid)
            subject.node.on_envelopes(STRANGER.node, [envelope])
            assert server.raft_state is RaftState.LEADER
            assert (server.current_term, server.commit_index, dict(server.cluster)) == before
