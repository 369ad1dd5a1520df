"""A node's configuration from four places: flag > environment > file > default.

Flags and `BARQUE_*` change single settings of the file, or replace it. Page: docs/reference/configuration.md.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from barque.config import NodeConfig
from barque.errors import ConfigurationError

_CURES = {
    "`name`": "set `name` in the file, --name or BARQUE_NAME",
    "`data_dir`": "set `data_dir` in the file, --data-dir or BARQUE_DATA_DIR",
    "`nodes`": "set `nodes` in the file, --nodes or BARQUE_NODES",
}


def named_addresses(text: str, where: str) -> dict[str, str]:
    """Read `n1=host:port,n2=host:port`. Raises `ConfigurationError` that names `where` the text stands."""
    table: dict[str, str] = {}
    for part in text.split(","):
        name, equals, address = part.strip().partition("=")
        if not equals or not name or ":" not in address:
            raise ConfigurationError(f"{where}: {part.strip()!r} is not NAME=HOST:PORT; write n1=host:port,…")
        if name in table:
            raise ConfigurationError(f"{where}: {name!r} is given twice; name each node once")
        table[name] = address
    return table


def clusters_from(texts: tuple[str, ...], where: str) -> list[dict[str, Any]]:
    """Read `name=machine` pairs as clusters on all nodes. Raises `ConfigurationError`."""
    clusters = []
    for text in texts:
        name, equals, machine = text.partition("=")
        if not equals or not name or not machine:
            raise ConfigurationError(f"{where}: {text!r} is not NAME=MACHINE; write kv=kv")
        clusters.append({"name": name, "machine": machine})
    return clusters


def read_toml(path: str) -> dict[str, Any]:
    """Read a TOML file. Raises `ConfigurationError` that names the file and the cause."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; give another --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from error


def overlay(raw: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`raw`, changed by the settings that are not None.

    A secret replaces a file with it, and the other way round. Without either, a secret may come from the
    environment: BARQUE_SECRET, BARQUE_ADMIN_SECRET, BARQUE_CLIENT_SECRET, or a file of that name in the
    directory of credentials that a supervisor such as systemd has made.
    """
    merged = {**raw}
    for name, value in settings.items():
        if value is None:
            continue
        if name in ("resp_bind", "http_bind"):
            gateway = name.removesuffix("_bind")
            merged[gateway] = {**merged.get(gateway, {}), "bind": value}
        elif name == "clusters":
            given = {cluster["name"] for cluster in value}
            kept = [c for c in merged.get("clusters", []) if c.get("name") not in given]
            merged["clusters"] = [*kept, *value]
        else:
            merged[name] = value
            if name.endswith("secret_file"):
                merged.pop(name.removesuffix("_file"), None)
    for name in ("secret", "admin_secret", "client_secret"):
        if name not in merged and f"{name}_file" not in merged:
            merged.update(_supplied(name))
    return merged


def _supplied(name: str) -> dict[str, str]:
    """A secret that the environment holds, or a credential of the supervisor's."""
    text, directory = os.environ.get(f"BARQUE_{name.upper()}"), os.environ.get("CREDENTIALS_DIRECTORY")
    if text:
        return {name: text}
    path = Path(directory or "", f"barque-{name.replace('_', '-')}")
    return {f"{name}_file": str(path)} if directory and path.is_file() else {}


def build_config(path: str | None, settings: Mapping[str, Any]) -> NodeConfig:
    """Build and check one node's configuration. Raises `ConfigurationError`: what is wrong, and the cure."""
    raw = overlay(read_toml(path) if path else {}, settings)
    source = path or "flags and environment"
    try:
        config = msgspec.convert(raw, NodeConfig)
        config.check()
    except msgspec.ValidationError as error:
        cure = next((text for name, text in _CURES.items() if f"field {name}" in str(error)), "")
        raise ConfigurationError(f"{source}: {error}{'; ' + cure if cure else ''}") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error}") from error
    return config
