"""Memory that Redis clients hold, in real bytes: bounded for each of them and in all, and taken in turns."""

import asyncio
import socket

import pytest

from barque.gateways.resp.limits import RespLimits
from barque.gateways.resp.memory import LITTLE_BYTES, Budget

MIB = 1024 * 1024


async def until(condition):
    """Give the loop turns until the condition holds; the test's own deadline ends a vain wait."""
    while not condition():  # noqa: ASYNC110 - the conditions are facts about the server, not events
        await asyncio.sleep(0.002)


class Watcher:
    """Records the most that a server's clients have held."""

    def __init__(self, server):
        self.server = server
        self.most = 0
        settle = server.schedule_flush

        def look(connection):
            self.most = max(self.most, server.replies.used)
            settle(connection)

        server.schedule_flush = look


# --- pipelines whose replies are read afterwards


@pytest.mark.parametrize(
    ("line", "count"), [("PING", 300_000), ("GET k", 40_000), ("INCR n", 20_000), ("SET k v", 20_000)]
)
async def test_h1_a_pipeline_may_be_sent_before_its_replies_are_read(start, connect, command, line, count):
    """The gateway goes on reading requests while nobody reads replies, up to its bound."""
    client = await connect(await start())
    await client.ask("SET", "k", "x" * 50)
    client.writer.transport.pause_reading()
    client.send(command(*line.split()) * count)
    await asyncio.wait_for(client.writer.drain(), 60)
    await until(lambda: client.writer.transport.get_write_buffer_size() == 0)
    client.writer.transport.resume_reading()
    for _ in range(count):
        await client.reply()


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("GET k", 500),
        ("MGET k k", 500),
        ("GETRANGE k 0 -1", 500),
        ("ECHO {}", 500),
        ("CLIENT LIST", 40_000),
        ("INFO", 20_000),
        ("COMMAND DOCS", 2_000),
        ("SCAN 0", 1_000),
    ],
)
async def test_h1_a_client_that_never_reads_is_paused_and_then_cut_off(start, connect, command, line, count):
    """Whatever it asks for: its replies never take more than the bound, and others are served."""
    limits = RespLimits(reply_bytes_max=400_000, unread_timeout_ms=1_000)
    server = await start(limits=limits)
    good, bad = await connect(server), await connect(server)
    await good.ask("SET", "k", "x" * 100_000)
    for n in range(50):
        await good.ask("SET", "y" * 5_000 + str(n), "")
    watcher = Watcher(server)
    bad.writer.transport.pause_reading()
    bad.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    bad.send(command(*line.replace("{}", "z" * 50_000).split()) * count)
    await until(lambda: server.counters.slow_readers == 1)
    assert watcher.most < 2 * limits.reply_bytes_max + 200_000
    assert await good.ask("PING") == b"+PONG\r\n"
    await until(lambda: server.counters.current == 1)
    assert server.replies.used == 0
    assert server.requests.used == 0


@pytest.mark.parametrize(
    "line", ["GET k", "MGET k", "GETRANGE k 0 -1", "GETEX k", "GETEX k PERSIST", "SET k v NX GET"]
)
async def test_sec4_large_replies_are_not_fetched_before_there_is_room(
    start, connect, command, submitter, line
):
    """Of many large values only so many leave the machine as the connection may hold."""
    server = await start(limits=RespLimits(reply_bytes_max=4 * MIB))
    client = await connect(server)
    await client.ask("SET", "k", b"x" * MIB)
    fetched = 0

    def counting(submit):
        def submitted(*arguments):
            *before, done, timeout_ms = arguments

            def count(reply):
                nonlocal fetched
                value = reply[0] if isinstance(reply, list) else reply
                fetched += isinstance(value, bytes) and len(value) >= MIB
                done(reply)

            submit(*before, count, timeout_ms)

        return submitted

    submitter.command, submitter.query = counting(submitter.command), counting(submitter.query)
    client.writer.transport.pause_reading()
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.send(command(*line.split()) * 100)
    await until(lambda: next(iter(server._connections)).waits_for_client)
    assert 1 <= fetched <= 8  # the sockets' own buffers take some


async def test_sec4_an_answer_above_the_limit_is_refused_before_it_is_built(start, connect):
    """MGET and GET of more than a reply may have: an error that names the limit, at once."""
    client = await connect(await start(limits=RespLimits(reply_bytes_max=MIB)))
    await client.ask("SET", "k", b"x" * (MIB // 2))
    await client.ask("SET", "big", b"x" * (MIB + 1))
    for line in ("MGET k k k", "GET big", "GETDEL big", "GETRANGE big 0 -1"):
        reply = await client.ask(*line.split())
        assert b"more than the limit of 1048576; nothing was done" in reply, line
    assert await client.ask("EXISTS", "big") == b":1\r\n"
    assert len(await client.ask("MGET", "k")) > MIB // 2


async def test_r5_errors_of_reads_that_are_too_expensive_name_the_cure(start, connect):
    """Patterns, and KEYS of a large store."""
    client = await connect(await start())
    for line in (["KEYS", "*" * 300_000], ["SCAN", "0", "MATCH", "a" * 1025], ["CONFIG", "GET", "*" * 1025],
                 ["COMMAND", "LIST", "FILTERBY", "PATTERN", "*" * 1025]):  # fmt: skip
        assert b"is longer than the limit of 1024" in await client.ask(*line)


async def test_sec4_all_clients_together_hold_no_more_than_the_total(start, connect, command):
    """Many connections that never read: their replies take turns, and another client is served at once."""
    limits = RespLimits(reply_bytes_max=4 * MIB, reply_bytes_total=8 * MIB)
    server = await start(limits=limits)
    good = await connect(server)
    await good.ask("SET", "k", b"x" * MIB)
    watcher = Watcher(server)
    bad = [await connect(server) for _ in range(12)]
    for client in bad:
        client.writer.transport.pause_reading()
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(command("GET", "k") * 50)
    await until(lambda: server.replies.line)
    for n in range(20):
        assert await good.ask("SET", "small", n) == b"+OK\r\n"
        assert await good.ask("GET", "small") == b"$%d\r\n%d\r\n" % (len(str(n)), n)
    assert len(await good.ask("GET", "k")) > MIB, (
        "a large read waits until a client that stands still is cut off"
    )
    assert server.counters.evicted >= 1
    assert watcher.most <= limits.reply_bytes_total + 2 * MIB


async def test_sec15_large_requests_take_turns(start, connect, command, submitter):
    """A connection's share of what is under way is bounded, and a small command of another passes."""
    submitter.hold = True
    limits = RespLimits(submitted_bytes_max=MIB, submitted_bytes_total=4 * MIB)
    server = await start(limits=limits)
    bad = [await connect(server) for _ in range(3)]
    for client in bad:
        client.send(command("SET", "k", b"x" * 3 * MIB) * 5)
    await until(lambda: submitter.held and server.requests.line)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(submitter.held) == 1, "one large request at a time"
    good = await connect(server)
    good.send(command("SET", "small", "v"))
    await until(lambda: len(submitter.held) == 2)
    submitter.release()
    assert await good.reply() == b"+OK\r\n"
    for client in bad:
        assert [await client.reply() for _ in range(5)] == [b"+OK\r\n"] * 5
    assert server.requests.used == 0


async def test_sec15_a_gateway_at_rest_does_nothing_while_a_client_waits(start, connect, command, submitter):
    """A client that stands in line is asked when there is news, not in every turn of the loop."""
    submitter.hold = True
    server = await start(limits=RespLimits(submitted_bytes_max=MIB, submitted_bytes_total=MIB))
    for _ in range(3):
        (await connect(server)).send(command("SET", "k", b"x" * MIB) * 2)
    await until(lambda: submitter.held and server.requests.line)
    good = await connect(server)
    assert await good.ask("PING") == b"+PONG\r\n"
    flushes = 0
    flush = server._flush

    def counted():
        nonlocal flushes
        flushes += 1
        flush()

    server._flush = counted
    assert await good.ask("PING") == b"+PONG\r\n"
    for _ in range(100):
        await asyncio.sleep(0)
    assert 1 <= flushes < 20
    submitter.release()


async def test_sec4_requests_of_all_clients_are_bounded(start, connect, command):
    """Half requests of many clients: beyond the total the largest that stands still is cut off."""
    server = await start(limits=RespLimits(request_bytes_total=4 * MIB))
    good = await connect(server)
    halves = [await connect(server) for _ in range(6)]
    for client in halves:
        client.send(command("SET", "k", b"x" * 2 * MIB)[: MIB + MIB // 2])
    await until(lambda: server.counters.evicted >= 1)
    assert server.request_bytes <= 4 * MIB + 6 * 64 * 1024
    assert await good.ask("SET", "a", "b") == b"+OK\r\n"
    await until(lambda: not server._hungry)


def test_budgets_are_shares_and_turns():
    """A share for each, a total for all, little for everybody, and a line for the rest."""

    class One:
        def __init__(self):
            self.pumped = 0

        def pump(self):
            self.pumped += 1

    budget, first, second = Budget(share=1_000_000, total=2_000_000), One(), One()
    assert budget.admits(first, 0, 1_500_000), "alone, one may be larger than the share"
    budget.used = 1_500_000
    assert not budget.admits(first, 1_500_000, 10)
    assert not budget.admits(second, 0, 900_000)
    assert list(budget.line) == [second]
    assert budget.admits(first, 0, LITTLE_BYTES), "little does not wait"
    assert not budget.admits(first, LITTLE_BYTES, 100_000), "but much stands behind earlier ones"
    budget.used = 0
    budget.serve_line()
    assert (first.pumped, second.pumped) == (0, 1)
    assert budget.admits(second, 0, 900_000)
    assert list(budget.line) == [first]
    budget.used = 3_990_000
    assert not budget.admits(second, 0, LITTLE_BYTES), "not even little without end"


# --- passwords and vanished clients


async def test_sec17_wrong_passwords_wait_longer_and_longer(start, connect, command):
    """Guesses of one host are answered ever later, on new connections too; the right password at once."""
    server = await start(password=["old-password", "new-password"])
    loop = asyncio.get_running_loop()
    pauses = []
    call_later = loop.call_later
    loop.call_later = lambda delay, *rest, **named: (
        pauses.append(delay) or call_later(delay if delay > 4 else min(delay, 0.01), *rest, **named)
    )
    client = await connect(server)
    client.send(b"".join(command("AUTH", f"guess-{n}") for n in range(8)))
    assert [(await client.reply())[:10] for _ in range(8)] == [b"-WRONGPASS"] * 8
    guesses = [pause for pause in pauses if pause not in (1.0, 5.0)]
    assert guesses == [0, 0, 0, 0.1, 0.2, 0.4, 0.8, 1.6]
    for password in ("old-password", "new-password"):
        other = await connect(server)
        pauses.clear()
        assert await other.ask("AUTH", password) == b"+OK\r\n"
        assert [pause for pause in pauses if pause not in (1.0, 5.0)] == []
    another = await connect(server)
    pauses.clear()
    assert (await another.ask("AUTH", "default", "guess")).startswith(b"-WRONGPASS")
    assert 3.2 in pauses
    assert server.counters.wrong_passwords == 9


async def test_sec17_nothing_is_tried_while_a_wrong_password_waits(start, connect, command):
    """A pipeline of guesses is one guess at a time."""
    server = await start(password="a-long-password")
    server._guesses["127.0.0.1"] = 30
    client = await connect(server)
    client.send(command("AUTH", "wrong-guess") + command("AUTH", "a-long-password") + command("PING"))
    await until(lambda: server.counters.wrong_passwords == 1)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not next(iter(server._connections)).session.authenticated


async def test_sec12_strangers_make_room_for_others(start, connect):
    """Connections without the password never keep a client out that has it: the oldest of them goes."""
    server = await start(password="a-long-password", limits=RespLimits(strangers_max=5, connections_max=8))
    strangers = [await connect(server) for _ in range(30)]
    await until(lambda: server.counters.accepted == 30)
    client = await connect(server)
    assert await client.ask("AUTH", "a-long-password") == b"+OK\r\n"
    assert server.counters.current <= 6
    del strangers


async def test_h5_connections_are_kept_alive_by_tcp(start, connect):
    """A client that vanished without a word is noticed."""
    server = await start()
    client = await connect(server)
    await client.ask("PING")
    sock = next(iter(server._connections))._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


@pytest.mark.parametrize("password", ["", "x", "1234567", ["a-long-password", "short"]])
def test_sec16_short_passwords_are_refused(submitter, password):
    """Every password that lets a client in is long enough, at start."""
    from barque.errors import ConfigurationError
    from barque.gateways.resp.server import RespServer

    with pytest.raises(ConfigurationError, match="at least 8 characters"):
        RespServer(submitter, bind="127.0.0.1:0", password=password)
