"""The bytes of user commands become commands: at admission by the leader, and on each member to be applied.

A leader decodes commands before it appends them, by the machine version that will apply them, and refuses
those that are none: they did not happen. So every entry in the log is a command of this machine, and a
member that cannot decode a committed entry runs other code than the leader that admitted it. It must stop:
if it went on without that command, its state would differ from the others' for good.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from barque.core.decoders import CommandDecoder, command_decoder_of
from barque.core.entries import BodyHead, blob_of, lengths_of, payloads_of
from barque.core.roles import LeaderRole
from barque.core.state import Server

_split: Callable[[bytes], list[msgspec.Raw]] = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_LARGE_BYTES = 1024
"""Commands of this size on average are decoded one by one, where they are: to copy them costs more."""
_KEPT_BYTES_MAX = 256 * 1024
"""Decoded commands of a larger body are not kept until they are applied: they would need its memory twice."""


def decode_commands(
    decode: CommandDecoder, body: bytes, count: int, head: BodyHead
) -> tuple[list[Any], dict[int, str] | None]:
    """Decode all commands of a body: small ones in one call, by making its blob one msgpack array.

    Returns the commands, with None for bytes that are no command, and the error of each of those by offset.
    The members may have cut a batch differently, so bytes that are commands only when read across the edges
    of their entries are none (100 ns a command, an order below what applying costs).
    """
    try:
        if len(body) > count * _LARGE_BYTES:
            one = decode.one
            return [one(view) for view in payloads_of(memoryview(body), count, head)], None
        array = b"\xdd" + count.to_bytes(4, "big") + blob_of(body, count, head)
        commands = decode.many(array)
        if count == 1 or tuple(map(len, _split(array))) == lengths_of(body, count, head.size):
            return commands, None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    commands = []
    errors: dict[int, str] = {}
    for offset, payload in enumerate(payloads_of(body, count, head)):
        try:
            commands.extend(decode.many(b"\x91" + payload))
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
        return decode_commands(server.decode_commands, body, count, head)
    machine = server.cfg.machine.which_module(min(role.proposed_version, server.cfg.machine.version))
    return decode_commands(command_decoder_of(machine.command_type), body, count, head)


def keep_decoded(role: LeaderRole, first: int, body: bytes, commands: list[Any]) -> None:
    """Keep commands that were admitted at this index until they are applied."""
    if len(body) <= _KEPT_BYTES_MAX:
        role.decoded[first] = commands


def take_decoded(role: LeaderRole, first: int, count: int) -> list[Any] | None:
    """The commands that were kept for a batch; None if there are none, or the batch was cut since."""
    commands = role.decoded.pop(first, None)
    return commands if commands is not None and len(commands) == count else None
