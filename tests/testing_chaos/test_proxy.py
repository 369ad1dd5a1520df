"""Links that can be cut: which bytes arrive, which do not, and which end learns of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from barque.testing.chaos.proxy import Link, Mode, Network

PATIENCE_S = 10.0


class Target:
    """A server that records what it receives, and echoes it."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.ends = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["Target"]:
        """Listen while the block runs."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                self.got += data
                writer.write(data)
        self.ends += 1
        writer.close()


@contextlib.asynccontextmanager
async def linked() -> AsyncIterator[tuple[Target, Link]]:
    """A target and a link to it."""
    async with Target().listening() as target:
        link = Link("a", "b", target.port)
        await link.start()
        try:
            yield target, link
        finally:
            await link.stop()
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def dialed(link: Link) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection over the link."""
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, not for a time."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # what happens has no event of its own
            await asyncio.sleep(0.005)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    """Send, and wait for the echo."""
    writer.write(data)
    async with asyncio.timeout(PATIENCE_S):
        return await reader.readexactly(len(data))


async def test_an_open_link_carries_bytes_both_ways_and_the_end() -> None:
    """A megabyte goes and comes back; when the source ends, so does the target's connection."""
    async with linked() as (target, link):
        async with dialed(link) as (reader, writer):
            data = bytes(range(256)) * 4096
            assert await echo(reader, writer, data) == data
        await until(lambda: target.ends == 1 and link.connections == 0)
        assert target.got == data


async def test_held_bytes_arrive_when_the_link_opens_again() -> None:
    """As with lost packets: nothing arrives and nothing is reported; later everything arrives in order."""
    async with linked() as (target, link), dialed(link) as (reader, writer):
        await echo(reader, writer, b"one")
        link.set(Mode.HELD)
        writer.write(b"two")
        await until(lambda: link.stopped_bytes)
        writer.write(b"three")
        assert target.got == b"one"
        link.set(Mode.OPEN)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readexactly(8) == b"twothree"
        assert target.ends == 0


async def test_swallowed_bytes_are_gone_and_their_connection_ends_at_healing() -> None:
    """Half-open: the bytes disappear, and a stream with a hole is not continued."""
    async with linked() as (target, link), dialed(link) as (reader, writer):
        await echo(reader, writer, b"one")
        link.set(Mode.SWALLOWED)
        writer.write(b"two")
        await until(lambda: link.stopped_bytes == 3)
        writer.write(b"three")
        await until(lambda: link.stopped_bytes == 8)
        assert target.ends == 0
        link.set(Mode.OPEN)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await until(lambda: target.ends == 1)
        assert target.got == b"one"
        async with dialed(link) as (again_reader, again_writer):
            assert await echo(again_reader, again_writer, b"four") == b"four"


@pytest.mark.parametrize("mode", [Mode.HELD, Mode.SWALLOWED])
async def test_not_even_an_end_gets_through_a_closed_link(mode: Mode) -> None:
    """The end of a source behind a partition is not noticed until the link heals."""
    async with linked() as (target, link):
        async with dialed(link) as (reader, writer):
            await echo(reader, writer, b"one")
            link.set(mode)
            writer.write(b"two")
            await until(lambda: link.stopped_bytes)
        await asyncio.sleep(0.05)
        assert target.ends == 0
        link.set(Mode.OPEN)
        await until(lambda: target.ends == 1)


@pytest.mark.parametrize("mode", [Mode.HELD, Mode.SWALLOWED])
async def test_a_new_connection_over_a_closed_link_is_accepted_and_silent(mode: Mode) -> None:
    """The target does not learn of it; a held one goes on when the link opens, others end."""
    async with linked() as (target, link):
        link.set(mode)
        async with dialed(link) as (reader, writer):
            writer.write(b"hello")
            await until(lambda: link.connections == 1)
            await asyncio.sleep(0.02)
            assert target.got == b""
            link.set(Mode.OPEN)
            async with asyncio.timeout(PATIENCE_S):
                if mode is Mode.HELD:
                    assert await reader.readexactly(5) == b"hello"
                else:
                    with contextlib.suppress(ConnectionError):
                        assert await reader.read() == b""


async def test_a_refusing_link_breaks_connections_and_lets_no_new_one_live() -> None:
    """The source learns at once, as from a machine on which nobody listens."""
    async with linked() as (target, link):
        async with dialed(link) as (reader, writer):
            await echo(reader, writer, b"one")
            link.set(Mode.REFUSED)
            async with asyncio.timeout(PATIENCE_S):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
        async with dialed(link) as (reader, _), asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        await until(lambda: target.ends == 1 and link.connections == 0)
        assert link.resets == 1


async def test_a_reset_breaks_connections_and_new_ones_work() -> None:
    """A link that was reset stays open."""
    async with linked() as (_, link):
        async with dialed(link) as (reader, writer):
            await echo(reader, writer, b"one")
            link.reset()
            async with asyncio.timeout(PATIENCE_S):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
        async with dialed(link) as (reader, writer):
            assert await echo(reader, writer, b"two") == b"two"


async def test_a_late_link_is_late() -> None:
    """Bytes over a late link take at least its delay."""
    async with linked() as (_, link), dialed(link) as (reader, writer):
        link.delay_s = 0.05
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await echo(reader, writer, b"slow") == b"slow"
        assert loop.time() - began >= 2 * 0.05 * 0.9  # there and back; it never comes early


async def test_a_target_that_is_not_there_ends_the_connection() -> None:
    """The connection ends, as with a dead node."""
    async with linked() as (target, link):
        port = target.port
        assert port
        link.target_port = 1
        async with dialed(link) as (reader, _), asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""


async def test_directions_are_links_of_their_own() -> None:
    """Three nodes have six links among them, and the client beside each node has three."""
    network = Network({"n1": 1, "n2": 2, "n3": 3})
    await network.start()
    try:
        assert len(network.among_nodes()) == 6
        assert len(network.to_clients()) == 9
        cut = network.between(["n1"], ["n2", "n3"])
        assert {(link.source, link.target) for link in cut} == {
            ("n1", "n2"),
            ("n2", "n1"),
            ("n1", "n3"),
            ("n3", "n1"),
            ("@n1", "n2"),
            ("@n2", "n1"),
            ("@n1", "n3"),
            ("@n3", "n1"),
        }
        assert len({link.port for link in network.links.values()}) == 15
        network.links["n1", "n2"].set(Mode.HELD)
        network.links["n1", "n3"].delay_s = 1.0
        network.heal()
        assert all(link.mode is Mode.OPEN and not link.delay_s for link in network.links.values())
    finally:
        await network.stop()
