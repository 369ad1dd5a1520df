"""NodeRpc between nodes, and those that clients make (runtime/node_rpc.py)."""

import asyncio
from typing import Any

import pytest

from barque.errors import NoLeader
from barque.runtime import node_rpc, reply_encoding
from barque.runtime.node_rpc import Caller, NodeRpc


async def _serve(verb: str) -> Any:
    match verb:
        case "ping":
            return "pong"
        case "status" | "member_add":
            return object()
        case "members":
            raise NoLeader("nobody leads")
        case "overview" | "member_remove":
            raise AttributeError("a machine's own mistake")
    raise KeyError(verb)


async def ask(verb: str) -> tuple[Any, str | None, str]:
    """What a caller of this verb is told."""
    told: asyncio.Future[tuple[Any, str | None, str]] = asyncio.get_running_loop().create_future()
    served = NodeRpc(lambda _node, _message: True, lambda asked, _arguments: _serve(asked))
    served.serve(verb, {}, lambda *answer: told.set_result(answer), Caller("a test"))
    answer = await told
    await served.stop()
    assert served.working == 0
    return answer


@pytest.mark.parametrize(
    ("verb", "value", "error", "text"),
    [
        ("ping", "pong", None, ""),
        ("members", None, "NoLeader", "nobody leads"),
        ("nothing", None, "InvalidCommand", "bad arguments for 'nothing'"),
        ("overview", None, "QueryTimeout", "'overview' has failed: AttributeError"),
        ("member_remove", None, "OutcomeUnknown", "'member_remove' has failed: AttributeError"),
        ("status", None, "QueryTimeout", "the answer to 'status' cannot be sent: TypeError"),
        ("member_add", None, "OutcomeUnknown", "the answer to 'member_add' cannot be sent: TypeError"),
    ],
)
async def test_every_ending_is_answered(verb: str, value: Any, error: str | None, text: str) -> None:
    """Whatever the handler does, no caller waits until its deadline."""
    told = await ask(verb)
    assert told[:2] == (value, error)
    assert told[2].startswith(text)


async def test_an_answer_that_fits_into_no_frame_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be dropped on its way."""
    monkeypatch.setattr(reply_encoding, "BODY_BYTES_MAX", 3)
    assert await ask("ping") == (
        None,
        "QueryTimeout",
        "the answer to 'ping' cannot be sent: 5 bytes are more than 3",
    )


async def test_a_client_may_ask_anew_as_soon_as_it_has_an_answer() -> None:
    """A client with as many requests as it may have sends the next one at each answer, and none is refused.

    On some loops its bytes are read before the callbacks of the task that has answered.
    """
    most, left = node_rpc._EACH_TASKS_MAX, 3 * node_rpc._EACH_TASKS_MAX
    client = Caller("a client", is_client=True)
    served = NodeRpc(lambda _node, _message: True, lambda asked, _arguments: _serve(asked))
    told: list[str | None] = []
    done = asyncio.Event()

    def answered(_value: Any, error: str | None, _text: str) -> None:
        nonlocal left
        told.append(error)
        if left:
            left -= 1
            served.serve("ping", {}, answered, client)
        elif len(told) == 4 * most:
            done.set()

    for _ in range(most):
        served.serve("ping", {}, answered, client)
    async with asyncio.timeout(10):
        await done.wait()
    assert told == [None] * (4 * most)
    await served.stop()
    assert not client.tasks
    assert client.bytes == 0
