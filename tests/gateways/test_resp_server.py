"""The gateway as its clients see it: order, outcomes, limits, hostile clients, real clients."""

import asyncio
import contextlib
import shutil
import subprocess

import pytest
import redis
import redis.asyncio
import uvloop

from barque.errors import (
    ConfigurationError,
    DiskFull,
    InvalidCommand,
    NoLeader,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    QueryTimeout,
    Stopped,
    WalDown,
)
from barque.gateways.resp.limits import RespLimits
from barque.gateways.resp.server import RespServer


async def until(condition):
    """Give the loop turns until the condition holds; the test's own deadline ends a vain wait."""
    while not condition():  # noqa: ASYNC110 - the conditions are facts about the server, not events
        await asyncio.sleep(0.002)


# --- order


async def test_runs_keep_the_order_of_one_connection(start, connect, command, submitter):
    """Writes go together and reads go together; a run waits until the one before it is answered."""
    submitter.hold = True
    client = await connect(await start())
    script = ["SET a 1", "SET b 2", "GET a", "GET b", "INCR a", "PING", "GET a"]
    client.send(b"".join(command(*line.split()) for line in script))
    for expected in ("ww", "wwrr", "wwrrw", "wwrrwr"):
        await until(lambda: "".join(submitter.log) == expected)  # noqa: B023 - awaited in this iteration
        assert len(submitter.held) == len(expected) - len("".join(expected).rstrip(expected[-1]))
        submitter.release(hold=True)
    replies = [await client.reply() for _ in script]
    assert replies == [
        b"+OK\r\n",
        b"+OK\r\n",
        b"$1\r\n1\r\n",
        b"$1\r\n2\r\n",
        b":2\r\n",
        b"+PONG\r\n",
        b"$1\r\n2\r\n",
    ]


async def test_outcomes_may_arrive_in_any_order_and_at_once(start, connect, command, submitter):
    """Replies are written in the order of the requests, whichever outcome comes first."""
    submitter.hold = True
    client = await connect(await start())
    client.send(b"".join(command("INCR", "k") for n in range(4)))
    await until(lambda: len(submitter.held) == 4)
    submitter.held.reverse()
    submitter.release()
    assert [await client.reply() for _ in range(4)] == [b":%d\r\n" % n for n in range(1, 5)]
    submitter.immediate = True
    client.send(b"".join(command("INCR", "n") + command("GET", "n") for _ in range(300)))
    for n in range(1, 301):
        assert await client.reply() == b":%d\r\n" % n
        assert (await client.reply()).endswith(b"\r\n%d\r\n" % n)


async def test_the_protocol_version_changes_between_replies(start, connect, command):
    """HELLO waits for what came before it: those replies are still of the old version."""
    client = await connect(await start())
    client.send(
        command("GET", "x")
        + command("HELLO", "3")
        + command("GET", "x")
        + command("RESET")
        + command("GET", "x")
    )
    replies = [await client.reply() for _ in range(5)]
    assert [replies[0], replies[2], replies[4]] == [b"$-1\r\n", b"_\r\n", b"$-1\r\n"]


async def test_read_levels(start, connect, submitter):
    """Reads are `consistent` unless the connection chose otherwise; RESET goes back."""
    client = await connect(await start())
    await client.ask("GET", "a")
    for level in ("local", "LEADER", "consistent"):
        assert await client.ask("BARQUE.READ", level) == b"+OK\r\n"
        await client.ask("GET", "a")
    assert (await client.ask("BARQUE.READ", "dirty")).startswith(b"-ERR the read level")
    await client.ask("BARQUE.READ", "local")
    await client.ask("RESET")
    assert await client.ask("BARQUE.READ") == b"$10\r\nconsistent\r\n"
    assert submitter.levels == ["consistent", "local", "leader", "consistent"]


async def test_compare_and_set(start, connect):
    """1 if swapped, 0 if not; without an expected value the key must be absent."""
    client = await connect(await start())
    script = ["k v", "k w", "k x y", "k v w", "k w z"]
    replies = [await client.ask("BARQUE.CAS", *line.split()) for line in script]
    assert replies == [b":1\r\n", b":0\r\n", b":0\r\n", b":1\r\n", b":1\r\n"]
    assert b"syntax error" in await client.ask("BARQUE.CAS", "k", "a", "b", "c")
    assert b"wrong number" in await client.ask("BARQUE.CAS", "k")


async def test_the_leader_is_shown(start, connect):
    """INFO shows the sections of the node; BARQUE.LEADER its leader."""
    client = await connect(await start(info=lambda: {"Barque": {"leader": "kv@n2", "members": 3}}))
    assert await client.ask("BARQUE.LEADER") == b"$5\r\nkv@n2\r\n"
    assert b"# Barque\r\nleader:kv@n2\r\nmembers:3\r\n" in await client.ask("INFO", "barque")
    assert b"redis_version:7" in await client.ask("INFO")
    other = await connect(await start())
    assert await other.ask("BARQUE.LEADER") == b"$-1\r\n"


# --- outcomes


@pytest.mark.parametrize(
    ("outcome", "prefix"),
    [
        (NoLeader("nobody leads"), b"-NOLEADER nobody leads\r\n"),
        (NotLeader(), b"-NOLEADER not the leader\r\n"),
        (NoQuorum("1 of 3"), b"-NOQUORUM 1 of 3\r\n"),
        (OutcomeUnknown("sent"), b"-UNKNOWN sent\r\n"),
        (Overloaded("full"), b"-BUSY full\r\n"),
        (QueryTimeout("late"), b"-TIMEOUT late\r\n"),
        (InvalidCommand("what"), b"-ERR what\r\n"),
        (WalDown("disk"), b"-REFUSED disk\r\n"),
        (DiskFull("room"), b"-MISCONF room\r\n"),
        (Stopped(), b"-REFUSED Stopped\r\n"),
    ],
)
async def test_outcomes_have_names(start, connect, submitter, outcome, prefix):
    """Every failure of the cluster is an error that says whether the command happened; never OK."""
    submitter.outcome = outcome
    client = await connect(await start())
    assert await client.ask("SET", "a", "b") == prefix
    assert await client.ask("GET", "a") == prefix
    assert await client.ask("PING") == b"+PONG\r\n"


async def test_an_error_raised_by_the_submitter_is_a_reply(start, connect, submitter):
    """A submitter that raises instead of answering does not leave the client waiting."""

    def broken(*arguments):
        raise Overloaded("now")

    submitter.command = broken
    client = await connect(await start())
    assert await client.ask("SET", "a", "b") == b"-BUSY now\r\n"
    assert await client.ask("GET", "a") == b"$-1\r\n"


async def test_a_reply_of_the_wrong_kind_is_an_error(start, connect, submitter):
    """A bug between machine and gateway costs one error reply and nothing else."""
    submitter.outcome = "no such reply"
    client = await connect(await start())
    assert (await client.ask("INCR", "a")).startswith(b"-ERR the reply to 'incr' failed")
    assert await client.ask("PING") == b"+PONG\r\n"


# --- configuration and authentication


@pytest.mark.parametrize(
    "bind", ["6379", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "0.0.0.0:0", "127.evil.org:1"]
)
def test_bad_addresses(submitter, bind):
    """An address that cannot work, or that is open to others without a password, is refused at once."""
    with pytest.raises(ConfigurationError, match="redis: bind"):
        RespServer(submitter, bind=bind)


async def test_an_address_in_use(start, submitter):
    """The error names the address and the cure."""
    host, port = (await start()).address
    with pytest.raises(ConfigurationError, match=f"cannot listen on {host}:{port}"):
        await RespServer(submitter, bind=f"{host}:{port}").start()


async def test_a_password(start, connect, command):
    """Without the password nothing runs; the texts are those of Redis."""
    server = await start(password="sesame-open")
    client = await connect(server)
    assert await client.ask("GET", "a") == b"-NOAUTH Authentication required.\r\n"
    assert (await client.ask("FOO")).startswith(b"-ERR unknown command 'FOO'")
    assert (await client.ask("HELLO", 3)).startswith(b"-NOAUTH HELLO must be called")
    for wrong in (["AUTH", "x"], ["AUTH", "other", "sesame-open"], ["HELLO", "3", "AUTH", "default", "x"]):
        assert (await client.ask(*wrong)).startswith(b"-WRONGPASS ")
    client.send(
        command("AUTH", "sesame-open")
        + command("SET", "a", b"x" * 20_000)
        + command("RESET")
        + command("GET", "a")
    )
    assert [await client.reply() for _ in range(4)] == [
        b"+OK\r\n",
        b"+OK\r\n",
        b"+RESET\r\n",
        b"-NOAUTH Authentication required.\r\n",
    ]
    assert (await client.ask("HELLO", "3", "AUTH", "default", "sesame-open"))[:1] == b"%"
    stranger = await connect(server)
    stranger.send(b"*11\r\n")
    assert await stranger.rest() == b"-ERR Protocol error: unauthenticated multibulk length\r\n"


async def test_strangers_may_not_stay(start, connect):
    """A client that does not give the password in time is cut off."""
    server = await start(password="sesame-open", limits=RespLimits(authentication_timeout_ms=20))
    client = await connect(server)
    with contextlib.suppress(ConnectionError):
        assert await client.rest() == b""
    assert server.connections.late_authentications == 1


# --- hostile clients


async def test_one_bad_client_hurts_nobody(start, connect):
    """Garbage, half frames and oversized values end one connection; the others go on."""
    server = await start()
    good = await connect(server)
    half = await connect(server)
    half.send(b"*2\r\n$3\r\nGET\r\n$10\r\nabc")
    for garbage in (
        b"*1\r\n$16777217\r\n",
        b"*1048577\r\n",
        b"\x16\x03\x01" * 100 + b"\n'\r\n",
        b"x" * 70_000,
    ):
        bad = await connect(server)
        bad.send(garbage)
        assert b"-ERR Protocol error: " in await bad.rest()
        assert await good.ask("PING") == b"+PONG\r\n"
    assert server.connections.protocol_errors == 4
    await half.close()
    await until(lambda: server.connections.current == 1)


async def test_a_reader_that_never_reads_is_cut_off(start, connect, command):
    """H1: replies that nobody reads stop the requests first, and end the connection after a time."""
    server = await start(limits=RespLimits(reply_bytes_max=4_000_000, unread_timeout_ms=1_000))
    good, bad = await connect(server), await connect(server)
    await good.ask("SET", "big", b"x" * 1_000_000)
    bad.writer.transport.pause_reading()
    bad.send(command("GET", "big") * 100)
    await until(lambda: server.connections.slow_readers == 1)
    await until(lambda: server.connections.current == 1)
    assert await good.ask("PING") == b"+PONG\r\n"


async def test_a_slow_reader_is_waited_for(start, connect, command):
    """Nothing is lost: reading stops and goes on."""
    server = await start(limits=RespLimits(reply_bytes_max=100_000, outstanding_max=10))
    client = await connect(server)
    await client.ask("SET", "k", b"x" * 20_000)
    client.writer.transport.pause_reading()
    client.send(command("GET", "k") * 500)
    await asyncio.sleep(0)
    client.writer.transport.resume_reading()
    for _ in range(500):
        assert len(await client.reply()) == 20_000 + len(b"$20000\r\n\r\n")


async def test_requests_are_not_read_without_bound(start, connect, command, submitter):
    """With `outstanding_max` commands unanswered the rest stays in the socket."""
    submitter.hold = True
    client = await connect(await start(limits=RespLimits(outstanding_max=50)))
    client.send(command("INCR", "n") * 1000)
    await until(lambda: len(submitter.held) == 50)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(submitter.held) == 50
    submitter.release()
    assert [await client.reply() for _ in range(1000)][-1] == b":1000\r\n"


async def test_bytes_of_requests_are_bounded_too(start, connect, command, submitter):
    """Few but large commands stop the reading as well."""
    submitter.hold = True
    client = await connect(await start(limits=RespLimits(outstanding_bytes_max=300_000)))
    client.send(command("SET", "k", b"x" * 100_000) * 50)
    await until(lambda: len(submitter.held) >= 3)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(submitter.held) < 6
    submitter.release()
    assert [await client.reply() for _ in range(50)] == [b"+OK\r\n"] * 50


async def test_too_many_clients(start, connect):
    """One more than the limit is told so; when one leaves there is room again."""
    server = await start(limits=RespLimits(connections_max=2))
    first, second = await connect(server), await connect(server)
    await first.ask("PING")
    await second.ask("PING")
    third = await connect(server)
    assert await third.rest() == b"-ERR max number of clients reached\r\n"
    await first.close()
    await until(lambda: server.connections.current == 1)
    assert await (await connect(server)).ask("PING") == b"+PONG\r\n"
    assert server.connections.refused == 1


async def test_hundreds_of_idle_clients(start, connect):
    """Idle connections do not keep the others from being served."""
    server = await start()
    clients = [await connect(server) for _ in range(300)]
    await until(lambda: server.connections.current == 300)
    assert [await client.ask("INCR", "n") for client in clients[::50]] == [
        b":%d\r\n" % n for n in range(1, 7)
    ]


async def test_a_client_that_leaves_early(start, connect, command, submitter):
    """Outcomes for a client that is gone hurt nobody, and one that only half-closed gets its replies."""
    server = await start()
    submitter.hold = True
    gone, half, idle = await connect(server), await connect(server), await connect(server)
    gone.send(command("SET", "n", 1))
    await until(lambda: len(submitter.held) == 1)
    half.send(command("INCR", "n"))
    await until(lambda: len(submitter.held) == 2)
    await gone.close()
    await idle.close()
    half.writer.write_eof()
    await until(lambda: server.connections.current == 2)
    submitter.release()
    assert await half.rest() == b":2\r\n"
    await until(lambda: server.connections.current == 0)


async def test_stop_ends_connections(start, connect):
    """After `stop` clients see the end, and stopping twice is harmless."""
    server = await start()
    client = await connect(server)
    await client.ask("PING")
    await server.stop()
    await server.stop()
    assert await client.rest() == b""


# --- real clients


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_py(start, protocol):
    """redis-py works, with both protocol versions."""
    host, port = (await start()).address
    client = redis.asyncio.Redis(host=host, port=port, protocol=protocol, decode_responses=True)
    try:
        assert await client.ping()
        assert await client.set("a", "1")
        assert await client.set("a", "2", nx=True) is None
        assert await client.set("a", "2", get=True) == "1"
        assert await client.incr("a", 5) == 7
        assert await client.get("nothing") is None
        assert await client.expire("a", 100)
        assert 98 <= await client.ttl("a") <= 100
        assert await client.mset({f"k{n}": n for n in range(200)})
        assert await client.mget("k1", "nothing") == ["1", None]
        async with client.pipeline(transaction=False) as pipe:
            for _ in range(300):
                pipe.incr("n").get("n")
            assert (await pipe.execute())[-1] == "300"
        assert {key async for key in client.scan_iter("k*", count=7)} == {f"k{n}" for n in range(200)}
        assert (await client.info("server"))["redis_version"].startswith("7.")
        assert (await client.config_get("save")) == {"save": ""}
        assert len(await client.client_list()) == 1
        await client.set("s", "x")
        with pytest.raises(redis.ResponseError, match="not an integer"):
            await client.incr("s")
    finally:
        await client.aclose()


async def run(*arguments, stdin=b""):
    """A program's exit code and output; it is killed after a minute."""
    process = await asyncio.create_subprocess_exec(
        *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(stdin), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
async def test_redis_cli(start):
    """redis-cli works: it asks for COMMAND DOCS first."""
    host, port = (await start()).address
    script = b"set a 'b c'\nget a\nhello 3\nincr n\nlpush l x\ntype a\n"
    code, output = await run("redis-cli", "-h", host, "-p", str(port), stdin=script)
    assert code == 0
    lines = output.decode().splitlines()
    assert lines[:2] == ["OK", "b c"]
    assert "ERR unknown command 'lpush', with args beginning with: 'l' 'x' " in lines
    assert lines[-1] == "string"
    code, output = await run("redis-cli", "-h", host, "-p", str(port), "--scan")
    assert sorted(output.split()) == [b"a", b"n"]


@pytest.mark.skipif(shutil.which("redis-benchmark") is None, reason="redis-benchmark is not installed")
async def test_redis_benchmark(start, submitter):
    """redis-benchmark runs to its end, with and without pipelining."""
    server = await start()
    for extra in ([], ["-P", "16"]):
        code, output = await run(
            "redis-benchmark", "-p", str(server.address[1]), "-t", "set,get,incr", "-n", "1000", "-q", *extra
        )
        assert code == 0
        assert output.count(b"requests per second") == 3
    assert len(submitter.state.values) == 2


def test_it_works_on_uvloop(submitter):
    """The same protocol object serves uvloop."""

    async def scenario():
        server = RespServer(submitter, bind="127.0.0.1:0")
        await server.start()
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$100000\r\n" + b"x" * 100_000 + b"\r\nGET a\r\nQUIT\r\n")
        data = await reader.read()
        writer.close()
        await server.stop()
        return data

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(scenario()) == b"+OK\r\n$100000\r\n" + b"x" * 100_000 + b"\r\n+OK\r\n"
