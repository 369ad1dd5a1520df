"""What a client asks of nodes besides commands and reads: clusters, members, and facts about them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from barque.client.balancing import balance
from barque.client.results import (
    AddedMember,
    DeletedCluster,
    DemotedMember,
    KeyMetrics,
    LeaderBalance,
    MemberOverview,
    MembersInfo,
    NodeOverview,
    Pong,
    PromotedMember,
    QueryResult,
    RemovedMember,
    ReplacedMember,
    Result,
    ServerState,
    ShrunkCluster,
    StartedCluster,
    StartedServer,
    Status,
    Transfer,
    typed_result,
)
from barque.errors import InvalidCommand
from barque.machine.arguments import canonical_arguments
from barque.types import Index, IndexTerm, Membership, ServerId, Uid


class Administration:
    """The administrative verbs of a `Client`. Its connected node serves them, or asks others."""

    # --- clusters ----------------------------------------------------------------------

    async def members(self, cluster: str, *, timeout_s: float | None = None) -> list[ServerId]:
        """The members of a cluster, as the connected node knows them (API-18).

        Raises `UnknownCluster` if the node knows no such cluster, `QueryTimeout`.
        """
        answer = await self.call("members", {"cluster": cluster}, timeout_s=timeout_s)
        return msgspec.convert(answer["members"], list[ServerId])

    async def leader(self, cluster: str, *, timeout_s: float | None = None) -> ServerId | None:
        """The member that leads, as far as the connected node knows. Raises as `members`."""
        answer = await self.call("members", {"cluster": cluster}, timeout_s=timeout_s)
        return msgspec.convert(answer["leader"], ServerId | None)

    async def ping(self, cluster: str | None = None, *, timeout_s: float | None = None) -> Pong:
        """The connected node's name and uptime, or the state of its member of a cluster (API-22).

        Raises `UnknownCluster` if it has no member of that cluster, `QueryTimeout`.
        """
        return await self._call("ping", {"cluster": cluster}, timeout_s, Pong)

    async def overview(self, cluster: str, *, timeout_s: float | None = None) -> MemberOverview:
        """Everything about the member on the connected node (API-24). Raises as `ping`."""
        return await self._call("overview", {"cluster": cluster}, timeout_s, MemberOverview)

    async def status(
        self, clusters: Sequence[str] | None = None, *, timeout_s: float | None = None
    ) -> Status:
        """All nodes, and the members of all (or these) clusters on them. Raises `QueryTimeout`.

        Works without a leader. A node that does not answer is shown with the reason.
        """
        return await self._call("status", {"clusters": clusters}, timeout_s, Status)

    async def transfer_leadership(
        self, cluster: str, target: ServerId | str, *, timeout_s: float | None = None
    ) -> Transfer:
        """Ask the leader to hand over to `target`, a server or a node (§3.10; API-21).

        Raises `UnknownMember`, `NonVoter`, `NotUpToDate` or `NoLeader` (nothing happened), or
        `OutcomeUnknown`.
        """
        arguments = {"cluster": cluster, "target": str(target)}
        return await self._call("transfer_leadership", arguments, timeout_s, Transfer)

    async def balance_leaders(
        self,
        *,
        dry_run: bool = False,
        moves_max: int | None = None,
        per_second: float = 20.0,
        timeout_s: float | None = None,
    ) -> LeaderBalance:
        """Deal the leaders of all clusters out over the running nodes, by transfers (API-21).

        At most `moves_max` transfers, `per_second` of them a second; `timeout_s` is for each request. With
        `dry_run` nothing is moved. A transfer that fails leaves its cluster as it is, and is told; to call
        again is safe. Raises `InvalidCommand` for a rate that is not positive, and as `status`.
        """
        if not per_second > 0 or (moves_max is not None and moves_max < 0):
            raise InvalidCommand(f"a rate above 0 and a number of moves, not {per_second!r}, {moves_max!r}")
        return await balance(
            self, dry_run=dry_run, moves_max=moves_max, per_second=per_second, timeout_s=timeout_s
        )

    async def start_cluster(
        self,
        cluster: str,
        machine: str,
        *,
        nodes: Sequence[str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        initial_machine_version: int = 0,
        timeout_s: float | None = None,
    ) -> StartedCluster:
        """Form a cluster on these nodes (default: all), and wait for its leader (API-02).

        A cluster that is there already, with the same machine, arguments and nodes, is left as it is.
        `machine` is a name from the nodes' configuration; `arguments` go to its `init`;
        `initial_machine_version` is the version to begin with, if the nodes have it (VER-06). Raises
        `ConfigurationError` if the nodes refuse, `NoLeader` if too few members could be started or no leader
        was elected in time, or `OutcomeUnknown`.
        """
        kept = canonical_arguments(arguments or {})
        request = {
            "cluster": cluster,
            "machine": machine,
            "nodes": nodes,
            "arguments": kept,
            "initial_machine_version": initial_machine_version,
        }
        return await self._call("start_cluster", request, timeout_s, StartedCluster)

    async def start_or_restart_cluster(
        self,
        cluster: str,
        machine: str,
        *,
        nodes: Sequence[str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        initial_machine_version: int = 0,
        timeout_s: float | None = None,
    ) -> StartedCluster:
        """Start the members again that do not run, or form the cluster if no node has a member (API-03).

        Returns and raises as `start_cluster`. Of a cluster that is there, machine and arguments stay as they
        were.
        """
        kept = canonical_arguments(arguments or {})
        request = {
            "cluster": cluster,
            "machine": machine,
            "nodes": nodes,
            "arguments": kept,
            "initial_machine_version": initial_machine_version,
        }
        return await self._call("start_or_restart_cluster", request, timeout_s, StartedCluster)

    async def delete_cluster(self, cluster: str, *, timeout_s: float | None = None) -> DeletedCluster:
        """Delete a cluster and its data on all members, by consensus (LIFE-06).

        Members on nodes that are out of reach delete themselves when they return. Raises `NoLeader`, or
        `OutcomeUnknown`.
        """
        return await self._call("cluster_delete", {"cluster": cluster}, timeout_s, DeletedCluster)

    async def trigger_compaction(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> bool:
        """Let the member on `node` (default: the connected one) compact its segments now (API-27).

        True if a compaction has begun; false if none is worth it, or one is under way. Raises
        `UnknownCluster`, `ConfigurationError` for an unknown node, or `OutcomeUnknown`.
        """
        answer = await self.call(
            "trigger_compaction", {"cluster": cluster, "node": node}, timeout_s=timeout_s
        )
        return bool(answer["begun"])

    # --- reads with a position, and facts ------------------------------------------------

    async def query_with_position(
        self,
        cluster: str,
        query: Any = None,
        *,
        level: str = "local",
        node: str | None = None,
        applied: IndexTerm | None = None,
        timeout_s: float | None = None,
        reply_type: Any = Any,
    ) -> QueryResult:
        """Ask one member's machine, and learn which state has answered (QRY-01, QRY-02, QRY-16).

        `level` is `local` (the member on `node`, or the connected one) or `leader`. With `applied` the member
        answers when it has applied the entry at that position, such as one of `append_command`: so a
        reader sees its own writes on any member. Each such read is a request of its own.

        Raises as `local_query`; `QueryTimeout` if the member is not so far in time; `Refused` if the log has
        another entry at that position, or only a snapshot stands for it; `ConfigurationError` for an unknown
        node.
        """
        arguments = {"cluster": cluster, "query": query, "level": level, "node": node, "applied": applied}
        result = await self._call("query", arguments, timeout_s, QueryResult)
        if reply_type is Any:
            return result
        return msgspec.structs.replace(result, value=msgspec.convert(result.value, reply_type))

    async def state_query(
        self, cluster: str, kind: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """One fact about the member on `node` (default: the connected one), as plain values (QRY-18).

        `kind` is `all`, `overview`, `machine` (the state, as far as it can be encoded), `voters`, `leader`,
        `members`, `members_info`, `initial_members` or `last_applied`; servers are written as `name@node`.
        Raises `InvalidCommand` for another kind, `UnknownCluster`, or `QueryTimeout`.
        """
        request = {"cluster": cluster, "kind": kind, "node": node}
        return (await self.call("state_query", request, timeout_s=timeout_s))["value"]

    # --- servers -----------------------------------------------------------------------

    async def start_server(
        self,
        cluster: str,
        node: str,
        machine: str,
        *,
        members: Sequence[ServerId | str],
        arguments: Mapping[str, Any] | None = None,
        membership: Membership = Membership.VOTER,
        uid: Uid | None = None,
        initial_machine_version: int = 0,
        timeout_s: float | None = None,
    ) -> StartedServer:
        """Start a new server on `node`, for a cluster that is formed server by server (API-05).

        Give all of them the same `members` (servers or nodes), machine and arguments, then
        `trigger_election`; `start_cluster` does all of that. A server for a cluster that is there already is
        added by `add_member`. `uid` is one of `new_uid`. Raises `ConfigurationError` if the node refuses,
        such as for a name that is taken; or `OutcomeUnknown`.
        """
        request = {
            "cluster": cluster,
            "node": node,
            "machine": machine,
            "members": [str(member) for member in members],
            "arguments": canonical_arguments(arguments or {}),
            "membership": str(membership),
            "uid": uid,
            "initial_machine_version": initial_machine_version,
        }
        return await self._call("server_start", request, timeout_s, StartedServer)

    async def restart_server(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> ServerState:
        """Start the server on `node` (default: the connected one) that was stopped or has failed (API-06).

        A server that runs is left alone. A server whose machine raised replays its log, and raises again
        unless the node has other code by now. Raises `UnknownCluster` if the node has none, `Refused` if its
        node must be started again instead, `StorageError` if its files cannot be read, or `OutcomeUnknown`.
        """
        return await self._call("server_restart", {"cluster": cluster, "node": node}, timeout_s, ServerState)

    async def stop_server(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> ServerState:
        """Stop the server on `node` (default: the connected one), and keep its files (API-07).

        It hands its leadership over first. It stays stopped, also when its node starts again, until
        `restart_server`; the other members go on without it. Raises `UnknownCluster`, `StorageError` (it goes
        on), or `OutcomeUnknown`.
        """
        return await self._call("server_stop", {"cluster": cluster, "node": node}, timeout_s, ServerState)

    async def force_delete_server(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> list[ServerId]:
        """Delete the server on `node` (default: the connected one) with its data, and tell nobody (API-08).

        The cluster still counts it as a member, unless it was removed before. Returns what was deleted.
        Raises `UnknownCluster` if nothing is there, or `OutcomeUnknown`.
        """
        answer = await self.call(
            "force_delete_server", {"cluster": cluster, "node": node}, timeout_s=timeout_s
        )
        return [ServerId.parse(member) for member in answer["members"]]

    async def trigger_election(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> None:
        """Let the server on `node` (default: the connected one) stand for election now (API-09).

        A leader and a server without a vote ignore it. Raises `UnknownCluster`, or `OutcomeUnknown`.
        """
        await self.call("trigger_election", {"cluster": cluster, "node": node}, timeout_s=timeout_s)

    async def initial_members(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> list[ServerId]:
        """The members that the server on `node` was started with (API-20, MEMB-16). Raises as `ping`."""
        answer = await self.call("initial_members", {"cluster": cluster, "node": node}, timeout_s=timeout_s)
        return [ServerId.parse(member) for member in answer["members"]]

    async def key_metrics(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> KeyMetrics:
        """A few figures of the server on `node`; the server need not run (API-26).

        Raises `Refused` if the node is out of reach, or `QueryTimeout`.
        """
        return await self._call("key_metrics", {"cluster": cluster, "node": node}, timeout_s, KeyMetrics)

    async def new_uid(self, name: str, node: str | None = None, *, timeout_s: float | None = None) -> Uid:
        """A uid for a server of this name that the node never used (API-28). Raises `QueryTimeout`."""
        answer = await self.call("new_uid", {"name": name, "node": node}, timeout_s=timeout_s)
        return Uid(answer["uid"])

    # --- members (§4) ------------------------------------------------------------------

    async def members_info(self, cluster: str, *, timeout_s: float | None = None) -> MembersInfo:
        """The members of a cluster, as their leader sees them.

        Raises `NoLeader` if no member leads (see `status` for what each node knows then), `QueryTimeout`.
        """
        return await self._call("member_list", {"cluster": cluster}, timeout_s, MembersInfo)

    async def add_member(
        self,
        cluster: str,
        node: str,
        *,
        membership: Membership = Membership.VOTER,
        catch_up: bool = True,
        target: Index | None = None,
        force: bool = False,
        timeout_s: float | None = None,
    ) -> AddedMember:
        """Start a new server on `node` and add it to the cluster (MEMB-05, MEMB-07, MEMB-14).

        It receives the log first and votes when it has caught up; this waits for that until the time runs
        out, which is no failure. `target` is the index at which it has caught up, if not that of this change.
        Without `catch_up` it votes at once, which may stall the cluster until it has the log. A
        `Membership.PROMOTABLE` votes later, and a `Membership.NON_VOTER` never. Raises `AlreadyMember`,
        `ConfigurationError` for an unknown node, `ChangeNotPermitted` while another change is under way,
        `NoLeader` (nothing changed), or `OutcomeUnknown`.
        """
        arguments = {
            "cluster": cluster,
            "node": node,
            "membership": str(membership),
            "catch_up": catch_up,
            "target": target,
            "force": force,
        }
        return await self._call("member_add", arguments, timeout_s, AddedMember)

    async def remove_member(
        self,
        cluster: str,
        member: ServerId | str,
        *,
        force: bool = False,
        keep_data: bool = False,
        timeout_s: float | None = None,
    ) -> RemovedMember:
        """Remove a member, named by server or node, and its data (MEMB-12, MEMB-13, API-12).

        With `keep_data` its node, which must answer, stops it and keeps its files, until another server of
        that name is started there. Raises `UnknownMember`, `ChangeNotPermitted` (also for the last voter, and
        if fewer voters than a majority would be up; `force` makes that change), `NoLeader` (nothing changed),
        or `OutcomeUnknown`.
        """
        arguments = {"cluster": cluster, "member": str(member), "force": force, "keep_data": keep_data}
        return await self._call("member_remove", arguments, timeout_s, RemovedMember)

    async def promote_member(
        self, cluster: str, member: ServerId | str, *, force: bool = False, timeout_s: float | None = None
    ) -> PromotedMember:
        """Let a non-voter, or a member that still catches up, vote now. Raises as `remove_member`."""
        arguments = {"cluster": cluster, "member": str(member), "force": force}
        return await self._call("member_promote", arguments, timeout_s, PromotedMember)

    async def demote_member(
        self, cluster: str, member: ServerId | str, *, force: bool = False, timeout_s: float | None = None
    ) -> DemotedMember:
        """Take a member's vote away: it still receives the log (MEMB-05). Raises as `remove_member`.

        A leader that is demoted hands its leadership over.
        """
        arguments = {"cluster": cluster, "member": str(member), "force": force}
        return await self._call("member_demote", arguments, timeout_s, DemotedMember)

    async def replace_member(
        self,
        cluster: str,
        member: ServerId | str,
        *,
        node: str | None = None,
        force: bool = False,
        timeout_s: float | None = None,
    ) -> ReplacedMember:
        """Remove a member that is lost, and add a new one on `node` (default: the same node).

        These are two changes, one after the other. If the second fails the first stands: go on with
        `add_member`. Raises as `remove_member` and `add_member`.
        """
        arguments = {"cluster": cluster, "member": str(member), "node": node, "force": force}
        return await self._call("member_replace", arguments, timeout_s, ReplacedMember)

    async def force_shrink(self, cluster: str, *, timeout_s: float | None = None) -> ShrunkCluster:
        """Make the member on the connected node the whole cluster (MEMB-15): the quorum is lost for good.

        Entries that only the lost members have are lost, and these members must never run again with their
        old data. Give the client that node's address alone: the request goes to the node that `connect` has
        reached, and to no other. Raises `UnknownCluster`, `WalDown`, `NoLeader` (it is alone now, and does
        not lead yet), or `OutcomeUnknown`.
        """
        arguments = {"cluster": cluster}
        answer = await self._ask_node("force_shrink", arguments, timeout_s, self._first_node())
        return typed_result("force_shrink", answer, ShrunkCluster)

    async def aux_command(
        self, cluster: str, command: Any, *, consistent: bool = False, timeout_s: float | None = None
    ) -> Any:
        """Send a command to the aux machine of the member on the connected node (AUX-02); return its reply.

        With `consistent` the leader's aux machine gets it, after the leader has proved that it leads
        (QRY-05). Raises `InvalidCommand` if the machine has no aux machine, or with the text of its error,
        `UnknownCluster` if the node has no member, `NoLeader`, or `OutcomeUnknown`.
        """
        arguments = {"cluster": cluster, "command": command, "consistent": consistent}
        return await self.call("aux_command", arguments, timeout_s=timeout_s)

    async def cast_aux_command(self, cluster: str, command: Any, *, timeout_s: float | None = None) -> None:
        """Send a command to the aux machine of the member on the connected node, for no reply (API-23).

        Returns when the member has it. An error of the aux machine, or that there is none, is not told.
        Raises `UnknownCluster` if the node has no member, or `OutcomeUnknown`.
        """
        arguments = {"cluster": cluster, "command": command, "cast": True}
        await self.call("aux_command", arguments, timeout_s=timeout_s)

    async def node_overview(
        self,
        node: str | None = None,
        *,
        clusters: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> NodeOverview:
        """Everything about a node (default: the connected one) and its servers (API-24).

        With `clusters` only their servers are told of: a node may have ten thousand. Raises
        `ConfigurationError` for an unknown node, `Refused` if it is out of reach, `QueryTimeout`.
        """
        return await self._call(
            "node_overview", {"node": node, "clusters": clusters}, timeout_s, NodeOverview
        )

    # --- anything else -----------------------------------------------------------------

    async def call(
        self, verb: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """Ask the connected node for an administrative verb by name; return its plain answer.

        Raises `InvalidCommand` for an unknown verb or for arguments that cannot be encoded, else as the verb.
        """
        if not all(isinstance(name, str) for name in (verb, *(arguments or {}))):
            raise InvalidCommand(f"a verb and its arguments have names of text: {verb!r}, {arguments!r}")
        return await self._ask_node(verb, dict(arguments or {}), timeout_s)

    # --- inside ----------------------------------------------------------------------------

    async def _call(
        self, verb: str, arguments: dict[str, Any], timeout_s: float | None, kind: type[Result]
    ) -> Result:
        return typed_result(verb, await self._ask_node(verb, arguments, timeout_s), kind)

    async def _ask_node(
        self, verb: str, arguments: dict[str, Any], timeout_s: float | None, node: str = ""
    ) -> Any:
        """Send a request to the connected node, or to `node` alone; return its plain answer."""
        raise NotImplementedError

    def _first_node(self) -> str:
        """The node that `connect` has reached."""
        raise NotImplementedError
