"""Calls between nodes, and the work that clients ask of this node; each has a deadline (`NodeCall`).

Work is bounded: for each client in number and in bytes, and for all clients together below what the node can
do, so that nodes always find a place. Questions of a client end with its connection. A change that has begun
goes on, but makes room for others when there is too much work.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from barque.errors import BarqueError, Refused
from barque.runtime import audit
from barque.runtime.reply_encoding import encode_or_why
from barque.transport.answers import READING_VERBS, error_named, fail, unanswered
from barque.transport.budget import Budget
from barque.transport.tasks import begin_task
from barque.transport.wire import NodeCall, NodeCallReply, NodeMessage

logger = logging.getLogger("barque.node_rpc")

Handler = Callable[[str, dict[str, Any]], Awaitable[Any]]
Answer = Callable[[Any, str | None, str], None]
_STOPPING = "the node is stopping"
_TOO_MANY = "too many administrative requests at once"
_TASKS_MAX = 1_000
_CLIENTS_TASKS_MAX = 500
_EACH_TASKS_MAX = 32
_CLIENTS_BYTES_MAX, _EACH_BYTES_MAX = 128 * 1024 * 1024, 32 * 1024 * 1024
_ANSWER_S = 10.0
"""How long an answer waits for a connection; the caller has given up by then."""


class Caller:
    """The asker of verbs: a client's connection, a node, or a program in this process.

    `name` is for people. The work of a client (`is_client`) is bounded by its share.
    """

    __slots__ = ("bytes", "is_client", "is_gone", "name", "tasks")

    def __init__(self, name: str, *, is_client: bool = False) -> None:
        self.name = name
        self.is_client = is_client
        self.is_gone = False
        self.tasks: dict[asyncio.Task[None], str] = {}  # the verb of each
        self.bytes = 0  # of the arguments of these tasks


class NodeRpc:
    """The calls that this node has made, and those that it serves."""

    def __init__(self, send: Callable[[str, NodeMessage], bool], handler: Handler) -> None:
        self._send = send
        self._handler = handler
        self._next = 0
        self._waiting: dict[int, tuple[str, str, asyncio.Future[Any]]] = {}
        self._connections: dict[str, asyncio.Event] = {}
        self._stopped = False
        self._late = 0  # how many of the tasks have only an answer left
        self._tasks: dict[asyncio.Task[None], None] = {}  # a set that keeps its order
        self._for_clients: dict[asyncio.Task[None], Caller] = {}  # those of them that clients have asked for
        self._memory = Budget(_CLIENTS_BYTES_MAX, _EACH_BYTES_MAX)

    @property
    def working(self) -> int:
        """How many requests this node is working on; an answer that waits for a connection is not work."""
        return len(self._tasks) - self._late

    async def call(
        self, node: str, verb: str, arguments: dict[str, Any], timeout_s: float, *, patient: bool = False
    ) -> Any:
        """Call a verb on a node. Raises the error that it answers.

        Raises `Refused` if the node cannot be reached, and the error of `unanswered` if it does not answer in
        time. With `patient` the call also waits for a connection, until the same deadline.
        """
        self._next += 1
        correlation = self._next
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[correlation] = (node, verb, future)
        try:
            async with asyncio.timeout(timeout_s):
                while not self._send(node, NodeCall(correlation, verb, arguments)):
                    if not patient:
                        raise Refused(f"node {node} is not connected")
                    await self._connection(node)
                return await future
        except BarqueError:
            raise  # what the node answered; a `QueryTimeout` is a `TimeoutError`, too
        except TimeoutError:
            raise unanswered(verb, f"node {node} did not answer {verb!r} in {timeout_s:.1f} s") from None
        finally:
            self._waiting.pop(correlation, None)

    async def _connection(self, node: str) -> None:
        event = self._connections.setdefault(node, asyncio.Event())
        await event.wait()

    def node_connected(self, node: str) -> None:
        """Our link to this node is up: calls and answers that wait for it can leave."""
        event = self._connections.pop(node, None)
        if event is not None:
            event.set()

    def on_reply(self, node: str, reply: NodeCallReply) -> None:
        """Take an answer; drop a late one, and one from a node that was not called."""
        asked, _, future = self._waiting.get(reply.correlation, ("", "", None))
        if future is None or asked != node or future.done():
            return
        if reply.error is None:
            future.set_result(reply.value)
        else:
            fail(future, error_named(reply.error, reply.text))

    def on_call(self, node: str, call: NodeCall) -> None:
        """Serve a call of another node, and send the answer when it is ready."""

        def answer(value: Any, error: str | None, text: str) -> None:
            reply = NodeCallReply(call.correlation, value, error, text)
            if not self._send(node, reply):
                self._answer_later(node, reply)

        self.serve(call.verb, call.arguments, answer, Caller(f"node {node}"))

    def _answer_later(self, node: str, reply: NodeCallReply) -> None:
        """Our own link to that node is not up yet, as happens when nodes start: answer when it is."""
        if self._stopped:
            return  # no further connection will come up

        async def wait() -> None:
            self._late += 1
            try:
                async with asyncio.timeout(_ANSWER_S):
                    while not self._send(node, reply):
                        await self._connection(node)
            except TimeoutError:
                pass
            finally:
                self._late -= 1

        self._keep(begin_task(wait()))

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def serve(self, verb: str, arguments: dict[str, Any], answer: Answer, caller: Caller) -> None:
        """Serve a request in a task of its own; `answer` is called once, however it ends."""
        size = len(msgspec.msgpack.encode(arguments)) if caller.is_client else 0
        refusal = self._refusal(size, caller)
        if refusal is not None:
            audit.note(verb, arguments, caller.name, f"{refusal[0]}: {refusal[1]}")
            answer(None, *refusal)
            return

        def settle(value: Any, error: str | None, text: str) -> None:
            self._release(task, size, caller)  # now: the client may ask anew before the task ends
            answer(value, error, text)

        task = begin_task(self._serve(verb, arguments, settle, caller.name))
        self._keep(task)
        if caller.is_client:
            self._for_clients[task], caller.tasks[task] = caller, verb
            caller.bytes = self._memory.change(caller.bytes, caller.bytes + size)
            task.add_done_callback(lambda task: self._release(task, size, caller))

    def _refusal(self, size: int, caller: Caller) -> tuple[str, str] | None:
        """Why this cannot be served now: the name of an error, and a text."""
        if self._stopped:
            return "Stopped", _STOPPING
        if not caller.is_client:
            return ("Overloaded", _TOO_MANY) if len(self._tasks) >= _TASKS_MAX else None
        if len(caller.tasks) >= _EACH_TASKS_MAX:
            return "Overloaded", f"{_EACH_TASKS_MAX} administrative requests of this client are under way"
        if size > self._memory.room(caller.bytes):
            return "Overloaded", "the arguments of administrative requests take too much memory"
        if len(self._for_clients) >= _CLIENTS_TASKS_MAX or len(self._tasks) >= _TASKS_MAX:
            forsaken = next((task for task, asker in self._for_clients.items() if asker.is_gone), None)
            if forsaken is None:
                return "Overloaded", _TOO_MANY
            forsaken.cancel()
        return None

    def _release(self, task: "asyncio.Task[None]", size: int, caller: Caller) -> None:
        """The work of a client no longer counts against its share, once it is answered or has ended."""
        if self._for_clients.pop(task, None) is not None:
            del caller.tasks[task]
            caller.bytes = self._memory.change(caller.bytes, caller.bytes - size)

    def caller_gone(self, caller: Caller) -> None:
        """A client has gone: end the work that only its answer was for."""
        caller.is_gone = True
        for task, verb in list(caller.tasks.items()):
            if verb in READING_VERBS:
                task.cancel()

    async def _serve(self, verb: str, arguments: dict[str, Any], answer: Answer, who: str) -> None:
        def end(value: Any, error: str | None, text: str) -> None:
            audit.note(verb, arguments, who, "done" if error is None else f"{error}: {text}")
            answer(value, error, text)

        unknown = type(unanswered(verb, "")).__name__  # for a verb that may have done its work
        try:
            value = await self._handler(verb, arguments)
        except BarqueError as error:
            end(None, type(error).__name__, str(error))
        except (KeyError, TypeError, ValueError) as error:
            end(None, "InvalidCommand", f"bad arguments for {verb!r}: {error!r}")
        except asyncio.CancelledError:
            end(None, unknown, _STOPPING if self._stopped else "the client has gone")
            raise
        except Exception as error:  # an error in a machine's code, such as its overview
            logger.exception("the call %r has failed", verb)
            end(None, unknown, f"{verb!r} has failed: {error!r}")
        else:
            encoded = encode_or_why(value)
            if isinstance(encoded, bytes):
                end(value, None, "")
            else:
                end(None, unknown, f"the answer to {verb!r} cannot be sent: {encoded}")

    def node_lost(self, node: str) -> None:
        """The link to this node is gone: fail the calls that wait for its answers."""
        for asked, verb, future in list(self._waiting.values()):
            if asked == node and not future.done():
                fail(future, unanswered(verb, f"the connection to node {node} was lost"))

    async def stop(self) -> None:
        """End all calls and all work, and refuse further calls; every caller is told."""
        self._stopped = True
        for _, verb, future in list(self._waiting.values()):
            if not future.done():
                fail(future, unanswered(verb, _STOPPING))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
