"""`barque.sync.Client`: the same client for threads. One loop in a thread of its own serves all callers."""

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from barque.client.client import Client as AsyncClient
from barque.client.outcomes import Notification
from barque.errors import Stopped
from barque.types import IndexTerm, Membership, ServerId


class Client:
    """Blocks the calling thread, never the others; all callers share the connections.

    Arguments, results and errors are those of `barque.Client`. Use it in a `with` block.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        secret: str | bytes,
        installation: str = "barque",
        timeout_s: float = 5.0,
    ) -> None:
        self._client = AsyncClient(nodes, secret=secret, installation=installation, timeout_s=timeout_s)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        """Start the loop's thread and connect. Raises what `barque.Client.connect` raises."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="barque client", daemon=True)
        self._thread.start()
        try:
            self._run(self._client.connect())
        except BaseException:
            self._stop_loop()
            raise

    def close(self) -> None:
        """End the connections and the thread. Safe to call twice."""
        if self._loop is not None:
            self._run(self._client.close())
            self._stop_loop()

    def _stop_loop(self) -> None:
        assert self._loop is not None
        assert self._thread is not None
        loop, self._loop = self._loop, None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    def __enter__(self) -> "Client":
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self._loop is None:
            work.close()
            raise Stopped("this client is not connected; use it in a `with` block")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def process_command(
        self, cluster: str, command: Any, *, timeout_s: float | None = None, reply_type: Any = Any
    ) -> Any:
        """See `barque.Client.process_command`."""
        return self._run(
            self._client.process_command(cluster, command, timeout_s=timeout_s, reply_type=reply_type)
        )

    def append_command(self, cluster: str, command: Any, *, timeout_s: float | None = None) -> IndexTerm:
        """See `barque.Client.append_command`."""
        position: IndexTerm = self._run(self._client.append_command(cluster, command, timeout_s=timeout_s))
        return position

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

    def take_notifications(self) -> list[Notification]:
        """See `barque.Client.take_notifications`."""
        taken: list[Notification] = self._run(self._client.take_notifications())
        return taken

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

    def members(self, cluster: str, *, timeout_s: float | None = None) -> list[ServerId]:
        """See `barque.Client.members`."""
        members: list[ServerId] = self._run(self._client.members(cluster, timeout_s=timeout_s))
        return members

    def ping(self, cluster: str | None = None, *, timeout_s: float | None = None) -> dict[str, Any]:
        """See `barque.Client.ping`."""
        answer: dict[str, Any] = self._run(self._client.ping(cluster, timeout_s=timeout_s))
        return answer

    def overview(self, cluster: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """See `barque.Client.overview`."""
        answer: dict[str, Any] = self._run(self._client.overview(cluster, timeout_s=timeout_s))
        return answer

    def status(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """See `barque.Client.status`."""
        answer: dict[str, Any] = self._run(self._client.status(timeout_s=timeout_s))
        return answer

    def transfer_leadership(
        self, cluster: str, target: ServerId | str, *, timeout_s: float | None = None
    ) -> str:
        """See `barque.Client.transfer_leadership`."""
        return str(self._run(self._client.transfer_leadership(cluster, target, timeout_s=timeout_s)))

    def start_cluster(
        self,
        cluster: str,
        machine: str,
        *,
        nodes: Sequence[str] | None = None,
        arguments: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """See `barque.Client.start_cluster`."""
        answer: dict[str, Any] = self._run(
            self._client.start_cluster(
                cluster, machine, nodes=nodes, arguments=arguments, timeout_s=timeout_s
            )
        )
        return answer

    def members_info(self, cluster: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """See `barque.Client.members_info`."""
        answer: dict[str, Any] = self._run(self._client.members_info(cluster, timeout_s=timeout_s))
        return answer

    def add_member(
        self,
        cluster: str,
        node: str,
        *,
        membership: Membership = Membership.VOTER,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """See `barque.Client.add_member`."""
        answer: dict[str, Any] = self._run(
            self._client.add_member(cluster, node, membership=membership, timeout_s=timeout_s)
        )
        return answer

    def remove_member(
        self, cluster: str, member: ServerId | str, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """See `barque.Client.remove_member`."""
        answer: dict[str, Any] = self._run(self._client.remove_member(cluster, member, timeout_s=timeout_s))
        return answer

    def promote_member(
        self, cluster: str, member: ServerId | str, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """See `barque.Client.promote_member`."""
        answer: dict[str, Any] = self._run(self._client.promote_member(cluster, member, timeout_s=timeout_s))
        return answer

    def replace_member(
        self, cluster: str, member: ServerId | str, *, node: str | None = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """See `barque.Client.replace_member`."""
        answer: dict[str, Any] = self._run(
            self._client.replace_member(cluster, member, node=node, timeout_s=timeout_s)
        )
        return answer

    def delete_cluster(self, cluster: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """See `barque.Client.delete_cluster`."""
        answer: dict[str, Any] = self._run(self._client.delete_cluster(cluster, timeout_s=timeout_s))
        return answer

    def force_shrink(self, cluster: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """See `barque.Client.force_shrink`."""
        answer: dict[str, Any] = self._run(self._client.force_shrink(cluster, timeout_s=timeout_s))
        return answer

    def aux_command(
        self, cluster: str, command: Any, *, consistent: bool = False, timeout_s: float | None = None
    ) -> Any:
        """See `barque.Client.aux_command`."""
        return self._run(
            self._client.aux_command(cluster, command, consistent=consistent, timeout_s=timeout_s)
        )
