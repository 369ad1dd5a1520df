"""The suite for snapshot modules: a good module passes it, and a module with any planted fault does not."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from tests.log.modules import BAD, FileModule, Notes

from barque.testing.conformance import SnapshotModuleSuite


class TestFileModule(SnapshotModuleSuite):
    """A module with Barque's own transfer of files."""

    make: Callable[[], FileModule] = FileModule

    def module(self) -> FileModule:
        """A new one."""
        return type(self).make()

    def state(self, size: int) -> Notes:
        """Notes of a KiB each."""
        return {f"note {number}": "x" * min(size, 1_000) for number in range((size + 999) // 1_000)}

    def change(self, state: Notes) -> None:
        """One note more."""
        state["another"] = "one"

    def picture(self, state: Notes) -> Any:
        """The same notes."""
        return dict(state)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: getattr(bad, "__name__", "raises"))
def test_a_bad_module_fails(bad: Callable[[], FileModule]) -> None:
    """Some test of the suite fails for each planted fault."""

    class Suite(TestFileModule):
        __test__ = False
        make = bad

    failed = []
    for name, test in inspect.getmembers(Suite(), inspect.ismethod):
        if name.startswith("test_"):
            try:
                test()
            except Exception:
                failed.append(name)
    assert failed
