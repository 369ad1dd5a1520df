"""Planted bugs of membership: configurations, removals, and servers that stay away. See `mutants`."""

from typing import Any
from unittest.mock import patch

from barque.core.configuration import recognises
from barque.core.effects import StartElectionTimeout
from barque.core.state import RaftState, Server
from barque.runtime.admin_members import MemberAdmin
from barque.runtime.directory import Directory
from barque.runtime.removals import Removals
from barque.types import Index
from tests.kit.mutant_registry import find, mutant, replace, together


def _too_early(name: str) -> Any:
    """Permit a change whenever no other change is under way."""
    real = find(name)

    def change(server: Server, message: Any) -> Any:
        role = server.leader_role()
        established, role.established = role.established, True
        done = real(server, message)
        role.established = established
        return done

    return replace(name, change)


@mutant("a new leader adds a member before it has committed in its term (the bug of 2015)", layer="core")
def adds_too_early() -> Any:
    """See `MUTANTS`."""
    return _too_early("on_join")


@mutant("a new leader removes a member before it has committed in its term (the bug of 2015)", layer="core")
def removes_too_early() -> Any:
    """See `MUTANTS`."""
    return _too_early("on_leave")


@mutant("a leader permits a second change of members while one is under way (I22)", layer="core")
def two_changes_at_once() -> Any:
    """See `MUTANTS`."""
    return replace("is_change_under_way", lambda _server: False)


@mutant("a leader that leaves counts itself (§4.2.2)", layer="core")
def leaving_leader_counts() -> Any:
    """See `MUTANTS`."""

    def match(server: Server) -> list[Index]:
        own = server.log.last_written().index
        return [own] + [peer.match_index for _, peer in server.peers if peer.voter]

    return replace("match_indexes", match)


@mutant("a leader does not count which members are up before it changes them (D3)", layer="node")
def lost_quorum_permitted() -> Any:
    """See `MUTANTS`."""
    real = find("_change")

    async def demand_nothing(*_: Any) -> None:
        """Permit everything."""

    return together(
        replace("_change", lambda server, asker, records, **_: real(server, asker, records, force=True)),
        patch.object(MemberAdmin, "_demand_quorum", demand_nothing),
    )


@mutant("an overwritten configuration stays in force (MEMB-04)", layer="core")
def void_configuration_stays() -> Any:
    """See `MUTANTS`."""
    return replace("revert_overwritten", lambda *_: None)


@mutant("a server ignores a candidate whose uid is newer than its configuration (I25)", layer="core")
def later_candidate_unheard() -> Any:
    """See `MUTANTS`."""
    return replace("hears_candidate", lambda server, sender, uid, **_: recognises(server, sender, uid))


@mutant("a server hears a candidate that lost its data (MEMB-10)", layer="core")
def any_candidate_heard() -> Any:
    """See `MUTANTS`."""
    return replace("hears_candidate", lambda *_, **__: True)


@mutant("a server that learns of a later term waits for the leader of the earlier one (I25)", layer="core")
def deposed_leader_followed() -> Any:
    """See `MUTANTS`."""
    real = find("_adopt_higher_term")

    def follow_on(server: Server, kind: Any, message: Any, effects: list[Any]) -> Any:
        follows, leader = server.raft_state is RaftState.FOLLOWER, server.leader_id
        heard = real(server, kind, message, effects)
        if follows and leader is not None and not kind.from_leader:
            server.leader_id = leader
            effects[:] = [e for e in effects if not isinstance(e, StartElectionTimeout)]
        return heard

    return replace("_adopt_higher_term", follow_on)


@mutant("recovery looks for the configuration in the committed part of the log only (row 48)", layer="core")
def uncommitted_configuration_forgotten() -> Any:
    """See `MUTANTS`."""
    return replace("scan_uncommitted", lambda _server: None)


@mutant("a member that was removed while it was down ignores the notice (I23)", layer="node")
def removal_not_believed() -> Any:
    """See `MUTANTS`."""
    return patch.object(Removals, "suspect", lambda *_: None)


@mutant("the folder of a deleted server is left behind (I24)", layer="node")
def folder_left_behind() -> Any:
    """See `MUTANTS`."""
    return patch.object(Directory, "erase", lambda self, uid: self.unfinished.discard(uid))
