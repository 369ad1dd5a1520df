"""Verbs that change members, on whole nodes (runtime/admin_members.py; MEMB-05 to MEMB-15, AUX-02)."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.nodes import Adder, Nodes, nodes, until

import barque
from barque.client.requests import Call
from barque.client.results import PromotedMember, RemovedMember, Transfer
from barque.core.configuration import may_change
from barque.core.messages import LeaveMember
from barque.errors import (
    AlreadyMember,
    BarqueError,
    ChangeNotPermitted,
    ConfigurationError,
    InvalidCommand,
    NoLeader,
    NoQuorum,
    OutcomeUnknown,
    QueryTimeout,
    Refused,
    UnknownCluster,
    UnknownMember,
)
from barque.machine.machine import AuxKind, AuxResult, Member
from barque.runtime.admin_members import MemberAdmin
from barque.runtime.client_session import SESSION_VERBS
from barque.runtime.error_mapping import CHANGE_UNDER_WAY
from barque.transport.answers import READING_VERBS, unanswered
from barque.types import ClientRef, Membership, ReplyMode, ServerId


class Hasty(Nodes):
    """A leader whose cluster is deleted waits a second for absent members, not thirty."""

    def config(self, name: str) -> barque.NodeConfig:
        """What a node is told."""
        config = super().config(name)
        time = msgspec.structs.replace(config.time, await_condition_timeout_ms=1_000)
        return msgspec.structs.replace(config, time=time)


async def listed(client: barque.Client) -> dict[str, str]:
    """What each member may do, by its node, as the leader sees it."""
    info = await client.members_info("sum")
    return {m.server.node: str(m.membership) for m in info.members}


async def role_of(some: Nodes, node: str) -> str:
    """The state of the member on a node, or that there is none."""
    process = some.running[node].system.processes.get("sum")
    return "none" if process is None else process.state


async def gone(some: Nodes, node: str) -> None:
    """Wait until a node has no member any more."""

    async def is_gone() -> bool:
        return await role_of(some, node) == "none"

    await until(is_gone, f"the member on {node} to disappear")


async def reads(some: Nodes, node: str, expected: int) -> None:
    """Wait until the member on a node has applied what it should."""

    async def has_it() -> bool:
        async with some.client(node) as client:
            return bool(await client.local_query("sum") == expected)

    await until(has_it, f"{node} to have {expected}")


async def test_members_come_and_go(tmp_path: Path) -> None:
    """A new member gets everything and votes; a removed one leaves nothing behind and may come again."""
    async with nodes(tmp_path, 4) as four, four.client("n1", "n2") as client:
        await client.start_cluster("sum", "adder", nodes=("n1", "n2", "n3"), arguments={"start": 40})
        await client.process_command("sum", 2)
        added = await client.add_member("sum", "n4")
        assert (str(added.member), added.membership) == ("sum@n4", Membership.VOTER)
        assert await listed(client) == dict.fromkeys(("n1", "n2", "n3", "n4"), "voter")
        await reads(four, "n4", 42)
        assert await client.remove_member("sum", "sum@n4") == RemovedMember(
            member=ServerId("sum", "n4"), told=True
        )
        await gone(four, "n4")
        again = await client.add_member("sum", "n4")
        assert again.uid != added.uid
        assert await client.process_command("sum", 1) == 43
        await reads(four, "n4", 43)


async def test_a_non_voter_receives_and_is_promoted(tmp_path: Path) -> None:
    """It has everything and no vote, until it is told to vote."""
    async with nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("sum", "adder", nodes=["n1"])
        await client.process_command("sum", 5)
        added = await client.add_member("sum", "n2", membership=Membership.NON_VOTER)
        assert added.membership is Membership.NON_VOTER
        await reads(two, "n2", 5)
        assert await listed(client) == {"n1": "voter", "n2": "non_voter"}
        promoted = await client.promote_member("sum", "n2")
        assert promoted == PromotedMember(member=ServerId("sum", "n2"), membership=Membership.VOTER)
        assert await listed(client) == {"n1": "voter", "n2": "voter"}
        assert await client.transfer_leadership("sum", "n2") is Transfer.STARTED


async def test_a_member_whose_removal_is_not_committed_keeps_its_data(tmp_path: Path) -> None:
    """Somebody adds it again meanwhile; it was deleted to make room, and might still have been a member."""
    async with nodes(tmp_path) as three, three.client("n1") as client, three.client("n1") as other:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 3)
        await client.transfer_leadership("sum", "n1")
        await reads(three, "n3", 3)
        leader, before = (three.running[name].system.processes["sum"] for name in ("n1", "n3"))

        async def sees(members: int) -> bool:
            return may_change(leader.server) == (members == 3) and len(leader.server.cluster) == members

        await until(lambda: sees(3), "a leader that may change its members")
        await three.stop("n2")
        removal = asyncio.ensure_future(client.remove_member("sum", "n3", force=True, timeout_s=1))
        await until(lambda: sees(2), "a removal under way")
        with pytest.raises(BarqueError):
            await other.add_member("sum", "n3", timeout_s=1)
        with pytest.raises(BarqueError):
            await removal
        assert three.running["n3"].system.processes.get("sum") is before


async def test_a_promotion_does_not_bring_back_who_was_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for its turn the member goes; it came back as a voter that had no server any more."""
    change = MemberAdmin._change

    async def after_a_removal(self: MemberAdmin, *asked: Any) -> Any:
        monkeypatch.setattr(MemberAdmin, "_change", change)
        await client.remove_member("sum", "n2")
        return await change(self, *asked)

    async with nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("sum", "adder", nodes=["n1"])
        await client.add_member("sum", "n2", membership=Membership.NON_VOTER)
        monkeypatch.setattr(MemberAdmin, "_change", after_a_removal)
        with pytest.raises(UnknownMember):
            await client.promote_member("sum", "n2")
        assert await listed(client) == {"n1": "voter"}


@pytest.mark.parametrize("target", [None, "n4"])
async def test_a_dead_member_is_replaced(tmp_path: Path, target: str | None) -> None:
    """On its own node, which came back, or on another while it is away; the old one is told."""
    async with nodes(tmp_path, 4) as four, four.client("n1", "n2") as client:
        await client.start_cluster("sum", "adder", nodes=("n1", "n2", "n3"))
        await client.process_command("sum", 7)
        await four.stop("n3")
        if target is None:
            await four.start("n3")
        old = next(m.uid for m in (await client.members_info("sum")).members if m.server.node == "n3")
        done = await client.replace_member("sum", "sum@n3", node=target)
        assert (str(done.removed), str(done.member)) == ("sum@n3", f"sum@{target or 'n3'}")
        assert done.uid != old
        assert await listed(client) == dict.fromkeys(("n1", "n2", target or "n3"), "voter")
        await reads(four, target or "n3", 7)
        if target is not None:
            await four.start("n3")
            await gone(four, "n3")


async def test_a_replacement_that_cannot_be_added_removes_nothing(tmp_path: Path) -> None:
    """The old member stays if the new one's node is unknown, has a member, or is out of reach."""
    async with nodes(tmp_path, 4) as four, four.client("n1", "n2") as client:
        await client.start_cluster("sum", "adder", nodes=("n1", "n2", "n3"))
        await four.stop("n4")
        before = await listed(client)
        with pytest.raises(ConfigurationError, match=r"n9.*n1, n2"):
            await client.replace_member("sum", "n3", node="n9")
        with pytest.raises(AlreadyMember, match="sum@n2"):
            await client.replace_member("sum", "n3", node="n2")

        with pytest.raises(Refused, match=r"n4 is out of reach.*sum@n3 stays"):
            await client.replace_member("sum", "n3", node="n4", timeout_s=0.5)
        assert await listed(client) == before


async def test_a_replacement_that_ends_in_the_middle_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal stands; the error says so, and names the verb that adds the new member."""

    async def start(*_: Any) -> None:
        raise Refused("a test")

    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        with monkeypatch.context() as patched:
            patched.setattr(MemberAdmin, "_start", start)
            with pytest.raises(Refused, match=r"sum@n3 was removed.*a test.*`barque member add sum n3`"):
                await client.replace_member("sum", "n3")
        assert await listed(client) == {"n1": "voter", "n2": "voter"}
        await client.add_member("sum", "n3")
        assert await listed(client) == dict.fromkeys(("n1", "n2", "n3"), "voter")


async def test_what_cannot_be_done_is_refused_with_its_reason(tmp_path: Path) -> None:
    """Nothing has changed afterwards."""
    async with nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("sum", "adder", nodes=["n1"])
        with pytest.raises(AlreadyMember, match="member list"):
            await client.add_member("sum", "n1")
        with pytest.raises(ConfigurationError, match=r"n9.*n1, n2"):
            await client.add_member("sum", "n9")
        for verb in (client.remove_member, client.promote_member, client.replace_member):
            with pytest.raises(UnknownMember, match="sum@n2"):
                await verb("sum", "n2")
        with pytest.raises(ChangeNotPermitted, match="cluster delete"):
            await client.remove_member("sum", "n1")
        await client.add_member("sum", "n2", membership=Membership.NON_VOTER)
        with pytest.raises(ChangeNotPermitted, match="last voter"):
            await client.remove_member("sum", "n1")
        with pytest.raises(NoLeader, match="elsewhere"):
            await client.members_info("elsewhere", timeout_s=1)
        assert await listed(client) == {"n1": "voter", "n2": "non_voter"}
        assert await client.process_command("sum", 1) == 1


async def test_a_leader_removes_itself(tmp_path: Path) -> None:
    """It answers, hands over by stepping down, and is gone; the others serve."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 3)
        leader = await three.leader(client, "sum")
        assert (await client.remove_member("sum", leader)).member == ServerId("sum", leader)
        await gone(three, leader)
        others = {"n1", "n2", "n3"} - {leader}

        async def served() -> bool:
            return set(await listed(client)) == others

        await until(served, "another leader")
        assert await client.process_command("sum", 1) == 4


async def test_changes_that_are_asked_for_at_once_follow_one_another(tmp_path: Path) -> None:
    """One change at a time: the second waits for the first."""
    async with nodes(tmp_path, 3) as three, three.client() as client:
        await client.start_cluster("sum", "adder", nodes=["n1"])
        await asyncio.gather(client.add_member("sum", "n2"), client.add_member("sum", "n3"))
        assert await listed(client) == dict.fromkeys(("n1", "n2", "n3"), "voter")


async def test_two_who_add_the_same_member_do_not_take_its_server_away(tmp_path: Path) -> None:
    """Each starts a server of its own there, and makes room for it; one of them is the member.

    Found by the simulator: the other's was left, and the member was gone.
    """
    async with nodes(tmp_path, 2) as two, two.client("n1") as client, two.client("n1") as other:
        await client.start_cluster("sum", "adder", nodes=["n1"])
        await client.process_command("sum", 5)
        asked = (client.add_member("sum", "n2"), other.add_member("sum", "n2"))
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in told if isinstance(answer, BaseException)] == [AlreadyMember]
        [added] = [answer for answer in told if not isinstance(answer, BaseException)]
        assert two.running["n2"].system.processes["sum"].server.cfg.uid == added.uid
        await reads(two, "n2", 5)


async def test_a_refusal_that_is_out_of_date_when_it_comes_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change before was committed meanwhile: the next one is asked for again, not refused."""
    asked, ask = [], MemberAdmin.ask_server

    async def refuse_once(self: MemberAdmin, *question: Any) -> Any:
        asked.append(question)
        if len(asked) == 1:
            raise ChangeNotPermitted(CHANGE_UNDER_WAY)
        return await ask(self, *question)

    async with nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("sum", "adder")
        monkeypatch.setattr(MemberAdmin, "ask_server", refuse_once)
        assert await client.remove_member("sum", "n2") == RemovedMember(
            member=ServerId("sum", "n2"), told=True
        )
        assert len(asked) == 2


async def test_the_survivor_becomes_the_cluster(tmp_path: Path) -> None:
    """MEMB-15: what it has is kept, it serves, and grows again; other nodes refuse."""
    async with nodes(tmp_path) as three, three.client("n3") as client:
        await client.start_cluster("sum", "adder", nodes=["n2", "n3"])
        await client.process_command("sum", 9)
        async with three.client("n1") as other:
            with pytest.raises(UnknownCluster, match="n1"):
                await other.force_shrink("sum")
        await reads(three, "n3", 9)
        await three.stop("n2")
        done = await client.force_shrink("sum")
        assert (done.member, done.lost) == (ServerId("sum", "n3"), (ServerId("sum", "n2"),))
        assert await client.consistent_query("sum") == 9
        assert (await client.add_member("sum", "n1")).membership is Membership.VOTER
        assert await listed(client) == {"n1": "voter", "n3": "voter"}


async def test_what_attempts_to_create_have_left_can_be_cleared_away(tmp_path: Path) -> None:
    """Two creations that failed half-way hold the name on two of three nodes; the way out needs no third."""
    async with nodes(tmp_path) as three, three.client() as client:
        members = tuple(ServerId("sum", name) for name in three.addresses)
        for number, name in enumerate(("n1", "n2")):
            system = three.running[name].system
            system.create(system.plan("sum", "sum", "adder", {}, members, cluster_id=f"HALF{number}"))
        with pytest.raises(BarqueError):
            await client.start_cluster("sum", "adder", timeout_s=1)
        for name in ("n1", "n2"):
            async with three.client(name) as there:
                await there.force_shrink("sum")
                await there.delete_cluster("sum")
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 4) == 4


async def test_a_cluster_is_deleted_by_consensus(tmp_path: Path) -> None:
    """LIFE-06: on all members, and the member that was away when it comes back; the leader waits for it."""
    three = Hasty(tmp_path, 3)
    await three.start()
    try:
        await deleted(three)
    finally:
        await three.stop()


async def deleted(three: Nodes) -> None:
    """Form a cluster, delete it while n3 is away, and let that come back."""
    async with three.client("n1", "n2") as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 9)
        await three.stop("n3")
        await client.process_command("sum", 1)
        done = await client.delete_cluster("sum")
        assert sorted(map(str, done.members)) == ["sum@n1", "sum@n2", "sum@n3"]
        assert done.away == (ServerId("sum", "n3"),)
        await three.start("n3")
        for node in three.addresses:
            await gone(three, node)
        assert (await client.status()).clusters == ()


async def test_a_leader_without_a_majority_says_so(tmp_path: Path) -> None:
    """LIM-05: what was sent may have happened, what comes later is refused; `status` has the reason."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)

        async def leads() -> bool:
            await client.transfer_leadership("sum", "n1")
            return await role_of(three, "n1") == "leader"

        await until(leads, "n1 to lead")
        await client.process_command("sum", 1)
        await three.stop("n2", "n3")
        # Sent, it may have happened; but the leader may have noticed before, and stepped down.
        with pytest.raises((OutcomeUnknown, NoQuorum, NoLeader)):
            await client.process_command("sum", 1, timeout_s=15)

        async def shown() -> Any:
            return (await client.status()).clusters[0].members[0].lost_quorum

        assert "no majority" in await until(shown, "status to say that the quorum is lost")
        with pytest.raises((NoLeader, NoQuorum)):
            await client.members_info("sum", timeout_s=1)
        await three.start("n2")

        async def found_again() -> bool:
            return await client.process_command("sum", 0) is not None and not await shown()

        await until(found_again, "the cluster to serve again, and status to have nothing to say")


class Counting(Adder):
    """Its aux machine says on which node it runs, and what it was asked."""

    def init_aux(self, name: str) -> Any:
        """How often it was called."""
        return 0

    def handle_aux(self, raft_state: str, kind: AuxKind, command: Any, aux: Any, member: Member) -> AuxResult:
        """Counts calls; `raise` raises."""
        if command == "raise":
            raise LookupError("as told")
        if kind is not AuxKind.CALL:
            return AuxResult(aux)
        return AuxResult(aux + 1, reply=[raft_state, command, aux + 1])


async def test_an_aux_command_is_answered_by_the_member_that_is_asked(tmp_path: Path) -> None:
    """AUX-02: by the asked node's member; a consistent one by the leader; with what it raised."""
    some = Nodes(tmp_path, 3)
    await some.start(machines={"adder": Counting(), "plain": Adder()})
    try:
        await ask_aux(some)
    finally:
        await some.stop()


async def ask_aux(some: Nodes) -> None:
    """Ask followers, the leader, a machine without one, and a node without a member."""
    async with some.client("n1") as client:
        await client.start_cluster("sum", "adder", nodes=("n1", "n2"))
        await client.start_cluster("plain", "plain")
        leader = await some.leader(client, "sum")
        follower = "n1" if leader == "n2" else "n2"
        async with some.client(follower) as asked:
            assert await asked.aux_command("sum", {"a": 1}) == ["follower", {"a": 1}, 1]
            assert await asked.aux_command("sum", "x") == ["follower", "x", 2]
            assert await asked.aux_command("sum", "x", consistent=True) == ["leader", "x", 1]
            with pytest.raises(InvalidCommand, match="as told"):
                await asked.aux_command("sum", "raise")
        with pytest.raises(InvalidCommand, match="aux"):
            await client.aux_command("plain", "x")
        async with some.client("n3") as stranger:
            assert await stranger.aux_command("sum", "y", consistent=True) == ["leader", "y", 2]
            with pytest.raises(UnknownCluster, match="n3"):
                await stranger.aux_command("sum", "y")


async def test_a_change_without_an_answer_may_have_happened(tmp_path: Path) -> None:
    """Only verbs that read are told as reads: a change that was asked for is not said to be none."""
    async with nodes(tmp_path, 1) as single:
        verbs = {*single.running["n1"].admin._verbs, *SESSION_VERBS}
    assert verbs > READING_VERBS
    for verb in sorted(verbs):
        call = Call(verb, {}, 0.0, 5.0)
        kind = QueryTimeout if verb in READING_VERBS else OutcomeUnknown
        assert type(call.lost("")) is type(unanswered(verb, "")) is kind


async def test_a_change_that_the_leader_never_answers_may_have_happened(tmp_path: Path) -> None:
    """Its node gives up before the client does, and does not take it for a read either."""
    async with nodes(tmp_path, 1) as single:

        def leave(origin: ClientRef, correlation: int) -> LeaveMember:
            member = ServerId("sum", "n9")
            return LeaveMember(origin, correlation, ReplyMode.AWAIT_CONSENSUS, member)

        members = single.running["n1"].admin._members
        with pytest.raises(OutcomeUnknown, match="in time"):
            await members.ask_server(ServerId("sum", "nowhere"), leave, 0.05)


async def test_k8_a_node_that_knows_later_terms_finds_the_forced_survivor(tmp_path: Path) -> None:
    """K8: the lost members held elections that the survivor never heard of. A node that followed them takes
    the survivor for the newer leader all the same.
    """
    async with nodes(tmp_path, 4) as four, four.client("n4") as client:
        await client.start_cluster("sum", "adder", nodes=["n1", "n2", "n3"])
        assert await client.process_command("sum", 1) == 1
        await four.stop("n1")
        for _ in range(3):
            before = await client.members_info("sum")
            successor = "n3" if before.leader == ServerId("sum", "n2") else "n2"

            async def elected(before: int = before.term, successor: str = successor) -> bool:
                await client.transfer_leadership("sum", successor)
                return (await client.members_info("sum")).term > before

            await until(elected, "another leader")
        lost_term = (await client.members_info("sum")).term
        await four.stop("n2", "n3")
        await four.start("n1")
        survivor = four.running["n1"].system.processes["sum"].server
        assert survivor.current_term < lost_term
        async with four.client("n1") as at_survivor:
            await at_survivor.force_shrink("sum")
        assert await client.process_command("sum", 1, timeout_s=5) == 2
        assert survivor.current_term > lost_term
