"""The documentation is true: its programs run, its commands work, and the functions it names exist."""

from pathlib import Path

import pytest

import barque
from barque.client.local import NodeSubmitter
from barque.gateways.resp.server import RespServer
from tests.documents import ROOT, complaints, python_blocks, read_along, run_fragment
from tests.nodes import SECRET, nodes
from tests.ports import free_ports

RUN_AS_WRITTEN = (
    "docs/tutorial/first-machine.md",
    "docs/how-to/pipeline-commands.md",
    "docs/how-to/upgrade-a-machine.md",
    "docs/how-to/use-an-aux-machine.md",
    "docs/how-to/test-my-machine.md",
)
"""Pages whose every block a reader can carry out, from the first line to the last."""
RUN_AT_AN_INSTALLATION = (
    "docs/reference/api.md",
    "docs/how-to/change-members.md",
    "docs/how-to/redis-clients.md",
)
"""Pages whose Python a reader runs beside nodes n1 to n4, with a cluster `kv` on three of them."""


def pages_with_python() -> list[str]:
    """Every page with Python in it."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = [str(page.relative_to(ROOT)) for page in pages if "_build" not in page.parts]
    return [name for name in names if python_blocks(name)]


def changed_ports() -> dict[str, str]:
    """Free ports in the place of those that the pages name."""
    first = free_ports(6)
    return {str(port): str(first + i) for i, port in enumerate((7501, 7502, 7503, 7601, 7602, 7603))}


@pytest.mark.parametrize("page", RUN_AS_WRITTEN)
def test_a_page_runs_as_written(page: str, tmp_path: Path) -> None:
    """A reader who does what the page says, from the first line to the last, sees what the page shows."""
    read_along(page, tmp_path, changed_ports())


@pytest.mark.parametrize("page", pages_with_python())
def test_python_on_a_page_compiles_and_names_what_exists(page: str) -> None:
    """Every Python block compiles; its names are bound on the page, and those of Barque exist."""
    known: set[str] = set()
    found = [complaint for block in python_blocks(page) for complaint in complaints(block, known)]
    assert found == [], "\n".join(found)


@pytest.mark.parametrize("page", RUN_AT_AN_INSTALLATION)
async def test_python_on_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page run in their order, at an installation such as the page supposes."""
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    kv = barque.ClusterConfig(name="kv", machine="kv", members=("n1", "n2", "n3"))
    async with nodes(tmp_path, 4, clusters=(kv,)) as running:
        gateway = RespServer(NodeSubmitter(running.running["n1"]), bind="127.0.0.1:0")
        await gateway.start()
        ports = [address.rpartition(":")[2] for address in running.addresses.values()]
        changed = {"7401": ports[0], "7402": ports[1], "6379": str(gateway.address[1])}
        namespace: dict[str, object] = {"__name__": "__main__"}
        try:
            for block in python_blocks(page):
                await run_fragment(block, namespace, changed)
        finally:
            for opened in namespace.values():
                if hasattr(opened, "connection_pool"):
                    opened.close()
            await gateway.stop()
