"""docs/reference/python.md: the docstrings of everything that `import barque` offers, as one page."""

import enum
import inspect
import re
from collections.abc import Iterator
from typing import Any

import msgspec

import barque
from barque import sync

HEAD = """# The Python API, in full

The docstrings of all public names, in alphabetical order; [the overview](api.md) groups them. This page is
made from the source; `BARQUE_REWRITE=1 pytest tests/test_reference.py` writes it again. Ids such as EFF-09
are rows of [the parity page](ra-parity.md).
"""


OF_LAYERS_AROUND = {
    "Node": {"make_sink", "make_sessions", "server_tls", "open_session", "wake", "on_envelopes", "on_turn"}
    | {"on_peer_connected", "on_peer_disconnected", "on_peer_gone", "on_client"},
    "Client": {"over", "end"},
}
"""Methods that are public for other parts of Barque, and for simulations."""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name in barque.__all__:
        found = getattr(barque, name)
        if found is sync:
            continue
        parts += _entry(name, found)
    return "\n".join(parts).rstrip() + "\n"


def _entry(name: str, found: Any) -> Iterator[str]:
    yield f"## `{name}`\n"
    if inspect.isclass(found):
        yield from _class(name, found)
    elif callable(found):
        yield f"```text\n{name}{_signature(found)}\n```\n"
        yield _text(found)
    else:
        yield f"`{_plain(found)}`\n"


def _class(name: str, kind: type) -> Iterator[str]:
    fields = _fields(kind)
    if fields:
        yield f"```text\n{fields}\n```\n"
    elif not issubclass(kind, (Exception, enum.Enum)) and "__init__" in vars(kind):
        yield f"```text\n{name}{_signature(kind.__init__, drop_self=True)}\n```\n"
    if issubclass(kind, enum.Enum):
        yield "Values: " + ", ".join(f"`{member.name}`" for member in kind) + ".\n"
    yield _text(kind)
    for owner in kind.__mro__:
        if not owner.__module__.startswith("barque"):
            continue
        for method_name, method in vars(owner).items():
            function = getattr(method, "__func__", getattr(method, "fget", method))
            public = not method_name.startswith("_") and inspect.isfunction(function)
            public = public and method_name not in OF_LAYERS_AROUND.get(name, ())
            if public and _owner_of(kind, method_name) is owner:
                yield f"### `{name}.{method_name}`\n"
                yield f"```text\n{method_name}{_signature(function, drop_self=True)}\n```\n"
                yield _text(function)


def _owner_of(kind: type, name: str) -> type:
    return next(owner for owner in kind.__mro__ if name in vars(owner))


def _fields(kind: type) -> str:
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)) or kind.__module__ == "msgspec":
        return ""
    lines = []
    for field in msgspec.structs.fields(kind):
        default = "" if field.default is msgspec.NODEFAULT else f" = {_plain(field.default)}"
        lines.append(f"{field.name}: {_plain_type(field.type)}{default}")
    return "\n".join(lines)


def _signature(function: Any, *, drop_self: bool = False) -> str:
    try:
        signature = inspect.signature(function)
    except ValueError:
        return "(…)"
    parameters = list(signature.parameters.values())
    if drop_self and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    parameters = [
        p.replace(annotation=p.empty)
        if p.annotation is p.empty
        else p.replace(annotation=_Type(p.annotation))
        for p in parameters
    ]
    returns = signature.return_annotation
    returns = returns if returns is signature.empty else _Type(returns)
    text = str(signature.replace(parameters=parameters, return_annotation=returns))
    text = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", text)
    text = re.sub(r"<(\w+)\.(\w+): [^<>]*>", r"\1.\2", text)
    text = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "…", text)
    if len(text) > 100:
        text = text.replace("(", "(\n    ", 1)
        text = re.sub(r", (?=[*\w]+(?::|,|\)| =|=|$))", ",\n    ", text)
        text = re.sub(r"\)( -> .*)?$", lambda m: f",\n){m[1] or ''}", text)
    return text


class _Type:
    """An annotation that prints as people write it."""

    def __init__(self, annotation: Any) -> None:
        self.text = annotation if isinstance(annotation, str) else _plain_type(annotation)

    def __repr__(self) -> str:
        return self.text


def _plain_type(annotation: Any) -> str:
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return "None" if annotation is type(None) else annotation.__name__
    return _plain(annotation)


def _plain(value: Any) -> str:
    text = repr(value)
    text = re.sub(r"<(\w+)\.(\w+): [^<>]*>", r"\1.\2", text)
    text = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "…", text)
    text = text.replace("NoneType", "None").replace("ForwardRef", "")
    return re.sub(r"\b(?:typing|collections\.abc|barque(?:\.\w+)*|msgspec)\.(?=\w)", "", text)


def _text(found: Any) -> str:
    return (inspect.getdoc(found) or "").strip() + "\n"
