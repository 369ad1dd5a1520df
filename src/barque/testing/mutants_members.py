"""Planted bugs of membership: what counts as a configuration, and who has left for good. See `mutants`."""

from typing import Any
from unittest.mock import patch

from barque.core.configuration import recognises
from barque.core.server import Server
from barque.runtime.directory import Directory
from barque.runtime.dispatcher import Dispatcher
from barque.testing.mutant_registry import find, mutant, replace
from barque.types import Index


def _too_early(name: str) -> Any:
    """Let a change pass whenever no other is under way."""
    real = find(name)

    def change(server: Server, message: Any) -> Any:
        permitted = server.cluster_change_permitted
        if server.cluster_index_term.index <= server.commit_index:
            server.cluster_change_permitted = True
        before = server.cluster_index_term
        done = real(server, message)
        if server.cluster_index_term == before:
            server.cluster_change_permitted = permitted
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


@mutant("a second change is permitted while one is under way (I22)", layer="core")
def two_changes_at_once() -> Any:
    """See `MUTANTS`."""
    real = find("_change")

    def change(server: Server, asker: Any, records: Any) -> Any:
        done = real(server, asker, records)
        server.cluster_change_permitted = True
        return done

    return replace("_change", change)


@mutant("a leader that leaves counts itself among those who stay (§4.2.2)", layer="core")
def leaving_leader_counts() -> Any:
    """See `MUTANTS`."""

    def match(server: Server) -> list[Index]:
        own = server.log.last_written().index
        return [own] + [peer.match_index for _, peer in server.peers() if peer.voter]

    return replace("match_indexes", match)


@mutant("a configuration that is overwritten stays in force (MEMB-04)", layer="core")
def void_configuration_stays() -> Any:
    """See `MUTANTS`."""
    return replace("revert_overwritten", lambda *_: None)


@mutant("a candidate whose uid is newer than our configuration is never heard (I25)", layer="core")
def later_candidate_unheard() -> Any:
    """See `MUTANTS`."""
    return replace("hears_candidate", lambda server, sender, uid, **_: recognises(server, sender, uid))


@mutant("a candidate that lost its data is heard (MEMB-10)", layer="core")
def any_candidate_heard() -> Any:
    """See `MUTANTS`."""
    return replace("hears_candidate", lambda *_, **__: True)


@mutant("who hears of a later term waits for the leader of the former one (I25)", layer="core")
def deposed_leader_followed() -> Any:
    """See `MUTANTS`."""
    real = find("on_request_vote")

    def vote(server: Server, rpc: Any) -> Any:
        leader = server.leader_id
        done = real(server, rpc)
        if leader is None or server.leader_id is not None:
            return done
        server.leader_id = leader
        return type(done)(done.state, done.effects[:-1])

    return replace("on_request_vote", vote)


@mutant("recovery stops at the committed part of the log to find its configuration (row 48)", layer="core")
def uncommitted_configuration_forgotten() -> Any:
    """See `MUTANTS`."""
    return replace("scan_uncommitted", lambda _server: None)


@mutant("a member that was removed while it was away does not believe it (I23)", layer="node")
def removal_not_believed() -> Any:
    """See `MUTANTS`."""
    return patch.object(Dispatcher, "on_member_removed", lambda *_: None)


@mutant("the folder of a deleted server is left behind (I24)", layer="node")
def folder_left_behind() -> Any:
    """See `MUTANTS`."""
    return patch.object(Directory, "erase", lambda self, uid: self.unfinished.discard(uid))
