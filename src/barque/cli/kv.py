"""`barque kv`: read and write the keys of a key-value cluster, from shells and scripts."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from barque.cli.diagnosis import run_on_cluster
from barque.cli.failures import FAILED, OK, USAGE, CliError
from barque.cli.reach import Reach, reach_options
from barque.client.client import Client
from barque.machine.kv_commands import SET_NX, SET_XX, Cas, Del, Get, KvCommand, KvQuery, Scan, SetWith

Result = TypeVar("Result")

_MACHINE = "KvMachine"
_VALUES = {"ignore_unknown_options": True}  # `kv set balance -5` sets a value, and no option
_cluster_option = click.option(
    "--cluster", default="kv", show_default=True, help="A cluster with the machine `kv`."
)
_level_option = click.option(
    "--level",
    type=click.Choice(("consistent", "leader", "local")),
    default="consistent",
    show_default=True,
    help="How fresh the answer must be; `local` works without a leader.",
)


def kv_options(function: Callable[..., Result]) -> Callable[..., Result]:
    """Add `--cluster`, and the options that find the nodes."""
    return _cluster_option(reach_options(function))


@click.group()
def kv() -> None:
    """Read and write keys."""


@kv.command(context_settings=_VALUES)
@click.argument("key")
@_level_option
@kv_options
def get(reach: Reach, cluster: str, level: str, key: str) -> int:
    """Print the value of KEY; exit with 1 if there is none."""
    value = _read(reach, cluster, level, Get(_bytes(key)))
    if value is None:
        return FAILED
    _print_value(value)
    return OK


@kv.command(name="set", context_settings=_VALUES)
@click.argument("key")
@click.argument("value")
@click.option("--nx", is_flag=True, help="Only if the key is absent.")
@click.option("--xx", is_flag=True, help="Only if the key is present.")
@click.option("--ttl", type=click.FloatRange(min=0.001), metavar="SECONDS", help="Let the key expire.")
@kv_options
def set_(reach: Reach, cluster: str, key: str, value: str, nx: bool, xx: bool, ttl: float | None) -> int:
    """Set KEY to VALUE (`-`: read it from stdin); exit with 1 if --nx or --xx prevents that."""
    if nx and xx:
        raise click.UsageError("--nx and --xx exclude each other")
    content = sys.stdin.buffer.read() if value == "-" else _bytes(value)
    flags = SET_NX * nx | SET_XX * xx
    command = SetWith(_bytes(key), content, flags, None if ttl is None else round(ttl * 1000))
    return OK if _write(reach, cluster, command) else FAILED


@kv.command(name="del", context_settings=_VALUES)
@click.argument("keys", nargs=-1, required=True)
@kv_options
def del_(reach: Reach, cluster: str, keys: tuple[str, ...]) -> None:
    """Delete KEYS and print how many of them existed."""
    click.echo(_write(reach, cluster, Del([_bytes(key) for key in keys])))


@kv.command(context_settings=_VALUES)
@click.argument("key")
@click.argument("values", nargs=-1, required=True, metavar="[EXPECTED] VALUE")
@click.option("--absent", is_flag=True, help="Swap if there is no such key: `cas KEY VALUE --absent`.")
@kv_options
def cas(reach: Reach, cluster: str, key: str, values: tuple[str, ...], absent: bool) -> int:
    """Set KEY to VALUE if its value is EXPECTED; exit with 1 if it is not."""
    if len(values) != (1 if absent else 2):
        raise click.UsageError("write `cas KEY EXPECTED VALUE`, or `cas KEY VALUE --absent`")
    command = Cas(_bytes(key), None if absent else _bytes(values[0]), _bytes(values[-1]))
    return OK if _write(reach, cluster, command) else FAILED


@kv.command()
@click.option("--match", metavar="GLOB", help="Print only matching keys, as in `user:*`.")
@click.option("--raw", is_flag=True, help="Print keys as they are; control characters are not escaped.")
@click.option(
    "--count", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="Keys per request."
)
@_level_option
@kv_options
def scan(reach: Reach, cluster: str, level: str, match: str | None, count: int, raw: bool) -> None:
    """Print all keys, one per line, in no particular order; control characters are escaped."""
    pattern = None if match is None else _bytes(match)

    async def work(client: Client) -> None:
        cursor = 0
        while True:
            query = Scan(cursor, count, pattern)
            cursor, keys = await _query(client, level)(cluster, query)
            for key in keys:
                sys.stdout.buffer.write((key if raw else escaped(key)) + b"\n")
            if cursor == 0:
                return

    run_on_cluster(reach, cluster, work, machine=_MACHINE)


def _write(reach: Reach, cluster: str, command: KvCommand) -> Any:
    return run_on_cluster(
        reach, cluster, lambda client: client.process_command(cluster, command), machine=_MACHINE
    )


def _read(reach: Reach, cluster: str, level: str, query: KvQuery) -> Any:
    return run_on_cluster(
        reach, cluster, lambda client: _query(client, level)(cluster, query), machine=_MACHINE
    )


def _query(client: Client, level: str) -> Callable[[str, KvQuery], Any]:
    match level:
        case "consistent":
            return client.consistent_query
        case "leader":
            return client.leader_query
        case "local":
            return client.local_query
    raise CliError(f"unknown level {level!r}", USAGE)


def _bytes(argument: str) -> bytes:
    """The bytes of an argument, exactly as the shell passed them."""
    return os.fsencode(argument)


def escaped(text: bytes) -> bytes:
    """Text on one line that commands no terminal: control characters and backslashes are escaped."""
    shown = text.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown).encode()


def _print_value(value: bytes) -> None:
    """Print a value as it is, for programs; on a terminal it must not send control sequences."""
    sys.stdout.buffer.write((escaped(value) if sys.stdout.isatty() else value) + b"\n")
