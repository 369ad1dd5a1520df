"""The bytes of user commands become commands: at admission by the leader, and on each member to be applied.

A leader decodes commands before it appends them, by the machine version that will apply them, and refuses
those that are none: they did not happen. So every entry in the log is a command of this machine, and a
member that cannot decode a committed entry runs other code than the leader that admitted it. It must stop:
if it went on without that command, its state would differ from the others' for good.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from barque.core.entries import BodyHead, lengths_of, payloads_of
from barque.core.roles import LeaderRole
from barque.core.state import Server

Decode = Callable[[bytes], list[Any]]
_split: Callable[[bytes], list[msgspec.Raw]] = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_KEPT_BYTES_MAX = 8 * 1024 * 1024
"""How much of its log a leader keeps decoded until it is applied. What is beyond is decoded again then."""
_LARGE_BYTES = 16 * 1024
"""Copying a larger body twice takes longer than to avoid it."""


def decode_commands(
    decode: Decode, body: bytes, count: int, head: BodyHead, *, admitted: bool = True
) -> tuple[list[Any], dict[int, str] | None]:
    """Decode all commands of a body in one call, by making its blob one msgpack array.

    Returns the commands, with None for bytes that are no command, and the error of each of those by offset.
    Bytes that are commands only when read across the edges of their entries are none. The leader that admits
    a body looks at its edges, which takes longer than to decode it. No member looks again: bytes can be read
    in one way only, so however members cut a batch, they get the same commands, or stop.
    """
    start, blob_start = b"\xdd" + count.to_bytes(4, "big"), head.size + 4 * count
    if len(body) < _LARGE_BYTES:
        array = start + body[blob_start:]
    else:
        array = b"".join((start, memoryview(body)[blob_start:]))
    try:
        commands = decode(array)
        if admitted or count == 1 or tuple(map(len, _split(array))) == lengths_of(body, count, head.size):
            return commands, None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    commands = []
    errors: dict[int, str] = {}
    for offset, payload in enumerate(payloads_of(body, count, head)):
        try:
            commands.extend(decode(b"\x91" + payload))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            commands.append(None)
            errors[offset] = str(error)
    return commands, errors


def check_commands(
    server: Server, role: LeaderRole, body: bytes, count: int, head: BodyHead
) -> tuple[list[Any], dict[int, str] | None]:
    """Decode as the machine will that applies these commands, if this leader appends them now.

    That is the version of the newest noop in the log, which may not be applied yet.
    """
    if role.proposed_version <= server.effective_machine_version:
        return decode_commands(server.decode_commands, body, count, head, admitted=False)
    machine = server.cfg.machine.which_module(min(role.proposed_version, server.cfg.machine.version))
    decoder = msgspec.msgpack.Decoder(list[machine.command_type])  # type: ignore[name-defined]  # a run-time type
    return decode_commands(decoder.decode, body, count, head, admitted=False)


def keep_decoded(role: LeaderRole, first: int, body: bytes, commands: list[Any]) -> None:
    """Keep commands that were admitted at this index until they are applied, if there is room for them."""
    size = len(body)
    if role.decoded_bytes + size <= _KEPT_BYTES_MAX:
        role.decoded_bytes += size
        role.decoded[first] = size, commands


def take_decoded(role: LeaderRole, first: int, count: int) -> list[Any] | None:
    """The commands that were kept for a batch; None if there are none, or the batch was cut since."""
    kept = role.decoded.pop(first, None)
    if kept is None:
        return None
    size, commands = kept
    role.decoded_bytes -= size
    return commands if len(commands) == count else None
