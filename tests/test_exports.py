"""The public surface: what `barque.__all__` names exists, and the reference documents it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import barque

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "api.md"


def public_names() -> list[str]:
    """What the package says is public; skips the test while it says nothing."""
    names: list[str] | None = getattr(barque, "__all__", None)
    if names is None:
        pytest.skip("barque.__all__ is not there yet")
    return list(names)


def test_public_names_exist_once() -> None:
    """Every name in `__all__` can be imported, and none stands there twice."""
    names = public_names()
    assert [name for name in names if not hasattr(barque, name)] == []
    assert len(names) == len(set(names))


def test_public_names_are_in_the_reference() -> None:
    """Every public name stands in a heading or in code in docs/reference/api.md."""
    names = public_names()
    assert REFERENCE.exists(), "write docs/reference/api.md: it documents every name of barque.__all__"
    text = re.sub(r"```.*?```", "", REFERENCE.read_text(), flags=re.DOTALL)
    words = set(
        re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`|^#.*$|^\s*\.\. auto.*$", text, re.MULTILINE)))
    )
    missing = [name for name in names if name not in words]
    assert missing == [], f"document in docs/reference/api.md: {', '.join(missing)}"


def test_lazy_names_are_like_the_others() -> None:
    """`Node` and `local_client` load at their first use; an unknown name is an `AttributeError`."""
    assert barque.Node.__module__ == "barque.runtime.node"
    assert barque.local_client.__module__ == "barque.client.local"
    with pytest.raises(AttributeError, match="'Nodes'"):
        barque.Nodes  # noqa: B018


SERVER = re.compile(
    r"barque\.(runtime|log|gateways|cli|bench|testing|client\.local|core\.(step|leader|follower))(\.|$)"
)


@pytest.mark.parametrize(
    "program",
    [
        "import barque; barque.Client; barque.connect; barque.Machine",
        "from barque.sync import Client, connect",
        "import barque; barque.sync.Client",
        "from barque import *",
    ],
)
def test_a_client_loads_no_server(program: str) -> None:
    """A fresh interpreter with a client has no module of a node, of its log or of the Raft server."""
    report = "; import sys; print(*(name for name in sys.modules if name.startswith('barque')))"
    done = subprocess.run(
        [sys.executable, "-c", program + report], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = done.stdout.split()
    assert "barque.client.client" in loaded
    servers = [name for name in loaded if SERVER.match(name)]
    if "*" in program:
        assert "barque.runtime.node" in servers  # all names, so the lazy ones, too
    else:
        assert servers == []
