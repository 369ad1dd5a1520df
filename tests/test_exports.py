"""The public surface: what `barque.__all__` names exists, and the reference documents it."""

import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import barque
from barque import errors

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


def test_every_error_is_public() -> None:
    """A program can catch each error by a name of the package."""
    kinds = {
        name for name, kind in vars(errors).items() if getattr(kind, "__module__", "") == "barque.errors"
    }
    assert kinds <= set(public_names())
    assert "InvariantViolation" in kinds


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
    r"barque\.(runtime|log|gateways|cli|bench|testing|client\.local|core\.(step|terms|state|transitions|leader|follower))(\.|$)"
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


INSIDE = {
    "Node": "beside `start` and `stop` its methods are for the layers around it",
    "Client.over": "makes clients over other links, for simulations and for the inside of a node",
    "KvMachine": "its state is its own affair",
}
"""The classes and methods whose annotations may name what is not public, and why."""


def named_classes(annotation: Any) -> Iterator[type]:
    """The classes that an annotation names, its arguments included."""
    if isinstance(annotation, type):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from named_classes(argument)


def annotations_of(kind: type) -> Iterator[tuple[str, Any]]:
    """Each annotation of the public methods and the fields of a class, and where it stands."""
    known = {"Client": barque.Client, "ClusterClient": barque.ClusterClient}
    for name, value in [item for owner in kind.__mro__[:-1] for item in vars(owner).items()]:
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if inspect.isfunction(function) and not name.startswith("_"):
            for hint in typing.get_type_hints(function, localns=known).values():
                yield f"{kind.__name__}.{name}", hint
    if hasattr(kind, "__struct_fields__"):
        for name, hint in typing.get_type_hints(kind).items():
            yield f"{kind.__name__}.{name}", hint


def test_what_public_methods_take_and_return_is_public() -> None:
    """Every class of Barque in a signature or a field of a public class is in `barque.__all__`, too."""
    kinds = [found for name in public_names() if isinstance(found := getattr(barque, name), type)]
    public = {*kinds, barque.sync.Client, barque.sync.ClusterClient, barque.sync.ObjectClient}
    hidden = {
        f"{place}: {found.__name__}"
        for kind in public
        if kind.__name__ not in INSIDE
        for place, annotation in annotations_of(kind)
        if place not in INSIDE
        for found in named_classes(annotation)
        if found.__module__.startswith("barque") and found not in public
    }
    assert hidden == set()
