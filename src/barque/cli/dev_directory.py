"""The directory of `barque dev`: its contents, how they are made, and how they are removed.

::

    dev.json        the nodes: addresses, pids and when those processes began
    dev.lock        held while one command changes any of this
    secret          of the nodes; mode 0600, as the next two
    admin-secret    of administrators: the command line takes it from here
    client-secret   of clients
    n1/node.toml    the node's configuration
    n1/node.log     the node's stdout and stderr
    n1/data/        its log and votes

Page: docs/operations/files.md.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from barque.cli.failures import IO_ERROR, USAGE, CliError

DEFAULT_DIRECTORY = "barque-data"
CLUSTER = "kv"
HOST = "127.0.0.1"
_FORMAT = 1
_NODE_ENTRIES = frozenset(("node.toml", "node.log", "data"))
_SECRETS = {"node": "secret", "admin": "admin-secret", "client": "client-secret"}
_OWN_FILES = frozenset(("dev.json", "dev.json.tmp", "dev.lock", *_SECRETS.values()))


class ProcessMark(msgspec.Struct, frozen=True):
    """A process: its pid, and its start in clock ticks, which tells it from a later process with that pid."""

    pid: int
    began: int


class DevNode(msgspec.Struct, frozen=True):
    """One node. `process` is its newest process, dead or alive."""

    name: str
    address: str
    resp_address: str
    process: ProcessMark | None = None


class DevState(msgspec.Struct, frozen=True):
    """The contents of `dev.json`. `supervisor` is the `barque dev` in a foreground, if there was one.

    `machines` are the user's, by the name of their cluster, and `imported_from` is where Python finds them.
    """

    nodes: tuple[DevNode, ...]
    supervisor: ProcessMark | None = None
    format: int = _FORMAT
    machines: dict[str, str] = {}
    imported_from: str = ""

    def node(self, name: str) -> DevNode:
        """The node of that name. Raises `CliError`."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise CliError(f"there is no node {name!r} here; the nodes are {known}", USAGE)

    def with_process(self, name: str, process: ProcessMark | None) -> "DevState":
        """The same state with another process for one node."""
        nodes = tuple(
            msgspec.structs.replace(node, process=process) if node.name == name else node
            for node in self.nodes
        )
        return msgspec.structs.replace(self, nodes=nodes)


class DevDirectory:
    """Paths and contents of one such directory."""

    def __init__(self, root: Path) -> None:
        self.shown = root
        """The path as the user wrote it, for messages."""
        self.root = root.absolute()
        self.state_path = self.root / "dev.json"

    @property
    def exists(self) -> bool:
        """Whether `barque dev` has made it."""
        return self.state_path.is_file()

    def secret_path(self, role: str) -> Path:
        """The secret of a role: `node`, `admin` or `client`."""
        return self.root / _SECRETS[role]

    def config_path(self, name: str) -> Path:
        """A node's configuration."""
        return self.root / name / "node.toml"

    def log_path(self, name: str) -> Path:
        """A node's stdout and stderr."""
        return self.root / name / "node.log"

    def data_path(self, name: str) -> Path:
        """A node's log and votes."""
        return self.root / name / "data"

    # --- state -------------------------------------------------------------------------

    def load(self) -> DevState:
        """Read `dev.json`. Raises `CliError` if there is none, or if it cannot be understood."""
        try:
            state = msgspec.json.decode(self.state_path.read_bytes(), type=DevState)
        except FileNotFoundError:
            raise CliError(
                f"{self.shown} is not a directory of `barque dev`; name one with --dir, or make one with "
                f"`barque dev --dir {self.shown}`",
                USAGE,
            ) from None
        except msgspec.DecodeError as error:
            raise CliError(
                f"{self.state_path}: {error}; restore it, or choose another --dir", IO_ERROR
            ) from error
        if state.format != _FORMAT:
            raise CliError(
                f"{self.state_path} has format {state.format}, of another release; use that release, or "
                "choose another --dir",
                IO_ERROR,
            )
        return state

    def save(self, state: DevState) -> None:
        """Replace `dev.json` atomically: a reader sees the old or the new state."""
        temporary = self.root / "dev.json.tmp"
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
        temporary.replace(self.state_path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock under which commands change this directory. Raises `CliError` if another holds it."""
        with (self.root / "dev.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CliError(
                    f"another `barque dev` command is changing {self.shown}; try again when it has ended"
                ) from None
            yield

    # --- making and removing -------------------------------------------------------------

    def prepare(self) -> None:
        """Make the directory, or check that it is ours or empty. Raises `CliError` if it is not."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        foreign = [] if self.exists else self._foreign()
        if foreign:
            raise CliError(
                f"{self.shown} holds {_some(foreign)}, which `barque dev` did not make; "
                "choose an empty or new --dir",
                USAGE,
            )

    def forget(self) -> None:
        """Remove an empty directory again after a failed start."""
        if not self.exists:
            (self.root / "dev.lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.root.rmdir()

    def _foreign(self) -> list[str]:
        """List the entries that are not ours. Without `dev.json` that includes every node's directory."""
        names = {node.name for node in self.load().nodes} if self.exists else set()
        foreign = []
        for entry in sorted(self.root.iterdir()):
            if entry.name in names and entry.is_dir() and not entry.is_symlink():
                foreign += [
                    f"{entry.name}/{inner.name}"
                    for inner in sorted(entry.iterdir())
                    if inner.name not in _NODE_ENTRIES or inner.is_symlink()
                ]
            elif entry.name not in _OWN_FILES or entry.is_symlink():
                foreign.append(entry.name)
        return foreign

    def remove_contents(self) -> None:
        """Remove what `barque dev` made. If there is anything else, remove nothing and raise `CliError`."""
        if not self.exists:
            return
        foreign = self._foreign()
        if foreign:
            raise CliError(
                f"{self.shown} holds {_some(foreign)}, which `barque dev` did not make, so --fresh removes "
                "nothing; move that away, or choose another --dir",
                USAGE,
            )
        for node in self.load().nodes:
            if (self.root / node.name).exists():
                shutil.rmtree(self.root / node.name)
        for name in ("dev.json.tmp", *_SECRETS.values(), "dev.json"):  # the last: until then, this is ours
            (self.root / name).unlink(missing_ok=True)

    def write(self, state: DevState) -> None:
        """Write the configurations and `dev.json`, and the secrets that are not there."""
        for path in (self.secret_path(role) for role in _SECRETS):
            if not path.exists():
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(secrets.token_hex(32) + "\n")
        self.save(state)  # first: it makes the nodes' directories ours
        for node in state.nodes:
            (self.root / node.name).mkdir(mode=0o700, exist_ok=True)
            self.config_path(node.name).write_text(self._toml(node, state))

    def _toml(self, node: DevNode, state: DevState) -> str:
        addresses = "\n".join(f"{other.name} = {_quoted(other.address)}" for other in state.nodes)
        return "\n".join(
            (
                "# Written by `barque dev` at every start.",
                f"name = {_quoted(node.name)}",
                f"data_dir = {_quoted(str(self.data_path(node.name)))}",
                f"secret_file = {_quoted(str(self.secret_path('node')))}",
                f"admin_secret_file = {_quoted(str(self.secret_path('admin')))}",
                f"client_secret_file = {_quoted(str(self.secret_path('client')))}",
                "",
                "[nodes]",
                addresses,
                "",
                "[resp]",
                f"bind = {_quoted(node.resp_address)}",
                f"cluster = {_quoted(CLUSTER)}",
                "",
                "[[clusters]]",
                f"name = {_quoted(CLUSTER)}",
                'machine = "kv"',
                "",
                *_machines_toml(state.machines),
            )
        )

    def log_tail(self, name: str, lines: int = 8) -> list[str]:
        """The last lines of a node's log."""
        try:
            with self.log_path(name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
                return file.read().decode(errors="replace").splitlines()[-lines:]
        except OSError:
            return []


def _machines_toml(machines: dict[str, str]) -> list[str]:
    """A cluster for each machine of the user's."""
    if not machines:
        return []
    lines = ["[machines]", *(f"{name} = {_quoted(path)}" for name, path in machines.items()), ""]
    for name in machines:
        lines += ["[[clusters]]", f"name = {_quoted(name)}", f"machine = {_quoted(name)}", ""]
    return lines


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's strings are a subset of them."""
    return msgspec.json.encode(text).decode()


def _some(names: list[str]) -> str:
    """A few names, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
