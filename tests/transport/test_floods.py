"""Floods on the nodes' port: half-open connections, guesses, answers that nobody reads, frames in part."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from tests.transport.support import SECRET, Recorder, Sink, until
from tests.transport.test_roles import shake
from tests.transport.test_tcp import FAST, make, raw_peer

from barque.errors import Unauthenticated
from barque.transport import wire
from barque.transport.authorization import Role
from barque.transport.budget import Budget
from barque.transport.client_link import ClientLink
from barque.transport.connection import split_address
from barque.transport.framing import BUFFER_KEPT, HEADER, FrameKind
from barque.transport.guesses import Guesses
from barque.transport.strangers import Strangers

Run = Callable[..., Any]
MIB = 1024 * 1024


def test_sec12_peers_find_each_other_among_strangers(run: Run) -> None:
    """A node restarts while 1,200 half-open connections knock, more and more of them: its links come up.

    The oldest of them go, and what is connected already stays.
    """

    async def main() -> None:
        limits = msgspec.structs.replace(FAST, unauthenticated_max=200, handshake_timeout_s=60.0)
        one, two = Recorder(), Recorder()
        n1 = make("n1", one, limits=limits)
        await n1.start()
        host, port = split_address(n1.advertise, "test")
        held: list[asyncio.StreamWriter] = []

        async def knock(count: int) -> None:
            for _ in range(count):
                with contextlib.suppress(OSError):
                    held.append((await asyncio.open_connection(host, port))[1])

        await knock(300)
        stop = asyncio.Event()

        async def go_on() -> None:
            while not stop.is_set() and len(held) < 1200:
                await knock(5)
                await asyncio.sleep(0)

        attack = asyncio.create_task(go_on())
        n2 = make("n2", two, peers={"n1": n1.advertise}, limits=limits)
        await n2.start()
        await until(lambda: two.events == [("up", "n1", 1)], "the link among strangers")
        stop.set()
        await attack
        assert n1.counters.unauthenticated_refused >= 100
        assert len(n1.strangers) <= 200
        assert n2.connected() == ["n1"]
        for writer in held:
            writer.close()
        for node in (n1, n2):
            await node.stop()

    run(main)


@given(st.lists(st.sampled_from(["add", "speak", "go"]), max_size=200), st.integers(1, 5))
def test_the_newcomer_always_gets_in(steps: list[str], total_max: int) -> None:
    """There are never too many, the newest is never the one that goes, and a silent one goes first."""
    strangers: Strangers[int] = Strangers(total_max)
    known: dict[int, bool] = {}  # who is in, in order, and who has spoken
    for number, step in enumerate(steps):
        if step == "add":
            gone = strangers.add(number)
            silent = [one for one, spoke in known.items() if not spoke]
            expected = (silent or list(known))[0] if len(known) == total_max else None
            assert gone == expected
            known.pop(gone, None)  # type: ignore[arg-type]
            known[number] = False
        elif known and step == "speak":
            last = list(known)[-1]
            if not known[last]:
                strangers.spoke(last)
                del known[last]
                known[last] = True
        elif known:
            first = next(iter(known))
            strangers.remove(first)
            del known[first]
        assert len(strangers) == len(known) <= total_max


def test_sec17_guesses_get_slower(run: Run) -> None:
    """From the fourth wrong secret on each guess waits, longer each time; so does the right one."""

    async def main() -> None:
        n1 = make("n1", Recorder())
        await n1.start()
        for _ in range(6):
            with pytest.raises(Unauthenticated):
                await shake(n1.address, Role.CLIENT, b"a wrong secret of some length")
        assert n1.guesses.count == 6
        pause_s = n1.guesses.pause_s("127.0.0.1")
        assert pause_s == 0.05 * 2**2
        began = time.monotonic()
        _, writer, _ = await shake(n1.address, Role.CLIENT, SECRET)
        assert time.monotonic() - began >= pause_s * 0.9
        writer.close()
        await n1.stop()

    run(main)


def test_the_pause_grows_is_bounded_and_ends() -> None:
    """Three mistakes are free; then it doubles up to two seconds; a minute without mistakes ends it."""
    now = [0.0]
    guesses = Guesses(lambda: now[0])
    pauses = []
    for _ in range(20):
        pauses.append(guesses.pause_s("here"))
        guesses.wrong("here")
    assert pauses[:7] == [0.0, 0.0, 0.0, 0.0, 0.05, 0.1, 0.2]
    assert pauses[-1] == 2.0
    assert guesses.pause_s("elsewhere") == 0.0
    now[0] = 61.0
    assert guesses.pause_s("here") == 0.0
    for number in range(10_000):
        guesses.wrong(f"address {number}")
    assert len(guesses._wrong) <= 4096


@given(st.lists(st.integers(0, 100), max_size=30), st.integers(1, 1000), st.integers(1, 1000))
def test_a_budget_keeps_its_bounds(wishes: list[int], total_max: int, each_max: int) -> None:
    """Together the holders never have more than the total, one has half at most, and something is left."""
    budget = Budget(total_max, each_max)
    held = [0] * 5
    for number, wish in enumerate(wishes):
        at = number % 5
        taken = min(wish, budget.room(held[at]))
        held[at] = budget.change(held[at], held[at] + taken)
        assert sum(held) == budget.used <= total_max
        assert held[at] <= max(each_max, 0)
        assert not taken or held[at] <= total_max - budget.used


def test_sec4_a_client_that_reads_nothing_is_not_read_from(run: Run) -> None:
    """Its requests stay in its socket until it reads; then it goes on, and nothing is lost."""

    async def main() -> None:
        recorder = Recorder()
        n1 = make("n1", recorder)
        await n1.start()
        reader, writer = await raw_peer(n1.address, name="", role=Role.CLIENT)
        writer.transport.pause_reading()
        await until(lambda: recorder.sinks)
        sink: Sink = recorder.sinks[0]
        handle = sink.connection
        for _ in range(20):
            handle.send([wire.ClientCallReply(1, "x" * MIB)])
            n1.flush()
        await until(lambda: handle.unread, "a stall")
        assert handle.room < n1.limits.client_output_max
        writer.write(frame_of([wire.ClientCall(1, "ping", {}, 1)]))
        await asyncio.sleep(0.2)
        assert not sink.requests
        writer.transport.resume_reading()
        received = 0
        while received < 20 * MIB:
            received += len(await reader.read(MIB))
        await until(lambda: sink.requests, "the request")
        assert handle.unread == 0
        assert n1.output_budget.used == 0
        writer.close()
        await n1.stop()

    run(main)


def frame_of(requests: list[Any]) -> bytes:
    """A frame of requests."""
    payload = wire.encode_requests(requests)
    return HEADER.pack(len(payload), 1, FrameKind.REQUESTS, 0) + payload


def test_sec4_a_client_that_stays_deaf_is_cut_off(run: Run) -> None:
    """If nothing of its answers is taken for a while the connection ends, and is counted."""

    async def main() -> None:
        recorder = Recorder()
        n1 = make("n1", recorder, limits=msgspec.structs.replace(FAST, client_stall_s=0.2))
        await n1.start()
        _, writer = await raw_peer(n1.address, name="", role=Role.CLIENT)
        writer.transport.pause_reading()
        await until(lambda: recorder.sinks)
        recorder.sinks[0].connection.send([wire.ClientCallReply(1, "x" * (20 * MIB))])
        n1.flush()
        await until(lambda: recorder.sinks[0].closed == 1)
        assert n1.counters.slow_clients == 1
        assert n1.output_budget.used == 0
        writer.close()
        await n1.stop()

    run(main)


def test_sec11_frames_in_part_are_bounded_together(run: Run) -> None:
    """Many clients that send most of a large frame and stop: beyond the bound they are cut off.

    A client with small frames is served all the while.
    """

    async def main() -> None:
        recorder = Recorder()
        n1 = make("n1", recorder, limits=msgspec.structs.replace(FAST, clients_input_max=16 * MIB))
        await n1.start()
        writers = []
        for _ in range(12):
            _, writer = await raw_peer(n1.address, name="", role=Role.CLIENT)
            writer.write(HEADER.pack(6 * MIB, 1, FrameKind.REQUESTS, 0) + bytes(5 * MIB))
            writers.append(writer)
        await until(lambda: n1.counters.refused_frames > 0, "a refusal")
        assert n1.input_budget.used <= 16 * MIB
        link = await ClientLink.connect(
            n1.advertise, "test", SECRET, on_answers=lambda _: None, on_closed=lambda _: None
        )
        link.send([wire.ClientCall(1, "ping", {}, 1)])
        link.flush()
        await until(lambda: any(sink.requests for sink in recorder.sinks), "the small request")
        link.close()
        for writer in writers:
            writer.close()
        await until(lambda: n1.input_budget.used == 0, "the memory")
        await n1.stop()

    run(main)


def test_large_frames_one_after_the_other_are_no_flood(run: Run) -> None:
    """The memory of a frame is given back when it was handled: a client may send large frames without end."""

    async def main() -> None:
        recorder = Recorder()
        n1 = make("n1", recorder, limits=msgspec.structs.replace(FAST, clients_input_max=16 * MIB))
        await n1.start()
        link = await ClientLink.connect(
            n1.advertise, "test", SECRET, on_answers=lambda _: None, on_closed=lambda _: None
        )
        for number in range(12):
            link.send([wire.ClientCall(number, "x", {"large": bytes(3 * MIB)}, 1)])
            link.flush()
            await until(lambda number=number: len(recorder.sinks[0].requests) == number + 1)  # type: ignore[misc]
        assert n1.input_budget.used <= 2 * BUFFER_KEPT
        link.close()
        await n1.stop()

    run(main)


@pytest.mark.parametrize(
    "request_",
    [
        wire.ClientQueries("c" * 300, 1, (b"\x01",), "leader", 1000),
        wire.ClientQueries("é" * 200, 1, (b"\x01",), "leader", 1000),
        wire.ClientCall(1, "v" * 300, {}, 1000),
        wire.ClientCall(1, "ping", {}, wire.TIMEOUT_MS_MAX + 1),
        wire.ClientQueries("c", 1, (b"\x01",), "leader", 2**31 - 1),
    ],
)
def test_sec10_names_and_timeouts_have_bounds(request_: Any) -> None:
    """Nothing that a node keeps while a request waits may be long, in bytes or in time."""
    with pytest.raises(wire.ProtocolError):
        wire.decode_requests(wire.encode_requests([request_]))
