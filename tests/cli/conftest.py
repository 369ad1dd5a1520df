"""Development clusters in temporary directories; their processes are gone when the test is over."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.support import Dev


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    """A directory for a cluster that the test starts itself."""
    cluster = Dev(tmp_path / "d")
    yield cluster
    cluster.end()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """Three nodes for the tests of one module, which leave all of them alive."""
    cluster = Dev(tmp_path_factory.mktemp("running") / "d")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()
