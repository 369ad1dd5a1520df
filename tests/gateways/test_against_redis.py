"""The same bytes to a real Redis and to the gateway: the replies must be the same bytes."""

import random

import pytest

MAX = "9223372036854775807"
MIN = "-9223372036854775808"

SCRIPT = f"""
GET|SET a|set a 1|GET a|get a b|FOO a b|foo|FOO {"x" * 200} y|FOO {"a" * 50} {"b" * 70} {"c" * 20}
SET a b XX GET|SET a b NX GET|SET a b NX|SET a b EX|SET a b EX 0|SET a b EX x
SET a b EX 99999999999999999|SET a b PX 10 EX 10|SET a b KEEPTTL EX 10|SET a b EX 10 KEEPTTL
SET a b NX XX|SET a b XX NX|SET a b GET GET|SET a b EX 10 EX 20|TTL a|SET a c KEEPTTL|TTL a|GET a
SET a d|TTL a|SET a b foo|SET a b px x get|SET a b persist|SET a b ex 1.5|SET a b exat 1|GET a
SET a b pxat 0|SET a b exat 0|SET a b px {MAX}|SET a b exat {MAX}|SET a b pxat {MAX}|PEXPIRETIME a
SET a b ex 10 nx get|SET a b ex 10 xx get|SET nok v XX GET|SET nok v XX|SET k v NX|SETNX a b|SETNX new b
SETNX new c|GET new|SETEX a 0 b|SETEX a 10 b|TTL a|PSETEX a x b|PSETEX a -1 b|SETEX a 10|GETDEL a
GETDEL a|GETSET a x|GETSET a y|GET a|GETSET a|STRLEN a|APPEND a xyz|APPEND newer xyz|APPEND a|STRLEN nok
TYPE a|TYPE nok|TYPE|MGET a nok a|MGET|MSET a|MSET a b c|MSET a 1 a 2 b 3|GET a|EXISTS a a nok|EXISTS
DEL a a nok|DEL|UNLINK b b|DBSIZE x|SET n 1|INCR n|INCRBY n 41|DECR n|DECRBY n 2|INCRBY n x|INCRBY n 1.5
INCRBY n|DECRBY n x|SET n {MAX}|INCR n|DECRBY n {MIN}|DECRBY n -1|SET n {MIN}|DECR n|INCRBY n -1
INCRBY n {MAX}|INCRBY n {MAX}9|SET n 01|INCR n|SET n -0|INCR n|SET n +1|INCR n|SET n 1_0|INCR n
SET n 123456789012345678901234|INCR n|SET n x|DECR n|INCRBY fresh -5|DECRBY fresh -5|EXPIRE fresh 100
INCR fresh|TTL fresh|APPEND fresh 5|TTL fresh|GETSET fresh 1|TTL fresh|EXPIRE a|SET a b|EXPIRE a x
EXPIRE a {MAX}|EXPIRE a {MIN}|EXPIRE a 9223372036854775|EXPIRE a -9223372036854776|PEXPIRE a {MAX}
EXPIRE a 10 NX XX|EXPIRE a 10 GT LT|EXPIRE a 10 FOO|EXPIRE a 10 NX GT|EXPIRE a x FOO|EXPIRE nokey x
EXPIRE nokey 10 FOO|EXPIRE nokey 10|EXPIRE a 10 GT|EXPIRE a 10 XX|EXPIRE a 10 NX|EXPIRE a 10 NX NX
EXPIRE a 5 GT|EXPIRE a 5 LT|EXPIRE a 50 LT|EXPIRE a 50 GT|TTL a|EXPIRE a 60 XX GT|PERSIST a|PERSIST a
TTL a|TTL nok|PTTL nok|PTTL a|EXPIRE a 10 LT|EXPIRE a -1|GET a|EXPIRE a 0|SET a b|EXPIRE a 0|EXISTS a
EXPIRETIME nok|SET a b EXAT 33177117420|EXPIRETIME a|PEXPIRETIME a|EXPIREAT a 33177117421|EXPIREAT a x
EXPIREAT a 99999999999999999|PEXPIREAT a 33177117420123|EXPIRETIME a|PEXPIRETIME a|PEXPIREAT a -5|GET a
PEXPIRE|TTL|PERSIST|SELECT 0|SELECT x|SELECT 16|SELECT -1|SELECT|SELECT 9999999999
SELECT 99999999999999999999|SELECT 00|PING|PING a|PING a b|ECHO a|ECHO|ECHO a b|FLUSHALL FOO
FLUSHALL ASYNC|DBSIZE|SET a b|FLUSHALL SYNC|FLUSHDB foo|FLUSHALL async foo|SET a b|FLUSHDB|DBSIZE|KEYS *
KEYS|KEYS a b|SCAN 0|SCAN x|SCAN 0 COUNT|SCAN 0 COUNT x|SCAN 0 COUNT 0|SCAN 0 COUNT -1|SCAN 0 FOO 1
SCAN 0 MATCH|SCAN 0 TYPE list|SCAN 99999999999999999999999|SCAN 18446744073709551616
SCAN 0 MATCH * TYPE string COUNT 100|SCAN|SET only 1|SCAN 0|SCAN 0 MATCH o*|SCAN 0 MATCH x*
SCAN 0 TYPE STRING|SCAN 0 count 10 match *|KEYS o*|KEYS x|KEYS [^a-c]nly|HELLO 4|HELLO x|HELLO 3 AUTH
HELLO 3 SETNAME|HELLO 3 FOO|HELLO 99999999999999999999|AUTH x|AUTH a b|AUTH a b c|AUTH default x|AUTH
HELLO 3 AUTH a b FOO|CLIENT GETNAME|CLIENT SETNAME abc|CLIENT GETNAME|CLIENT FOO|CLIENT
CLIENT NO-EVICT on|CLIENT NO-EVICT x|CLIENT NO-EVICT|CLIENT ID 2|CLIENT GETNAME 3|CLIENT SETNAME
CLIENT LIST x|CLIENT MAINT_NOTIFICATIONS on|CONFIG|CONFIG FOO|CONFIG GET|CONFIG GET save
CONFIG GET nosuch|CONFIG SET|CONFIG GET save nosuch|COMMAND FOO|COMMAND DOCS nosuch|COMMAND INFO nosuch
COMMAND COUNT 3|COMMAND LIST x|CLUSTER INFO|CLUSTER|RESET x|INFO nosuch
"""

NEWER = """
FLUSHALL|SET s Hello|GETRANGE s 1 3|GETRANGE s -3 -1|GETRANGE s 0 -1|GETRANGE s 3 1|GETRANGE s x 1
GETRANGE s 1|SUBSTR s 0 1|GETRANGE nok 0 -1|SETRANGE s 6 Redis|GET s|SETRANGE s -1 x|SETRANGE s x x
SETRANGE new 3 abc|GET new|SETRANGE nok 5|SETRANGE nok 5 x y|SETRANGE s 0 J|GET s|STRLEN new
MSETNX a 1 b 2|MSETNX a 3 c 4|MSETNX a|MSETNX a 1 b|EXISTS c|MGET a b|INCRBYFLOAT f 10.5
INCRBYFLOAT f 0.1|INCRBYFLOAT f -5|GET f|INCRBYFLOAT f x|INCRBYFLOAT f inf|INCRBYFLOAT f nan
INCRBYFLOAT f|SET f 5.0e3|INCRBYFLOAT f 200|SET f x|INCRBYFLOAT f 1|SET f 3|INCRBYFLOAT f 1.5|INCR f
RENAME s t|GET t|GET s|RENAME nok x|RENAME t t|RENAME nok nok|RENAMENX t a|RENAMENX t u|RENAMENX nok v
RENAMENX u u|SET e v EX 100|RENAME e g|TTL g|TTL e|SET h v|RENAME h g|TTL g|COPY g i|GET i|COPY g i
COPY g i REPLACE|COPY g g|COPY nok x|COPY g i FOO|COPY g i DB 0 REPLACE|COPY g i DB x|COPY g
SET e v EX 100|COPY e j|TTL j|TOUCH e j nok|TOUCH|GETEX e|TTL e|GETEX e PERSIST|TTL e|GETEX e EX 100
TTL e|GETEX e PX 200000|GETEX e EXAT 33177117420|PEXPIRETIME e|GETEX e EX|GETEX e EX 0|GETEX e EX x
GETEX e FOO|GETEX e PERSIST EX 1|GETEX nok EX 5|GETEX e PXAT 1|EXISTS e|GETEX|OBJECT ENCODING a
OBJECT ENCODING g|OBJECT ENCODING nok|OBJECT ENCODING|OBJECT FOO x|OBJECT|OBJECT ENCODING a b
MEMORY USAGE nok|MEMORY FOO|MEMORY USAGE a SAMPLES|MEMORY USAGE a SAMPLES x|RANDOMKEY x|FLUSHALL
RANDOMKEY|SET only 1|RANDOMKEY|TIME x|CLIENT KILL x|CLIENT KILL ID x|CLIENT KILL ID 0
CLIENT KILL ID 999999|CLIENT KILL ADDR 1.2.3.4:5|CLIENT KILL TYPE foo|CLIENT KILL USER nobody
CLIENT KILL SKIPME maybe ID 1|CLIENT KILL ID 1 SKIPME|CLIENT REPLY|CLIENT REPLY FOO|CLIENT REPLY ON
CLIENT GETREDIR|COMMAND GETKEYS GET a|COMMAND GETKEYS MSET a 1 b 2|COMMAND GETKEYS RENAME a b
COMMAND GETKEYS FOO|COMMAND GETKEYS GET|COMMAND GETKEYS PING|COMMAND GETKEYS|COMMAND LIST FILTERBY
COMMAND LIST FILTERBY MODULE x|COMMAND LIST FOO BAR BAZ|COMMAND LIST FILTERBY PATTERN getr*
"""

BINARY = [
    [b"SET", b"", b""],
    [b"GET", b""],
    [b"KEYS", b"*"],
    [b"DEL", b""],
    [b"SET", b"a\r\nb", bytes(range(256))],
    [b"GET", b"a\r\nb"],
    [b"SET", b"big", b"\r\n" * 5000],
    [b"GET", b"big"],
    [b"APPEND", b"big", b"x" * 70000],
    [b"STRLEN", b"big"],
    [b"foo", b"a\r\nb", b"d"],
    [b"f\x00o", b"a\x00b"],
    [b"\xff\xfe", b"\x01"],
    [b""],
    [b"CLIENT", b"a\r\nb"],
    [b"CLIENT", b"SETNAME", b"a b"],
    [b"CLIENT", b"SETNAME", b"\xff"],
    [b"CLIENT", b"SETNAME", b""],
    [b"SET", b"n", b" 1"],
    [b"INCR", b"n"],
    [b"SET", b"n", b""],
    [b"INCR", b"n"],
    [b"INCRBY", b"n", b""],
    [b"SET", b"a", b"b", b"EX", b" 1"],
    [b"FLUSHALL"],
    [b"SCAN", b""],
    [b"SCAN", b" 1"],
]

INLINE = [
    b"PING\r\n",
    b"PING\n",
    b"  PING  a\r\n",
    b'PING "a\\x41\\n\\t\\q"\r\n',
    b"PING 'a\\'b\\n'\r\n",
    b'ping ""\r\n',
    b"'' a\r\n",
    b"   \r\n\r\nPING\r\n",
    b"*0\r\n*-1\r\nPING\r\n",
    b'foo "a\\r\\nb" d\r\n',
    b"foo a\x01\xff\\ b\r\n",
]

FATAL = [
    b"*1\r\n:4\r\n",
    b"*1\r\nPING\r\n",
    b"*x\r\n",
    b"*\r\n",
    b"* 1\r\n",
    b"*+1\r\n",
    b"*01\r\n",
    b"*2147483648\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n\r\n",
    b"*1\r\n$-1\r\n",
    b"*2\r\n$3\r\nGET\r\n$-1\r\n",
    b"PING 'a\r\n",
    b'PING "a"b\r\n',
    b"PING a'b c'd\r\n",
    b"a" * 66000,
    b"*" + b"1" * 66000,
    b"*1\r\n$" + b"1" * 66000,
    b"PING\r\n*x\r\nPING\r\n",
    b"QUIT\r\nPING\r\n",
    b"QUIT now\r\n*x\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
]


def _script(text):
    return [line.split() for row in text.strip().splitlines() for line in row.split("|")]


def _random_script(seed, length=400):
    """Commands over few keys, so that they meet each other's effects."""
    rng = random.Random(seed)
    keys = ["k1", "k2", "k3", "n"]
    values = ["", "1", "-7", "hello", "007", MAX, MIN, "x" * 100, "a\r\nb"]

    def one():
        key, value = rng.choice(keys), rng.choice(values)
        options = rng.choices(
            ["NX", "XX", "GET", "KEEPTTL", "EX 100", "PX 100000", "exat 33177117420", "?"], k=2
        )
        words = [word for option in rng.sample(options, rng.randint(0, 2)) for word in option.split()]
        flags = rng.sample(["NX", "XX", "GT", "LT"], rng.choice([0, 0, 1, 1, 2]))
        return rng.choice(
            [
                ["SET", key, value, *words],
                ["set", key, value],
                ["GET", key],
                ["SETNX", key, value],
                ["GETDEL", key],
                ["GETSET", key, value],
                ["MGET", *rng.sample(keys, 3)],
                ["MSET", key, value, rng.choice(keys), rng.choice(values)],
                ["DEL", *rng.choices(keys, k=2)],
                ["EXISTS", *rng.choices(keys, k=2)],
                ["TYPE", key],
                ["APPEND", key, value],
                ["STRLEN", key],
                [rng.choice(["INCR", "DECR"]), key],
                [rng.choice(["INCRBY", "DECRBY"]), key, rng.choice([*values, "5", "-3"])],
                ["EXPIRE", key, rng.choice(["100", "200", "-1", "x"]), *flags],
                ["EXPIREAT", key, rng.choice(["33177117420", "33177117421", "1"]), *flags],
                ["TTL", key],
                ["PEXPIRETIME", key] if rng.random() < 0.01 else ["PERSIST", key],
                ["DBSIZE"],
            ]
        )

    return [one() for _ in range(length)]


def _same(arguments, ours, theirs):
    """Whether the replies are the same bytes. TTL may be asked in another second than of the other server."""
    if arguments[0] == "TTL" and ours[:1] == theirs[:1] == b":":
        return abs(int(ours[1:]) - int(theirs[1:])) <= 1
    return ours == theirs


async def _both(connect, server, redis_server, script, hello, encode):
    """Send the script to both, a command at a time; returns what differs."""
    ours, theirs = await connect(server), await connect(redis_server)
    different = []
    for client in (ours, theirs):
        await client.ask("FLUSHALL")
        if hello:
            await client.ask("HELLO", 3)
    for arguments in script:
        got, expected = await ours.ask(*arguments), await theirs.ask(*arguments)
        if arguments[0].upper() == b"KEYS":
            got, expected = sorted(got), sorted(expected)
        if not _same(arguments, got, expected):
            different.append((arguments, got, expected))
    return different


@pytest.mark.parametrize("hello", [False, True], ids=["resp2", "resp3"])
async def test_every_reply_and_error_text_is_the_one_of_redis(start, connect, command, redis_server, hello):
    """Hand-written commands: all options, all error texts, both protocol versions."""
    server = await start()
    script = _script(SCRIPT)
    assert len(script) > 250
    assert await _both(connect, server, redis_server, script, hello, command) == []


@pytest.mark.parametrize("hello", [False, True], ids=["resp2", "resp3"])
async def test_r4_commands_that_came_later(start, connect, command, redis_server, hello):
    """The same for the commands that clients missed, with their options and errors."""
    server = await start()
    assert await _both(connect, server, redis_server, _script(NEWER), hello, command) == []


@pytest.mark.parametrize("hello", [False, True], ids=["resp2", "resp3"])
async def test_r4_replies_can_be_turned_off(start, connect, command, redis_server, hello):
    """CLIENT REPLY OFF, ON and SKIP, in one pipeline."""
    words = "SET a 1|CLIENT REPLY SKIP|GET a|GET a|CLIENT REPLY OFF|GET a|CLIENT REPLY SKIP|INCR a"
    words += "|CLIENT REPLY ON|GET a|ECHO end"
    answers = []
    for address in (await start(), redis_server):
        client = await connect(address)
        if hello:
            await client.ask("HELLO", 3)
        client.send(b"".join(command(*line.split()) for line in words.split("|")))
        replies = []
        while not replies or not replies[-1].endswith(b"end\r\n"):
            replies.append(await client.reply())
        answers.append(replies)
    assert answers[0] == answers[1]


async def test_r4_connections_can_be_ended(start, connect):
    """CLIENT KILL by number and address; a client may end itself, after its reply."""
    server = await start()
    killer, first, second = await connect(server), await connect(server), await connect(server)
    number = (await first.ask("CLIENT", "ID"))[1:-2]
    assert await killer.ask("CLIENT", "KILL", "ID", number) == b":1\r\n"
    assert await first.rest() == b""
    lines = (await killer.ask("CLIENT", "LIST")).decode().splitlines()
    address = next(line.split("addr=")[1].split()[0] for line in lines if "cmd=NULL" in line)
    assert await killer.ask("CLIENT", "KILL", address) == b"+OK\r\n"
    assert await second.rest() == b""
    number = (await killer.ask("CLIENT", "ID"))[1:-2]
    assert await killer.ask("CLIENT", "KILL", "ID", number, "SKIPME", "no") == b":1\r\n"
    assert await killer.rest() == b""


@pytest.mark.parametrize("hello", [False, True], ids=["resp2", "resp3"])
async def test_binary_keys_and_values(start, connect, command, redis_server, hello):
    """Empty, binary and large arguments come back as they went."""
    assert await _both(connect, await start(), redis_server, BINARY, hello, command) == []


@pytest.mark.parametrize("seed", range(6))
async def test_random_commands(start, connect, command, redis_server, seed):
    """Random commands over few keys, in both versions in turn."""
    script = _random_script(seed)
    assert await _both(connect, await start(), redis_server, script, bool(seed % 2), command) == []


@pytest.mark.parametrize("seed", range(4))
async def test_pipelined_commands(start, connect, command, redis_server, seed):
    """The same scripts, all at once: each read sees exactly the writes before it."""
    script = _random_script(1000 + seed)
    answers = []
    for address in (await start(), redis_server):
        client = await connect(address)
        await client.ask("FLUSHALL")
        client.send(b"".join(command(*arguments) for arguments in script))
        answers.append([await client.reply() for _ in script])
    different = [row for row in zip(script, *answers, strict=True) if not _same(*row)]
    assert different == []


@pytest.mark.parametrize("request_bytes", INLINE, ids=lambda value: repr(value[:20]))
async def test_inline_commands(start, connect, redis_server, request_bytes):
    """Inline commands and their quotes are read as Redis reads them."""
    answers = []
    for address in (await start(), redis_server):
        client = await connect(address)
        client.send(request_bytes + b"ECHO end\r\n")
        replies = []
        while not replies or not replies[-1].endswith(b"end\r\n"):
            replies.append(await client.reply())
        answers.append(replies)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("request_bytes", FATAL, ids=lambda value: repr(value[:20]))
async def test_protocol_errors_end_the_connection(start, connect, redis_server, request_bytes):
    """Malformed input gets Redis' error and the connection ends."""
    answers = []
    for address in (await start(), redis_server):
        client = await connect(address)
        client.send(request_bytes)
        try:
            answers.append(await client.rest())
        except ConnectionError:
            answers.append(b"")  # closed before it had read everything
    assert answers[0] == answers[1]


@pytest.mark.parametrize("hello", [False, True], ids=["resp2", "resp3"])
@pytest.mark.parametrize(
    "request_words",
    ["HELLO", "HELLO 3", "INFO", "INFO server", "COMMAND", "COMMAND COUNT", "COMMAND INFO get set",
     "COMMAND DOCS get", "CLIENT ID", "CLIENT LIST", "CLIENT INFO", "COMMAND LIST", "CONFIG GET maxm*"],
)  # fmt: skip
async def test_facts_have_the_shape_of_redis(start, connect, redis_server, request_words, hello):
    """What describes the server differs in content, by nature, but not in type."""
    kinds = []
    for address in (await start(), redis_server):
        client = await connect(address)
        if hello:
            await client.ask("HELLO", 3)
        kinds.append((await client.ask(*request_words.split()))[:1])
    assert kinds[0] == kinds[1]


PATTERNS = [
    "*", "**", "a*", "*c", "a*c", "*b*", "?", "??", "a?c", "[abc]", "[^a]", "[^a]*", "[a-c]*", "[c-a]*", "a[",
    "[", "[^", "[]", "[]a]", "[^]", "[a", "[a-", "[a-]", "[a-]]", "[\\]]", "\\*", "\\", "a\\", "*\\*", "[a\\",
    "*a*b*c*",    "[a-c-e]", "", "[^\\^]", "^*", "[!a]", "a**c", "*[", "?*", "*?", "[^a-c]?",
]  # fmt: skip
KEYS = [
    "a",
    "b",
    "c",
    "abc",
    "ac",
    "abbc",
    "]",
    "[",
    "*",
    "\\",
    "^",
    "-",
    "a]",
    "a-",
    "a*",
    "a\\",
    "xbx",
    "aabbcc",
    "",
]


async def test_patterns_match_what_redis_matches(start, connect, redis_server):
    """KEYS with every corner of the pattern language, over keys made to confuse it."""
    answers = []
    for address in (await start(), redis_server):
        client = await connect(address)
        await client.ask("FLUSHALL")
        for key in KEYS:
            await client.ask("SET", key, "1")
        answers.append({})
        for pattern in PATTERNS:
            reply = await client.ask("KEYS", pattern)
            answers[-1][pattern] = sorted(reply.split(b"\r\n"))
    assert answers[0] == answers[1]
