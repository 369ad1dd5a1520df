"""CLIENT: facts about connections, and how to end them."""

from typing import Final

from barque.gateways.resp import encoder
from barque.gateways.resp.command import (
    SYNTAX_ERROR,
    Command,
    CommandError,
    Kind,
    help_reply,
    integer_argument,
    subcommand,
)
from barque.gateways.resp.parser import strict_integer
from barque.gateways.resp.session import Muted, Session

_CLIENT_ARITY: Final = {
    b"ID": 2,
    b"GETNAME": 2,
    b"SETNAME": 3,
    b"SETINFO": 4,
    b"NO-EVICT": 3,
    b"NO-TOUCH": 3,
    b"INFO": 2,
    b"LIST": -2,
    b"KILL": -3,
    b"REPLY": 3,
    b"GETREDIR": 2,
    b"HELP": 2,
}

_HELP: Final = {
    "GETNAME": "Return the name of the current connection.",
    "GETREDIR": "Return -1: there is no tracking.",
    "ID": "Return the ID of the current connection.",
    "INFO": "Return information about the current client connection.",
    "KILL <ip:port>": "Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]": "Kill connections. Options are ID, ADDR, LADDR, TYPE, "
    "USER, MAXAGE and SKIPME.",
    "LIST [ID <id> ...|TYPE <type>]": "Return information about client connections.",
    "NO-EVICT (ON|OFF)": "Accepted; nothing is evicted here.",
    "NO-TOUCH (ON|OFF)": "Accepted; reads change nothing here.",
    "REPLY (ON|OFF|SKIP)": "Control the replies sent to the current connection.",
    "SETINFO <attribute> <value>": "Assign LIB-NAME or LIB-VER to the current connection.",
    "SETNAME <name>": "Assign the name <name> to the current connection.",
}


def _client(session: Session, request: list[bytes]) -> bytes:
    match subcommand("CLIENT", request, _CLIENT_ARITY):
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
        case b"KILL":
            return _client_kill(session, request)
        case b"REPLY":
            return _client_reply(session, request)
        case b"GETREDIR":
            return encoder.integer(-1)
        case b"HELP":
            return help_reply("CLIENT", _HELP)
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


def _client_reply(session: Session, request: list[bytes]) -> bytes:
    match request[2].upper():
        case b"ON":
            session.muted, session.speaks = Muted.NOTHING, True
            return encoder.OK
        case b"OFF":
            session.muted = Muted.ALL
        case b"SKIP":
            if session.muted is Muted.NOTHING:
                session.muted = Muted.NEXT
        case _:
            raise CommandError(SYNTAX_ERROR)
    return b""


def _client_kill(session: Session, request: list[bytes]) -> bytes:
    if len(request) == 3:  # the old form
        address = request[2].decode("latin-1")
        victims = [one for one in session.shared.sessions() if one.address == address]
        if not victims:
            raise CommandError("ERR No such client")
        _end(victims, session)
        return encoder.OK
    if len(request) % 2:
        raise CommandError(SYNTAX_ERROR)
    victims = list(session.shared.sessions())
    skip_me = True
    for at in range(2, len(request), 2):
        option, value = request[at].upper(), request[at + 1]
        if option == b"SKIPME":
            if value.lower() not in (b"yes", b"no"):
                raise CommandError(SYNTAX_ERROR)
            skip_me = value.lower() == b"yes"
        else:
            victims = [one for one in victims if _is_meant(one, option, value)]
    if skip_me:
        victims = [one for one in victims if one is not session]
    _end(victims, session)
    return encoder.integer(len(victims))


def _is_meant(one: Session, option: bytes, value: bytes) -> bool:
    match option:
        case b"ID":
            number = strict_integer(value)
            if number is None or number < 1:
                raise CommandError("ERR client-id should be greater than 0")
            return one.client_id == number
        case b"ADDR":
            return one.address.encode() == value
        case b"LADDR":
            return one.local_address.encode() == value
        case b"TYPE":
            if value.lower() not in (b"normal", b"master", b"replica", b"slave", b"pubsub"):
                raise CommandError(f"ERR Unknown client type '{value.decode('latin-1')}'")
            return value.lower() == b"normal"
        case b"USER":
            if value != b"default":
                raise CommandError(f"ERR No such user '{value.decode('latin-1')}'")
            return True
        case b"MAXAGE":
            return one.now_ms() - one.created_ms >= 1000 * integer_argument(value)
        case _:
            raise CommandError(SYNTAX_ERROR)


def _end(victims: list[Session], caller: Session) -> None:
    """End connections; the caller's own after its reply."""
    for one in victims:
        if one is caller:
            one.closing = True
        else:
            one.kill()


CLIENT: Final = Command(
    "client", -2, Kind.SESSION, _client, None, "Facts about connections.", group="connection"
)
