"""The commands that the node answers itself, and what they know: the state of one connection.

Nothing here reaches the cluster, so all of it works without a leader.
"""

import hmac
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from barque.gateways.resp import encoder
from barque.gateways.resp.commands import (
    DATA_COMMANDS,
    SYNTAX_ERROR,
    Command,
    CommandError,
    Kind,
    integer_argument,
    unknown_subcommand,
    wrong_arity,
)
from barque.machine.kv_glob import compile_glob

REDIS_VERSION: Final = "7.0.15"
"""The version whose behaviour is kept: clients choose their features by it."""

READ_LEVELS: Final = ("local", "leader", "consistent")

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
_BAD_NAME: Final = "ERR Client names cannot contain spaces, newlines or special characters."


class Shared(msgspec.Struct):
    """What all connections of one server share."""

    password: str | None
    info: Callable[[], dict[str, dict[str, Any]]]
    clock_ms: Callable[[], int]
    sessions: Callable[[], Iterable["Session"]]
    settings: dict[str, str]


class Session:
    """One connection as the commands see it."""

    __slots__ = (
        "address",
        "authenticated",
        "client_id",
        "client_name",
        "closing",
        "library",
        "local_address",
        "read_level",
        "resp3",
        "shared",
    )

    def __init__(self, shared: Shared, client_id: int, address: str, local_address: str) -> None:
        self.shared = shared
        self.client_id = client_id
        self.address = address
        self.local_address = local_address
        self.client_name = b""
        self.library: dict[bytes, bytes] = {}
        self.closing = False
        """Set by QUIT: nothing after it is answered."""
        self.reset()

    def reset(self) -> None:
        """As a new connection: RESP2, `consistent` reads, not authenticated if there is a password."""
        self.resp3 = False
        self.authenticated = self.shared.password is None
        self.read_level = "consistent"
        self.client_name = b""

    def now_ms(self) -> int:
        """Unix time, for the replies of TTL."""
        return self.shared.clock_ms()

    def log_in(self, user: bytes, password: bytes) -> bool:
        """Try a password; without one configured any will do, as in Redis."""
        expected = self.shared.password
        if user != b"default":
            return False
        if expected is not None and not hmac.compare_digest(expected.encode(), password):
            return False
        self.authenticated = True
        return True

    def rename(self, name: bytes) -> None:
        """Set the name that CLIENT LIST shows."""
        if any(not 33 <= byte <= 126 for byte in name):
            raise CommandError(_BAD_NAME)
        self.client_name = name

    def describe(self) -> bytes:
        """The connection's line of CLIENT LIST."""
        library = self.library.get(b"LIB-NAME", b""), self.library.get(b"LIB-VER", b"")
        return b"id=%d addr=%b laddr=%b name=%b db=0 user=default resp=%d lib-name=%b lib-ver=%b\n" % (
            self.client_id,
            self.address.encode(),
            self.local_address.encode(),
            self.client_name,
            3 if self.resp3 else 2,
            *library,
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
    if len(request) == 2 and session.shared.password is None:
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


_CLIENT_ARITY: Final = {
    b"ID": 2,
    b"GETNAME": 2,
    b"SETNAME": 3,
    b"SETINFO": 4,
    b"NO-EVICT": 3,
    b"NO-TOUCH": 3,
    b"INFO": 2,
    b"LIST": -2,
}


def _arity(container: str, request: list[bytes], arities: dict[bytes, int]) -> bytes:
    """The subcommand in upper case, if it is known and its arguments have the right number."""
    name = request[1].upper()
    arity = arities.get(name)
    if arity is None:
        raise CommandError(unknown_subcommand(container, request[1]))
    if (len(request) != arity) if arity > 0 else (len(request) < -arity):
        raise CommandError(wrong_arity(f"{container.lower()}|{name.decode().lower()}"))
    return name


def _client(session: Session, request: list[bytes]) -> bytes:
    match _arity("CLIENT", request, _CLIENT_ARITY):
        case b"ID":
            return encoder.integer(session.client_id)
        case b"GETNAME":
            return encoder.bulk_or_null(session.client_name or None, session.resp3)
        case b"SETNAME":
            session.rename(request[2])
        case b"SETINFO":
            return _client_setinfo(session, request)
        case b"INFO":
            return encoder.verbatim(session.describe(), session.resp3)
        case b"LIST":
            return _client_list(session, request)
        case _:  # NO-EVICT and NO-TOUCH: nothing is evicted here
            if request[2].upper() not in (b"ON", b"OFF"):
                raise CommandError(SYNTAX_ERROR)
    return encoder.OK


def _client_setinfo(session: Session, request: list[bytes]) -> bytes:
    attribute, text = request[2].upper(), request[3]
    if attribute not in (b"LIB-NAME", b"LIB-VER"):
        raise CommandError(f"ERR Unrecognized option '{request[2].decode('latin-1')}'")
    if len(text) > 256 or any(not 33 <= byte <= 126 for byte in text):
        raise CommandError(
            f"ERR {attribute.decode().lower()} cannot contain spaces, newlines or special characters."
        )
    session.library[attribute] = text
    return encoder.OK


def _client_list(session: Session, request: list[bytes]) -> bytes:
    wanted: set[int] | None = None
    if len(request) > 2:
        option = request[2].upper()
        if option == b"ID" and len(request) > 3:
            wanted = {integer_argument(number) for number in request[3:]}
        elif option != b"TYPE" or len(request) != 4:
            raise CommandError(SYNTAX_ERROR)
        elif request[3].lower() != b"normal":
            wanted = set()
    listed = [one for one in session.shared.sessions() if wanted is None or one.client_id in wanted]
    return encoder.verbatim(b"".join(one.describe() for one in listed), session.resp3)


def _config(session: Session, request: list[bytes]) -> bytes:
    if _arity("CONFIG", request, {b"GET": -3, b"SET": -4, b"RESETSTAT": 2}) == b"GET":
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


_COMMAND_ARITY: Final = {b"COUNT": 2, b"INFO": -2, b"DOCS": -2, b"LIST": -2}


def _command(session: Session, request: list[bytes]) -> bytes:
    resp3 = session.resp3
    if len(request) == 1:
        return encoder.array([_command_info(command, resp3) for command in TABLE.values()])
    name = _arity("COMMAND", request, _COMMAND_ARITY)
    if name == b"COUNT":
        return encoder.integer(len(TABLE))
    if name == b"LIST":
        if len(request) > 2:
            raise CommandError(SYNTAX_ERROR)
        return encoder.bulk_array(list(TABLE), resp3)
    chosen: Iterable[bytes] = request[2:] or TABLE
    if name == b"INFO":
        rows = ((TABLE.get(one.lower())) for one in chosen)
        return encoder.array([_command_info(row, resp3) if row else encoder.null(resp3) for row in rows])
    known = {one.lower(): TABLE[one.lower()] for one in chosen if one.lower() in TABLE}
    docs = {
        key: {"summary": row.summary, "since": "0.1.0", "group": _group(row)} for key, row in known.items()
    }
    return encoder.value(docs, resp3)


def _group(command: Command) -> str:
    return "string" if command.kind in (Kind.WRITE, Kind.READ) else "connection"


def _command_info(command: Command, resp3: bool) -> bytes:
    """One row as COMMAND INFO shows it, with its ten fields."""
    flags = {Kind.WRITE: "write", Kind.READ: "readonly"}.get(command.kind, "fast")
    empty = encoder.set_of([], resp3)
    return encoder.array(
        [
            encoder.bulk(command.name.encode()),
            encoder.integer(command.arity),
            encoder.set_of([encoder.simple(flags)], resp3),
            *map(encoder.integer, command.keys),
            encoder.set_of([encoder.simple("@" + _group(command))], resp3),
            empty,
            empty,
            empty,
        ]
    )


def _not_http(session: Session, request: list[bytes]) -> bytes:
    """A browser was tricked into speaking to us: end the connection without a word, as Redis does."""
    session.closing = True
    return b""


_L, _S = Kind.LOCAL, Kind.SESSION

_LOCAL_COMMANDS: Final = (
    Command("ping", -1, _L, _ping, None, "Reply PONG, or the argument."),
    Command("echo", 2, _L, _echo, None, "Reply the argument."),
    Command("select", 2, _L, _select, None, "Choose database 0."),
    Command("client", -2, _S, _client, None, "Facts about connections."),
    Command("command", -1, _L, _command, None, "Facts about commands."),
    Command("config", -2, _L, _config, None, "Show settings."),
    Command("info", -1, _L, _info, None, "Facts about the node, for people."),
    Command("cluster", -2, _L, _cluster, None, "Refused: any node serves every key."),
    Command("barque.leader", 1, _L, _barque_leader, None, "The leader, as far as this node knows."),
    Command("barque.read", -1, _S, _barque_read, None, "Choose how this connection reads."),
    Command("auth", -2, _S, _auth, None, "Give the password.", without_auth=True),
    Command("hello", -1, _S, _hello, None, "Choose the protocol version.", without_auth=True),
    Command("reset", 1, _S, _reset, None, "Begin the connection afresh.", without_auth=True),
    Command("quit", -1, _S, _quit, None, "End the connection.", without_auth=True),
)

TABLE: Final = {command.name.encode(): command for command in (*DATA_COMMANDS, *_LOCAL_COMMANDS)}
"""Every command, by its name in lower case."""

_HTTP: Final = Command("post", -1, _S, _not_http, None, "", without_auth=True)

_BY_SPELLING: Final = {
    **TABLE,
    **{name.upper(): command for name, command in TABLE.items()},
    b"POST": _HTTP,
    b"post": _HTTP,
    b"Host:": _HTTP,
    b"host:": _HTTP,
}


def find_command(name: bytes) -> Command | None:
    """The command of that name in any case; the usual two spellings cost one look-up."""
    return _BY_SPELLING.get(name) or _BY_SPELLING.get(name.lower())
