"""What a node tells about its servers."""

from typing import Any
from unittest.mock import Mock

from barque.machine.machine import Machine, Result
from barque.runtime.reporting import cluster_overview
from barque.runtime.server_process import ServerProcess
from barque.testing.core.cluster import CoreCluster


class Old(Machine[int]):
    """Counts in a number."""

    def init(self, args: dict[str, Any]) -> int:
        """Nothing yet."""
        return 0

    def apply(self, meta: Any, command: Any, state: int) -> Result[int]:
        """Count."""
        return state + 1, None

    def overview(self, state: int) -> dict[str, Any]:
        """The number."""
        return {"counted": state + 0}


class New(Old):
    """Counts in a dictionary, once its version is in force."""

    version = 1

    def which_module(self, version: int) -> Machine[Any]:
        """The code of that version."""
        return self if version else Old()

    def overview(self, state: Any) -> dict[str, Any]:
        """The number that is in the dictionary."""
        return {"counted": state["count"]}


def test_the_version_in_force_describes_the_machine() -> None:
    """Newer code does not know the state that the older one has left."""
    cluster = CoreCluster("a", "b", "c", machine=Old())
    cluster["a"].machine = New()
    cluster["a"].start()
    performer: Any = Mock()
    shown = cluster_overview(ServerProcess(cluster["a"].server, performer, {}))["machine"]
    assert shown == {"type": "New", "version": 1, "effective_version": 0, "counted": 0}
