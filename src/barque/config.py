"""The configuration of a node: read from TOML, and checked before anything starts.

Every field has a default, except fields that only the user can know. The reference page
docs/reference/configuration.md lists them all.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from barque.errors import ConfigurationError
from barque.types import NAME_RULE, is_valid_name

Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=24 * 60 * 60 * 1000)]
Factor = Annotated[int, msgspec.Meta(ge=1, le=1_000)]
FileSize = Annotated[int, msgspec.Meta(ge=1_024, le=4 * 1024**3)]
FreeSpace = Annotated[int, msgspec.Meta(ge=1, le=1024**4)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10**12)]
Commands = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
Bytes = Annotated[int, msgspec.Meta(ge=1_000, le=1024**4)]
Restarts = Annotated[int, msgspec.Meta(ge=0, le=1_000)]
Version = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Password = Annotated[str, msgspec.Meta(min_length=8, max_length=512)]
PathText = Annotated[str, msgspec.Meta(min_length=1, max_length=4_096)]
ClusterName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
"""Every number and text has a range: a setting beyond it is a mistake, and is refused by its name."""


_ANY = frozenset(("0.0.0.0", "::", "0", "*", "::0", "0:0:0:0:0:0:0:0"))  # noqa: S104  # refused as addresses


class TimeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Intervals, all in milliseconds; the defaults are Ra's (TIME-01, TIME-05, FD-01)."""

    broadcast_time_ms: Milliseconds = 100
    election_multiplier: Factor = 5
    detector_poll_ms: Milliseconds = 1_000
    heartbeat_interval_ms: Milliseconds = 100
    tick_ms: Milliseconds = 1_000
    await_condition_timeout_ms: Milliseconds = 30_000
    wal_down_timeout_ms: Milliseconds = 5_000
    restarts_period_ms: Milliseconds = 5_000
    """See `NodeConfig.server_restarts_max`."""
    clock_error_max_ms: Milliseconds = 500
    """How far a node's wall clock may be from the nodes' median before the median counts instead."""


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The log, and its way to other members.

    `writer` is `auto`, `inline` or `thread` (docs/operations/disk.md).
    `prefill`: whether a thread zero-fills the next file in advance; simulations have no threads.
    """

    wal_max_size_bytes: FileSize = 64 * 1024 * 1024
    writer: Literal["auto", "inline", "thread"] = "auto"
    prefill: bool = True
    wal_max_entries: Count | Literal["unlimited"] = "unlimited"
    """When the next log file begins, besides the size."""
    segment_max_entries: Count = 4_096
    segment_max_size_bytes: FileSize = 64_000_000
    retained_bytes_max: Bytes = 256 * 1024 * 1024
    """How much is kept below a snapshot for members that are being sent an older one."""
    readers_bytes_max: Bytes = 256 * 1024 * 1024
    """How much is kept of files that a member's log has replaced, for programs that still read them."""
    max_pipeline_count: Commands = 16_384
    """Entries that may be on their way to one member."""
    max_pipeline_bytes: Bytes = 4 * 1024 * 1024
    """Their bytes. One message may go beyond."""
    max_append_entries_rpc_batch_size: Commands = 4_096
    """Entries in one message to a member."""
    max_append_entries_rpc_bytes: Bytes = 1024 * 1024
    """Their bytes. One batch of a client may go beyond."""
    low_priority_commands_flush_size: Commands = 16_384
    """Commands of low priority that a leader appends at a time, or `max_pipeline_bytes` of them."""
    wal_flush_bytes_max: Bytes = 16 * 1024 * 1024
    """What one write to the log file takes at most. One batch may go beyond."""
    disk_free_min_bytes: FreeSpace | Literal["auto"] = "auto"
    """Below it the node takes no new commands. `auto`: two log files, at least 256 MiB, at most a tenth."""


class SnapshotsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When snapshots are made, and how they are sent. Intervals in entries, as Ra's.

    A snapshot is due after `min_interval` entries or `interval_bytes` of them; `checkpoints_max` are kept.
    `recovery_min_interval`: an orderly stop keeps the state if so many entries would have to be replayed;
    `never`: it does not.
    """

    min_interval: Count = 4_096
    interval_bytes: Annotated[int, msgspec.Meta(ge=1, le=1024**4)] = 64 * 1024 * 1024
    checkpoint_min_interval: Count = 16_384
    checkpoints_max: Factor = 10
    recovery_min_interval: Count | Literal["never"] = "never"
    chunk_size_bytes: Annotated[int, msgspec.Meta(ge=16, le=16 * 1024 * 1024)] = 1_000_000
    silence_ticks_max: Factor = 30
    """After so many ticks without an answer the sending of a snapshot is given up, and tried again later."""
    backoff_ms: Milliseconds = 5_000
    receive_timeout_ms: Milliseconds = 30_000
    compression: Literal["none", "zlib", "zstd"] = "none"
    """How pieces of snapshots are compressed for members that can unpack them."""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings for the servers of one cluster on this node, in the place of the node's."""

    max_pipeline_count: Commands | msgspec.UnsetType = msgspec.UNSET
    max_pipeline_bytes: Bytes | msgspec.UnsetType = msgspec.UNSET
    max_append_entries_rpc_batch_size: Commands | msgspec.UnsetType = msgspec.UNSET
    max_append_entries_rpc_bytes: Bytes | msgspec.UnsetType = msgspec.UNSET
    low_priority_commands_flush_size: Commands | msgspec.UnsetType = msgspec.UNSET
    await_condition_timeout_ms: Milliseconds | msgspec.UnsetType = msgspec.UNSET
    wal_down_timeout_ms: Milliseconds | msgspec.UnsetType = msgspec.UNSET
    receive_snapshot_timeout_ms: Milliseconds | msgspec.UnsetType = msgspec.UNSET
    snapshot_silent_ticks_max: Factor | msgspec.UnsetType = msgspec.UNSET
    snapshot_backoff_ms: Milliseconds | msgspec.UnsetType = msgspec.UNSET
    machine_upgrade_strategy: Literal["all", "quorum"] | msgspec.UnsetType = msgspec.UNSET


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TLS for all ports (docs/operations/security.md): PEM files, of which `ca_file` may hold several.

    Nodes always show each other certificates. `client_cert_required` demands them of clients, too.
    """

    cert_file: str
    key_file: str
    ca_file: str
    client_cert_required: bool = False


class RespConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Redis protocol gateway: where it listens and which cluster it serves.

    Any of `password` and `passwords` lets a client in: two are valid while a password is replaced.
    """

    bind: str
    cluster: str = "kv"
    password: Password | None = None
    passwords: tuple[Password, ...] = ()
    timeout_ms: Milliseconds = 4_000
    tls: bool = False
    """Whether clients must speak TLS; the files are those of `[tls]`."""


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """HTTP for programs that watch the node (docs/operations/monitoring.md). They can change nothing."""

    bind: str = "127.0.0.1:9100"
    tls: bool = False
    """Whether clients must speak TLS; the files are those of `[tls]`."""


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cluster that this node forms, or joins in forming, when it starts for the first time."""

    name: str
    machine: str
    members: tuple[str, ...] = ()
    """Node names; empty means all nodes."""
    arguments: dict[str, Any] = {}
    initial_machine_version: Version = 0
    """The version that the cluster begins with; alike on all nodes (VER-06)."""


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One node.

    `nodes` maps every node's name, this one's too, to the address that others reach it by, so
    the same table serves on all of them. `bind` is where this node listens, if that differs.
    `secret` is the nodes' secret, which grants every role; `secret_file` names a file that holds it, or
    several during a change, one a line. With `admin_secret` and `client_secret` (or their files)
    administrators and clients have secrets of their own (docs/operations/security.md).
    """

    name: str
    data_dir: PathText
    nodes: dict[str, str]
    bind: str = ""
    installation: str = "barque"
    secret: str = ""
    secret_file: str = ""
    admin_secret: str = ""
    admin_secret_file: str = ""
    client_secret: str = ""
    client_secret_file: str = ""
    tls: TlsConfig | None = None
    resp: RespConfig | None = None
    http: HttpConfig | None = None
    clusters: tuple[ClusterConfig, ...] = ()
    machines: dict[str, str] = {}
    """Machines that may be started here, by name: `package.module:Class`."""
    time: TimeConfig = TimeConfig()
    log: LogConfig = LogConfig()
    snapshots: SnapshotsConfig = SnapshotsConfig()
    machine_upgrade_strategy: Literal["all", "quorum"] = "all"
    """When clusters move to a new machine version: when `all` members have it, or at once (`quorum`)."""
    server_recovery_strategy: Literal["all", "none"] | tuple[ClusterName, ...] = "all"
    """The servers that start with this node: `all`, `none`, or those of these clusters (SYS-23).

    A server that an operator has stopped starts in no case; `restart_server` starts any."""
    server_restarts_max: Restarts = 2
    """How often a server whose disk fails starts again within `time.restarts_period_ms`."""
    servers: dict[str, ServerSettings] = {}
    """Settings for the servers of some clusters, by the cluster's name."""
    pending_commands_max: Commands = 1_000_000
    pending_bytes_max: Bytes = 512 * 1024 * 1024

    @property
    def data_path(self) -> str:
        """`data_dir` as an absolute path without `~` and without a slash at its end."""
        return os.path.abspath(os.path.expanduser(self.data_dir))

    def check(self) -> None:
        """Refuse what cannot work. Raises `ConfigurationError` naming the setting and the cure."""
        self._check_ranges()
        paths = [self.data_dir, self.secret_file, self.admin_secret_file, self.client_secret_file]
        if self.tls is not None:
            paths += [self.tls.cert_file, self.tls.key_file, self.tls.ca_file]
        if any("\0" in path for path in paths):
            raise ConfigurationError("data_dir, secret_file, tls: a path cannot hold the byte 0")
        check_name("name", self.name)
        check_name("installation", self.installation)
        if self.name not in self.nodes:
            known = ", ".join(sorted(self.nodes)) or "none"
            raise ConfigurationError(
                f"nodes: this node, {self.name!r}, is not among them ({known}); add it with its address"
            )
        self._check_addresses()
        self._check_credentials()
        self._check_clusters()
        if self.time.heartbeat_interval_ms * 3 > self.time.detector_poll_ms:
            raise ConfigurationError("time: detector_poll_ms must be at least three heartbeat_interval_ms")

    def _check_ranges(self) -> None:
        """Hold a configuration that a program has made to the types and ranges that a file is held to."""
        plain = msgspec.structs.asdict(self)
        plain["clusters"] = [{**msgspec.structs.asdict(c), "arguments": {}} for c in self.clusters]
        try:
            msgspec.convert(msgspec.to_builtins(plain, builtin_types=(bytes, bytearray)), NodeConfig)
        except (msgspec.ValidationError, TypeError) as error:
            raise ConfigurationError(f"{error}") from error

    def _check_addresses(self) -> None:
        by_address: dict[str, str] = {}
        for node, address in self.nodes.items():
            check_name("nodes", node)
            _check_reachable(f"nodes.{node}", address)
            other = by_address.setdefault(address, node)
            if other != node and not address.endswith(":0"):
                raise ConfigurationError(f"nodes: {other!r} and {node!r} have the same address {address}")
        binds = {"bind": self.bind, "resp.bind": self.resp.bind if self.resp else ""}
        binds["http.bind"] = self.http.bind if self.http else ""
        for setting, bind in binds.items():
            _check_brackets(setting, bind)

    def _check_credentials(self) -> None:
        """Nodes do not talk without a secret, or certificates on both sides."""
        for setting, text, path in (
            ("secret", self.secret, self.secret_file),
            ("admin_secret", self.admin_secret, self.admin_secret_file),
            ("client_secret", self.client_secret, self.client_secret_file),
        ):
            if text and path:
                raise ConfigurationError(f"{setting}: give either {setting} or {setting}_file, not both")
        has_secret = bool(self.secret or self.secret_file)
        if not has_secret and (self.tls is None or not self.tls.client_cert_required):
            raise ConfigurationError(
                "secret: give either secret or secret_file, or [tls] with client_cert_required; nodes do not "
                "talk without"
            )
        if not has_secret and (
            self.admin_secret or self.admin_secret_file or self.client_secret or self.client_secret_file
        ):
            raise ConfigurationError(
                "secret: administrators or clients have a secret, and nodes have none; set secret_file"
            )
        for setting, gateway in (("resp.tls", self.resp), ("http.tls", self.http)):
            if gateway is not None and gateway.tls and self.tls is None:
                raise ConfigurationError(
                    f"{setting}: there is no [tls]; give it cert_file, key_file, ca_file"
                )

    def _check_clusters(self) -> None:
        names = [cluster.name for cluster in self.clusters]
        for cluster in self.clusters:
            check_name("clusters", cluster.name)
            if names.count(cluster.name) > 1:
                raise ConfigurationError(f"clusters.{cluster.name}: given twice; name each cluster once")
            for member in cluster.members:
                if member not in self.nodes:
                    raise ConfigurationError(f"clusters.{cluster.name}: member {member!r} is not in nodes")
            if len(set(cluster.members)) != len(cluster.members):
                raise ConfigurationError(f"clusters.{cluster.name}: a member is given twice; name each once")
        if self.resp is not None:
            check_name("resp.cluster", self.resp.cluster)
        for name in self.servers:
            check_name("servers", name)
        if isinstance(self.server_recovery_strategy, tuple):
            for name in self.server_recovery_strategy:
                check_name("server_recovery_strategy", name)


def check_name(setting: str, name: str) -> None:
    """Refuse what is no name of an installation, node or cluster. Raises `ConfigurationError`."""
    if not is_valid_name(name):
        raise ConfigurationError(f"{setting}: {name[:80]!r} is no name; a name has {NAME_RULE}")


def _check_reachable(setting: str, address: str) -> None:
    """Refuse an address at which nobody can reach a node."""
    _check_brackets(setting, address)
    host = address.rpartition(":")[0].strip("[]")
    if host in _ANY:
        raise ConfigurationError(
            f"{setting}: {address!r} is every address of a machine, and none that others can reach; give the "
            "node's own address here, and this one as `bind`"
        )


def _check_brackets(setting: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if ":" in host and not host.startswith("["):
        raise ConfigurationError(
            f"{setting}: {address!r} is an IPv6 address, whose port cannot be told; write [{address}]:7400 "
            f"or [{host}]:{port}"
        )


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
