"""Answers of nodes as typed results (client/results.py)."""

from typing import Any

import pytest

from barque.client import results as r
from barque.errors import ProtocolError
from barque.types import Membership, ServerId, Uid

N1, N2 = ServerId("kv", "n1"), ServerId("kv", "n2")
MEMBER = {
    "server": "kv@n1",
    "role": "leader",
    "leader": "kv@n1",
    "current_term": 3,
    "name": "kv",
    "node": "n1",
}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"node": "n1", "uptime_s": 2.5}, r.Pong(node="n1", uptime_s=2.5)),
        (
            {"node": "n1", "server": "kv@n1", "state": "leader"},
            r.Pong(node="n1", server=N1, state="leader"),
        ),
        ("ok", r.Transfer.STARTED),
        ("already_leader", r.Transfer.ALREADY_LEADER),
        (
            {"started": ["n1"], "not_started": {"n2": "no"}},
            r.StartedCluster(started=("n1",), not_started={"n2": "no"}),
        ),
        (
            {"member": "kv@n1", "uid": "U", "membership": "promotable"},
            r.AddedMember(member=N1, uid=Uid("U"), membership=Membership.PROMOTABLE),
        ),
        ({"member": "kv@n1", "told": False}, r.RemovedMember(member=N1, told=False)),
        (
            {"member": "kv@n1", "membership": "voter"},
            r.PromotedMember(member=N1, membership=Membership.VOTER),
        ),
        (
            {"removed": "kv@n1", "member": "kv@n2", "uid": "U", "membership": "voter"},
            r.ReplacedMember(removed=N1, member=N2, uid=Uid("U"), membership=Membership.VOTER),
        ),
        (
            {"cluster": "kv", "members": ["kv@n1", "kv@n2"], "away": ["kv@n2"]},
            r.DeletedCluster(cluster="kv", members=(N1, N2), away=(N2,)),
        ),
        (
            {"member": "kv@n1", "lost": ["kv@n2"], "term": 4},
            r.ShrunkCluster(member=N1, lost=(N2,), term=4),  # type: ignore[arg-type]
        ),
        (
            {
                "cluster": "kv",
                "leader": "kv@n1",
                "term": 3,
                "members": [
                    {"server": "kv@n2", "membership": "non_voter", "uid": None, "machine_version": None}
                ],
            },
            r.MembersInfo(
                cluster="kv",
                leader=N1,
                term=3,  # type: ignore[arg-type]
                members=(r.MemberInfo(server=N2, membership=Membership.NON_VOTER),),
            ),
        ),
        (
            {
                "nodes": [{"name": "n1", "state": "running", "peers": {"n2": {"connected": True}}}],
                "clusters": [],
            },
            r.Status(
                nodes=(r.NodeStatus(name="n1", state="running", peers={"n2": {"connected": True}}),),
                clusters=(),
            ),
        ),
        (
            {"nodes": [], "clusters": [{"name": "kv", "leader": None, "term": 3, "members": [MEMBER]}]},
            r.Status(
                nodes=(),
                clusters=(
                    r.ClusterStatus(
                        name="kv",
                        leader=None,
                        term=3,  # type: ignore[arg-type]
                        members=(r.MemberStatus(server=N1, role="leader", leader=N1, current_term=3),),  # type: ignore[arg-type]
                    ),
                ),
            ),
        ),
        (
            {
                **MEMBER,
                "cluster": "kv",
                "voted_for": "kv@n2",
                "machine": {"leader": "not a server", "members": 3},
            },
            r.MemberOverview(
                server=N1,
                role="leader",
                leader=N1,
                current_term=3,  # type: ignore[arg-type]
                cluster="kv",
                voted_for=N2,
                machine={"leader": "not a server", "members": 3},
            ),
        ),
    ],
)
def test_an_answer_becomes_a_typed_result(answer: Any, expected: Any) -> None:
    """Servers are `ServerId`s; what the machine says of itself is left as it is."""
    assert r.typed_result("verb", answer, type(expected)) == expected
    if isinstance(answer, dict):
        newer = {**answer, "a field of the next release": [1]}
        assert r.typed_result("verb", newer, type(expected)) == expected


@pytest.mark.parametrize(
    "answer", [None, "no", {}, {"member": "nobody", "told": True}, {"member": 3, "told": True}]
)
def test_an_answer_of_another_kind_is_the_nodes_fault(answer: Any) -> None:
    """The error names the verb."""
    with pytest.raises(ProtocolError, match="'member_remove'"):
        r.typed_result("member_remove", answer, r.RemovedMember)
