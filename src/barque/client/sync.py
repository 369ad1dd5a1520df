"""The client for threads, `barque.sync`: one loop, in a thread of its own, serves all callers."""

import asyncio
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from barque.client.client import Client as AsyncClient
from barque.client.objects import P, R
from barque.client.outcomes import Notification
from barque.client.sync_administration import Administration, ClusterAdministration
from barque.client.url import read_url
from barque.errors import Stopped
from barque.machine.replicated import Command, Query, Replicated
from barque.types import IndexTerm, Pid

Result = TypeVar("Result")
_END_S = 1.0
"""How long work that was under way may take to end after the connections were closed."""


_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()
"""Every client of this process: a forked child must not wait for threads that it does not have."""


_parents_parts: list[tuple[object, ...]] = []
"""Open connections of the parent process, in a forked child: kept, since ending them is not the child's."""


def _reset_after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


class Client(Administration):
    """Blocks the calling thread, never the others; all threads share the connections.

    Arguments, results and errors are those of `barque.Client`. Use it in a `with` block.

    A forked child inherits no thread, so its copy of an open client connects anew with its first call. The
    parent's connections stay the parent's. A call that was under way when another thread forked goes on in
    the parent only.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        secret: str | bytes = b"",
        installation: str = "barque",
        timeout_s: float = 5.0,
        cluster: str | None = None,
        tls_ca_file: str | None = None,
        tls_cert_file: str | None = None,
        tls_key_file: str | None = None,
    ) -> None:
        def make() -> AsyncClient:
            return AsyncClient(
                nodes,
                secret=secret,
                installation=installation,
                timeout_s=timeout_s,
                cluster=cluster,
                tls_ca_file=tls_ca_file,
                tls_cert_file=tls_cert_file,
                tls_key_file=tls_key_file,
            )

        self._make = make
        self._client = make()
        self._cluster = cluster
        self._lock = threading.Lock()  # around `_loop`: no call may reach a loop that is being closed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connects_anew = False  # this is a forked child's copy of an open client
        _clients.add(self)

    # --- life --------------------------------------------------------------------------

    def connect(self) -> None:
        """Start the loop's thread and connect, unless that is done. Raises as `barque.Client.connect`."""
        with self._lock:
            if self._loop is not None:
                return
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="barque client", daemon=True)
            self._thread.start()
        try:
            self._run(self._client.connect())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connections and the thread; wake every thread that waits. Safe to call twice."""
        with self._lock:
            loop, self._loop = self._loop, None  # from here on calls raise `Stopped`
            self._connects_anew = False
        if loop is None:
            return
        assert self._thread is not None
        client, self._client = self._client, self._make()
        asyncio.run_coroutine_threadsafe(_end(client), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    def __enter__(self) -> "Client":
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do the work on the loop and wait for its end. Raises what it raises, or `Stopped`."""
        if self._connects_anew:
            self._connect_anew(work)
        with self._lock:
            loop = self._loop
            if loop is not None:
                future = asyncio.run_coroutine_threadsafe(work, loop)
        if loop is None:
            work.close()
            raise Stopped("this client is not connected; use it in a `with` block")
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Stopped("the client was closed") from None
        except BaseException:
            future.cancel()  # the thread was interrupted; nobody waits any more
            raise

    def _connect_anew(self, work: Coroutine[Any, Any, Any]) -> None:
        """Connect in a forked child. Raises as `connect`."""
        self._connects_anew = False
        try:
            self.connect()
        except BaseException:
            self._connects_anew = True  # the next call tries again
            work.close()
            raise

    def _after_fork(self) -> None:
        """In the child: forget the loop, whose thread is the parent's, and the lock that it may hold."""
        if self._loop is not None:
            _parents_parts.append((self._client, self._loop, self._thread))
            self._connects_anew = True
        self._lock = threading.Lock()
        self._loop = self._thread = None
        self._client = self._make()

    def cluster(self, name: str | None = None) -> "ClusterClient":
        """See `barque.Client.cluster`."""
        return ClusterClient(self, self._client.cluster(name).name)

    # --- pipelines and events ------------------------------------------------------------

    def pipeline_command(
        self,
        cluster: str,
        command: Any,
        correlation: Any = None,
        *,
        priority: str = "low",
        timeout_s: float | None = None,
    ) -> None:
        """See `barque.Client.pipeline_command`."""

        async def send() -> None:
            self._client.pipeline_command(
                cluster, command, correlation, priority=priority, timeout_s=timeout_s
            )

        self._run(send())

    def notifications(self) -> Iterator[Notification]:
        """See `barque.Client.notifications`."""
        with contextlib.suppress(Stopped):
            while True:
                yield from self.take_notifications()

    def pid(self, *, timeout_s: float | None = None) -> Pid:
        """See `barque.Client.pid`."""
        return self._run(self._client.pid(timeout_s=timeout_s))

    def machine_events(self) -> Iterator[tuple[str, Any]]:
        """See `barque.Client.machine_events`."""
        with contextlib.suppress(Stopped):
            while (event := self._run(self._client._next_event())) is not None:
                yield event

    # --- everything else: as in `barque.Client` -------------------------------------------

    def process_command(
        self, cluster: str, command: Any, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """See `barque.Client.process_command`."""
        return self._run(
            self._client.process_command(cluster, command, timeout_s=timeout_s, reply_type=reply_type)
        )

    def append_command(self, cluster: str, command: Any, *, timeout_s: float | None = None) -> IndexTerm:
        """See `barque.Client.append_command`."""
        return self._run(self._client.append_command(cluster, command, timeout_s=timeout_s))

    def take_notifications(self) -> list[Notification]:
        """See `barque.Client.take_notifications`."""
        return self._run(self._client.take_notifications())

    def consistent_query(
        self, cluster: str, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """See `barque.Client.consistent_query`."""
        return self._run(
            self._client.consistent_query(cluster, query, timeout_s=timeout_s, reply_type=reply_type)
        )

    def leader_query(
        self, cluster: str, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """See `barque.Client.leader_query`."""
        return self._run(
            self._client.leader_query(cluster, query, timeout_s=timeout_s, reply_type=reply_type)
        )

    def local_query(
        self, cluster: str, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """See `barque.Client.local_query`."""
        return self._run(self._client.local_query(cluster, query, timeout_s=timeout_s, reply_type=reply_type))


class ClusterClient(ClusterAdministration):
    """One cluster, through a `barque.sync.Client`; see `barque.ClusterClient`."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name

    @property
    def _administration(self) -> Client:
        return self.client

    def object(
        self, kind: type[Replicated], *, reads: str = "consistent", timeout_s: float | None = None
    ) -> "ObjectClient":
        """See `barque.ClusterClient.object`."""
        return ObjectClient(self, kind, reads, timeout_s)

    def process_command(self, command: Any, *, timeout_s: float | None = None, reply_type: Any = Any) -> Any:
        """See `barque.Client.process_command`."""
        return self.client.process_command(self.name, command, timeout_s=timeout_s, reply_type=reply_type)

    def append_command(self, command: Any, *, timeout_s: float | None = None) -> IndexTerm:
        """See `barque.Client.append_command`."""
        return self.client.append_command(self.name, command, timeout_s=timeout_s)

    def pipeline_command(
        self, command: Any, correlation: Any = None, *, priority: str = "low", timeout_s: float | None = None
    ) -> None:
        """See `barque.Client.pipeline_command`."""
        self.client.pipeline_command(self.name, command, correlation, priority=priority, timeout_s=timeout_s)

    def consistent_query(
        self, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """See `barque.Client.consistent_query`."""
        return self.client.consistent_query(self.name, query, timeout_s=timeout_s, reply_type=reply_type)

    def leader_query(
        self, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """See `barque.Client.leader_query`."""
        return self.client.leader_query(self.name, query, timeout_s=timeout_s, reply_type=reply_type)

    def local_query(self, query: Any = None, *, timeout_s: float | None = None, reply_type: Any = Any) -> Any:
        """See `barque.Client.local_query`."""
        return self.client.local_query(self.name, query, timeout_s=timeout_s, reply_type=reply_type)


def connect(
    url: str,
    *,
    secret: str | bytes | None = None,
    secret_file: str | None = None,
    installation: str | None = None,
    timeout_s: float | None = None,
    tls_ca_file: str | None = None,
    tls_cert_file: str | None = None,
    tls_key_file: str | None = None,
) -> Client:
    """See `barque.connect`."""
    place = read_url(
        url,
        secret=secret,
        secret_file=secret_file,
        installation=installation,
        timeout_s=timeout_s,
        tls_ca_file=tls_ca_file,
        tls_cert_file=tls_cert_file,
        tls_key_file=tls_key_file,
    )
    return Client(place.nodes, **place.options())


async def _end(client: AsyncClient) -> None:
    """Close the client, and let every thread's work end before the loop does."""
    await client.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, late = await asyncio.wait(others, timeout=_END_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


class ObjectClient:
    """One replicated object, through a `barque.sync.Client`; see `barque.ObjectClient`."""

    def __init__(
        self, cluster: ClusterClient, kind: type[Replicated], reads: str, timeout_s: float | None
    ) -> None:
        self.cluster = cluster
        self.kind = kind
        self._reads = reads
        self._timeout_s = timeout_s

    def call(self, method: Command[P, R] | Query[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See `barque.ObjectClient.call`."""
        client = self.cluster.client
        verbs = client._client.cluster(self.cluster.name)
        target = verbs.object(self.kind, reads=self._reads, timeout_s=self._timeout_s)
        return client._run(target.call(method, *args, **kwargs))
