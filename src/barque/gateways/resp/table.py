"""The table of all commands, and COMMAND, which describes it."""

from collections.abc import Iterable
from typing import Final

from barque.gateways.resp import encoder
from barque.gateways.resp.client_command import CLIENT
from barque.gateways.resp.command import (
    SYNTAX_ERROR,
    Command,
    CommandError,
    Kind,
    help_reply,
    subcommand,
)
from barque.gateways.resp.data_commands import DATA_COMMANDS
from barque.gateways.resp.node_commands import NODE_COMMANDS, NOT_REDIS
from barque.gateways.resp.session import Session
from barque.machine.kv_glob import compile_glob

_COMMAND_ARITY: Final = {
    b"COUNT": 2,
    b"INFO": -2,
    b"DOCS": -2,
    b"LIST": -2,
    b"GETKEYS": -4,
    b"HELP": 2,
}

_HELP: Final = {
    "(no subcommand)": "Return details about all commands.",
    "COUNT": "Return the total number of commands in this server.",
    "LIST [FILTERBY (PATTERN <pattern>|ACLCAT <category>|MODULE <name>)]": "Return the names of commands.",
    "INFO [<command-name> ...]": "Return details about multiple commands.",
    "DOCS [<command-name> ...]": "Return documentation details about multiple commands.",
    "GETKEYS <full-command>": "Return the keys from a full command.",
}


def _command(session: Session, request: list[bytes]) -> bytes:
    resp3 = session.resp3
    if len(request) == 1:
        return encoder.array([_command_info(command, resp3) for command in TABLE.values()])
    name = subcommand("COMMAND", request, _COMMAND_ARITY)
    if name == b"COUNT":
        return encoder.integer(len(TABLE))
    if name == b"LIST":
        return encoder.bulk_array(_listed(request), resp3)
    if name == b"GETKEYS":
        return encoder.bulk_array(_keys_of(request[2:]), resp3)
    if name == b"HELP":
        return help_reply("COMMAND", _HELP)
    chosen: Iterable[bytes] = request[2:] or TABLE
    if name == b"INFO":
        rows = ((TABLE.get(one.lower())) for one in chosen)
        return encoder.array([_command_info(row, resp3) if row else encoder.null(resp3) for row in rows])
    known = {one.lower(): TABLE[one.lower()] for one in chosen if one.lower() in TABLE}
    docs = {key: {"summary": row.summary, "since": "0.1.0", "group": row.group} for key, row in known.items()}
    return encoder.value(docs, resp3)


def _listed(request: list[bytes]) -> list[bytes]:
    """COMMAND LIST, with its filters."""
    if len(request) == 2:
        return list(TABLE)
    if len(request) != 5 or request[2].upper() != b"FILTERBY":
        raise CommandError(SYNTAX_ERROR)
    match request[3].upper():
        case b"PATTERN":
            try:
                glob = compile_glob(request[4])
            except ValueError as error:
                raise CommandError(f"ERR {error}") from None
            return [name for name in TABLE if glob.matches(name)]
        case b"ACLCAT":
            return [name for name, command in TABLE.items() if command.group.encode() == request[4].lower()]
        case b"MODULE":
            return []
        case _:
            raise CommandError(SYNTAX_ERROR)


def _keys_of(request: list[bytes]) -> list[bytes]:
    """COMMAND GETKEYS: the keys among the arguments of a command."""
    command = TABLE.get(request[0].lower())
    if command is None:
        raise CommandError("ERR Invalid command specified")
    if not command.accepts(len(request)):
        raise CommandError("ERR Invalid number of arguments specified for command")
    first, last, step = command.keys
    if not first:
        raise CommandError("ERR The command has no key arguments")
    return request[first : (len(request) + last if last < 0 else last) + 1 : step]


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
            encoder.set_of([encoder.simple("@" + command.group)], resp3),
            empty,
            empty,
            empty,
        ]
    )


_COMMAND: Final = Command("command", -1, Kind.LOCAL, _command, None, "Facts about commands.", group="server")

TABLE: Final = {
    command.name.encode(): command for command in (*DATA_COMMANDS, *NODE_COMMANDS, CLIENT, _COMMAND)
}
"""Every command, by its name in lower case."""

_BY_SPELLING: Final = {
    **TABLE,
    **{name.upper(): command for name, command in TABLE.items()},
    **dict.fromkeys((b"POST", b"post", b"Host:", b"host:"), NOT_REDIS),
}


def find_command(name: bytes) -> Command | None:
    """The command of that name in any case; the usual two spellings cost one look-up."""
    return _BY_SPELLING.get(name) or _BY_SPELLING.get(name.lower())
