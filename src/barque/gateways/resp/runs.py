"""The order of one connection's requests: which may run now, and which must wait for what.

Redis runs the commands of a connection one after another; here they travel through a cluster, so
many must be under way at once. The order is kept by *runs*: consecutive writes are submitted
together, consecutive reads are submitted together, and a run begins when the run of the other kind
before it has been answered. So a read sees the writes before it and none of those after it. A write that
replies with a value, and a command that changes the connection itself, is a run of its own.

A reply has room before it is asked for (`memory`). A read whose answer turns out larger is asked again with
the room that it needs, and so are the reads behind it in its run: otherwise they would have seen an older
state.
"""

import enum
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from barque.gateways.resp import encoder
from barque.gateways.resp.command import Command, CommandError, Kind, unknown_command, wrong_arity
from barque.gateways.resp.memory import LITTLE_BYTES
from barque.gateways.resp.parser import RequestParser
from barque.gateways.resp.pending import Pending
from barque.gateways.resp.session import Muted, Session
from barque.gateways.resp.table import find_command
from barque.gateways.resp.transaction import EXEC_ABORT
from barque.machine.kv_commands import Guarded, Set, Transaction
from barque.machine.kv_writes import TRANSACTION_REPLY_BYTES_MAX, VALUE_BYTES_MAX, replies_value

if TYPE_CHECKING:
    from barque.gateways.resp.server import RespServer

_NO_AUTH: Final = encoder.error("NOAUTH Authentication required.")
_NO_MULTI: Final = encoder.error("ERR EXEC without MULTI")
_REPLY_BYTES_EXPECTED: Final = 4096  # unless larger ones came of late
_FORGET_SHIFT: Final = 6  # each reply takes a 64th off the memory of larger ones
_encode: Final = msgspec.msgpack.Encoder().encode


class Run(enum.Enum):
    """What may be under way together: only the like, or nothing else at all."""

    WRITES = enum.auto()
    READS = enum.auto()
    ALONE = enum.auto()


class Requests:
    """The requests of one connection; its socket is `Connection`."""

    __slots__ = (
        "_expected",
        "_held",
        "_outstanding",
        "_pumping",
        "_replies",
        "_run",
        "_server",
        "_short_of_room",
        "_submitted",
        "_unread",
        "_waiting",
        "closed",
        "ending",
        "flush_scheduled",
        "moved",
        "parser",
        "session",
    )

    parser: RequestParser
    session: Session

    def __init__(self, server: "RespServer") -> None:
        self._server = server
        self._replies: deque[Pending] = deque()
        """Unanswered requests in order, and answers that wait for an earlier one."""
        self._waiting: deque[Pending] = deque()
        """Requests that may not run yet; all of them are also in `_replies`."""
        self._outstanding = 0
        """How many of the present run are with the submitter."""
        self._run = Run.WRITES
        """The present run; means something while `_outstanding` > 0."""
        self._short_of_room = False
        """Whether a reply of the present run was too large for the room it had."""
        self._submitted = 0
        """Bytes of the budget of requests: what the submitter has of this connection."""
        self._held = 0
        """Bytes of the budget of replies: reserved, or ready to be written."""
        self._unread = 0
        """Likewise: bytes written that the client had not taken when we last looked."""
        self._expected = _REPLY_BYTES_EXPECTED
        """How large a reply may be: the largest of late."""
        self._pumping = False
        self.moved = True
        """Whether anything came in or went out since the server's last tick."""
        self.ending = False
        """Nothing more is read; the connection closes after its last reply."""
        self.closed = False
        self.flush_scheduled = False

    @property
    def is_paused(self) -> bool:
        """Whether its replies take so much memory that it is not read from."""
        return self._held + self._unread >= self._server.limits.reply_bytes_max

    # --- in

    def flush(self) -> None:
        """Write the replies that are due."""
        raise NotImplementedError

    def accept(self, request: list[bytes]) -> None:
        """Take the next request of the client."""
        if self.ending:
            return
        pending = Pending(self, find_command(request[0]), request)
        self._replies.append(pending)
        if self._waiting or not self._start(pending):
            self._waiting.append(pending)

    def _start(self, pending: Pending) -> bool:
        """Run, queue or submit one request; False if it has to wait."""
        command, session = pending.command, self.session
        if session.muted:
            self._mute(pending)
        if command is None or not command.accepts(len(pending.request)):
            self._reject(pending)
            return True
        kind = command.kind
        if kind is Kind.SESSION and self._outstanding:
            return False
        if not session.authenticated and not command.without_auth:
            self._answer(pending, _NO_AUTH)
            return True
        try:
            if session.queue is not None and not command.never_queued:
                self._answer(pending, session.queue.add(command, pending.request))
            elif kind is Kind.WRITE:
                return self._start_write(pending, command)
            elif kind is Kind.READ:
                return self._start_read(pending, command)
            elif kind is Kind.EXEC:
                return self._start_exec(pending)
            elif kind is Kind.LOCAL and self.is_paused:
                return False
            else:
                session.last_command = command.name
                self._answer(pending, command.run(session, pending.request))
        except CommandError as error:
            self._answer(pending, encoder.error(str(error)))
        except Exception as failure:  # a bug of ours in one command; the other connections go on
            self._answer(pending, encoder.error(f"ERR '{command.name}' failed: {type(failure).__name__}"))
        if kind is Kind.SESSION:
            self._after_session_command(pending)
        return True

    def _hold_back(self, pending: Pending) -> None:
        """The password was wrong: the reply takes its time, and nothing else is done until then."""
        data = cast(bytes, pending.data)
        pending.data = None
        self._held -= len(data)
        self._server.replies.used -= len(data)
        self._outstanding += 1
        self._run = Run.ALONE
        self._server.after_wrong_password(self, lambda: self.settled(pending, data))

    def _mute(self, pending: Pending) -> None:
        """CLIENT REPLY has turned this reply off."""
        if self.session.muted is Muted.ALL:
            pending.muted = True
        elif not pending.muted:  # a request that had to wait counts once
            pending.muted = True
            self.session.muted = Muted.NOTHING

    def _reject(self, pending: Pending) -> None:
        """The command is unknown, or has too few or too many arguments; a transaction is lost with it."""
        session, command = self.session, pending.command
        text = unknown_command(pending.request) if command is None else wrong_arity(command.name)
        if command is not None and command.kind is Kind.EXEC:
            session.queue, session.watched = None, {}
            text = text.replace("ERR", "EXECABORT Transaction discarded because of:", 1)
        elif session.queue is not None:
            session.queue.failed = True
        self._answer(pending, encoder.error(text))

    def _start_write(self, pending: Pending, command: Command) -> bool:
        operation = pending.operation
        if operation is None:
            operation = pending.operation = command.run(pending.request)
        if type(operation) is not Set and replies_value(operation):
            return self._start_exchange(pending, operation, VALUE_BYTES_MAX)
        if self._outstanding and self._run is not Run.WRITES:
            return False
        return self._submit(pending, operation, Run.WRITES)

    def _start_read(self, pending: Pending, command: Command) -> bool:
        if self._outstanding and self._run is not Run.READS:
            return False
        session = self.session
        if not command.sized:
            if pending.operation is None:
                if command.with_session:
                    pending.operation = command.run(session, pending.request)
                else:
                    pending.operation = command.run(pending.request)
            return self._submit(pending, pending.operation, Run.READS)
        size = max(self._expected, pending.needs)
        if not self._reserve(pending, size):
            return False
        return self._submit(pending, command.run(pending.request, size), Run.READS)

    def _start_exchange(self, pending: Pending, operation: Any, reply_bytes_max: int) -> bool:
        """A write that replies with a value is done only if there is room for the value."""
        if self._outstanding:
            return False
        guarded = self._server.knows_guards()
        size = min(max(self._expected, pending.needs), reply_bytes_max) if guarded else reply_bytes_max
        if not self._reserve(pending, size):
            return False
        return self._submit(pending, Guarded(size, operation) if guarded else operation, Run.ALONE)

    def _start_exec(self, pending: Pending) -> bool:
        """Commit what was queued since MULTI. It is this request's now; a later MULTI begins another."""
        session, queue = self.session, pending.queue
        if self._outstanding and self._run is Run.READS:
            return False  # a WATCH may not have its position yet
        if queue is None:
            queue, session.queue = session.queue, None
            if queue is None:
                self._answer(pending, _NO_MULTI)
                return True
            watched, session.watched = session.watched, {}
            if queue.failed:
                self._answer(pending, EXEC_ABORT)
                return True
            pending.queue = queue
            positions = {key: -1 if at is None else at for key, at in watched.items()}
            pending.operation = queue.transaction(positions)
        operation: Transaction | None = pending.operation
        if operation is None:
            if self._outstanding:
                return False
            self._answer(pending, queue.reply([], session))
            return True
        if replies_value(operation):
            return self._start_exchange(pending, operation, TRANSACTION_REPLY_BYTES_MAX)
        if self._outstanding and self._run is not Run.WRITES:
            return False
        return self._submit(pending, operation, Run.WRITES)

    def _reserve(self, pending: Pending, size: int) -> bool:
        """Take room for a reply out of the budget; False if there is none yet."""
        if size > self._server.limits.reply_bytes_max:
            raise CommandError(
                f"ERR the reply can have {size} bytes, more than the limit of "
                f"{self._server.limits.reply_bytes_max}; nothing was done; ask for less at a time"
            )
        more = size - pending.reserved
        # With nothing under way, the replies held are behind this one: it must not wait for them.
        held = self._held + self._unread if self._outstanding or self._unread else 0
        if more > 0 and not self._server.replies.admits(self, held, more):
            self._server.watch()
            return False
        self._held += more
        self._server.replies.used += more
        pending.reserved = size
        return True

    def _submit(self, pending: Pending, operation: Any, run: Run) -> bool:
        """Hand a command or query to the cluster; False if large ones of others go first."""
        payload = _encode(operation)
        size = len(payload)
        server, reads = self._server, run is Run.READS
        if not reads:
            budget, held = server.requests, self._submitted + size
            if (held > LITTLE_BYTES or budget.used + size > budget.total) and not budget.admits(
                self, self._submitted, size
            ):
                return False
            self._submitted = held
            budget.used += size
            pending.payload_bytes = size
        pending.submitted = True
        self._run = run
        self._outstanding += 1
        if not reads:
            server.submit_command(payload, pending)
        else:
            # Between WATCH and EXEC no read may be older than the watch.
            level = "consistent" if self.session.watched else self.session.read_level
            server.submit_query(payload, level, pending)
        return True

    def _after_session_command(self, pending: Pending) -> None:
        session = self.session
        self.parser.authenticated = session.authenticated
        if session.refused:
            session.refused = False
            self._hold_back(pending)
        if session.speaks:
            session.speaks = pending.muted = False
        if session.closing:
            self.ending = True
            self._waiting.clear()
            while self._replies[-1] is not pending:
                self._replies.pop()  # what came after QUIT

    # --- out

    def _answer(self, pending: Pending, data: bytes) -> None:
        """Keep a reply that is known now."""
        pending.data = data
        more = len(data) - pending.reserved
        pending.reserved = 0
        self._held += more
        self._server.replies.used += more

    def settled(self, pending: Pending, data: bytes | None) -> None:
        """One outstanding outcome has arrived; no `data` means that it was too large for its room."""
        if self.closed:
            return
        self.moved = True
        self._outstanding -= 1
        if pending.payload_bytes:
            self._submitted -= pending.payload_bytes
            self._server.requests.used -= pending.payload_bytes
            pending.payload_bytes = 0
        if data is not None:
            expected = self._expected
            if expected > _REPLY_BYTES_EXPECTED:
                expected -= expected >> _FORGET_SHIFT
            self._expected = max(len(data), expected, _REPLY_BYTES_EXPECTED)
            self._answer(pending, data)
        else:
            self._short_of_room = True
        if self._short_of_room and not self._outstanding:
            self._ask_again()
        if self._waiting:
            self.pump()
        self._server.schedule_flush(self)

    def _ask_again(self) -> None:
        """A run has ended, and a reply in it was too large: begin again there."""
        self._short_of_room = False
        started = list(self._replies)[: len(self._replies) - len(self._waiting)]
        first = next(at for at, one in enumerate(started) if one.submitted and one.data is None)
        needed = started[first].needs
        self._expected = min(
            max(self._expected, 1 << needed.bit_length()), self._server.limits.reply_bytes_max
        )
        for one in reversed(started[first:]):
            if one.submitted:  # the node itself has answered the others
                returned = one.reserved if one.data is None else len(one.data)
                self._held -= returned
                self._server.replies.used -= returned
                one.data, one.reserved, one.submitted = None, 0, False
                self._waiting.appendleft(one)

    def pump(self) -> None:
        """Begin what may run now. Outcomes may arrive while it is being submitted."""
        if self._pumping:
            return
        self._pumping = True
        started = False
        try:
            while self._waiting:
                pending = self._waiting.popleft()
                if not self._start(pending):
                    self._waiting.appendleft(pending)
                    break
                started = True
        finally:
            self._pumping = False
        if started:  # without news a flush would ask the line again, and so on without end
            self._server.schedule_flush(self)
