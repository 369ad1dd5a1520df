"""Requests of the Redis protocol, from bytes: arrays of bulk strings and inline commands.

Sans-IO. Two ways lead through the same grammar. The fast one splits a whole buffer at its line ends
and takes commands out of the list by slicing, about 2 µs each; it accepts only what is complete and
canonical. All else (a value that contains a line end, a large one, a command cut in two, inline
commands, errors) goes the careful way, which takes one argument at a time and keeps its place: no
byte of a half-received value is looked at twice, and nothing is allocated because a header
announces it.
"""

from typing import Final

INLINE_BYTES_MAX: Final = 64 * 1024
"""The longest inline command, and the longest header line, as in Redis."""

ARGUMENTS_MAX: Final = 1024 * 1024
"""The most arguments of one command."""

UNAUTHENTICATED_ARGUMENTS_MAX: Final = 10
UNAUTHENTICATED_BULK_BYTES_MAX: Final = 16 * 1024

_FAST_ARGUMENTS_MAX: Final = 64
_FAST_BULK_BYTES_MAX: Final = 2048
_COUNTS: Final = {b"*%d" % n: 2 * n for n in range(1, _FAST_ARGUMENTS_MAX + 1)}
_HEADERS: Final = {n: b"$%d" % n for n in range(_FAST_BULK_BYTES_MAX + 1)}
_STAR: Final = ord("*")
_DOLLAR: Final = ord("$")
_QUOTES: Final = b"\"'"
_SPACES: Final = b" \n\r\t\v\f"
_ESCAPES: Final = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("b"): 8, ord("a"): 7}


class RequestError(Exception):
    """What the client sent is no request; the text is what Redis says. The connection must end."""


def strict_integer(text: bytes) -> int | None:
    """A decimal number as Redis reads it: no sign but `-`, no leading zeros or spaces; else None."""
    if not 0 < len(text) <= 20:
        return None
    try:
        number = int(text)
    except ValueError:
        return None
    return number if b"%d" % number == text else None


class RequestParser:
    """One connection's requests. `feed` bytes, then call `parse` until it returns nothing new.

    `bulk_bytes_max` bounds one argument, `request_bytes_max` the arguments of one command together.
    `authenticated` False applies the lower limits that Redis has for strangers.
    """

    __slots__ = (
        "_arguments",
        "_buffer",
        "_bulk",
        "_missing",
        "_scanned",
        "_size",
        "authenticated",
        "bulk_bytes_max",
        "consumed",
        "request_bytes_max",
    )

    def __init__(self, bulk_bytes_max: int, request_bytes_max: int, *, authenticated: bool = True) -> None:
        self.bulk_bytes_max = bulk_bytes_max
        self.request_bytes_max = request_bytes_max
        self.authenticated = authenticated
        self.consumed = 0
        """How many bytes have been taken, in all."""
        self._buffer: bytes | bytearray = b""
        # The careful way's place inside one command.
        self._missing = 0  # arguments still to come; 0 between commands
        self._bulk = -1  # length of the argument that is being received; -1 before its header
        self._arguments: list[bytes] = []
        self._size = 0  # bytes of the arguments so far
        self._scanned = 0  # bytes of the buffer known to contain no line end

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        if not self._buffer:
            self._buffer = data
        elif isinstance(self._buffer, bytearray):
            self._buffer += data
        else:
            self._buffer = bytearray(self._buffer)
            self._buffer += data

    def parse(self, requests: list[list[bytes]], limit: int) -> None:
        """Append complete commands to `requests`, until it holds `limit` or no complete one is left.

        Raises `RequestError`; the commands before the error are in `requests` all the same.
        """
        if len(self._buffer) < (self._bulk + 2 if self._bulk >= 0 else 1):
            return  # the usual case while a large value arrives
        buffer = bytes(self._buffer)
        position = 0
        try:
            if self._missing or not self.authenticated:
                position = self._careful_run(buffer, 0, requests, limit)
            if self.authenticated and not self._missing and position < len(buffer) and len(requests) < limit:
                position = self._fast(buffer, position, requests, limit)
        finally:
            self._scanned = max(0, self._scanned - position)
            self._buffer = buffer[position:]
            self.consumed += position

    def _fast(self, buffer: bytes, start: int, requests: list[list[bytes]], limit: int) -> int:
        """Take commands off the split buffer; returns where the unused bytes begin."""
        tokens = (buffer[start:] if start else buffer).split(b"\r\n")
        complete = len(tokens) - 1  # the last one has no line end yet
        at = 0
        sized = 0  # `start` is the offset of this token
        while at < complete and len(requests) < limit:
            width = _COUNTS.get(tokens[at], 0)
            end = at + 1 + width
            if width and end <= complete:
                arguments = tokens[at + 2 : end : 2]
                if list(map(_HEADERS.get, map(len, arguments))) == tokens[at + 1 : end : 2]:
                    requests.append(arguments)
                    at = end
                    continue
            start += sum(map(len, tokens[sized:at])) + 2 * (at - sized)
            stop = self._careful_run(buffer, start, requests, limit, aligned=True)
            if self._missing or buffer[stop - 2 : stop] != b"\r\n" or stop == start:
                return stop
            at += buffer.count(b"\r\n", start, stop)
            start, sized = stop, at
        start += sum(map(len, tokens[sized:at])) + 2 * (at - sized)
        if start < len(buffer) and len(requests) < limit:
            # Half a command: keep its place and see its errors.
            return self._careful_run(buffer, start, requests, limit, aligned=True)
        return start

    def _careful_run(
        self, buffer: bytes, position: int, requests: list[list[bytes]], limit: int, *, aligned: bool = False
    ) -> int:
        """Parse one command with all checks; for a client without the password, up to `limit` commands.

        `aligned`: and on to the next command that begins after a CRLF (inline ones may end in a bare LF).
        """
        while position < len(buffer) and len(requests) < limit:
            stop = self._careful(buffer, position, requests)
            if self._missing or stop == position:
                return stop
            position = stop
            if self.authenticated and (not aligned or buffer[stop - 2 : stop] == b"\r\n"):
                break
        return position

    def _careful(self, buffer: bytes, position: int, requests: list[list[bytes]]) -> int:
        """Take one command, or as much of it as is there; returns where the unused bytes begin."""
        if not self._missing:
            if buffer[position] != _STAR:
                return self._inline(buffer, position, requests)
            line, position = self._line(buffer, position, "too big mbulk count string")
            if line is None:
                return position
            self._begin(line)
        while self._missing:
            if self._bulk < 0:
                line, position = self._line(buffer, position, "too big bulk count string")
                if line is None:
                    return position
                self._expect(line)
            end = position + self._bulk
            if len(buffer) < end + 2:
                return position
            if buffer[end : end + 2] != b"\r\n":
                raise RequestError("Protocol error: expected CRLF after bulk")
            self._arguments.append(buffer[position:end])
            self._bulk = -1
            self._missing -= 1
            position = end + 2
        if self._arguments:
            requests.append(self._arguments)
            self._arguments = []
            self._size = 0
        return position

    def _line(self, buffer: bytes, position: int, complaint: str) -> tuple[bytes | None, int]:
        """The header line at `position` and what follows it; None if its end has not come."""
        end = buffer.find(b"\r\n", position)
        if end < 0:
            if len(buffer) - position > INLINE_BYTES_MAX:
                raise RequestError(f"Protocol error: {complaint}")
            return None, position
        return buffer[position:end], end + 2

    def _begin(self, line: bytes) -> None:
        """`*<count>`: a command of that many arguments. None and fewer are skipped, as Redis does."""
        count = strict_integer(line[1:])
        if count is None or count > ARGUMENTS_MAX:
            raise RequestError("Protocol error: invalid multibulk length")
        if count > UNAUTHENTICATED_ARGUMENTS_MAX and not self.authenticated:
            raise RequestError("Protocol error: unauthenticated multibulk length")
        self._missing = max(count, 0)

    def _expect(self, line: bytes) -> None:
        """`$<length>`: an argument of that many bytes, within the limits."""
        if not line or line[0] != _DOLLAR:
            got = line[:1].decode("latin-1") or " "
            raise RequestError(f"Protocol error: expected '$', got '{got}'")
        length = strict_integer(line[1:])
        if length is None or not 0 <= length <= self.bulk_bytes_max:
            raise RequestError("Protocol error: invalid bulk length")
        if length > UNAUTHENTICATED_BULK_BYTES_MAX and not self.authenticated:
            raise RequestError("Protocol error: unauthenticated bulk length")
        self._size += length
        if self._size > self.request_bytes_max:
            raise RequestError(f"Protocol error: command exceeds {self.request_bytes_max} bytes")
        self._bulk = length

    def _inline(self, buffer: bytes, position: int, requests: list[list[bytes]]) -> int:
        end = buffer.find(b"\n", max(position, self._scanned))
        if (len(buffer) if end < 0 else end) - position > INLINE_BYTES_MAX:
            raise RequestError("Protocol error: too big inline request")
        if end < 0:
            self._scanned = len(buffer)
            return position
        self._scanned = 0
        line = buffer[position : end - 1 if buffer[end - 1 : end] == b"\r" else end]
        arguments = split_inline(line)
        if arguments is None:
            raise RequestError("Protocol error: unbalanced quotes in request")
        if arguments:
            requests.append(arguments)
        return end + 1


def split_inline(line: bytes) -> list[bytes] | None:
    """The arguments of an inline command, quoted as in Redis; None if the quotes do not balance."""
    line = line.partition(b"\0")[0]  # Redis reads a C string
    if b'"' not in line and b"'" not in line:
        return line.split()
    arguments: list[bytes] = []
    at = 0
    while True:
        while at < len(line) and line[at] in _SPACES:
            at += 1
        if at == len(line):
            return arguments
        argument = bytearray()
        while at < len(line) and line[at] not in _SPACES:
            if line[at] not in _QUOTES:
                argument.append(line[at])
                at += 1
                continue
            at = _quoted(line, at, argument)
            if at < 0 or (at < len(line) and line[at] not in _SPACES):
                return None  # no closing quote, or no space after it
        arguments.append(bytes(argument))


def _quoted(line: bytes, at: int, argument: bytearray) -> int:
    """Append the quoted text that begins at `at`; returns what follows the closing quote, or -1."""
    quote = line[at]
    at += 1
    while at < len(line):
        byte = line[at]
        if byte == quote:
            return at + 1
        following = line[at + 1 : at + 2]
        if byte == ord("\\") and quote == ord("'") and following == b"'":
            argument += b"'"
            at += 2
        elif byte == ord("\\") and quote == ord('"') and following:
            code = line[at + 2 : at + 4]
            if following == b"x" and len(code) == 2 and all(c in b"0123456789abcdefABCDEF" for c in code):
                argument.append(int(code, 16))
                at += 4
            else:
                argument.append(_ESCAPES.get(following[0], following[0]))
                at += 2
        else:
            argument.append(byte)
            at += 1
    return -1
