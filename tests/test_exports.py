"""The public surface: what `barque.__all__` names exists, and the reference documents it."""

import re
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
    text = REFERENCE.read_text()
    words = set(
        re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`|^#.*$|^\s*\.\. auto.*$", text, re.MULTILINE)))
    )
    missing = [name for name in names if name not in words]
    assert missing == [], f"document in docs/reference/api.md: {', '.join(missing)}"
