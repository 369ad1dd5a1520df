"""A single-node stand-in for a cluster, and a gateway before it."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import time

import msgspec
import pytest

from barque.gateways.resp.server import RespServer
from barque.machine.kv import KvMachine
from barque.machine.machine import CommandMeta, Timeout
from barque.types import NOBODY, ReplyMode


class DirectSubmitter:
    """Applies to one `KvMachine` at once and answers in a later turn of the loop.

    `hold` keeps the answers back until `release`; `outcome` replaces them by an error. `log` records
    the order in which commands ("w") and queries ("r") were submitted.
    """

    def __init__(self):
        self.machine = KvMachine()
        self.state = self.machine.init({})
        self.index = 0
        self.hold = False
        self.held = []
        self.outcome = None
        self.immediate = False
        self.log = []
        self.levels = []
        self._commands = msgspec.msgpack.Decoder(KvMachine.command_type)
        self._queries = msgspec.msgpack.Decoder(KvMachine.query_type)

    def apply(self, command):
        """Apply one decoded command at the present time; returns the reply."""
        self.index += 1
        now_ms = time.time_ns() // 1_000_000
        meta = CommandMeta(self.index, 1, 0, now_ms, NOBODY, ReplyMode.AWAIT_CONSENSUS)
        return self.machine.apply(meta, command, self.state)[1]

    def command(self, cluster, payload, done, timeout_ms):
        """Submit a command."""
        self.log.append("w")
        if self.outcome is None:
            reply = self.apply(self._commands.decode(payload))
            self._answer(done, msgspec.msgpack.decode(msgspec.msgpack.encode(reply)))
        else:
            self._answer(done, self.outcome)

    def query(self, cluster, payload, level, done, timeout_ms):
        """Submit a query."""
        self.log.append("r")
        self.levels.append(level)
        if self.outcome is None:
            self.apply(Timeout("expire"))  # stands for the leader's timer
            answer = self.machine.query(self._queries.decode(payload), self.state)
            self._answer(done, msgspec.msgpack.decode(msgspec.msgpack.encode(answer)))
        else:
            self._answer(done, self.outcome)

    def machine_version(self, cluster):
        """The version in force."""
        return 1

    def _answer(self, done, value):
        if self.hold:
            self.held.append((done, value))
        elif self.immediate:
            done(value)
        else:
            asyncio.get_running_loop().call_soon(done, value)

    def release(self, hold=False):
        """Deliver the answers that were held back; `hold` says whether to hold the next ones."""
        self.hold = hold
        held, self.held = self.held, []
        for done, value in held:
            done(value)


@pytest.fixture
def submitter():
    """A fresh stand-in."""
    return DirectSubmitter()


@pytest.fixture
async def start(submitter):
    """A function that starts a gateway with the given options; all are stopped in the end."""
    servers = []

    async def starter(**options):
        server = RespServer(options.pop("submitter", submitter), bind="127.0.0.1:0", **options)
        await server.start()
        servers.append(server)
        return server

    yield starter
    for server in servers:
        await server.stop()


class Client:
    """A raw client that reads whole replies."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def send(self, data):
        """Write bytes."""
        self.writer.write(data)

    async def line(self):
        """One line, without its end."""
        line = await self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError(line)
        return line

    async def reply(self):
        """The raw bytes of one reply of either version."""
        line = await self.line()
        kind, rest = line[:1], line[1:-2]
        if kind in b"+-:_#,(":
            return line
        if kind in b"$=":
            length = int(rest)
            return line if length < 0 else line + await self.reader.readexactly(length + 2)
        assert kind in b"*~%", line
        count = int(rest) * (2 if kind == b"%" else 1)
        parts = [line]
        for _ in range(count):
            parts.append(await self.reply())
        return b"".join(parts)

    async def ask(self, *arguments):
        """Send one command; returns its raw reply."""
        self.send(encode(*arguments))
        return await self.reply()

    async def rest(self):
        """Everything until the server closes."""
        return await self.reader.read()

    async def close(self):
        """End the connection."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def encode(*arguments):
    """One command as an array of bulk strings."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in arguments]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


@pytest.fixture
def command():
    """The encoder of one command."""
    return encode


@pytest.fixture
async def connect():
    """A function that opens a raw client; all are closed in the end."""
    clients = []

    async def opener(address):
        host, port = address.address if isinstance(address, RespServer) else address
        client = Client(*await asyncio.open_connection(host, port, limit=2**26))
        clients.append(client)
        return client

    yield opener
    for client in clients:
        client.writer.transport.abort()  # it may have stopped reading
        await client.close()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """The address of a real redis-server; skips the test if there is none."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--databases", "1"],
        cwd=tmp_path_factory.mktemp("redis"),
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert process.poll() is None, "redis-server ended"
            assert time.monotonic() < deadline, "redis-server does not listen"
            time.sleep(0.02)
    yield ("127.0.0.1", port)
    process.terminate()
    process.wait()
