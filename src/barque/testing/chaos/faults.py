"""Faults of a running cluster. A fault is a context: it begins, lasts, and is undone at its end.

No fault touches a node on which another fault of its kind is at work. A fault that finds no victim raises
`NotNow`, and does not count.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from barque.client.client import Client
from barque.errors import AlreadyMember, BarqueError, OutcomeUnknown
from barque.testing.chaos.clients import CLUSTER, until
from barque.testing.chaos.nodes import NodeProcesses
from barque.testing.chaos.proxy import Link, Mode, Network

_ASK_S = 2.0
_LOOK_S = 0.5
_LOOKS = 20
_RESTART_S = 0.3
_JOIN_S = 30.0
_STRACE_S = 5.0
_DISK_CALLS = "pwritev2,pwritev,pwrite64,fdatasync,fsync"
_DISK_DELAY_US = 30_000


class NotNow(Exception):
    """The fault cannot begin at this moment."""


class Stage:
    """The cluster on which faults work.

    `admin` is a client over links that no fault touches; each of `watchers` knows one node only.
    """

    def __init__(
        self,
        nodes: NodeProcesses,
        network: Network,
        admin: Client,
        watchers: dict[str, Client],
        directory: Path,
    ) -> None:
        self.nodes, self.network, self.admin, self.watchers = nodes, network, admin, watchers
        self.directory = directory
        self.names = nodes.names
        self.busy: set[str] = set()
        """Nodes that a fault keeps down or frozen, or whose disk it makes fail."""
        self.restarts = 0
        """How many nodes the keeper has started again."""
        self._turn = asyncio.Lock()

    def free(self) -> list[str]:
        """Running nodes on which no fault works."""
        return [name for name in self.names if name not in self.busy and self.nodes.is_alive(name)]

    @contextlib.asynccontextmanager
    async def kept(self, tell: Callable[[str], None]) -> AsyncIterator[None]:
        """Start nodes again that end by themselves, as a service manager does, while the block runs."""
        keeper = asyncio.create_task(self._keep(tell))
        try:
            yield
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    async def _keep(self, tell: Callable[[str], None]) -> None:
        while True:
            self.nodes.reap()
            down = [name for name in self.names if not self.nodes.is_alive(name)]
            await asyncio.sleep(_RESTART_S)
            still = [name for name in down if name not in self.busy and not self.nodes.is_alive(name)]
            self.nodes.start(still)  # a fault that keeps a node down holds it in `busy`
            self.restarts += len(still)
            for name in still:
                tell(f"keeper: {name} had ended, and is started again")

    async def leader(self) -> str | None:
        """The node that leads, as far as any node answers; the latest term counts."""
        asked = [self._term_as_leader(name) for name in self.names if self.nodes.is_alive(name)]
        newest = max(await asyncio.gather(*asked), default=None)
        return newest[1] if newest is not None and newest[0] else None

    async def _term_as_leader(self, name: str) -> tuple[int, str]:
        """The term in which this node's own member leads, or 0."""
        ask = self.watchers[name].call("local_report", {"clusters": [CLUSTER]}, timeout_s=_LOOK_S)
        try:
            async with asyncio.timeout(_LOOK_S):
                report = await ask
        except (BarqueError, TimeoutError):
            return 0, name
        terms = [int(m["current_term"]) for m in report["members"] if m["role"] == "leader"]
        return max(terms, default=0), name

    async def some_leader(self) -> str:
        """Wait for a leader and return its node. Raises `NotNow`."""
        for _ in range(_LOOKS):
            leader = await self.leader()
            if leader is not None:
                return leader
            await asyncio.sleep(_LOOK_S)
        raise NotNow("no node leads")

    @contextlib.asynccontextmanager
    async def taking(self, rng: random.Random, wanted: str) -> AsyncIterator[list[str]]:
        """Take `one`, the `leader`, a `minority` or `majority`, or `all`; other faults leave them alone.

        Raises `NotNow`.
        """
        chosen = await self._choose(rng, wanted)
        self.busy.update(chosen)
        try:
            yield chosen
        finally:
            self.busy.difference_update(chosen)

    async def _choose(self, rng: random.Random, wanted: str) -> list[str]:
        """Wait until enough nodes are free.

        Faults wait in line: a fault that needs all nodes would never find them otherwise.
        """
        half = len(self.names) // 2
        counts = {"one": 1, "leader": 1, "minority": half, "majority": half + 1, "all": len(self.names)}
        order: list[str | None] = [*rng.sample(self.names, len(self.names))]
        async with self._turn:
            for _ in range(_LOOKS):
                acceptable = [await self.leader()] if wanted == "leader" else order
                free = self.free()
                chosen = [name for name in acceptable if name in free][: counts[wanted]]
                if len(chosen) == counts[wanted]:
                    return [name for name in chosen if name is not None]
                await asyncio.sleep(_LOOK_S)
        raise NotNow(f"no {wanted} to choose")


Context: TypeAlias = AbstractAsyncContextManager[str]
Begin: TypeAlias = Callable[[Stage, random.Random], Context]


class Fault(NamedTuple):
    """`begin` makes the context, which yields a line about what it does. Lanes run side by side."""

    lane: str
    begin: Begin
    needs: str = ""
    """`strace`, which is not installed everywhere."""
    brief: bool = False
    """It ends at once, so its length means nothing."""


def _context(function: Callable[..., AsyncIterator[str]], *arguments: Any) -> Begin:
    """A fault with its arguments, which waits for a stage."""
    make = contextlib.asynccontextmanager(function)
    return lambda stage, rng: make(stage, rng, *arguments)


# --- processes --------------------------------------------------------------------------------------


async def _kill(stage: Stage, rng: random.Random, wanted: str) -> AsyncIterator[str]:
    async with stage.taking(rng, wanted) as chosen:
        stage.nodes.kill(chosen)
        try:
            yield f"SIGKILL {', '.join(sorted(chosen))}"
        finally:
            stage.nodes.start(chosen)


async def _pause(stage: Stage, rng: random.Random, wanted: str) -> AsyncIterator[str]:
    async with stage.taking(rng, wanted) as chosen:
        for name in chosen:
            stage.nodes.signal(name, signal.SIGSTOP)
        try:
            yield f"SIGSTOP {', '.join(sorted(chosen))}"
        finally:
            for name in chosen:
                stage.nodes.signal(name, signal.SIGCONT)


# --- links ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _closed(links: list[Link], mode: Mode) -> Any:
    """Close these links for a while. A link without traffic shows no fault: raise `NotNow` at the end."""
    before = sum(link.stopped_bytes + link.resets for link in links)
    for link in links:
        link.set(mode)
    try:
        yield
    finally:
        for link in links:
            link.set(Mode.OPEN)
    if sum(link.stopped_bytes + link.resets for link in links) == before:
        raise NotNow("nothing was sent over the closed links")


def _mode(rng: random.Random) -> Mode:
    return rng.choice((Mode.HELD, Mode.HELD, Mode.REFUSED, Mode.SWALLOWED))


async def _split(stage: Stage, rng: random.Random, how: str) -> AsyncIterator[str]:
    names = list(stage.names)
    if how == "random-halves":
        rng.shuffle(names)
    elif how == "leader":
        leader = await stage.some_leader()
        names.remove(leader)
        names.insert(0, leader)
    elif how == "one":
        one = rng.choice(names)
        names.remove(one)
        names.insert(0, one)
    cut = 1 if how in ("leader", "one") else len(names) // 2
    mode = _mode(rng)
    with _closed(stage.network.between(names[:cut], names[cut:]), mode):
        yield f"{' '.join(sorted(names[:cut]))} | {' '.join(sorted(names[cut:]))}, links {mode}"


async def _ring(stage: Stage, rng: random.Random) -> AsyncIterator[str]:
    """Every node sees a different majority; of three nodes, two do not see each other."""
    names = list(stage.names)
    rng.shuffle(names)
    count = len(names)
    reach = max(1, count // 4)
    pairs = [
        (a, b)
        for i, a in enumerate(names)
        for j, b in enumerate(names[i + 1 :], i + 1)
        if min(j - i, count - (j - i)) > reach
    ] or [(names[0], names[1])]
    mode = _mode(rng)
    links = [link for a, b in pairs for link in stage.network.between([a], [b])]
    with _closed(links, mode):
        yield f"cut: {', '.join(f'{a}–{b}' for a, b in pairs)}, links {mode}"


async def _one_way(stage: Stage, rng: random.Random) -> AsyncIterator[str]:
    """Nothing that one node sends (or receives) arrives; the other direction works."""
    name = (await stage.leader() if rng.random() < 0.5 else None) or rng.choice(stage.names)
    outward = rng.random() < 0.5
    links = [
        link for link in stage.network.among_nodes() if (link.source if outward else link.target) == name
    ]
    mode = _mode(rng)
    with _closed(links, mode):
        yield f"{'from' if outward else 'to'} {name}: links {mode}"


async def _half_open(stage: Stage, rng: random.Random) -> AsyncIterator[str]:
    name = (await stage.leader() if rng.random() < 0.5 else None) or rng.choice(stage.names)
    others = [other for other in stage.names if other != name]
    with _closed(stage.network.between([name], others), Mode.SWALLOWED):
        yield f"all bytes from and to {name} are swallowed without notice"


async def _flapping(stage: Stage, rng: random.Random) -> AsyncIterator[str]:
    """Two nodes see each other only now and then, about as often as elections take."""
    a, b = rng.sample(stage.names, 2)
    links = stage.network.between([a], [b])
    mode, period_s = _mode(rng), rng.choice((0.1, 0.3, 0.8))

    async def flap() -> None:
        while True:
            for next_mode in (mode, Mode.OPEN):
                for link in links:
                    link.set(next_mode)
                await asyncio.sleep(period_s * rng.uniform(0.5, 1.5))

    with _closed(links, mode):
        task = asyncio.create_task(flap())
        try:
            yield f"{a}–{b} comes and goes every {period_s} s, links {mode}"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _slow_links(stage: Stage, rng: random.Random) -> AsyncIterator[str]:
    links = stage.network.among_nodes()
    if rng.random() < 0.5:
        links = rng.sample(links, len(links) // 2)
    delay_s = rng.choice((0.01, 0.05, 0.2))
    for link in links:
        link.delay_s = delay_s
    try:
        yield f"{len(links)} links are {delay_s} s late"
    finally:
        for link in links:
            link.delay_s = 0.0


async def _reset(stage: Stage, rng: random.Random, whose: str) -> AsyncIterator[str]:
    links = stage.network.to_clients() if whose == "clients" else stage.network.among_nodes()
    count = sum(link.connections for link in links)
    if not count:
        raise NotNow("no connections")
    for link in links:
        link.reset()
    yield f"{count} connections of {whose} were reset"


# --- disks ------------------------------------------------------------------------------------------


async def _disk(stage: Stage, rng: random.Random, injection: str) -> AsyncIterator[str]:
    """System calls that write or sync fail, or take long, by means of strace."""
    notes = stage.directory / "strace.out"
    notes.unlink(missing_ok=True)
    command = ["strace", "-f", "-qq", "-o", str(notes), "-e", f"trace={_DISK_CALLS}"]
    command += ["-e", f"inject={_DISK_CALLS}:{injection}"]
    async with stage.taking(rng, rng.choice(("leader", "one"))) as [name]:
        if injection.startswith("error"):
            stage.nodes.disk_fails(name)
        tracer = subprocess.Popen(  # noqa: ASYNC220, S603  # it returns at once; our own arguments
            [*command, "-p", str(stage.nodes.pid(name))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a group of its own, which `end_tracer` ends as a whole
        )
        try:
            yield f"{name}: {injection}"
        finally:
            end_tracer(tracer)
    injected = notes.read_bytes() if notes.exists() else b""
    notes.unlink(missing_ok=True)
    if b"INJECTED" not in injected and b"DELAYED" not in injected:
        raise NotNow("no system call was touched")


def end_tracer(tracer: subprocess.Popen[bytes]) -> None:
    """Let strace detach, then end whatever it has started. Blocks for a moment, also in a cancelled task.

    strace tries out the kernel with children of its own when it starts. If it is told to end just then, a
    child that waits for its parent would live on.
    """
    tracer.terminate()
    deadline = time.monotonic() + _STRACE_S
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT  # unreaped, its process id still names the group
    while os.waitid(os.P_PID, tracer.pid, ended) is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(tracer.pid, signal.SIGKILL)
    tracer.wait()


def has_strace() -> bool:
    """Whether disks can be made to fail here."""
    return shutil.which("strace") is not None


# --- the cluster itself -----------------------------------------------------------------------------


async def _transfer(stage: Stage, rng: random.Random) -> AsyncIterator[str]:
    leader = await stage.some_leader()
    target = rng.choice([name for name in stage.names if name != leader])
    try:
        await stage.admin.transfer_leadership(CLUSTER, target, timeout_s=_ASK_S)
    except BarqueError as error:
        raise NotNow(f"{target}: {error}") from error
    yield f"{leader} hands over to {target}"


async def _member(stage: Stage, rng: random.Random) -> AsyncIterator[str]:
    """One member leaves the cluster with all its data, and a new one joins in its place."""
    async with stage.taking(rng, rng.choice(("leader", "one"))) as [name]:
        member = f"{CLUSTER}@{name}"
        try:
            told: bool | str = (await stage.admin.remove_member(CLUSTER, member, timeout_s=_ASK_S)).told
        except OutcomeUnknown:
            told = "outcome unknown"  # the node is added again in any case
        except BarqueError as error:
            raise NotNow(f"{member}: {type(error).__name__}: {error}") from error
        try:
            yield f"{member} is removed ({told})"
        finally:
            await add_again(stage, name)


async def add_again(stage: Stage, name: str) -> None:
    """Try until the node is a member; the end of the run finds out if it never becomes one."""

    async def is_member() -> str:
        with contextlib.suppress(AlreadyMember):
            await stage.admin.add_member(CLUSTER, name, timeout_s=_ASK_S)
        return ""

    await until(is_member, _JOIN_S, _LOOK_S)


FAULTS: dict[str, Fault] = {
    **{f"kill-{who}": Fault("processes", _context(_kill, who)) for who in ("one", "leader", "majority")},
    "kill-minority": Fault("processes", _context(_kill, "minority")),
    "kill-all": Fault("processes", _context(_kill, "all")),
    "kill-and-restart": Fault("processes", _context(_kill, "minority"), brief=True),
    **{f"pause-{who}": Fault("processes", _context(_pause, who)) for who in ("one", "leader", "majority")},
    "partition-halves": Fault("links", _context(_split, "halves")),
    "partition-random-halves": Fault("links", _context(_split, "random-halves")),
    "partition-random-node": Fault("links", _context(_split, "one")),
    "partition-majorities-ring": Fault("links", _context(_ring)),
    "isolate-leader": Fault("links", _context(_split, "leader")),
    "one-way": Fault("links", _context(_one_way)),
    "half-open": Fault("links", _context(_half_open)),
    "flapping": Fault("links", _context(_flapping)),
    "slow-links": Fault("links", _context(_slow_links)),
    "reset": Fault("links", _context(_reset, "nodes"), brief=True),
    "client-reset": Fault("clients", _context(_reset, "clients"), brief=True),
    "slow-disk": Fault("disks", _context(_disk, f"delay_enter={_DISK_DELAY_US}"), "strace"),
    "disk-error": Fault("disks", _context(_disk, "error=EIO"), "strace"),
    "disk-full": Fault("disks", _context(_disk, "error=ENOSPC"), "strace"),
    "transfer": Fault("leadership", _context(_transfer), brief=True),
    "member": Fault("members", _context(_member)),
}
"""All faults by name."""


def lacking() -> set[str]:
    """What some faults need and this machine does not have."""
    return set() if has_strace() else {"strace"}
