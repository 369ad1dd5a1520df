"""Check that a machine does the same on every member. Raft cannot repair members that do different things.

`check_machine` applies the commands twice in this process, and once in each of two processes with other hash
seeds. It compares replies and states after every command. `simulate_machine` runs the machine on members
whose links, disks and processes fail, and compares the members with each other and with a replay.
The usual culprits are `time`, `random`, `uuid`, the order of a set, `id()` and `hash()`.
"""

import ast
import hashlib
import inspect
import os
import subprocess  # other processes have other hash seeds
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from barque.errors import BarqueError
from barque.machine.effects import LATER, Checkpoint, ReleaseCursor
from barque.machine.machine import CommandMeta, Machine, RunMeta, apply_many_of
from barque.runtime.machines import load_machines
from barque.testing.core.machine_simulator import Make, simulate_machine as simulate_machine
from barque.types import NOBODY, Index, ReplyMode, Term

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
CULPRITS = ("time", "random", "uuid", "secrets", "datetime", "os.urandom", "id", "hash", "set", "frozenset")
_RUNS = (2, 7, 512)
"""The lengths of runs to try; the last is the longest that a server hands over."""
_CHILD = "from barque.testing.determinism import child; child()"


class NotDeterministic(BarqueError):
    """A machine had two outcomes for one command. The message names the command and both outcomes."""


def check_machine(make: Make | str, commands: Sequence[Any], *, other_processes: bool = True) -> int:
    """Apply the commands to fresh machines and compare the outcomes; return how many it compared.

    `make` is a function that returns a new machine, or the path `package.module:Class`. With
    `other_processes` it must be a path, or a class at the top level of a module, because the other processes
    import it. msgspec must be able to encode replies and states to MessagePack.

    Raises `NotDeterministic` if `apply_many` does not do what `apply` does, or, with the suspicious lines of
    the machine's source, if outcomes differ; `TypeError` if a state cannot be encoded or another process
    cannot run the machine.
    """
    path = make if isinstance(make, str) else _path_of(make)
    factory: Make = (lambda: load_machines({"it": path})["it"]) if isinstance(make, str) else make
    first, second = list(_outcomes(factory(), commands)), list(_outcomes(factory(), commands))
    _compare(factory(), commands, first, second, "a second time in the same process")
    for length in _RUNS:
        _compare_runs(factory(), factory(), commands, length)
    if other_processes:
        for seed in ("1", "2"):
            _compare(
                factory(), commands, first, _elsewhere(path, commands, seed), f"with PYTHONHASHSEED={seed}"
            )
    return len(commands)


def _outcomes(machine: Machine[Any], commands: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield after each command a hash of reply and state, and both as text."""
    state = machine.init({})
    for number, command in enumerate(commands, start=1):
        plain = msgspec.msgpack.decode(_encode(command), type=machine.command_type)
        meta = CommandMeta(Index(number), Term(1), machine.version, 1_000 * number, NOBODY, ReplyMode.NOREPLY)
        result = machine.apply(meta, plain, state)
        state = result[0]
        found = _encode([result[1], state])
        yield hashlib.blake2b(found, digest_size=16).hexdigest(), repr(msgspec.msgpack.decode(found))[:500]


def _compare(
    machine: Machine[Any],
    commands: Sequence[Any],
    ours: list[tuple[str, str]],
    theirs: list[tuple[str, str]],
    how: str,
) -> None:
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine[0] != other[0]:
            suspects = "\n".join(f"    {line}" for line in _suspects(machine)) or "    none found"
            raise NotDeterministic(
                f"{type(machine).__name__} is not deterministic: command {number + 1}, "
                f"{commands[number]!r}, had another outcome {how}\n"
                f"  [reply, state] first: {mine[1]}\n  then:                 {other[1]}\n"
                f"  suspicious lines of its source:\n{suspects}"
            )


def _compare_runs(one: Machine[Any], other: Machine[Any], commands: Sequence[Any], length: int) -> None:
    """Apply the commands to `one` by `apply`, and to `other` in runs of this length, if it takes runs."""
    apply_many = apply_many_of(other)
    if apply_many is None:
        return
    state, state_of_runs = one.init({}), other.init({})
    first = 0
    while first < len(commands):
        cut = (first // length + 1) * length  # what a run leaves over comes in the next, and ends it sooner
        run, same = (
            [msgspec.msgpack.decode(_encode(c), type=one.command_type) for c in commands[first:cut]]
            for _ in range(2)
        )
        meta = RunMeta(
            Index(first + 1), Term(1), one.version, 1_000 * (first + 1), NOBODY, ReplyMode.AWAIT_CONSENSUS
        )
        replies: list[Any] = []
        state_of_runs, effects = apply_many(meta, run, state_of_runs, replies)
        found = [[reply, ["LATER ends a run"] if reply is LATER else []] for reply in replies]
        if found:
            found[-1][1] = _shown(effects)
        wanted = []
        for offset in range(min(len(replies) or 1, len(run))):
            state, reply, *asked = one.apply(meta.at(offset), same[offset], state)
            wanted.append([reply, _shown(asked)])
        first += len(replies)
        if _encode([found, state_of_runs]) != _encode([wanted, state]):
            raise NotDeterministic(
                f"{type(one).__name__}.apply_many does not do what its apply does: commands "
                f"{meta.first_index} to {first}, a run of at most {length}\n"
                f"  [[reply, effects], …], state of apply: {wanted}, {state!r}"[:1_000]
                + f"\n  of apply_many:                         {found}, {state_of_runs!r}"[:1_000]
            )


def _shown(effects: Any) -> list[str]:
    """Effects, single or in nested lists, without the states that they name."""
    if isinstance(effects, list | tuple):
        return [text for effect in effects for text in _shown(effect)]
    if isinstance(effects, ReleaseCursor | Checkpoint):
        effects = msgspec.structs.replace(effects, state=None)
    return [] if effects is None else [repr(effects)]


def _path_of(make: Make) -> str:
    return f"{getattr(make, '__module__', '')}:{getattr(make, '__qualname__', '')}"


def _elsewhere(path: str, commands: Sequence[Any], hash_seed: str) -> list[tuple[str, str]]:
    """Compute the outcomes in a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    job = _encode([path, list(commands)])
    done = subprocess.run(  # noqa: S603  # this very Python
        [sys.executable, "-c", _CHILD], input=job, capture_output=True, env=environment, check=False
    )
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise TypeError(
            f"{path} does not run in a process of its own ({' '.join(text)}): put the machine at the top "
            "level of a module that can be imported, or pass other_processes=False"
        )
    return msgspec.msgpack.decode(done.stdout, type=list[tuple[str, str]])


def child() -> None:
    """Run in the other process: read a job from stdin, write the outcomes to stdout."""
    path, commands = msgspec.msgpack.decode(sys.stdin.buffer.read())
    machine = load_machines({"it": path})["it"]
    sys.stdout.buffer.write(_encode(list(_outcomes(machine, commands))))


def _suspects(machine: Machine[Any]) -> list[str]:
    """List the lines of the machine's class that use something that differs between processes."""
    kind: type = type(machine)
    try:
        lines, first = inspect.getsourcelines(kind)
        tree = ast.parse(inspect.cleandoc("\n" + "".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return []
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call | ast.Set | ast.SetComp):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else "set"
            if name in CULPRITS or name.split(".")[0] in CULPRITS:
                found[node.lineno] = f"{kind.__module__}:{first + node.lineno - 1}: {name}"
    return [found[line] for line in sorted(found)]
