"""How a verb finds the nodes and the secret, and asks them with a deadline.

Nodes: `--node`, else `--dir`, else BARQUE_NODES, else ./barque-data if `barque dev` made it. The secret:
`--secret-file`, else BARQUE_SECRET, else the administrators' secret of that directory. A verb tries all known
addresses at once, so that dead or frozen nodes cost no time.
"""

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from barque.cli.dev_directory import DEFAULT_DIRECTORY, DevDirectory
from barque.cli.failures import UNAVAILABLE, USAGE, CliError
from barque.client.client import Client
from barque.errors import BarqueError, NoLeader
from barque.transport.answers import error_named, fail
from barque.transport.client_link import ClientLink
from barque.transport.secret import load_secret, secret_of_environment
from barque.transport.tls import ClientTls, client_tls
from barque.transport.wire import ClientAnswer, ClientCall, ClientCallReply

Result = TypeVar("Result")


class Reach(msgspec.Struct, frozen=True):
    """The nodes' addresses, what they demand as a proof, and how long a verb waits, in seconds."""

    addresses: tuple[str, ...]
    secret: bytes
    installation: str
    timeout_s: float
    tls: ClientTls | None = None

    def client(self, addresses: Sequence[str] | None = None) -> Client:
        """A client for these nodes, or for some of them."""
        tls = self.tls or ClientTls("")
        return Client(
            addresses or self.addresses,
            secret=self.secret,
            installation=self.installation,
            timeout_s=self.timeout_s,
            tls_ca_file=tls.ca_file,
            tls_cert_file=tls.cert_file,
            tls_key_file=tls.key_file,
        )


def reach_options(function: Callable[..., Result]) -> Callable[..., Result]:
    """Add `--node --dir --secret-file --tls-… --installation --timeout`; the verb gets `reach: Reach`."""

    @functools.wraps(function)
    def verb(
        *,
        nodes: tuple[str, ...],
        directory: str | None,
        secret_file: str | None,
        installation: str,
        timeout: float,
        tls_ca_file: str | None,
        tls_cert_file: str | None,
        tls_key_file: str | None,
        **others: Any,
    ) -> Result:
        tls = client_tls(tls_ca_file, tls_cert_file, tls_key_file)
        reach = find_nodes(nodes, directory, secret_file, installation, timeout, tls)
        return function(reach=reach, **others)

    for option in reversed(_OPTIONS):
        verb = option(verb)
    return verb


_OPTIONS = (
    click.option(
        "--node",
        "nodes",
        multiple=True,
        metavar="HOST:PORT",
        help="The address of any node; may be repeated. Default: BARQUE_NODES.",
    ),
    click.option(
        "--dir",
        "directory",
        metavar="DIR",
        help=f"A directory of `barque dev`. Default: ./{DEFAULT_DIRECTORY}, if it exists.",
    ),
    click.option(
        "--secret-file",
        envvar="BARQUE_SECRET_FILE",
        metavar="FILE",
        help="The secret of administrators, or of clients; - is stdin.",
    ),
    click.option(
        "--tls-ca-file", envvar="BARQUE_TLS_CA_FILE", metavar="FILE", help="Speak TLS; trust these."
    ),
    click.option("--tls-cert-file", envvar="BARQUE_TLS_CERT_FILE", metavar="FILE", help="Our certificate."),
    click.option("--tls-key-file", envvar="BARQUE_TLS_KEY_FILE", metavar="FILE", help="Its key."),
    click.option("--installation", envvar="BARQUE_INSTALLATION", default="barque", show_default=True),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0.05),
        default=5.0,
        show_default=True,
        help="Seconds to wait for an answer.",
    ),
)


def find_nodes(
    nodes: tuple[str, ...],
    directory: str | None,
    secret_file: str | None,
    installation: str,
    timeout: float,
    tls: ClientTls | None = None,
) -> Reach:
    """Find addresses and secret by the rules of this module. Raises `CliError` that says what to give."""
    addresses = _addresses(",".join(nodes))
    if not addresses and directory is None:
        addresses = _addresses(os.environ.get("BARQUE_NODES", ""))
    known = DevDirectory(Path(directory or DEFAULT_DIRECTORY))
    if not addresses:
        if directory is None and not known.exists:
            raise CliError(
                f"no node is known: there is no ./{DEFAULT_DIRECTORY}; give --node HOST:PORT or --dir DIR, "
                "set BARQUE_NODES, or start a cluster with `barque dev`",
                USAGE,
            )
        addresses = tuple(node.address for node in known.load().nodes)
    secret = _secret(secret_file, known, optional=tls is not None and bool(tls.cert_file))
    return Reach(addresses, secret, installation, timeout, tls)


def _secret(secret_file: str | None, known: DevDirectory, *, optional: bool) -> bytes:
    if secret_file is not None:
        return load_secret(secret_file)
    secret, path = secret_of_environment(), known.secret_path("admin")
    if secret is not None:
        return secret
    if path.exists():
        return load_secret(str(path))
    if optional:
        return b""
    raise CliError(
        "no secret is known: give --secret-file FILE, or set BARQUE_SECRET_FILE or BARQUE_SECRET", USAGE
    )


def _addresses(text: str) -> tuple[str, ...]:
    """Read `host:port,…`. Nodes write `name=host:port` in BARQUE_NODES; drop the name."""
    parts = [part.strip().rpartition("=")[2] for part in text.split(",") if part.strip()]
    for part in parts:
        host, _, port = part.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise CliError(f"{part!r} is not HOST:PORT, as in 127.0.0.1:7401", USAGE)
    return tuple(parts)


# --- asking ------------------------------------------------------------------------------


async def ask(address: str, reach: Reach, verb: str, arguments: dict[str, Any]) -> Any:
    """Ask one node for one administrative verb, over a connection of its own.

    Raises `NoLeader` if the node cannot be reached or does not answer in time, else the node's own error.
    """
    answer: asyncio.Future[ClientCallReply] = asyncio.get_running_loop().create_future()

    def on_answers(answers: list[ClientAnswer]) -> None:
        for reply in answers:
            if isinstance(reply, ClientCallReply) and not answer.done():
                answer.set_result(reply)

    def on_closed(why: str) -> None:
        if not answer.done():
            fail(answer, NoLeader(f"{address} closed the connection: {why}"))

    try:
        async with asyncio.timeout(reach.timeout_s):
            link = await ClientLink.connect(
                address,
                reach.installation,
                reach.secret,
                on_answers=on_answers,
                on_closed=on_closed,
                tls=None if reach.tls is None else reach.tls.context(),
            )
            try:
                link.send([ClientCall(1, verb, arguments, int(reach.timeout_s * 1000))])
                link.flush()
                reply = await answer
            finally:
                link.close()
    except NoLeader as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno:
            raise NoLeader(f"{address}: {os.strerror(error.__cause__.errno).lower()}") from error
        raise
    except TimeoutError:
        raise NoLeader(f"{address} did not answer within {reach.timeout_s:g} s") from None
    if reply.error is not None:
        raise error_named(reply.error, reply.text)
    return reply.value


async def first_answer(reach: Reach, verb: str, arguments: dict[str, Any] | None = None) -> tuple[str, Any]:
    """Ask all nodes at once; return the address of the first that answers, and its answer.

    Raises the most telling error if none answers.
    """

    async def attempt(address: str) -> tuple[str, Any]:
        return address, await ask(address, reach, verb, arguments or {})

    attempts = [asyncio.ensure_future(attempt(address)) for address in reach.addresses]
    errors: list[BarqueError] = []
    try:
        for ended in asyncio.as_completed(attempts):
            try:
                return await ended
            except BarqueError as error:
                errors.append(error)
    finally:
        for task in attempts:
            task.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
    for telling in errors:
        if not isinstance(telling, NoLeader):
            raise telling
    reasons = "; ".join(str(error) for error in errors)
    raise CliError(
        f"no node could be reached: {reasons}; start one, or name others with --node or --dir", UNAVAILABLE
    )


@asynccontextmanager
async def open_client(reach: Reach) -> AsyncIterator[Client]:
    """A client that is connected to a node that has just answered."""
    alive, _ = await first_answer(reach, "ping")
    addresses = [alive, *(address for address in reach.addresses if address != alive)]
    async with reach.client(addresses) as client:
        yield client


def run_with_client(reach: Reach, work: Callable[[Client], Awaitable[Result]]) -> Result:
    """Run `work` with a client; each of its requests has the deadline of `reach`."""

    async def run() -> Result:
        async with open_client(reach) as client:
            return await work(client)

    return asyncio.run(run())
