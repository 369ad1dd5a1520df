"""Barque: multi-Raft for Python. Replicate your own state machine, durably and linearizably.

The layers, lowest first; arrows only point down, and a test sees to it:

- `types`, `errors`, `config`: the vocabulary.
- `machine`: what you implement.
- `core`: the Raft server, which turns messages into effects.
- `log` and `transport`: bytes on disk, and bytes between nodes.
- `runtime`: a node performs the effects, on one event loop.
- `client`: commands and reads, with typed outcomes.
- `gateways`, `bench` and `cli`: the Redis protocol, benchmarks, and the command line.
- `testing`: hand-driven clusters, and a simulator of whole nodes from one seed.
"""

from barque.client import sync
from barque.client.client import Client
from barque.client.local import local_client
from barque.client.outcomes import Notification
from barque.config import ClusterConfig, LogConfig, NodeConfig, RespConfig, TimeConfig, load_config
from barque.errors import BarqueError, InvalidCommand, NoLeader, OutcomeUnknown, QueryTimeout, Refused
from barque.machine.effects import Append, Aux, SendMsg, Timer
from barque.machine.kv import KvMachine
from barque.machine.machine import CommandMeta, Machine, MachineVersion, Timeout
from barque.machine.simple import SimpleMachine
from barque.runtime.node import Node
from barque.types import ClientRef, IndexTerm, ServerId

__version__ = "0.1.0"
__all__ = [
    "Append",
    "Aux",
    "BarqueError",
    "Client",
    "ClientRef",
    "ClusterConfig",
    "CommandMeta",
    "IndexTerm",
    "InvalidCommand",
    "KvMachine",
    "LogConfig",
    "Machine",
    "MachineVersion",
    "NoLeader",
    "Node",
    "NodeConfig",
    "Notification",
    "OutcomeUnknown",
    "QueryTimeout",
    "Refused",
    "RespConfig",
    "SendMsg",
    "ServerId",
    "SimpleMachine",
    "TimeConfig",
    "Timeout",
    "Timer",
    "load_config",
    "local_client",
    "sync",
]
