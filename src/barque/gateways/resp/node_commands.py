"""The commands that the node answers itself, about the connection and the node.

Nothing here reaches the cluster, so all of it works without a leader.
"""

from typing import Any, Final

from barque.gateways.resp import encoder
from barque.gateways.resp.command import (
    SYNTAX_ERROR,
    Command,
    CommandError,
    Kind,
    integer_argument,
    subcommand,
    wrong_arity,
)
from barque.gateways.resp.session import READ_LEVELS, REDIS_VERSION, Session
from barque.machine import kv_commands as kv
from barque.machine.kv_glob import compile_glob

_WRONG_PASSWORD: Final = "WRONGPASS invalid username-password pair or user is disabled."  # noqa: S105 - a text
_NO_PASSWORD: Final = (
    "ERR AUTH <password> called without any password configured for the default user. "  # noqa: S105
    "Are you sure your configuration is correct?"
)
_HELLO_NO_AUTH: Final = (
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH "
    "<user> <pass> option can be used to authenticate the client and select the RESP protocol version "
    "at the same time"
)


def _ping(session: Session, request: list[bytes]) -> bytes:
    if len(request) > 2:
        raise CommandError(wrong_arity("ping"))
    return b"+PONG\r\n" if len(request) == 1 else encoder.bulk(request[1])


def _echo(session: Session, request: list[bytes]) -> bytes:
    return encoder.bulk(request[1])


def _quit(session: Session, request: list[bytes]) -> bytes:
    session.closing = True
    return encoder.OK


def _reset(session: Session, request: list[bytes]) -> bytes:
    session.reset()
    return b"+RESET\r\n"


def _select(session: Session, request: list[bytes]) -> bytes:
    number = integer_argument(request[1])
    if not -(2**31) <= number < 2**31:
        raise CommandError("ERR value is out of range, value must between -2147483648 and 2147483647")
    if number != 0:
        raise CommandError("ERR DB index is out of range")
    return encoder.OK


def _auth(session: Session, request: list[bytes]) -> bytes:
    if len(request) > 3:
        raise CommandError(SYNTAX_ERROR)
    if len(request) == 2 and not session.shared.passwords:
        raise CommandError(_NO_PASSWORD)
    user = request[1] if len(request) == 3 else b"default"
    if not session.log_in(user, request[-1]):
        raise CommandError(_WRONG_PASSWORD)
    return encoder.OK


def _hello(session: Session, request: list[bytes]) -> bytes:
    version = 3 if session.resp3 else 2
    if len(request) > 1:
        try:
            version = integer_argument(request[1])
        except CommandError:
            raise CommandError("ERR Protocol version is not an integer or out of range") from None
        if version not in (2, 3):
            raise CommandError("NOPROTO unsupported protocol version")
    at = 2
    while at < len(request):
        option, left = request[at].upper(), len(request) - 1 - at
        if option == b"AUTH" and left >= 2:
            if not session.log_in(request[at + 1], request[at + 2]):
                raise CommandError(_WRONG_PASSWORD)
            at += 3
        elif option == b"SETNAME" and left >= 1:
            session.rename(request[at + 1])
            at += 2
        else:
            raise CommandError(f"ERR Syntax error in HELLO option '{request[at].decode('latin-1')}'")
    if not session.authenticated:
        raise CommandError(_HELLO_NO_AUTH)
    session.resp3 = version == 3
    facts = {
        "server": "redis",
        "version": REDIS_VERSION,
        "proto": version,
        "id": session.client_id,
        "mode": "standalone",
        "role": "master",
        "modules": [],
    }
    return encoder.value(facts, session.resp3)


def _config(session: Session, request: list[bytes]) -> bytes:
    if subcommand("CONFIG", request, {b"GET": -3, b"SET": -4, b"RESETSTAT": 2}) == b"GET":
        try:
            globs = [compile_glob(pattern.lower()) for pattern in request[2:]]
        except ValueError as error:
            raise CommandError(f"ERR {error}") from None
        found = {
            name: setting
            for name, setting in session.shared.settings.items()
            if any(glob.matches(name.encode()) for glob in globs)
        }
        return encoder.value(found, session.resp3)
    raise CommandError("ERR CONFIG SET and RESETSTAT are not supported: a node is configured by its file")


def _info(session: Session, request: list[bytes]) -> bytes:
    wanted = {section.lower() for section in request[1:]}
    everything = not wanted or not wanted.isdisjoint({b"all", b"default", b"everything"})
    parts = []
    for title, fields in session.shared.info().items():
        if everything or title.lower().encode() in wanted:
            lines = "".join(f"{name}:{fact}\r\n" for name, fact in fields.items())
            parts.append(f"# {title}\r\n{lines}")
    return encoder.verbatim("\r\n".join(parts).encode(), session.resp3)


def _barque_read(session: Session, request: list[bytes]) -> bytes:
    if len(request) > 2:
        raise CommandError(wrong_arity("barque.read"))
    if len(request) == 1:
        return encoder.bulk(session.read_level.encode())
    level = request[1].lower().decode("latin-1")
    if level not in READ_LEVELS:
        raise CommandError("ERR the read level is one of: local, leader, consistent")
    session.read_level = level
    return encoder.OK


def _barque_leader(session: Session, request: list[bytes]) -> bytes:
    leader = session.shared.info().get("Barque", {}).get("leader")
    return encoder.bulk_or_null(str(leader).encode() if leader else None, session.resp3)


def _cluster(session: Session, request: list[bytes]) -> bytes:
    raise CommandError("ERR This instance has cluster support disabled")


def _time(session: Session, request: list[bytes]) -> bytes:
    now_ms = session.now_ms()
    return encoder.array(
        [encoder.bulk(b"%d" % (now_ms // 1000)), encoder.bulk(b"%d" % (now_ms % 1000 * 1000))]
    )


def _debug(session: Session, request: list[bytes]) -> bytes:
    """ERROR tells a client what it asks to hear, so that its handling of errors can be tested."""
    if len(request) == 3 and request[1].upper() == b"ERROR":
        return encoder.error(request[2].decode("latin-1"))
    raise CommandError("ERR DEBUG is not supported: it would let a client harm the node")


# --- transactions


def _multi(session: Session, request: list[bytes]) -> bytes:
    if session.queue is not None:
        raise CommandError("ERR MULTI calls can not be nested")
    session.queue = session.shared.new_queue()
    return encoder.OK


def _discard(session: Session, request: list[bytes]) -> bytes:
    if session.queue is None:
        raise CommandError("ERR DISCARD without MULTI")
    session.queue = None
    session.watched = {}
    return encoder.OK


def _unwatch(session: Session, request: list[bytes]) -> bytes:
    session.watched = {}
    return encoder.OK


def _watch(session: Session, request: list[bytes]) -> kv.Position:
    """A query that may see an older state than later reads do, never a newer one."""
    if session.queue is not None:
        raise CommandError("ERR WATCH inside MULTI is not allowed")
    session.watch(request[1:])
    return kv.Position()


def _watch_reply(position: Any, session: Any) -> bytes:
    session.watch_from(position)
    return encoder.OK


def _not_http(session: Session, request: list[bytes]) -> bytes:
    """A browser was tricked into speaking to us: end the connection without a word, as Redis does."""
    session.closing = True
    return b""


_L, _S = Kind.LOCAL, Kind.SESSION

NODE_COMMANDS: Final = (
    Command("ping", -1, _L, _ping, None, "Reply PONG, or the argument.", group="connection"),
    Command("echo", 2, _L, _echo, None, "Reply the argument.", group="connection"),
    Command("select", 2, _L, _select, None, "Choose database 0.", group="connection"),
    Command("config", -2, _L, _config, None, "Show settings.", group="server"),
    Command("info", -1, _L, _info, None, "Facts about the node, for people.", group="server"),
    Command("time", 1, _L, _time, None, "The node's clock.", group="server"),
    Command("debug", -2, _L, _debug, None, "Refused, but for ERROR.", group="server"),
    Command("cluster", -2, _L, _cluster, None, "Refused: any node serves every key.", group="cluster"),
    Command("barque.leader", 1, _L, _barque_leader, None, "The leader, as far as this node knows."),
    Command(
        "barque.read", -1, _S, _barque_read, None, "Choose how this connection reads.", in_transaction=False
    ),
    Command(
        "auth",
        -2,
        _S,
        _auth,
        None,
        "Give the password.",
        without_auth=True,
        in_transaction=False,
        group="connection",
    ),
    Command(
        "hello",
        -1,
        _S,
        _hello,
        None,
        "Choose the protocol version.",
        without_auth=True,
        in_transaction=False,
        group="connection",
    ),
    Command(
        "reset",
        1,
        _S,
        _reset,
        None,
        "Begin the connection afresh.",
        without_auth=True,
        never_queued=True,
        group="connection",
    ),
    Command(
        "quit",
        -1,
        _S,
        _quit,
        None,
        "End the connection.",
        without_auth=True,
        never_queued=True,
        group="connection",
    ),
    Command("multi", 1, _L, _multi, None, "Begin a transaction.", never_queued=True, group="transactions"),
    Command("discard", 1, _S, _discard, None, "Drop a transaction.", never_queued=True, group="transactions"),
    Command("exec", 1, Kind.EXEC, _multi, None, "Do a transaction.", never_queued=True, group="transactions"),
    Command(
        "watch",
        -2,
        Kind.READ,
        _watch,
        _watch_reply,
        "Let EXEC do nothing if a key changes.",
        (1, -1, 1),
        with_session=True,
        never_queued=True,
        group="transactions",
    ),
    Command("unwatch", 1, _S, _unwatch, None, "Watch no keys.", group="transactions"),
)

NOT_REDIS: Final = Command("post", -1, _S, _not_http, None, "", without_auth=True, never_queued=True)
"""What an HTTP client sends."""
