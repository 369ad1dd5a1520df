"""`TcpTransport` and `ClientLink` over real sockets, on asyncio and uvloop."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.ports import free_port
from tests.transport.support import SECRET, Recorder, until

from barque.core.entries import BODY_BYTES_MAX, EntryBatch, EntryKind, encode_body, encode_head
from barque.core.messages import AppendEntriesRpc, TimeoutNow
from barque.errors import ConfigurationError, NoLeader, Unauthenticated
from barque.transport import peer_link, wire
from barque.transport.authorization import Role
from barque.transport.client_link import ClientLink
from barque.transport.connection import encode_frames, split_address
from barque.transport.contract import Limits, TransportCounters
from barque.transport.credentials import Credentials
from barque.transport.framing import HEADER, FrameKind, encode_frame
from barque.transport.handshake import DialerHandshake
from barque.transport.peer_link import backoff_s
from barque.transport.tcp import TcpTransport
from barque.transport.wire import Alive, Envelope, LeaderIs
from barque.types import ClientRef, Index, ReplyMode, ServerId, Term

Run = Callable[..., Any]
ONE_SECRET = Credentials.of_secret(SECRET)
KNOWN = {f"n{number}" for number in range(1, 10)}
FAST = Limits(backoff_min_s=0.01, backoff_max_s=0.05, linger_s=0.3)


def make(name: str, recorder: Recorder, bind: str = "127.0.0.1:0", **changes: Any) -> TcpTransport:
    """A node of the test cluster."""
    options: dict[str, Any] = {
        "name": name, "incarnation": 1, "cluster": "test", "credentials": ONE_SECRET, "bind": bind,
        "advertise": "", "knows_node": KNOWN.__contains__, "peers": {}, "handler": recorder,
        "rng": random.Random(1), "limits": FAST,
    }  # fmt: skip
    return TcpTransport(**(options | changes))


async def pair(stack: contextlib.AsyncExitStack, **changes: Any) -> tuple[Any, ...]:
    """Two nodes that are connected both ways."""
    one, two = Recorder(), Recorder()
    n1, n2 = make("n1", one, **changes), make("n2", two, **changes)
    for node in (n1, n2):
        await node.start()
        stack.push_async_callback(node.stop)
    n1.set_peer("n2", n2.advertise)
    n2.set_peer("n1", n1.advertise)
    await until(lambda: one.events and two.events, "both links")
    return n1, n2, one, two


def entries(size: int, node: str = "n1") -> AppendEntriesRpc:
    """An AppendEntries of one command of this size."""
    batch = EntryBatch(Index(1), Term(1), 1, 0, encode_body([bytes(size)]))
    return AppendEntriesRpc(Term(1), ServerId("s", node), Index(0), Index(0), Term(0), (batch,))


async def raw_peer(address: str, name: str = "n9", expected: str = "n1", role: Role = Role.NODE) -> Any:
    """A connection that has shaken hands by hand, to misbehave afterwards."""
    reader, writer = await asyncio.open_connection(*split_address(address, "test"))
    shake = DialerHandshake(
        role=role, name=name, expected=expected, cluster="test", incarnation=1, secret=SECRET, nonce=bytes(32)
    )
    writer.write(shake.start())
    while True:
        length, _, kind, _ = HEADER.unpack(await reader.readexactly(HEADER.size))
        step = shake.receive(FrameKind(kind), await reader.readexactly(length))
        writer.write(step.send)
        if step.established:
            return reader, writer


def test_messages_arrive_in_order_and_a_turn_is_one_frame(run: Run) -> None:
    """All messages of a turn for one peer leave in one frame, and arrive in their order."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            n1, _n2, one, two = await pair(stack)
            assert one.events == [("up", "n2", 1)]
            before = n1.counters.frames_sent
            for number in range(500):
                assert n1.send("n2", "s", LeaderIs("kv", ServerId("s", "n1"), Term(number)))
            n1.flush()
            await until(lambda: len(two.received) == 500)
            assert [message.term for message in two.messages()] == list(range(500))
            assert {(node, envelope.to) for node, envelope in two.received} == {("n1", "s")}
            assert n1.counters.frames_sent == before + 1
            assert n1.status()["n2"].connected
            assert two.turns > 0

    run(main)


def test_large_messages_arrive(run: Run) -> None:
    """Frames far larger than any socket buffer arrive whole."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            n1, _, _, two = await pair(stack)
            for _ in range(3):
                n1.send("n2", "s", entries(2_000_000))
            n1.flush()
            await until(lambda: len(two.received) == 3)
            assert all(message == entries(2_000_000) for message in two.messages())

    run(main)


def test_what_fits_no_frame_is_dropped_and_the_rest_arrives(run: Run) -> None:
    """One oversize message is dropped and counted; its neighbours and the link live on."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            n1, _, one, two = await pair(stack, limits=msgspec.structs.replace(FAST, frame_bytes_max=10_000))
            for size in (9000, 50_000, 9001):
                n1.send("n2", "s", entries(size))
            n1.flush()
            await until(lambda: len(two.received) == 2)
            assert list(two.messages()) == [entries(9000), entries(9001)]
            assert n1.counters.oversize_messages == 1
            assert one.events == [("up", "n2", 1)]

    run(main)


def test_a_message_without_an_encoding_hurts_nobody() -> None:
    """What msgpack cannot express is dropped and counted, and the rest of the turn is sent."""
    counters = TransportCounters()
    messages = [Envelope("", Alive()), Envelope("", wire.NodeCallReply(1, object())), Envelope("", Alive())]
    frames = encode_frames(FrameKind.ENVELOPES, messages, 1000, counters, "n2")
    found = [e for frame in frames for e in wire.decode_envelopes(bytes(frame[HEADER.size :]))]
    assert found == [Envelope("", Alive())] * 2
    assert counters.unencodable_messages == 1


def test_the_largest_entry_travels() -> None:
    """With all that is around it: names as long as they may be, and the largest numbers."""
    leader, most = ServerId("s" * 64, "n" * 64), 1 << 62
    head = encode_head(EntryKind.USER, ReplyMode.NOTIFY, ClientRef("n" * 64, most), most)
    payload = bytes(BODY_BYTES_MAX - len(head) - 4)
    body = head + struct.pack("<I", len(payload)) + payload
    batch = EntryBatch(Index(most), Term(most), 1, most, body)
    rpc = AppendEntriesRpc(Term(most), leader, Index(most), Index(most - 1), Term(most), (batch,))
    counters = TransportCounters()
    envelopes = [Envelope("s" * 64, rpc, "c" * 64, "u" * 64)]
    [frame] = encode_frames(FrameKind.ENVELOPES, envelopes, Limits().frame_bytes_max, counters, "n2")
    [found] = wire.decode_envelopes(bytes(frame[HEADER.size :]))
    assert found == envelopes[0]


def test_sends_without_a_link_are_dropped_and_counted(run: Run) -> None:
    """Nothing waits for a peer that is not connected (REPL-21)."""

    async def main() -> None:
        n1 = make("n1", Recorder(), peers={"n2": "127.0.0.1:1"})
        await n1.start()
        try:
            assert not n1.send("n2", "s", Alive())
            assert not n1.send("n3", "s", Alive())
            n1.flush()
            assert n1.counters.dropped_sends == 2
            await until(lambda: "cannot connect" in n1.status()["n2"].last_error)
        finally:
            await n1.stop()

    run(main)


def test_a_failed_attempt_leaves_no_connection_to_wait_for(run: Run) -> None:
    """A node that stops waits for its sockets to close; an attempt that got none is over, on any loop."""

    async def main() -> None:
        n1 = make("n1", Recorder(), peers={"n2": "127.0.0.1:1"})
        await n1.start()
        try:
            await until(lambda: "cannot connect" in n1.status()["n2"].last_error)
            assert n1._links["n2"].connections == []
        finally:
            await n1.stop()

    run(main)


def test_a_restarted_peer_is_found_again(run: Run) -> None:
    """When a peer comes back, the link does too, and shows the new incarnation."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            n1, n2, one, _ = await pair(stack)
            address = n2.address
            await n2.stop()
            await until(lambda: one.events[-1][0] == "down")
            assert not n1.send("n2", "s", Alive())
            again = Recorder()
            n2 = make("n2", again, bind=address, incarnation=2, peers={"n1": n1.advertise})
            await n2.start()
            stack.push_async_callback(n2.stop)
            n1.nudge("n2")
            await until(lambda: one.events[-1] == ("up", "n2", 2))
            assert n1.send("n2", "s", Alive())
            n1.flush()
            await until(lambda: again.received)

    run(main)


def test_a_peer_whose_process_ends_is_gone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that lasted is dialled again at once, and a refusal is told, once. No back-off comes before."""
    monkeypatch.setattr(peer_link, "backoff_s", lambda *_: 60.0)

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            _n1, n2, one, _ = await pair(stack, limits=msgspec.structs.replace(FAST, backoff_max_s=0.0))
            await n2.stop()
            await until(lambda: ("gone", "n2", "") in one.events, "the news")
            assert [kind for kind, *_ in one.events] == ["up", "down", "gone"]

    run(main)


def test_a_peer_that_was_never_up_is_not_gone(run: Run) -> None:
    """A peer that has yet to start refuses connections, which is no news."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            one = Recorder()
            n1 = make("n1", one, peers={"n2": f"127.0.0.1:{free_port()}"})
            await n1.start()
            stack.push_async_callback(n1.stop)
            await until(lambda: "cannot connect" in n1.status()["n2"].last_error, "a refusal")
            assert one.events == []

    run(main)


def test_a_peer_that_keeps_its_link_to_us_is_not_gone(run: Run) -> None:
    """A proxy before a living node ends and refuses: the node is gone when its own link has ended, too."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            n1, n2, one, _ = await pair(stack)
            relayed: list[asyncio.StreamWriter] = []

            async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                onward = await asyncio.open_connection(*split_address(n2.address, "test"))
                relayed.extend((writer, onward[1]))
                await asyncio.gather(_pump(reader, onward[1]), _pump(onward[0], writer))

            proxy = await asyncio.start_server(relay, "127.0.0.1", 0)
            stack.callback(proxy.close)
            n1.set_peer("n2", f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
            await until(lambda: n1.status()["n2"].connected and relayed, "the link by way of the proxy")
            one.events.clear()

            proxy.close()
            for writer in relayed:
                writer.transport.abort()
            await until(lambda: "cannot connect" in n1.status()["n2"].last_error, "a refusal")
            assert [kind for kind, *_ in one.events] == ["down"]
            await n2.stop()
            await until(lambda: ("gone", "n2", "") in one.events, "the news")

    run(main)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(4096):
            writer.write(data)


def test_a_peer_that_never_reads_costs_a_bounded_amount(run: Run) -> None:
    """Output beyond the bound is dropped and counted; heartbeats still pass for a while."""

    async def main() -> None:
        one = Recorder()
        limits = msgspec.structs.replace(FAST, peer_output_max=1_000_000, linger_s=0.05)
        n1 = make("n1", one, limits=limits)
        n2 = make("n2", Recorder())
        await n1.start()
        await n2.start()
        connected = asyncio.Event()
        writers: list[asyncio.StreamWriter] = []

        async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            listen = n2._accept()._handshake
            while not connected.is_set():
                length, _, kind, _ = HEADER.unpack(await reader.readexactly(HEADER.size))
                step = listen.receive(FrameKind(kind), await reader.readexactly(length))
                writer.write(step.send)
                if step.established:
                    writer.transport.pause_reading()  # type: ignore[attr-defined]
                    connected.set()

        server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1000)
        n1.set_peer("n2", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await until(lambda: one.events)
        for _ in range(300):
            n1.send("n2", "s", entries(100_000))
            n1.flush()
            await asyncio.sleep(0)
        status = n1.status()["n2"]
        assert n1.counters.dropped_sends == status.dropped > 0
        assert 1_000_000 < status.bytes_queued < 1_300_000
        assert n1.send("n2", "", Alive())
        await n1.stop()
        await n2.stop()
        writers[0].transport.abort()
        server.close()
        await n1.stop()

    run(main)


def test_a_turn_without_end_is_bounded_too(run: Run) -> None:
    """The bound counts what waits for the flush, not only what waits in the socket."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            limits = msgspec.structs.replace(FAST, peer_output_max=1_000_000)
            n1, *_ = await pair(stack, limits=limits)
            sent = [n1.send("n2", "s", entries(100_000)) for _ in range(50)]
            assert sent == sorted(sent, reverse=True)
            assert sent.count(True) == 10

    run(main)


def test_sec15_answers_pass_behind_a_large_entry(run: Run) -> None:
    """A large message fills the link: further large ones are dropped, answers are not, up to a bound."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            limits = msgspec.structs.replace(FAST, peer_output_max=1_000_000, frame_bytes_max=4_000_000)
            n1, _, _, two = await pair(stack, limits=limits)
            assert n1.send("n2", "s", entries(2_000_000))
            assert not n1.send("n2", "s", entries(100_000))
            answer = wire.FrontReplies(1, 1, 1, msgspec.Raw(msgspec.msgpack.encode([b"x" * 50_000])))
            sent = [n1.send("n2", "", answer) for _ in range(100)]
            assert 55 <= sent.count(True) <= 62
            assert n1.send("n2", "", Alive())
            n1.flush()
            await until(lambda: len(two.received) == sent.count(True) + 2)

    run(main)


def test_a_forged_sender_is_dropped_and_counted(run: Run) -> None:
    """A peer speaks for itself only; its honest messages in the same frame are delivered."""

    async def main() -> None:
        recorder = Recorder()
        n1 = make("n1", recorder)
        await n1.start()
        _, writer = await raw_peer(n1.address)
        forged, honest = (Envelope("s", TimeoutNow(ServerId("s", node))) for node in ("n2", "n9"))
        writer.write(encode_frame(FrameKind.ENVELOPES, wire.encode_envelopes([forged, honest])))
        await until(lambda: recorder.received)
        assert recorder.received == [("n9", honest)]
        assert n1.counters.forged_messages == 1
        writer.close()
        await n1.stop()

    run(main)


def test_frames_cut_into_single_bytes_arrive(run: Run) -> None:
    """The framing survives a sender that writes byte by byte."""

    async def main() -> None:
        recorder = Recorder()
        n1 = make("n1", recorder)
        await n1.start()
        _, writer = await raw_peer(n1.address)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in encode_frame(FrameKind.ENVELOPES, wire.encode_envelopes([Envelope("", Alive())] * 9)):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        await until(lambda: len(recorder.received) == 9)
        writer.close()
        await n1.stop()

    run(main)


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(2**31, 1, 16, 0),
        HEADER.pack(10, 1, 99, 0),
        encode_frame(FrameKind.ENVELOPES, b"\xc1 rubbish"),
        encode_frame(FrameKind.REQUESTS, wire.encode_requests([])),
        encode_frame(FrameKind.HELLO, b""),
    ],
    ids=["huge", "unknown kind", "rubbish", "a client's frame", "second hello"],
)
def test_a_hostile_peer_is_cut_off_and_hurts_nobody_else(run: Run, data: bytes) -> None:
    """A malformed frame ends its own connection, is counted, and leaves the others alone."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            n1, n2, one, _ = await pair(stack)
            reader, writer = await raw_peer(n1.address)
            writer.write(data)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            await until(lambda: n1.counters.malformed_frames == 1)
            assert n2.send("n1", "s", Alive())
            n2.flush()
            await until(lambda: one.received)

    run(main)


def test_silent_strangers_are_bounded_and_cut_off(run: Run) -> None:
    """Hundreds of silent connections: the surplus is closed at once, the rest in time; peers come in."""

    async def main() -> None:
        recorder = Recorder()
        n1 = make(
            "n1",
            recorder,
            limits=msgspec.structs.replace(FAST, unauthenticated_max=200, handshake_timeout_s=1.0),
        )
        await n1.start()
        address = split_address(n1.address, "test")
        strangers = [await asyncio.open_connection(*address) for _ in range(300)]
        await until(lambda: n1.counters.unauthenticated_refused == 100)
        for reader, _ in strangers:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        _, writer = await raw_peer(n1.address)
        writer.write(encode_frame(FrameKind.ENVELOPES, wire.encode_envelopes([Envelope("", Alive())])))
        await until(lambda: recorder.received)
        for _, other in strangers:
            other.close()
        writer.close()
        await n1.stop()

    run(main)


def test_wrong_secrets_and_names_are_told(run: Run) -> None:
    """A link that is refused says why in its status, and the clients' error does too."""

    async def main() -> None:
        n1 = make("n1", Recorder())
        await n1.start()
        wrong = make(
            "n2", Recorder(), credentials=Credentials.of_secret(b"x" * 16), peers={"n1": n1.advertise}
        )
        lost = make("n3", Recorder(), peers={"n7": n1.advertise})
        for node in (wrong, lost):
            await node.start()
        await until(lambda: "secrets of node 'n2' and node 'n1' differ" in wrong.status()["n1"].last_error)
        await until(lambda: "expected node 'n7'" in lost.status()["n7"].last_error)
        nothing: Callable[[Any], None] = lambda _: None  # noqa: E731
        with pytest.raises(Unauthenticated, match="cluster names differ"):
            await ClientLink.connect(n1.advertise, "other", SECRET, on_answers=nothing, on_closed=nothing)
        with pytest.raises(Unauthenticated, match="secrets"):
            await ClientLink.connect(n1.advertise, "test", b"y" * 20, on_answers=nothing, on_closed=nothing)
        with pytest.raises(NoLeader, match="cannot connect"):
            await ClientLink.connect("127.0.0.1:1", "test", SECRET, on_answers=nothing, on_closed=nothing)
        assert n1.counters.handshakes_refused >= 4
        for node in (n1, wrong, lost):
            await node.stop()

    run(main)


def test_a_client_asks_and_is_answered(run: Run) -> None:
    """Requests reach the sink in order, answers come back, and both ends learn of the end once."""

    async def main() -> None:
        recorder, answers, ends = Recorder(), [], []
        n1 = make("n1", recorder, incarnation=77)
        await n1.start()
        link = await ClientLink.connect(
            n1.advertise, "test", SECRET, on_answers=answers.extend, on_closed=ends.append, expected="n1"
        )
        assert (link.node, link.incarnation) == ("n1", 77)
        calls = [wire.ClientCall(number, "x", {}, 1) for number in range(3)]
        assert link.send(calls)
        link.flush()
        await until(lambda: recorder.sinks[0].requests == calls)
        assert recorder.sinks[0].connection.send([wire.ClientCallReply(number) for number in range(3)])
        n1.flush()
        await until(lambda: len(answers) == 3)
        link.close()
        await until(lambda: ends and recorder.sinks[0].closed)
        assert (len(ends), recorder.sinks[0].closed) == (1, 1)
        assert not link.send(calls)
        assert not recorder.sinks[0].connection.send([])
        await n1.stop()

    run(main)


def test_a_client_hears_why_it_is_closed(run: Run) -> None:
    """The node's reason for ending a connection reaches the client."""

    async def main() -> None:
        recorder, ends = Recorder(), []
        n1 = make("n1", recorder)
        await n1.start()
        await ClientLink.connect(
            n1.advertise, "test", SECRET, on_answers=lambda _: None, on_closed=ends.append
        )
        await until(lambda: recorder.sinks)
        recorder.sinks[0].connection.close("maintenance")
        await until(lambda: ends == ["maintenance"])
        await n1.stop()

    run(main)


def test_a_client_that_never_reads_is_disconnected(run: Run) -> None:
    """Answers wait for a client up to the bound; then it is cut off and counted."""

    async def main() -> None:
        recorder = Recorder()
        n1 = make("n1", recorder, limits=msgspec.structs.replace(FAST, client_output_max=1_000_000))
        await n1.start()
        _, writer = await raw_peer(n1.address, name="", role=Role.CLIENT)
        writer.transport.pause_reading()
        await until(lambda: recorder.sinks)
        answer = wire.ClientCallReply(1, "x" * 100_000)
        for _ in range(300):
            recorder.sinks[0].connection.send([answer])
            n1.flush()
        await until(lambda: recorder.sinks[0].closed == 1)
        assert n1.counters.slow_clients == 1
        writer.close()
        await n1.stop()

    run(main)


def test_a_removed_peer_is_disconnected(run: Run) -> None:
    """After `remove_peer` nothing can be sent to it, and it is no longer in the status."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            n1, _, one, _ = await pair(stack)
            n1.remove_peer("n2")
            await until(lambda: one.events[-1][0] == "down")
            assert n1.status() == {}
            assert not n1.send("n2", "s", Alive())

    run(main)


def test_an_address_in_use_is_named(run: Run) -> None:
    """A bind that fails says which address and why."""

    async def main() -> None:
        n1 = make("n1", Recorder())
        await n1.start()
        with pytest.raises(ConfigurationError, match=f"{n1.address}.*in use"):
            await make("n2", Recorder(), bind=n1.address).start()
        await n1.stop()

    run(main)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:x", "host:70000", "host:-1"])
def test_addresses_that_are_none_are_refused(address: str) -> None:
    """An address without host or port names its setting."""
    with pytest.raises(ConfigurationError, match="the bind address"):
        split_address(address, "the bind address")


def test_backoff_doubles_within_bounds() -> None:
    """Waiting times double from 50 ms to 2 s, and are spread between half and all of it."""
    limits, rng = Limits(), random.Random(3)
    for attempts, longest in ((0, 0.05), (1, 0.1), (5, 1.6), (6, 2.0), (10_000, 2.0)):
        for _ in range(50):
            assert longest / 2 <= backoff_s(attempts, limits, rng) <= longest
