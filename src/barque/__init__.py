"""Barque: multi-Raft for Python. Replicate your own state machine, durably and linearizably.

The layers, lowest first; arrows only point down, and a test sees to it:

- `types`, `errors`, `config`: the vocabulary.
- `machine`: what you implement.
- `core`: the Raft server, which turns messages into effects.
- `log` and `transport`: bytes on disk, and bytes between nodes.
- `client`: commands and reads, with typed outcomes; `sync`: the same for threads.
- `runtime`: a node performs the effects, on one event loop.
- `gateways`, `bench` and `cli`: the Redis protocol, benchmarks, and the command line.
- `testing`: hand-driven clusters, and a simulator of whole nodes from one seed.

`import barque` loads what a client or a machine needs. `Node` and `local_client` load the server at their
first use (docs/decisions/0005-a-client-loads-no-server.md).
"""

from typing import TYPE_CHECKING, Any

from barque import sync
from barque.client.client import Client
from barque.client.cluster import ClusterClient
from barque.client.objects import ObjectClient
from barque.client.outcomes import Notification
from barque.client.results import (
    AddedMember,
    ClusterStatus,
    DeletedCluster,
    DemotedMember,
    KeyMetrics,
    LeaderBalance,
    LeaderMove,
    MemberInfo,
    MemberOverview,
    MembersInfo,
    MemberStatus,
    NodeOverview,
    NodeStatus,
    Pong,
    PromotedMember,
    QueryResult,
    RemovedMember,
    ReplacedMember,
    ServerOverview,
    ServerState,
    ShrunkCluster,
    StaleIncarnation,
    StartedCluster,
    StartedServer,
    Status,
    Transfer,
)
from barque.client.url import connect
from barque.config import (
    ClusterConfig,
    HttpConfig,
    LogConfig,
    NodeConfig,
    RespConfig,
    ServerSettings,
    SnapshotsConfig,
    TimeConfig,
    TlsConfig,
    load_config,
)
from barque.errors import (
    AlreadyMember,
    BarqueError,
    ChangeNotPermitted,
    CommandFailed,
    CommandTimeout,
    ConfigurationError,
    Damaged,
    DiskFull,
    Forbidden,
    InvalidCommand,
    InvariantViolation,
    LeaderTimeout,
    MachineFault,
    NoLeader,
    NonVoter,
    NoQuorum,
    NotAvailableYet,
    NotLeader,
    NotUpToDate,
    OutcomeUnknown,
    Overloaded,
    ProtocolError,
    QueryTimeout,
    Refused,
    Stopped,
    StorageError,
    Unauthenticated,
    UnknownCluster,
    UnknownMember,
    WalDown,
)
from barque.machine.effects import (
    LATER,
    Append,
    Aux,
    Checkpoint,
    DemonitorNode,
    DemonitorProcess,
    GarbageCollect,
    MachineEffect,
    ModCall,
    MonitorNode,
    MonitorProcess,
    PlanRead,
    ReadLog,
    ReleaseCursor,
    Reply,
    SendMsg,
    Timer,
    TryAppend,
)
from barque.machine.kv import KvMachine
from barque.machine.machine import (
    AuxKind,
    AuxResult,
    Builtin,
    CommandMeta,
    Down,
    Machine,
    MachineVersion,
    Member,
    NodeDown,
    NodeUp,
    QueryMeta,
    Result,
    RunMeta,
    Timeout,
)
from barque.machine.replicated import Command, Effects, Query, Replicated, command, machine_of, query
from barque.machine.simple import SimpleMachine
from barque.machine.snapshot_module import SnapshotModule
from barque.types import (
    ClientRef,
    Index,
    IndexTerm,
    Membership,
    Named,
    Pid,
    ReplyMode,
    ReplyTo,
    ServerId,
    Term,
    Uid,
)

if TYPE_CHECKING:
    from barque.client.local import local_client
    from barque.log.read_plan import LogEntry, PlanInfo, ReadPlan
    from barque.runtime.log_readers import ExternalLogReader, LogUpdate, SegmentRange
    from barque.runtime.node import Node
    from barque.runtime.processes import Process
else:

    def __getattr__(name: str) -> Any:
        """Load the server when a program asks for it: most clients never do."""
        if name == "Node":
            from barque.runtime.node import Node

            return Node
        if name == "local_client":
            from barque.client.local import local_client

            return local_client
        if name == "Process":
            from barque.runtime.processes import Process

            return Process
        if name in ("LogEntry", "PlanInfo", "ReadPlan"):
            from barque.log import read_plan

            return getattr(read_plan, name)
        if name in ("ExternalLogReader", "LogUpdate", "SegmentRange"):
            from barque.runtime import log_readers

            return getattr(log_readers, name)
        raise AttributeError(f"module 'barque' has no attribute {name!r}")


__version__ = "0.1.0"
__all__ = [
    "LATER",
    "AddedMember",
    "AlreadyMember",
    "Append",
    "Aux",
    "AuxKind",
    "AuxResult",
    "BarqueError",
    "Builtin",
    "ChangeNotPermitted",
    "Checkpoint",
    "Client",
    "ClientRef",
    "ClusterClient",
    "ClusterConfig",
    "ClusterStatus",
    "Command",
    "CommandFailed",
    "CommandMeta",
    "CommandTimeout",
    "ConfigurationError",
    "Damaged",
    "DeletedCluster",
    "DemonitorNode",
    "DemonitorProcess",
    "DemotedMember",
    "DiskFull",
    "Down",
    "Effects",
    "ExternalLogReader",
    "Forbidden",
    "GarbageCollect",
    "HttpConfig",
    "Index",
    "IndexTerm",
    "InvalidCommand",
    "InvariantViolation",
    "KeyMetrics",
    "KvMachine",
    "LeaderBalance",
    "LeaderMove",
    "LeaderTimeout",
    "LogConfig",
    "LogEntry",
    "LogUpdate",
    "Machine",
    "MachineEffect",
    "MachineFault",
    "MachineVersion",
    "Member",
    "MemberInfo",
    "MemberOverview",
    "MemberStatus",
    "MembersInfo",
    "Membership",
    "ModCall",
    "MonitorNode",
    "MonitorProcess",
    "Named",
    "NoLeader",
    "NoQuorum",
    "Node",
    "NodeConfig",
    "NodeDown",
    "NodeOverview",
    "NodeStatus",
    "NodeUp",
    "NonVoter",
    "NotAvailableYet",
    "NotLeader",
    "NotUpToDate",
    "Notification",
    "ObjectClient",
    "OutcomeUnknown",
    "Overloaded",
    "Pid",
    "PlanInfo",
    "PlanRead",
    "Pong",
    "Process",
    "PromotedMember",
    "ProtocolError",
    "Query",
    "QueryMeta",
    "QueryResult",
    "QueryTimeout",
    "ReadLog",
    "ReadPlan",
    "Refused",
    "ReleaseCursor",
    "RemovedMember",
    "ReplacedMember",
    "Replicated",
    "Reply",
    "ReplyMode",
    "ReplyTo",
    "RespConfig",
    "Result",
    "RunMeta",
    "SegmentRange",
    "SendMsg",
    "ServerId",
    "ServerOverview",
    "ServerSettings",
    "ServerState",
    "ShrunkCluster",
    "SimpleMachine",
    "SnapshotModule",
    "SnapshotsConfig",
    "StaleIncarnation",
    "StartedCluster",
    "StartedServer",
    "Status",
    "Stopped",
    "StorageError",
    "Term",
    "TimeConfig",
    "Timeout",
    "Timer",
    "TlsConfig",
    "Transfer",
    "TryAppend",
    "Uid",
    "Unauthenticated",
    "UnknownCluster",
    "UnknownMember",
    "WalDown",
    "command",
    "connect",
    "load_config",
    "local_client",
    "machine_of",
    "query",
    "sync",
]
