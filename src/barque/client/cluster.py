"""A client's verbs for one cluster, without its name as an argument."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from barque.client.objects import ObjectClient
from barque.client.results import (
    AddedMember,
    DeletedCluster,
    DemotedMember,
    KeyMetrics,
    MemberOverview,
    MembersInfo,
    Pong,
    PromotedMember,
    QueryResult,
    RemovedMember,
    ReplacedMember,
    ServerState,
    ShrunkCluster,
    StartedCluster,
    StartedServer,
    Transfer,
)
from barque.machine.replicated import Replicated
from barque.types import Index, IndexTerm, Membership, ServerId, Uid

if TYPE_CHECKING:
    from barque.client.client import Client


class ClusterClient:
    """One cluster, through a `Client`: `kv = client.cluster("kv")`.

    It shares the connections of `client` and is open as long as `client` is. The outcomes of
    `pipeline_command` come from `client.notifications`.
    """

    def __init__(self, client: "Client", name: str) -> None:
        self.client = client
        self.name = name

    def __repr__(self) -> str:
        return f"<cluster {self.name!r} of {self.client!r}>"

    def object(
        self, kind: type[Replicated], *, reads: str = "consistent", timeout_s: float | None = None
    ) -> ObjectClient:
        """The methods of a `Replicated` class, on this cluster. This asks no node; see `ObjectClient`."""
        return ObjectClient(self, kind, reads, timeout_s)

    async def process_command(
        self, command: Any, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """See `Client.process_command`."""
        return await self.client.process_command(
            self.name, command, timeout_s=timeout_s, reply_type=reply_type
        )

    async def append_command(self, command: Any, *, timeout_s: float | None = None) -> IndexTerm:
        """See `Client.append_command`."""
        return await self.client.append_command(self.name, command, timeout_s=timeout_s)

    def pipeline_command(
        self, command: Any, correlation: Any = None, *, priority: str = "low", timeout_s: float | None = None
    ) -> None:
        """See `Client.pipeline_command`."""
        self.client.pipeline_command(self.name, command, correlation, priority=priority, timeout_s=timeout_s)

    async def consistent_query(
        self, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """See `Client.consistent_query`."""
        return await self.client.consistent_query(
            self.name, query, timeout_s=timeout_s, reply_type=reply_type
        )

    async def leader_query(
        self, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """See `Client.leader_query`."""
        return await self.client.leader_query(self.name, query, timeout_s=timeout_s, reply_type=reply_type)

    async def local_query(
        self, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """See `Client.local_query`."""
        return await self.client.local_query(self.name, query, timeout_s=timeout_s, reply_type=reply_type)

    async def members(self, *, timeout_s: float | None = None) -> list[ServerId]:
        """See `Client.members`."""
        return await self.client.members(self.name, timeout_s=timeout_s)

    async def leader(self, *, timeout_s: float | None = None) -> ServerId | None:
        """See `Client.leader`."""
        return await self.client.leader(self.name, timeout_s=timeout_s)

    async def ping(self, *, timeout_s: float | None = None) -> Pong:
        """See `Client.ping`."""
        return await self.client.ping(self.name, timeout_s=timeout_s)

    async def overview(self, *, timeout_s: float | None = None) -> MemberOverview:
        """See `Client.overview`."""
        return await self.client.overview(self.name, timeout_s=timeout_s)

    async def transfer_leadership(
        self, target: ServerId | str, *, timeout_s: float | None = None
    ) -> Transfer:
        """See `Client.transfer_leadership`."""
        return await self.client.transfer_leadership(self.name, target, timeout_s=timeout_s)

    async def start_cluster(
        self,
        machine: str,
        *,
        nodes: Sequence[str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        initial_machine_version: int = 0,
        timeout_s: float | None = None,
    ) -> StartedCluster:
        """See `Client.start_cluster`."""
        return await self.client.start_cluster(
            self.name,
            machine,
            nodes=nodes,
            arguments=arguments,
            initial_machine_version=initial_machine_version,
            timeout_s=timeout_s,
        )

    async def start_or_restart_cluster(
        self,
        machine: str,
        *,
        nodes: Sequence[str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        initial_machine_version: int = 0,
        timeout_s: float | None = None,
    ) -> StartedCluster:
        """See `Client.start_or_restart_cluster`."""
        return await self.client.start_or_restart_cluster(
            self.name,
            machine,
            nodes=nodes,
            arguments=arguments,
            initial_machine_version=initial_machine_version,
            timeout_s=timeout_s,
        )

    async def delete_cluster(self, *, timeout_s: float | None = None) -> DeletedCluster:
        """See `Client.delete_cluster`."""
        return await self.client.delete_cluster(self.name, timeout_s=timeout_s)

    async def trigger_compaction(self, node: str | None = None, *, timeout_s: float | None = None) -> bool:
        """See `Client.trigger_compaction`."""
        return await self.client.trigger_compaction(self.name, node, timeout_s=timeout_s)

    async def start_server(
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
        """See `Client.start_server`."""
        return await self.client.start_server(
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

    async def restart_server(self, node: str | None = None, *, timeout_s: float | None = None) -> ServerState:
        """See `Client.restart_server`."""
        return await self.client.restart_server(self.name, node, timeout_s=timeout_s)

    async def stop_server(self, node: str | None = None, *, timeout_s: float | None = None) -> ServerState:
        """See `Client.stop_server`."""
        return await self.client.stop_server(self.name, node, timeout_s=timeout_s)

    async def force_delete_server(
        self, node: str | None = None, *, timeout_s: float | None = None
    ) -> list[ServerId]:
        """See `Client.force_delete_server`."""
        return await self.client.force_delete_server(self.name, node, timeout_s=timeout_s)

    async def trigger_election(self, node: str | None = None, *, timeout_s: float | None = None) -> None:
        """See `Client.trigger_election`."""
        await self.client.trigger_election(self.name, node, timeout_s=timeout_s)

    async def initial_members(
        self, node: str | None = None, *, timeout_s: float | None = None
    ) -> list[ServerId]:
        """See `Client.initial_members`."""
        return await self.client.initial_members(self.name, node, timeout_s=timeout_s)

    async def key_metrics(self, node: str | None = None, *, timeout_s: float | None = None) -> KeyMetrics:
        """See `Client.key_metrics`."""
        return await self.client.key_metrics(self.name, node, timeout_s=timeout_s)

    async def members_info(self, *, timeout_s: float | None = None) -> MembersInfo:
        """See `Client.members_info`."""
        return await self.client.members_info(self.name, timeout_s=timeout_s)

    async def add_member(
        self,
        node: str,
        *,
        membership: Membership = Membership.VOTER,
        catch_up: bool = True,
        target: Index | None = None,
        force: bool = False,
        timeout_s: float | None = None,
    ) -> AddedMember:
        """See `Client.add_member`."""
        return await self.client.add_member(
            self.name,
            node,
            membership=membership,
            catch_up=catch_up,
            target=target,
            force=force,
            timeout_s=timeout_s,
        )

    async def remove_member(
        self,
        member: ServerId | str,
        *,
        force: bool = False,
        keep_data: bool = False,
        timeout_s: float | None = None,
    ) -> RemovedMember:
        """See `Client.remove_member`."""
        return await self.client.remove_member(
            self.name, member, force=force, keep_data=keep_data, timeout_s=timeout_s
        )

    async def promote_member(
        self, member: ServerId | str, *, force: bool = False, timeout_s: float | None = None
    ) -> PromotedMember:
        """See `Client.promote_member`."""
        return await self.client.promote_member(self.name, member, force=force, timeout_s=timeout_s)

    async def demote_member(
        self, member: ServerId | str, *, force: bool = False, timeout_s: float | None = None
    ) -> DemotedMember:
        """See `Client.demote_member`."""
        return await self.client.demote_member(self.name, member, force=force, timeout_s=timeout_s)

    async def replace_member(
        self,
        member: ServerId | str,
        *,
        node: str | None = None,
        force: bool = False,
        timeout_s: float | None = None,
    ) -> ReplacedMember:
        """See `Client.replace_member`."""
        return await self.client.replace_member(
            self.name, member, node=node, force=force, timeout_s=timeout_s
        )

    async def force_shrink(self, *, timeout_s: float | None = None) -> ShrunkCluster:
        """See `Client.force_shrink`."""
        return await self.client.force_shrink(self.name, timeout_s=timeout_s)

    async def aux_command(
        self, command: Any, *, consistent: bool = False, timeout_s: float | None = None
    ) -> Any:
        """See `Client.aux_command`."""
        return await self.client.aux_command(self.name, command, consistent=consistent, timeout_s=timeout_s)

    async def query_with_position(
        self,
        query: Any = None,
        *,
        level: str = "local",
        node: str | None = None,
        applied: IndexTerm | None = None,
        timeout_s: float | None = None,
        reply_type: Any = Any,
    ) -> QueryResult:
        """See `Client.query_with_position`."""
        return await self.client.query_with_position(
            self.name,
            query,
            level=level,
            node=node,
            applied=applied,
            timeout_s=timeout_s,
            reply_type=reply_type,
        )

    async def state_query(self, kind: str, node: str | None = None, *, timeout_s: float | None = None) -> Any:
        """See `Client.state_query`."""
        return await self.client.state_query(self.name, kind, node, timeout_s=timeout_s)

    async def cast_aux_command(self, command: Any, *, timeout_s: float | None = None) -> None:
        """See `Client.cast_aux_command`."""
        await self.client.cast_aux_command(self.name, command, timeout_s=timeout_s)
