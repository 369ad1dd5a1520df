"""The configuration of a node: read from TOML, and checked before anything starts.

Every field has a default, except fields that only the user can know. The reference page
docs/reference/configuration.md lists them all.
"""

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from barque.errors import ConfigurationError


class TimeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Intervals, all in milliseconds; the defaults are Ra's (TIME-01, TIME-05, FD-01)."""

    broadcast_time_ms: int = 100
    election_multiplier: int = 5
    detector_poll_ms: int = 1_000
    heartbeat_interval_ms: int = 100
    tick_ms: int = 1_000
    await_condition_timeout_ms: int = 30_000
    wal_down_timeout_ms: int = 5_000


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The write-ahead log. `writer` is `auto`, `inline` or `thread` (docs/operations/disk.md).

    `prefill`: whether a thread zero-fills the next file in advance; simulations have no threads.
    """

    wal_max_size_bytes: int = 64 * 1024 * 1024
    writer: Literal["auto", "inline", "thread"] = "auto"
    prefill: bool = True


class RespConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Redis protocol gateway: where it listens and which cluster it serves."""

    bind: str
    cluster: str = "kv"
    password: str | None = None
    timeout_ms: int = 5_000


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cluster that this node forms, or joins in forming, when it starts for the first time."""

    name: str
    machine: str
    members: tuple[str, ...] = ()
    """Node names; empty means all nodes."""
    arguments: dict[str, Any] = {}


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One node.

    `nodes` maps every node's name, this one's too, to the address that others reach it by, so
    the same table serves on all of them. `bind` is where this node listens, if that differs.
    `secret` is shared by all nodes and clients of one installation; `secret_file` names a file
    that holds it and that only its owner may read.
    """

    name: str
    data_dir: str
    nodes: dict[str, str]
    bind: str = ""
    installation: str = "barque"
    secret: str = ""
    secret_file: str = ""
    resp: RespConfig | None = None
    clusters: tuple[ClusterConfig, ...] = ()
    machines: dict[str, str] = {}
    """Machines that may be started here, by name: `package.module:Class`."""
    time: TimeConfig = TimeConfig()
    log: LogConfig = LogConfig()
    machine_upgrade_strategy: str = "all"
    """When clusters move to a new machine version: when `all` members have it, or at once (`quorum`)."""
    pending_commands_max: int = 1_000_000
    pending_bytes_max: int = 512 * 1024 * 1024

    @property
    def data_path(self) -> str:
        """`data_dir` as an absolute path without `~` and without a slash at its end."""
        return os.path.abspath(os.path.expanduser(self.data_dir))

    def check(self) -> None:
        """Refuse what cannot work. Raises `ConfigurationError` naming the setting and the cure."""
        if not self.data_dir or "\0" in self.data_dir:
            raise ConfigurationError(
                f"data_dir: {self.data_dir!r} is no path; name a directory for this node alone"
            )
        if self.name not in self.nodes:
            known = ", ".join(sorted(self.nodes)) or "none"
            raise ConfigurationError(
                f"nodes: this node, {self.name!r}, is not among them ({known}); add it with its address"
            )
        if self.machine_upgrade_strategy not in ("all", "quorum"):
            raise ConfigurationError(
                f"machine_upgrade_strategy: {self.machine_upgrade_strategy!r} is neither all nor quorum"
            )
        by_address: dict[str, str] = {}
        for node, address in self.nodes.items():
            other = by_address.setdefault(address, node)
            if other != node and not address.endswith(":0"):
                raise ConfigurationError(f"nodes: {other!r} and {node!r} have the same address {address}")
        if bool(self.secret) == bool(self.secret_file):
            raise ConfigurationError("secret: give either secret or secret_file; nodes do not talk without")
        for cluster in self.clusters:
            for member in cluster.members:
                if member not in self.nodes:
                    raise ConfigurationError(f"clusters.{cluster.name}: member {member!r} is not in nodes")
        if self.time.heartbeat_interval_ms * 3 > self.time.detector_poll_ms:
            raise ConfigurationError("time: detector_poll_ms must be at least three heartbeat_interval_ms")


def load_config(path: str) -> NodeConfig:
    """Read a TOML file. Raises `ConfigurationError` naming the file, the setting and the cure."""
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
    try:
        config = msgspec.convert(raw, NodeConfig)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    try:
        config.check()
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    return config
