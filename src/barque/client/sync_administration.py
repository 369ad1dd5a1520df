"""The administrative verbs of the clients for threads; see `barque.client.administration`."""

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from barque.client.client import Client as AsyncClient
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
    ServerState,
    ShrunkCluster,
    StartedCluster,
    StartedServer,
    Status,
    Transfer,
)
from barque.types import Index, IndexTerm, Membership, ServerId, Uid

Result = TypeVar("Result")


class Administration:
    """Those of `barque.sync.Client`."""

    _client: AsyncClient

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do the work on the loop and wait for its end."""
        raise NotImplementedError

    def members(self, cluster: str, *, timeout_s: float | None = None) -> list[ServerId]:
        """See `barque.Client.members`."""
        return self._run(self._client.members(cluster, timeout_s=timeout_s))

    def leader(self, cluster: str, *, timeout_s: float | None = None) -> ServerId | None:
        """See `barque.Client.leader`."""
        return self._run(self._client.leader(cluster, timeout_s=timeout_s))

    def ping(self, cluster: str | None = None, *, timeout_s: float | None = None) -> Pong:
        """See `barque.Client.ping`."""
        return self._run(self._client.ping(cluster, timeout_s=timeout_s))

    def overview(self, cluster: str, *, timeout_s: float | None = None) -> MemberOverview:
        """See `barque.Client.overview`."""
        return self._run(self._client.overview(cluster, timeout_s=timeout_s))

    def status(self, clusters: Sequence[str] | None = None, *, timeout_s: float | None = None) -> Status:
        """See `barque.Client.status`."""
        return self._run(self._client.status(clusters, timeout_s=timeout_s))

    def transfer_leadership(
        self, cluster: str, target: ServerId | str, *, timeout_s: float | None = None
    ) -> Transfer:
        """See `barque.Client.transfer_leadership`."""
        return self._run(self._client.transfer_leadership(cluster, target, timeout_s=timeout_s))

    def balance_leaders(
        self,
        *,
        dry_run: bool = False,
        moves_max: int | None = None,
        per_second: float = 20.0,
        timeout_s: float | None = None,
    ) -> LeaderBalance:
        """See `barque.Client.balance_leaders`."""
        return self._run(
            self._client.balance_leaders(
                dry_run=dry_run, moves_max=moves_max, per_second=per_second, timeout_s=timeout_s
            )
        )

    def start_cluster(
        self,
        cluster: str,
        machine: str,
        *,
        nodes: Sequence[str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        initial_machine_version: int = 0,
        timeout_s: float | None = None,
    ) -> StartedCluster:
        """See `barque.Client.start_cluster`."""
        return self._run(
            self._client.start_cluster(
                cluster,
                machine,
                nodes=nodes,
                arguments=arguments,
                initial_machine_version=initial_machine_version,
                timeout_s=timeout_s,
            )
        )

    def start_or_restart_cluster(
        self,
        cluster: str,
        machine: str,
        *,
        nodes: Sequence[str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        initial_machine_version: int = 0,
        timeout_s: float | None = None,
    ) -> StartedCluster:
        """See `barque.Client.start_or_restart_cluster`."""
        return self._run(
            self._client.start_or_restart_cluster(
                cluster,
                machine,
                nodes=nodes,
                arguments=arguments,
                initial_machine_version=initial_machine_version,
                timeout_s=timeout_s,
            )
        )

    def delete_cluster(self, cluster: str, *, timeout_s: float | None = None) -> DeletedCluster:
        """See `barque.Client.delete_cluster`."""
        return self._run(self._client.delete_cluster(cluster, timeout_s=timeout_s))

    def trigger_compaction(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> bool:
        """See `barque.Client.trigger_compaction`."""
        return self._run(self._client.trigger_compaction(cluster, node, timeout_s=timeout_s))

    def start_server(
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
        """See `barque.Client.start_server`."""
        return self._run(
            self._client.start_server(
                cluster,
                node,
                machine,
                members=members,
                arguments=arguments,
                membership=membership,
                uid=uid,
                initial_machine_version=initial_machine_version,
                timeout_s=timeout_s,
            )
        )

    def restart_server(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> ServerState:
        """See `barque.Client.restart_server`."""
        return self._run(self._client.restart_server(cluster, node, timeout_s=timeout_s))

    def stop_server(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> ServerState:
        """See `barque.Client.stop_server`."""
        return self._run(self._client.stop_server(cluster, node, timeout_s=timeout_s))

    def force_delete_server(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> list[ServerId]:
        """See `barque.Client.force_delete_server`."""
        return self._run(self._client.force_delete_server(cluster, node, timeout_s=timeout_s))

    def trigger_election(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> None:
        """See `barque.Client.trigger_election`."""
        self._run(self._client.trigger_election(cluster, node, timeout_s=timeout_s))

    def initial_members(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> list[ServerId]:
        """See `barque.Client.initial_members`."""
        return self._run(self._client.initial_members(cluster, node, timeout_s=timeout_s))

    def key_metrics(
        self, cluster: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> KeyMetrics:
        """See `barque.Client.key_metrics`."""
        return self._run(self._client.key_metrics(cluster, node, timeout_s=timeout_s))

    def new_uid(self, name: str, node: str | None = None, *, timeout_s: float | None = None) -> Uid:
        """See `barque.Client.new_uid`."""
        return self._run(self._client.new_uid(name, node, timeout_s=timeout_s))

    def members_info(self, cluster: str, *, timeout_s: float | None = None) -> MembersInfo:
        """See `barque.Client.members_info`."""
        return self._run(self._client.members_info(cluster, timeout_s=timeout_s))

    def add_member(
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
        """See `barque.Client.add_member`."""
        return self._run(
            self._client.add_member(
                cluster,
                node,
                membership=membership,
                catch_up=catch_up,
                target=target,
                force=force,
                timeout_s=timeout_s,
            )
        )

    def remove_member(
        self,
        cluster: str,
        member: ServerId | str,
        *,
        force: bool = False,
        keep_data: bool = False,
        timeout_s: float | None = None,
    ) -> RemovedMember:
        """See `barque.Client.remove_member`."""
        return self._run(
            self._client.remove_member(cluster, member, force=force, keep_data=keep_data, timeout_s=timeout_s)
        )

    def promote_member(
        self, cluster: str, member: ServerId | str, *, force: bool = False, timeout_s: float | None = None
    ) -> PromotedMember:
        """See `barque.Client.promote_member`."""
        return self._run(self._client.promote_member(cluster, member, force=force, timeout_s=timeout_s))

    def demote_member(
        self, cluster: str, member: ServerId | str, *, force: bool = False, timeout_s: float | None = None
    ) -> DemotedMember:
        """See `barque.Client.demote_member`."""
        return self._run(self._client.demote_member(cluster, member, force=force, timeout_s=timeout_s))

    def replace_member(
        self,
        cluster: str,
        member: ServerId | str,
        *,
        node: str | None = None,
        force: bool = False,
        timeout_s: float | None = None,
    ) -> ReplacedMember:
        """See `barque.Client.replace_member`."""
        return self._run(
            self._client.replace_member(cluster, member, node=node, force=force, timeout_s=timeout_s)
        )

    def force_shrink(self, cluster: str, *, timeout_s: float | None = None) -> ShrunkCluster:
        """See `barque.Client.force_shrink`."""
        return self._run(self._client.force_shrink(cluster, timeout_s=timeout_s))

    def aux_command(
        self, cluster: str, command: Any, *, consistent: bool = False, timeout_s: float | None = None
    ) -> Any:
        """See `barque.Client.aux_command`."""
        return self._run(
            self._client.aux_command(cluster, command, consistent=consistent, timeout_s=timeout_s)
        )

    def cast_aux_command(self, cluster: str, command: Any, *, timeout_s: float | None = None) -> None:
        """See `barque.Client.cast_aux_command`."""
        self._run(self._client.cast_aux_command(cluster, command, timeout_s=timeout_s))

    def call(
        self, verb: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """See `barque.Client.call`."""
        return self._run(self._client.call(verb, arguments, timeout_s=timeout_s))

    def query_with_position(
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
        """See `barque.Client.query_with_position`."""
        return self._run(
            self._client.query_with_position(
                cluster,
                query,
                level=level,
                node=node,
                applied=applied,
                timeout_s=timeout_s,
                reply_type=reply_type,
            )
        )

    def state_query(
        self, cluster: str, kind: str, node: str | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """See `barque.Client.state_query`."""
        return self._run(self._client.state_query(cluster, kind, node, timeout_s=timeout_s))

    def node_overview(
        self,
        node: str | None = None,
        *,
        clusters: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> NodeOverview:
        """See `barque.Client.node_overview`."""
        return self._run(self._client.node_overview(node, clusters=clusters, timeout_s=timeout_s))


class ClusterAdministration:
    """Those of `barque.sync.ClusterClient`."""

    name: str

    @property
    def _administration(self) -> Administration:
        """The client of all clusters."""
        raise NotImplementedError

    def members(self, *, timeout_s: float | None = None) -> list[ServerId]:
        """See `barque.Client.members`."""
        return self._administration.members(self.name, timeout_s=timeout_s)

    def leader(self, *, timeout_s: float | None = None) -> ServerId | None:
        """See `barque.Client.leader`."""
        return self._administration.leader(self.name, timeout_s=timeout_s)

    def ping(self, *, timeout_s: float | None = None) -> Pong:
        """See `barque.Client.ping`."""
        return self._administration.ping(self.name, timeout_s=timeout_s)

    def overview(self, *, timeout_s: float | None = None) -> MemberOverview:
        """See `barque.Client.overview`."""
        return self._administration.overview(self.name, timeout_s=timeout_s)

    def transfer_leadership(self, target: ServerId | str, *, timeout_s: float | None = None) -> Transfer:
        """See `barque.Client.transfer_leadership`."""
        return self._administration.transfer_leadership(self.name, target, timeout_s=timeout_s)

    def start_cluster(
        self,
        machine: str,
        *,
        nodes: Sequence[str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        initial_machine_version: int = 0,
        timeout_s: float | None = None,
    ) -> StartedCluster:
        """See `barque.Client.start_cluster`."""
        return self._administration.start_cluster(
            self.name,
            machine,
            nodes=nodes,
            arguments=arguments,
            initial_machine_version=initial_machine_version,
            timeout_s=timeout_s,
        )

    def start_or_restart_cluster(
        self,
        machine: str,
        *,
        nodes: Sequence[str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        initial_machine_version: int = 0,
        timeout_s: float | None = None,
    ) -> StartedCluster:
        """See `barque.Client.start_or_restart_cluster`."""
        return self._administration.start_or_restart_cluster(
            self.name,
            machine,
            nodes=nodes,
            arguments=arguments,
            initial_machine_version=initial_machine_version,
            timeout_s=timeout_s,
        )

    def delete_cluster(self, *, timeout_s: float | None = None) -> DeletedCluster:
        """See `barque.Client.delete_cluster`."""
        return self._administration.delete_cluster(self.name, timeout_s=timeout_s)

    def trigger_compaction(self, node: str | None = None, *, timeout_s: float | None = None) -> bool:
        """See `barque.Client.trigger_compaction`."""
        return self._administration.trigger_compaction(self.name, node, timeout_s=timeout_s)

    def start_server(
        self,
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
        """See `barque.Client.start_server`."""
        return self._administration.start_server(
            self.name,
            node,
            machine,
            members=members,
            arguments=arguments,
            membership=membership,
            uid=uid,
            initial_machine_version=initial_machine_version,
            timeout_s=timeout_s,
        )

    def restart_server(self, node: str | None = None, *, timeout_s: float | None = None) -> ServerState:
        """See `barque.Client.restart_server`."""
        return self._administration.restart_server(self.name, node, timeout_s=timeout_s)

    def stop_server(self, node: str | None = None, *, timeout_s: float | None = None) -> ServerState:
        """See `barque.Client.stop_server`."""
        return self._administration.stop_server(self.name, node, timeout_s=timeout_s)

    def force_delete_server(
        self, node: str | None = None, *, timeout_s: float | None = None
    ) -> list[ServerId]:
        """See `barque.Client.force_delete_server`."""
        return self._administration.force_delete_server(self.name, node, timeout_s=timeout_s)

    def trigger_election(self, node: str | None = None, *, timeout_s: float | None = None) -> None:
        """See `barque.Client.trigger_election`."""
        self._administration.trigger_election(self.name, node, timeout_s=timeout_s)

    def initial_members(self, node: str | None = None, *, timeout_s: float | None = None) -> list[ServerId]:
        """See `barque.Client.initial_members`."""
        return self._administration.initial_members(self.name, node, timeout_s=timeout_s)

    def key_metrics(self, node: str | None = None, *, timeout_s: float | None = None) -> KeyMetrics:
        """See `barque.Client.key_metrics`."""
        return self._administration.key_metrics(self.name, node, timeout_s=timeout_s)

    def members_info(self, *, timeout_s: float | None = None) -> MembersInfo:
        """See `barque.Client.members_info`."""
        return self._administration.members_info(self.name, timeout_s=timeout_s)

    def add_member(
        self,
        node: str,
        *,
        membership: Membership = Membership.VOTER,
        catch_up: bool = True,
        target: Index | None = None,
        force: bool = False,
        timeout_s: float | None = None,
    ) -> AddedMember:
        """See `barque.Client.add_member`."""
        return self._administration.add_member(
            self.name,
            node,
            membership=membership,
            catch_up=catch_up,
            target=target,
            force=force,
            timeout_s=timeout_s,
        )

    def remove_member(
        self,
        member: ServerId | str,
        *,
        force: bool = False,
        keep_data: bool = False,
        timeout_s: float | None = None,
    ) -> RemovedMember:
        """See `barque.Client.remove_member`."""
        return self._administration.remove_member(
            self.name, member, force=force, keep_data=keep_data, timeout_s=timeout_s
        )

    def promote_member(
        self, member: ServerId | str, *, force: bool = False, timeout_s: float | None = None
    ) -> PromotedMember:
        """See `barque.Client.promote_member`."""
        return self._administration.promote_member(self.name, member, force=force, timeout_s=timeout_s)

    def demote_member(
        self, member: ServerId | str, *, force: bool = False, timeout_s: float | None = None
    ) -> DemotedMember:
        """See `barque.Client.demote_member`."""
        return self._administration.demote_member(self.name, member, force=force, timeout_s=timeout_s)

    def replace_member(
        self,
        member: ServerId | str,
        *,
        node: str | None = None,
        force: bool = False,
        timeout_s: float | None = None,
    ) -> ReplacedMember:
        """See `barque.Client.replace_member`."""
        return self._administration.replace_member(
            self.name, member, node=node, force=force, timeout_s=timeout_s
        )

    def force_shrink(self, *, timeout_s: float | None = None) -> ShrunkCluster:
        """See `barque.Client.force_shrink`."""
        return self._administration.force_shrink(self.name, timeout_s=timeout_s)

    def cast_aux_command(self, command: Any, *, timeout_s: float | None = None) -> None:
        """See `barque.Client.cast_aux_command`."""
        self._administration.cast_aux_command(self.name, command, timeout_s=timeout_s)

    def aux_command(self, command: Any, *, consistent: bool = False, timeout_s: float | None = None) -> Any:
        """See `barque.Client.aux_command`."""
        return self._administration.aux_command(
            self.name, command, consistent=consistent, timeout_s=timeout_s
        )

    def query_with_position(
        self,
        query: Any = None,
        *,
        level: str = "local",
        node: str | None = None,
        applied: IndexTerm | None = None,
        timeout_s: float | None = None,
        reply_type: Any = Any,
    ) -> QueryResult:
        """See `barque.Client.query_with_position`."""
        return self._administration.query_with_position(
            self.name,
            query,
            level=level,
            node=node,
            applied=applied,
            timeout_s=timeout_s,
            reply_type=reply_type,
        )

    def state_query(self, kind: str, node: str | None = None, *, timeout_s: float | None = None) -> Any:
        """See `barque.Client.state_query`."""
        return self._administration.state_query(self.name, kind, node, timeout_s=timeout_s)
