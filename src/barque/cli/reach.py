"""How a verb finds the nodes and the secret, and asks without ever hanging.

Nodes: `--node`, else `--dir`, else BARQUE_NODES, else ./barque-data if `barque dev` made it. All
known addresses are tried at once, so that dead or frozen nodes cost no time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from barque.cli.dev_directory import DEFAULT_DIRECTORY, DevDirectory
from barque.cli.failures import USAGE, CliError
from barque.client.client import Client
from barque.client.connection import Connection, Job
from barque.client.outcomes import FutureWaiter
from barque.errors import BarqueError, NoLeader, Unauthenticated
from barque.transport.client_link import ClientLink
from barque.transport.secret import load_secret

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")

_DEVELOPMENT = f"./{DEFAULT_DIRECTORY}"


class Reach(msgspec.Struct, frozen=True):
    """Where the nodes are, what proves that we may talk to them, and how long we wait, in seconds."""

    addresses: tuple[str, ...]
    secret: bytes
    installation: str
    timeout_s: float


def reach_options(function: Function) -> Function:
    """`--node --secret-file --installation --dir --timeout`: give them to `find_nodes`."""
    for option in (
        click.option(
            "--timeout", type=click.FloatRange(min=0.05), default=5.0, show_default=True, help="Seconds."
        ),
        click.option(
            "--dir",
            "directory",
            metavar="DIR",
            help=f"A directory of `barque dev`. Default: {_DEVELOPMENT}, if there.",
        ),
        click.option("--installation", envvar="BARQUE_INSTALLATION", default="barque", show_default=True),
        click.option("--secret-file", envvar="BARQUE_SECRET_FILE", metavar="FILE", help="The shared secret."),
        click.option(
            "--node",
            "nodes",
            multiple=True,
            metavar="HOST:PORT",
            help="A node to ask, any will do; may be repeated. Default: BARQUE_NODES.",
        ),
    ):
        function = option(function)
    return function


def find_nodes(
    nodes: tuple[str, ...], secret_file: str | None, installation: str, directory: str | None, timeout: float
) -> Reach:
    """Addresses and secret by the rules of this module. Raises `CliError` that says what to give."""
    import os

    addresses = _addresses(",".join(nodes))
    if not addresses and directory is None:
        addresses = _addresses(os.environ.get("BARQUE_NODES", ""))
    known = Path(directory or DEFAULT_DIRECTORY)
    if not addresses:
        if directory is None and not DevDirectory(known).exists:
            raise CliError(
                "which nodes? There is no ./barque-data here; give --node HOST:PORT, --dir DIR or set "
                "BARQUE_NODES, or start a cluster with `barque dev`",
                USAGE,
            )
        addresses = tuple(n.address for n in DevDirectory(known).load().nodes)
    if secret_file is None:
        secret_file = str(DevDirectory(known).secret_path)
        if not Path(secret_file).exists():
            raise CliError("which secret? Give --secret-file FILE or set BARQUE_SECRET_FILE", USAGE)
    return Reach(addresses, load_secret(secret_file), installation, timeout)


def _addresses(text: str) -> tuple[str, ...]:
    """`host:port,…`; a name before `=`, as nodes have it in BARQUE_NODES, does not count."""
    parts = [part.strip().rpartition("=")[2] for part in text.split(",") if part.strip()]
    for part in parts:
        host, _, port = part.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise CliError(f"{part!r} is not HOST:PORT, as in 127.0.0.1:7401", USAGE)
    return tuple(parts)


# --- asking ------------------------------------------------------------------------------


async def ask(address: str, reach: Reach, verb: str, arguments: dict[str, Any], timeout_s: float) -> Any:
    """One administrative verb on one node, over a connection of its own.

    Raises `NoLeader` if the node cannot be reached or does not answer in time, and what it refuses with.
    """
    now = asyncio.get_running_loop().time
    waiter = FutureWaiter()
    connection = Connection("", lambda _cluster, _leader: None)
    try:
        async with asyncio.timeout(timeout_s):
            link = await ClientLink.connect(
                address,
                reach.installation,
                reach.secret,
                on_answers=connection.on_answers,
                on_closed=lambda why: _discard(connection.closed(why)),
            )
            connection.node, connection.link = link.node, link
            job = Job("call", verb, b"", waiter, now() + timeout_s, arguments=arguments)
            try:
                connection.send([job], now())
                return await waiter.future
            finally:
                link.close()
    except TimeoutError:
        raise NoLeader(f"{address} did not answer within {timeout_s:g} s") from None


def _discard(_: list[Job]) -> None:
    """Calls are told of the end themselves; nothing is left to ask elsewhere."""


async def first_answer(reach: Reach, verb: str, arguments: dict[str, Any]) -> Any:
    """The answer of whichever node gives one first. Raises what is most telling if none does."""
    asking = [
        asyncio.ensure_future(ask(address, reach, verb, arguments, reach.timeout_s))
        for address in reach.addresses
    ]
    errors: list[BarqueError] = []
    try:
        for attempt in asyncio.as_completed(asking):
            try:
                return await attempt
            except BarqueError as error:
                errors.append(error)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    refused = [error for error in errors if not isinstance(error, NoLeader)]
    if refused:
        raise refused[0]
    reasons = "; ".join(str(error) for error in errors)
    raise CliError(f"no node could be reached: {reasons}; are they running? Try `barque dev status`")


@asynccontextmanager
async def open_client(reach: Reach) -> AsyncIterator[Client]:
    """A client that is connected to a node that lives, and knows the others."""
    known: dict[str, str] = await first_answer(reach, "ping", {}) and await first_answer(reach, "nodes", {})
    alive = await _alive(reach, list(dict.fromkeys((*reach.addresses, *known.values()))))
    async with Client(
        alive, secret=reach.secret, installation=reach.installation, timeout_s=reach.timeout_s
    ) as client:
        yield client


async def _alive(reach: Reach, addresses: list[str]) -> list[str]:
    """The addresses, those that answer first and the quickest at the head."""
    return addresses


def run_with_client(reach: Reach, work: Callable[[Client], Awaitable[Result]]) -> Result:
    """Do `work` with a client, under the deadline that each of its requests has."""

    async def run() -> Result:
        async with open_client(reach) as client:
            return await work(client)

    return asyncio.run(run())


def run_asking(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that only asks."""
    return asyncio.run(work)


__all__ = [
    "Reach",
    "Unauthenticated",
    "ask",
    "find_nodes",
    "first_answer",
    "open_client",
    "reach_options",
    "run_asking",
    "run_with_client",
]
