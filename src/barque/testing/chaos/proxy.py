"""Links between node processes that can be cut: a TCP proxy on the loopback address for each direction.

Between nodes each connection carries messages one way only, so a link is directed: what node a sends to node
b goes through the link (a, b), and what b sends to a through another link. Clients have links of their own,
which carry both directions.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from enum import StrEnum

_CHUNK = 65_536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class Mode(StrEnum):
    """What a link does with bytes."""

    OPEN = "open"
    HELD = "held"  # they arrive when the link opens again, as after lost packets
    SWALLOWED = "swallowed"  # accepted and gone: half-open, without notice
    REFUSED = "refused"  # connections are reset, new ones at once


class Link:
    """One direction between two processes."""

    def __init__(self, source: str, target: str, target_port: int) -> None:
        self.source, self.target = source, target
        self.target_port = target_port
        self.port = 0  # where the source connects; known after `start`
        self.delay_s = 0.0
        self.mode = Mode.OPEN
        self.stopped_bytes = 0
        """How many bytes a closed link has ever kept or swallowed: whether a fault met any traffic."""
        self.resets = 0
        self._passing = asyncio.Event()
        self._passing.set()
        self._server: asyncio.Server | None = None
        self._pairs: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._pairs)

    @property
    def address(self) -> str:
        """The address to which the source connects."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen on a free port, and keep it."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End all connections, and stop listening."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._pairs)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def set(self, mode: Mode) -> None:
        """Change what happens to bytes from now on.

        Connections of which bytes were swallowed end when the link opens again: their streams have holes.
        """
        if self.mode is Mode.SWALLOWED and mode is not Mode.SWALLOWED:
            self.reset()
        self.mode = mode
        if mode is Mode.REFUSED:
            self.reset()
        if mode is Mode.OPEN:
            self._passing.set()
        else:
            self._passing.clear()

    def reset(self) -> None:
        """Break all connections; new ones are accepted if the link is open."""
        for task, writers in list(self._pairs.items()):
            self.resets += 1
            for writer in writers:
                _abort(writer)
            task.cancel()

    # --- connections ---------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._pairs[task] = [writer]
        try:
            if self.mode is Mode.REFUSED:
                _abort(writer)
                return
            if self.mode is not Mode.OPEN:
                await self._let_nothing_through(reader)
            target_reader, target_writer = await asyncio.open_connection(
                "127.0.0.1", self.target_port, limit=_CHUNK
            )
            writers.append(target_writer)
            await self._both_ways(reader, writer, target_reader, target_writer)
        except (OSError, asyncio.CancelledError):
            pass  # the proxy records no end of a connection; one that was cancelled was reset
        finally:
            del self._pairs[task]
            for each in writers:
                each.close()

    async def _let_nothing_through(self, reader: asyncio.StreamReader) -> None:
        """A new connection over a closed link: the proxy accepts it, and passes nothing on."""
        if self.mode is Mode.SWALLOWED:
            while data := await reader.read(_CHUNK):
                self.stopped_bytes += len(data)
        await self._passing.wait()

    async def _both_ways(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        target_reader: asyncio.StreamReader,
        target_writer: asyncio.StreamWriter,
    ) -> None:
        ways = [
            asyncio.ensure_future(self._pump(reader, target_writer)),
            asyncio.ensure_future(self._pump(target_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes until the stream ends. A closed link does not even pass on the end."""
        while True:
            with contextlib.suppress(ConnectionError):
                data = await reader.read(_CHUNK)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.mode is not Mode.OPEN:
                    self.stopped_bytes += len(data)
                    swallowed = self.mode is Mode.SWALLOWED
                    if not data or not swallowed:
                        await self._passing.wait()
                    if swallowed and data:
                        continue
                if data:
                    writer.write(data)
                    await writer.drain()
                    continue
            return


class Network:
    """The links among some nodes, in both directions, and the links of clients to them.

    For each node there is a client beside it, `@n1` beside `n1`, on the node's side of every partition.
    (A client that reached both sides would follow the leader that it knows, and never see two leaders.)
    """

    def __init__(self, ports: dict[str, int]) -> None:
        self.nodes = tuple(ports)
        self.links: dict[tuple[str, str], Link] = {
            (source, target): Link(source, target, port)
            for source in (*ports, *map(beside, ports))
            for target, port in ports.items()
            if source != target
        }

    async def start(self) -> None:
        """Let all links listen."""
        for link in self.links.values():
            await link.start()

    async def stop(self) -> None:
        """Stop all links, and end all connections."""
        for link in self.links.values():
            await link.stop()

    def between(self, one: Iterable[str], other: Iterable[str]) -> list[Link]:
        """The links from `one` to `other` and back, and those of the clients beside them."""
        pairs = [pair for a in one for b in other if a != b for pair in ((a, b), (b, a))]
        return [self.links[link] for a, b in pairs for link in ((a, b), (beside(a), b))]

    def to_clients(self) -> list[Link]:
        """The links that clients use."""
        return [link for (source, _), link in self.links.items() if source not in self.nodes]

    def among_nodes(self) -> list[Link]:
        """The links that nodes use."""
        return [link for (source, _), link in self.links.items() if source in self.nodes]

    def heal(self) -> None:
        """Open every link."""
        for link in self.links.values():
            link.delay_s = 0.0
            link.set(Mode.OPEN)


def beside(node: str) -> str:
    """The name of the client beside a node, as a source of links."""
    return f"@{node}"


def _abort(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
