"""The public kit: is a machine deterministic, and does a log or a transport keep its contract?"""

import pkgutil
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kit.storage import UID, Node
from tests.simulation.users import Clock, Counter, Dice, Names, Seen

from barque.core.log_contract import Log
from barque.core.messages import LogEvent
from barque.testing.conformance import LogSuite, TransportSuite
from barque.testing.core.memory_log import MemoryLog
from barque.testing.determinism import NotDeterministic, check_machine, simulate_machine
from barque.testing.sim.memory_transport import MemoryNetwork, MemoryTransport
from barque.transport.contract import Transport, TransportHandler
from barque.types import Uid

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = ["a", "b", "a", "roll", "c", "d", "e"]


@pytest.mark.parametrize("machine", [Counter, Seen, "tests.simulation.users:Counter"])
def test_good_machines_pass(machine: type[Counter] | str) -> None:
    """A deterministic machine gives the same replies and states in processes with other hash seeds."""
    assert check_machine(machine, COMMANDS) == len(COMMANDS)


@pytest.mark.parametrize(
    ("machine", "culprit"), [(Clock, "time.monotonic_ns"), (Dice, "random.randrange"), (Names, "set")]
)
def test_bad_machines_are_found_with_the_line(machine: type[Counter], culprit: str) -> None:
    """The message names the command, both outcomes and the suspicious line."""
    with pytest.raises(NotDeterministic, match=culprit) as found:
        check_machine(machine, COMMANDS)
    assert machine.__name__ in str(found.value)


def test_a_machine_that_cannot_be_imported_is_told_so() -> None:
    """A machine that another process cannot import is refused with the reason."""

    class Local(Counter):
        pass

    assert check_machine(Local, COMMANDS, other_processes=False) == len(COMMANDS)
    with pytest.raises(TypeError, match="can be imported"):
        check_machine(Local, COMMANDS)


def test_the_simulation_of_a_machine_sees_members_that_differ() -> None:
    """A machine that reads a clock differs between members, as they apply at different moments."""
    clean = [simulate_machine(Counter, COMMANDS, seed) for seed in range(1, 4)]
    assert [report.violation for report in clean] == [None] * 3
    assert sum(report.committed for report in clean) > 50
    report = simulate_machine(Clock, COMMANDS, 1)
    assert report.violation is not None
    assert "I18" in report.violation.name


def test_the_fixtures_are_there(
    deterministic_machine: Callable[..., int], simulated_machine: Callable[..., int]
) -> None:
    """Pytest finds the fixtures by the entry point."""
    assert deterministic_machine(Counter, COMMANDS) == len(COMMANDS)
    assert simulated_machine(Counter, COMMANDS) > 100


def test_pages_name_what_exists() -> None:
    """Every `barque.testing…` name and every path of this kit in the pages exists."""
    names, paths = set[str](), set[str]()
    for page in DOCS.rglob("*.md"):
        text = page.read_text()
        names.update(re.findall(r"\bbarque\.testing(?:\.\w+)+", text))
        paths.update(re.findall(r"`((?:testing|tests/kit)/[\w/]+\.py)`", text))
    assert len(names) > 5
    assert len(paths) > 10
    for name in sorted(names):
        pkgutil.resolve_name(name)
    assert [path for path in sorted(paths) if not exists(path)] == []


def exists(path: str) -> bool:
    """Whether a path of a page, below the repository or below the package, exists."""
    root = DOCS.parent
    return (root / path).exists() or (root / "src" / "barque" / path).exists()


class TestMemoryLog(LogSuite):
    """The log in memory keeps the contract."""

    def make(self) -> tuple[Log, Callable[[], list[LogEvent]]]:
        log = MemoryLog(Uid("u"))
        return log, lambda: list(log.take_written())


class TestWalLog(LogSuite):
    """Production's log keeps the contract."""

    def make(self) -> tuple[Log, Callable[[], list[LogEvent]]]:
        node = Node()
        log = node.storage.log(UID)
        node.storage.sync_meta()

        def sync() -> list[LogEvent]:
            node.storage.flush()
            events, node.events[:] = list(node.events), []
            return events

        return log, sync


class TestMemoryTransport(TransportSuite):
    """The transport in memory keeps the contract."""

    network: MemoryNetwork | None = None

    async def make(self, name: str, peer: str, incarnation: int, handler: TransportHandler) -> Transport:
        if self.network is None:
            self.network = MemoryNetwork(rng=random.Random(1))
        return MemoryTransport(
            self.network, name=name, incarnation=incarnation, peers={peer: peer}, handler=handler
        )
