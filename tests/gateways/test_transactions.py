"""MULTI, EXEC, DISCARD and WATCH, as Redis does them, and as one entry of the log."""

import asyncio
import random

import pytest
import redis
import redis.asyncio

from barque.errors import NoLeader, OutcomeUnknown
from barque.gateways.resp.limits import RespLimits
from barque.machine.kv_commands import Guarded, Transaction

SCRIPT = """
MULTI|SET a 1|INCR a|GET a|GET nok|EXEC|GET a
MULTI|EXEC|EXEC|DISCARD|MULTI|MULTI|SET a 2|WATCH a|EXEC|MULTI|SET a 3|DISCARD|GET a|EXEC
MULTI|FOO|SET a 4|EXEC|GET a|MULTI|GET|SET a 5|EXEC|GET a|MULTI|SET a 6|SET a|SET a 7|DISCARD|EXEC|GET a
MULTI|SET a x|INCR a|INCRBY a y|SET a 1 NX XX|APPEND a z|EXEC|GET a|SETEX a 0 b|MULTI|SETEX a 0 b|EXEC
MULTI|PING|PING hi|ECHO yes|SELECT 0|SELECT 3|CLIENT GETNAME|CLIENT SETNAME me|CLIENT GETNAME|DBSIZE|EXEC
MULTI|SET k v EX 100|TTL k|PERSIST k|TTL k|GETEX k EX 50|TTL k|EXPIRE k -1|EXISTS k|TYPE k|EXEC
MULTI|SET a 1|QUEUED|EXEC|WATCH|WATCH a b c|UNWATCH|UNWATCH x|MULTI x|EXEC x|DISCARD x|MULTI|SET a 5|EXEC x
EXEC|WATCH a|SET a 2|MULTI|SET a 3|EXEC|GET a|WATCH a|MULTI|SET a 4|EXEC|GET a|WATCH nok|SET nok 1|DEL nok
MULTI|PING|EXEC|WATCH a|DEL a|SET a 4|MULTI|EXEC|WATCH a|GET a|EXPIRE a 100|MULTI|EXEC|WATCH a|SETNX a 1|MULTI
GET a
EXEC|WATCH a|SET a 5|UNWATCH|MULTI|GET a|EXEC|WATCH a|SET a 6|MULTI|DISCARD|MULTI|GET a|EXEC|WATCH a a|MULTI
UNWATCH|EXEC|WATCH a|FLUSHALL|MULTI|PING|EXEC|WATCH a|MULTI|SET a 1|RESET|EXEC|GET a|MULTI|SET a 9|MULTI|EXEC
MULTI|MSET x 1 y 2|MGET x y z|MSETNX x 5 z 3|GETSET x 9|GETDEL x|GETRANGE y 0 -1|SETRANGE y 2 abc|GET y|EXEC
MULTI|RENAME y z|RENAME y z|COPY z w|GET w|INCRBYFLOAT f 1.5|STRLEN f|TOUCH f z|OBJECT ENCODING f|EXEC
"""


def _script(text):
    return [line.split() for row in text.strip().splitlines() for line in row.split("|")]


async def _answers(client, script):
    await client.ask("FLUSHALL")
    return [await client.ask(*arguments) for arguments in script]


@pytest.mark.parametrize("hello", [False, True], ids=["resp2", "resp3"])
async def test_d6_transactions_are_those_of_redis(start, connect, redis_server, hello):
    """Every reply and error text of hand-written transactions, in both protocol versions."""
    script = [["HELLO", "3"]] * hello + _script(SCRIPT)
    answers = [await _answers(await connect(address), script) for address in (await start(), redis_server)]
    different = [
        (arguments, ours, theirs)
        for arguments, ours, theirs in zip(script, *answers, strict=True)
        if ours != theirs and arguments[0] != "HELLO"
    ]
    assert different == []


@pytest.mark.parametrize("seed", range(6))
async def test_d6_random_transactions(start, connect, command, redis_server, seed):
    """Two connections that watch, queue and change the same keys, in one pipeline and one at a time."""
    rng = random.Random(seed)
    keys = ["a", "b", "n"]

    def one():
        key = rng.choice(keys)
        return rng.choice(
            [
                ["MULTI"],
                ["MULTI"],
                ["EXEC"],
                ["EXEC"],
                ["DISCARD"],
                ["WATCH", key],
                ["WATCH", *keys],
                ["UNWATCH"],
                ["SET", key, "1"],
                ["SET", key, "x", "GET"],
                ["GET", key],
                ["INCR", key],
                ["DEL", key],
                ["MGET", *keys],
                ["APPEND", key, "7"],
                ["GETSET", key, "5"],
                ["GETDEL", key],
                ["EXPIRE", key, "100"],
                ["PERSIST", key],
                ["NOSUCH"],
                ["GET"],
                ["SETNX", key, "2"],
                ["RENAME", key, rng.choice(keys)],
                ["PING"],
            ]
        )

    script = [(rng.randrange(2), one()) for _ in range(300)]
    answers = []
    for address in (await start(), redis_server):
        clients = [await connect(address), await connect(address)]
        await clients[0].ask("FLUSHALL")
        answers.append([await clients[which].ask(*arguments) for which, arguments in script])
    assert list(zip(script, answers[0], strict=True)) == list(zip(script, answers[1], strict=True)), seed
    pipelined = []
    for address in (await start(), redis_server):
        client = await connect(address)
        await client.ask("FLUSHALL")
        client.send(b"".join(command(*arguments) for _, arguments in script))
        pipelined.append([await client.reply() for _ in script])
    assert list(zip(script, pipelined[0], strict=True)) == list(zip(script, pipelined[1], strict=True)), seed


async def test_d6_a_transaction_is_one_command_of_the_log(start, connect, submitter):
    """Nothing reaches the cluster before EXEC, and then everything at once."""
    client = await connect(await start())
    for line in ("MULTI", "SET a 1", "INCR b", "GET a"):
        await client.ask(*line.split())
    assert submitter.log == []
    assert await client.ask("EXEC") == b"*3\r\n+OK\r\n:1\r\n$1\r\n1\r\n"
    assert submitter.log == ["w"]
    await client.ask("MULTI")
    await client.ask("PING")
    assert await client.ask("EXEC") == b"*1\r\n+PONG\r\n"
    assert submitter.log == ["w"], "a transaction of the node's own commands needs no entry"


@pytest.mark.parametrize(
    ("outcome", "prefix"),
    [(OutcomeUnknown("sent"), b"-UNKNOWN sent"), (NoLeader("nobody"), b"-NOLEADER nobody")],
)
async def test_d6_exec_says_whether_it_happened(start, connect, submitter, outcome, prefix):
    """Behind a lost leader EXEC has one outcome for all; the next transaction is a new one."""
    client = await connect(await start())
    await client.ask("MULTI")
    await client.ask("SET", "a", "1")
    submitter.outcome = outcome
    assert (await client.ask("EXEC")).startswith(prefix)
    assert await client.ask("EXEC") == b"-ERR EXEC without MULTI\r\n"
    submitter.outcome = None
    await client.ask("MULTI")
    assert await client.ask("EXEC") == b"*0\r\n"


async def test_d6_a_watch_that_failed_lets_no_transaction_through(start, connect, submitter):
    """Without a position nobody knows what has changed since."""
    client = await connect(await start())
    submitter.outcome = NoLeader("nobody")
    assert (await client.ask("WATCH", "a")).startswith(b"-NOLEADER")
    submitter.outcome = None
    await client.ask("MULTI")
    await client.ask("SET", "a", "1")
    assert await client.ask("EXEC") == b"*-1\r\n"
    assert await client.ask("GET", "a") == b"$-1\r\n"


async def test_d6_reads_between_watch_and_exec_are_consistent(start, connect, submitter):
    """A read of another member could be older than the watch."""
    client = await connect(await start())
    await client.ask("BARQUE.READ", "local")
    for line in ("GET a", "WATCH a", "GET a", "UNWATCH", "GET a"):
        await client.ask(*line.split())
    assert submitter.levels == ["local", "consistent", "consistent", "local"]


async def test_d6_a_client_that_leaves_inside_multi_has_done_nothing(start, connect, submitter):
    """Its queue goes with it."""
    server = await start()
    client = await connect(server)
    await client.ask("MULTI")
    await client.ask("SET", "a", "x" * 1_000)
    assert server.request_bytes > 1_000
    await client.close()
    other = await connect(server)
    assert await other.ask("GET", "a") == b"$-1\r\n"
    while server.counters.current > 1:  # noqa: ASYNC110 - a fact about the server
        await asyncio.sleep(0.001)
    assert server.request_bytes < 100


@pytest.mark.parametrize(
    "refused", ["KEYS *", "SCAN 0", "RANDOMKEY", "HELLO 3", "AUTH x", "BARQUE.READ local"]
)
async def test_d6_what_cannot_stand_in_a_transaction(start, connect, refused):
    """It is refused when it is queued, and EXEC does nothing."""
    client = await connect(await start())
    await client.ask("MULTI")
    await client.ask("SET", "a", "1")
    assert b"is not allowed inside a transaction" in await client.ask(*refused.split())
    assert (await client.ask("EXEC")).startswith(b"-EXECABORT")
    assert await client.ask("GET", "a") == b"$-1\r\n"


async def test_d6_a_transaction_that_is_too_large_does_nothing(start, connect, command):
    """Too many commands, or too many bytes: refused while they are queued."""
    limits = RespLimits(transaction_commands_max=10, request_bytes_max=100_000)
    client = await connect(await start(limits=limits))
    for commands in (
        [command("SET", n, "v") for n in range(11)],
        [command("SET", n, "x" * 30_000) for n in range(4)],
    ):
        client.send(command("MULTI") + b"".join(commands) + command("EXEC"))
        replies = [await client.reply() for _ in range(len(commands) + 2)]
        assert b"a transaction has at most 10 commands and 100000 bytes" in replies[-2]
        assert replies[-1].startswith(b"-EXECABORT")
    assert await client.ask("DBSIZE") == b":0\r\n"


async def test_d6_version_0_of_the_machine_knows_no_transactions(start, connect, submitter):
    """While a member may run older code, EXEC is an error, and nothing was done."""
    submitter.machine = submitter.machine.which_module(0)
    submitter.machine_version = lambda cluster: 0
    client = await connect(await start())
    await client.ask("MULTI")
    await client.ask("SET", "a", "1")
    assert b"'exec' was not done: it needs version 1" in await client.ask("EXEC")
    assert b"'setrange' was not done" in await client.ask("SETRANGE", "a", "0", "x")
    assert await client.ask("GETSET", "a", "1") == b"$-1\r\n"
    assert await client.ask("GETDEL", "a") == b"$1\r\n1\r\n"


async def test_sec4_replies_of_transactions_have_room_before_they_are_asked_for(start, connect, submitter):
    """A transaction that reads much is asked again with the room that it needs, and was not done before."""
    client = await connect(await start())
    await client.ask("SET", "big", "x" * 1_000_000)
    await client.ask("MULTI")
    await client.ask("INCR", "n")
    await client.ask("GET", "big")
    seen = []
    apply = submitter.apply
    submitter.apply = lambda one: seen.append(one) or apply(one)
    assert (await client.ask("EXEC")).startswith(b"*2\r\n:1\r\n$1000000\r\n")
    assert [type(one) for one in seen] == [Guarded, Guarded]
    assert isinstance(seen[0].command, Transaction)
    assert seen[0].bytes_max < 1_000_000 <= seen[1].bytes_max


@pytest.mark.parametrize("protocol", [2, 3])
async def test_d6_redis_py_pipelines_and_watch_loops(start, protocol):
    """The default pipeline of redis-py is a transaction; two clients with its WATCH loop lose no update."""
    host, port = (await start()).address
    client = redis.asyncio.Redis(host=host, port=port, protocol=protocol)
    other = redis.asyncio.Redis(host=host, port=port, protocol=protocol)
    try:
        async with client.pipeline() as pipe:
            assert await pipe.set("a", 1).incr("a").get("a").execute() == [True, 2, b"2"]
            with pytest.raises(redis.ResponseError, match="not an integer"):
                await pipe.set("a", "x").incr("a").execute()

        async def add(one):
            for _ in range(30):
                await one.transaction(lambda pipe: _increment(pipe), "counter")

        async def _increment(pipe):
            old = int(await pipe.get("counter") or 0)
            pipe.multi()
            pipe.set("counter", old + 1)

        await asyncio.gather(add(client), add(other))
        assert await client.get("counter") == b"60"
    finally:
        await client.aclose()
        await other.aclose()
