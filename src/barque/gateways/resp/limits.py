"""What Redis clients may take, and what is counted of them."""

import msgspec

from barque.core.entries import COMMAND_BYTES_MAX
from barque.machine.kv_writes import VALUE_BYTES_MAX


class RespLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client, and all of them together, may take."""

    connections_max: int = 10_000
    strangers_max: int = 1_000
    """Connections without the password, if there is one; the oldest makes room for the next."""
    bulk_bytes_max: int = VALUE_BYTES_MAX
    """The longest key or value."""
    request_bytes_max: int = COMMAND_BYTES_MAX
    """All arguments of one command together; all commands of one transaction, too."""
    transaction_commands_max: int = 65_536
    """Commands between MULTI and EXEC."""
    outstanding_max: int = 10_000
    """Unanswered requests of one connection; more are not read from its socket."""
    outstanding_bytes_max: int = 8 * 1024 * 1024
    """Bytes of the unanswered requests of one connection; more are not read, but for one request."""
    request_bytes_total: int = 192 * 1024 * 1024
    """Bytes of the requests of all connections; beyond it those with much are not read."""
    submitted_bytes_max: int = 4 * 1024 * 1024
    """Bytes of one connection that are on their way to the cluster; a larger request goes alone."""
    submitted_bytes_total: int = 16 * 1024 * 1024
    """The same for all connections; beyond it they take turns."""
    reply_bytes_max: int = 32 * 1024 * 1024
    """The largest reply. A connection whose unread replies have so many bytes is not served."""
    reply_bytes_total: int = 192 * 1024 * 1024
    """Bytes of replies of all connections, asked for or not read yet; beyond it they take turns."""
    unread_timeout_ms: int = 10_000
    """How long a connection that is not served may read nothing before it is cut off."""
    command_timeout_ms: int = 4_000
    authentication_timeout_ms: int = 5_000
    """How long a client may stay without the password, if there is one."""


class RespCounters(msgspec.Struct):
    """What has happened to connections since the server started."""

    current: int = 0
    accepted: int = 0
    refused: int = 0
    """Turned away, because there were too many."""
    protocol_errors: int = 0
    slow_readers: int = 0
    """Cut off, because they did not read their replies."""
    evicted: int = 0
    """Cut off, because they held much memory, did not move, and others waited for it."""
    late_authentications: int = 0
    """Cut off, because they did not give the password in time, or others came after them."""
    wrong_passwords: int = 0
    commands: int = 0
