"""The client for threads has the methods of the asyncio client, and ends well (client/sync.py)."""

import asyncio
import collections.abc
import concurrent.futures
import inspect
import threading
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import SECRET, nodes

import barque
from barque import sync
from barque.client import sync as module
from barque.errors import BarqueError, Stopped

ONLY_ASYNC = {
    "over": "makes a client over another kind of link, for simulations",
    "carried_by": "makes a client whose requests a session inside a node carries",
    "end": "ends a client at once, for the owner of such links",
}
NAMES = {"Client": barque.Client, "ClusterClient": barque.ClusterClient}
PAIRS = [
    (barque.Client, sync.Client),
    (barque.ClusterClient, sync.ClusterClient),
    (barque.ObjectClient, sync.ObjectClient),
]


def methods(kind: type) -> dict[str, Callable[..., Any]]:
    """The public methods, and how it is made."""
    found = {"__init__": kind.__init__}  # type: ignore[misc]
    for owner in reversed(kind.__mro__[:-1]):
        found |= {name: value for name, value in vars(owner).items() if not name.startswith("_")}
    return {name: getattr(value, "__func__", value) for name, value in found.items()}


def in_threads(annotation: Any) -> Any:
    """What a thread gets in place of this result, or gives in place of this argument."""
    if typing.get_origin(annotation) is collections.abc.AsyncIterator:
        return collections.abc.Iterator[typing.get_args(annotation)]  # type: ignore[misc]
    return next((theirs for ours, theirs in PAIRS if ours is annotation), annotation)


def shape(function: Callable[..., Any]) -> tuple[list[tuple[str, Any, Any]], dict[str, Any]]:
    """Names, kinds and defaults of the parameters, and all annotations."""
    parameters = inspect.signature(function).parameters.values()
    hints = typing.get_type_hints(function, localns=NAMES)
    if "sync" in function.__module__:
        hints = typing.get_type_hints(function)
    return [(p.name, p.kind, p.default) for p in parameters], hints


@pytest.mark.parametrize(("asynchronous", "threaded"), PAIRS)
def test_both_clients_have_the_same_methods(asynchronous: type, threaded: type) -> None:
    """Names, parameters, defaults, annotations and results are equal; only the waiting differs."""
    ours, theirs = methods(threaded), methods(asynchronous)
    assert set(ours) == set(theirs) - set(ONLY_ASYNC)
    for name, function in ours.items():
        parameters, hints = shape(function)
        expected, their_hints = shape(theirs[name])
        assert parameters == expected, name
        assert hints == {key: in_threads(hint) for key, hint in their_hints.items()}, name


@pytest.mark.parametrize("client", [pair[0] for pair in PAIRS] + [pair[1] for pair in PAIRS])
def test_every_public_method_is_annotated(client: type) -> None:
    """A comparison of annotations would pass if there were none."""
    for name, function in methods(client).items():
        assert "return" in typing.get_type_hints(function, localns=NAMES), name


@pytest.mark.parametrize(
    ("client", "bound"), [(barque.Client, barque.ClusterClient), (sync.Client, sync.ClusterClient)]
)
def test_a_cluster_client_has_every_verb_that_names_a_cluster(client: type, bound: type) -> None:
    """The same parameters without the first one, and the same results."""
    verbs = {
        name: function
        for name, function in methods(client).items()
        if list(inspect.signature(function).parameters)[1:2] == ["cluster"]
    }
    assert len(verbs) > 15
    assert set(methods(bound)) - {"__init__", "object"} == set(verbs)
    for name, function in verbs.items():
        parameters, hints = shape(function)
        own, own_hints = shape(methods(bound)[name])
        assert own == [p for p in parameters if p[0] != "cluster"], name
        assert own_hints == {key: hint for key, hint in hints.items() if key != "cluster"}, name


async def test_threads_share_a_sync_client(tmp_path: Path) -> None:
    """Eight threads count through one `barque.sync.Client`; nothing is lost between them."""
    async with nodes(tmp_path) as three, three.client() as setup:
        await setup.start_cluster("sum", "adder")
        addresses = list(three.addresses.values())

        def work() -> None:
            with barque.sync.Client(addresses, secret=SECRET) as client:
                threads = [
                    threading.Thread(target=lambda: [client.process_command("sum", 1) for _ in range(25)])
                    for _ in range(8)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert client.consistent_query("sum") == 200
                assert len(client.members("sum")) == 3

        await asyncio.to_thread(work)


async def test_threads_have_all_that_tasks_have(tmp_path: Path) -> None:
    """Leaders, one cluster's verbs, notifications and machine events; a client can connect again."""
    async with nodes(tmp_path, 1) as single, single.client() as setup:
        await setup.start_cluster("sum", "adder")

        def work() -> None:
            url = f"barque://:{SECRET.replace(' ', '%20')}@{single.addresses['n1']}/sum"
            client = sync.connect(url, timeout_s=10.0)
            for _ in range(2):
                with client:
                    total = client.cluster()
                    assert client.leader("sum") == total.leader() == barque.ServerId("sum", "n1")
                    assert total.process_command(0) == total.local_query() == 0
                    for i in range(3):
                        total.pipeline_command(0, i, priority="normal")
                    told = client.notifications()
                    assert [next(told).correlation for _ in range(3)] == [0, 1, 2]
                    total.process_command("tell")
                    assert next(client.machine_events()) == ("sum", {"sum": 0})
            with pytest.raises(Stopped):
                client.ping()

        await asyncio.to_thread(work)


def a_client_that_reaches_nobody() -> sync.Client:
    """A client that is connected, and whose requests get no answer."""
    client = sync.Client(["127.0.0.1:1"], secret=SECRET, timeout_s=60.0)

    async def connect() -> None:
        client._client._open = True

    client._client.connect = connect  # type: ignore[method-assign]  # a loop, and no node
    return client


def test_a_thread_that_waits_for_outcomes_hears_that_the_client_is_closed() -> None:
    """A thread cannot be cancelled: it would wait forever. That holds for events and requests, too."""
    client = a_client_that_reaches_nobody()
    client.connect()
    waits: list[Callable[[], Any]] = [
        client.take_notifications,
        lambda: client.process_command("sum", 1),
        client.status,
    ]
    listens = [lambda: list(client.notifications()), lambda: list(client.machine_events())]
    with concurrent.futures.ThreadPoolExecutor(5) as threads:
        waiting = [threads.submit(wait) for wait in waits]
        listening = [threads.submit(listen) for listen in listens]
        while len(asyncio.all_tasks(client._loop)) < 5:
            assert not any(done.done() for done in (*waiting, *listening))
        client.close()
        for done in waiting:
            assert type(done.exception(20)) is Stopped
        assert [done.result(20) for done in listening] == [[], []]


def test_a_thread_that_connects_hears_that_the_client_is_closed() -> None:
    """Nobody answers, and another thread gives up: the one that connects does not wait for its time."""
    client = sync.Client(["127.0.0.1:1"], secret=SECRET, timeout_s=60.0)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        connecting = threads.submit(client.connect)
        while client._loop is None:
            assert not connecting.done()
        client.close()
        assert isinstance(connecting.exception(20), BarqueError)


def test_a_call_in_the_moment_of_a_close_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread closes the client before the call reaches the loop: `Stopped`, no `RuntimeError`."""
    client = a_client_that_reaches_nobody()
    client.connect()
    real = asyncio.run_coroutine_threadsafe
    closer = threading.Thread(target=client.close)

    def late(work: Any, loop: asyncio.AbstractEventLoop) -> Any:
        if threading.current_thread() is not closer:
            closer.start()
            closer.join(0.2)  # it ends here, or waits until this call has reached the loop
        return real(work, loop)

    monkeypatch.setattr(module.asyncio, "run_coroutine_threadsafe", late)
    with pytest.raises(Stopped):
        client.status()
    closer.join(20)
    assert not closer.is_alive()
    client.close()


def test_a_client_connects_once() -> None:
    """A second `connect` finds the first one's thread, and one `close` ends it."""
    client = a_client_that_reaches_nobody()
    client.connect()
    loop, thread = client._loop, client._thread
    client.connect()
    assert (client._loop, client._thread) == (loop, thread)
    client.close()
    assert thread is not None
    assert not thread.is_alive()


def test_a_client_is_used_in_a_with_block() -> None:
    """Before `connect` every call is refused, and the text says what to do."""
    client = sync.Client(["127.0.0.1:1"], secret=SECRET)
    with pytest.raises(Stopped, match="with"):
        client.process_command("sum", 1)
    client.close()
