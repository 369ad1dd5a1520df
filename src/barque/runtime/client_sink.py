"""One connected client: its requests go to the front, its calls to the administration."""

from typing import TYPE_CHECKING, Any

from barque.errors import ProtocolError
from barque.transport.contract import ClientConnectionHandle
from barque.transport.wire import (
    ClientAnswer,
    ClientCall,
    ClientCallReply,
    ClientCommands,
    ClientQueries,
    ClientRequest,
)

if TYPE_CHECKING:
    from barque.runtime.node import Node


class ClientSession:
    """The node's end of a client connection; also serves callers inside the process.

    `connection` is None for those: they are trusted to encode what they send.
    """

    def __init__(self, node: "Node", connection: ClientConnectionHandle) -> None:
        self._node = node
        self._connection = connection
        self._session = node.session(self._deliver, events=True)

    def _deliver(self, answers: list[ClientAnswer]) -> None:
        self._connection.send(answers)

    def on_requests(self, requests: list[ClientRequest]) -> None:
        """Take the requests of one frame; a malformed one ends the connection."""
        try:
            for request in requests:
                take_request(self._node, self._session, request)
        except ProtocolError as error:
            self._connection.close(str(error))

    def on_closed(self) -> None:
        """The connection is gone; what was sent goes its way."""
        self._node.end_session(self._session)


def take_request(node: "Node", session: Any, request: ClientRequest) -> None:
    """Hand one request to whom it concerns. Raises `ProtocolError`."""
    match request:
        case ClientCommands():
            session.commands(request)
        case ClientQueries():
            session.queries(request)
        case ClientCall():
            correlation = request.correlation

            def answer(value: Any, error: str | None, text: str) -> None:
                node.front.tell(session, ClientCallReply(correlation, value, error, text))

            arguments = {**request.arguments, "timeout_ms": request.timeout_ms}
            node.calls.serve(request.verb, arguments, answer)
