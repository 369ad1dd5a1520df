"""Settings: every one has a range, and what cannot work is refused by its name (sec 16, S4)."""

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from barque import config as config_module
from barque.config import (
    ClusterConfig,
    HttpConfig,
    LogConfig,
    NodeConfig,
    RespConfig,
    ServerSettings,
    SnapshotsConfig,
    TimeConfig,
    TlsConfig,
    load_config,
)
from barque.errors import ConfigurationError

BASE: dict[str, Any] = {
    "name": "n1",
    "data_dir": "/data",
    "nodes": {"n1": "127.0.0.1:7400", "n2": "127.0.0.1:7401"},
    "secret": "0123456789abcdef",
    "resp": {"bind": "127.0.0.1:6379", "password": "long enough"},
    "tls": {"cert_file": "cert.pem", "key_file": "key.pem", "ca_file": "ca.pem"},
    "clusters": [{"name": "kv", "machine": "kv"}],
}
STRUCTS = {
    "": NodeConfig,
    "time": TimeConfig,
    "log": LogConfig,
    "snapshots": SnapshotsConfig,
    "resp": RespConfig,
    "http": HttpConfig,
    "clusters": ClusterConfig,
    "tls": TlsConfig,
    "servers": ServerSettings,
}
NUMBERS = [
    0,
    -1,
    -(2**63),
    2**45,
    2**62,
    2**70,
    True,
    1.0,
    1.5,
    float("nan"),
    float("inf"),
    "7",
    None,
    b"7",
    [7],
]
FROM_ZERO = {"initial_machine_version"}
"""Numbers that may be zero."""
TEXTS = [7, True, 1.5, b"n1", ["n1"], {"n": 1}, "\0", "", "x" * 100_000]
FREE_TEXTS = {
    *("secret", "admin_secret", "client_secret"),
    *("secret_file", "admin_secret_file", "client_secret_file", "cert_file", "key_file", "ca_file"),
    *("bind", "machine"),
}
"""Texts that may be empty or long, or are judged where they are used."""


def fields() -> Iterator[tuple[str, msgspec.structs.FieldInfo]]:
    """Every field of every struct of a configuration, with its section."""
    for section, struct in STRUCTS.items():
        yield from ((section, field) for field in msgspec.structs.fields(struct))


def kinds(annotation: Any) -> set[Any]:
    """The plain types of an annotation, without None."""
    if typing.get_origin(annotation) is typing.Annotated:
        return kinds(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return {kind for part in typing.get_args(annotation) for kind in kinds(part)} - {type(None)}
    return {typing.get_origin(annotation) or annotation}


def refuse(section: str, name: str, value: Any) -> None:
    """A file and a program with this value are both refused, and told which setting is wrong."""
    raw = {**BASE}
    if section == "clusters":
        raw["clusters"] = [{**BASE["clusters"][0], name: value}]
    elif section == "servers":
        raw["servers"] = {"kv": {name: value}}
    elif section:
        raw[section] = {**raw.get(section, {}), name: value}
    else:
        raw[name] = value
    with pytest.raises((ConfigurationError, msgspec.ValidationError)):
        msgspec.convert(raw, NodeConfig).check()
    structs = {**raw}
    for part in ("time", "log", "snapshots", "resp", "http", "tls"):
        if part in structs and isinstance(structs[part], dict):
            structs[part] = STRUCTS[part](**structs[part])
    if section == "servers":
        structs["servers"] = {"kv": ServerSettings(**structs["servers"]["kv"])}
    if isinstance(structs["clusters"], list):
        structs["clusters"] = tuple(ClusterConfig(**c) for c in structs["clusters"] if isinstance(c, dict))
    with pytest.raises(ConfigurationError) as caught:
        NodeConfig(**structs).check()
    text = str(caught.value)
    assert name in text or section in text, text
    assert len(text) < 500
    assert BASE["secret"] not in text


def test_every_struct_of_a_configuration_is_walked() -> None:
    """A new section cannot escape the tables below."""
    found = {s for s in vars(config_module).values() if isinstance(s, type) and issubclass(s, msgspec.Struct)}
    assert found == set(STRUCTS.values())


@pytest.mark.parametrize(
    ("section", "name"),
    [(s, f.name) for s, f in fields() if int in kinds(f.type)],
    ids=lambda part: part or "node",
)
def test_sec16_every_number_has_a_range(section: str, name: str) -> None:
    """Zero, negative and absurd numbers, booleans, fractions and texts are refused, wherever they stand."""
    for value in NUMBERS:
        if name not in FROM_ZERO or value != 0 or value is False:
            refuse(section, name, value)


@pytest.mark.parametrize(
    ("section", "name"),
    [(s, f.name) for s, f in fields() if str in kinds(f.type) and f.name not in FREE_TEXTS],
    ids=lambda part: part or "node",
)
def test_sec16_every_text_has_a_rule(section: str, name: str) -> None:
    """No other type, no byte 0, nothing empty, nothing endless."""
    for value in TEXTS:
        refuse(section, name, value)


@pytest.mark.parametrize(("section", "name"), [(s, f.name) for s, f in fields() if bool in kinds(f.type)])
def test_sec16_a_switch_is_true_or_false(section: str, name: str) -> None:
    """Neither a number nor a text."""
    for value in (0, 1, "yes", None, 1.0):
        refuse(section, name, value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clusters": [{"name": "kv", "machine": "kv"}] * 2}, r"clusters\.kv: given twice"),
        ({"clusters": [{"name": "a/b", "machine": "kv"}]}, "is no name"),
        ({"clusters": [{"name": "kv", "machine": "kv", "members": ["n1", "n1"]}]}, "a member is given twice"),
        ({"clusters": [{"name": "kv", "machine": "kv", "members": ["n9"]}]}, "not in nodes"),
        ({"resp": {"bind": "127.0.0.1:1", "password": "x"}}, "password"),
        ({"resp": {"bind": "127.0.0.1:1", "cluster": ""}}, r"resp\.cluster"),
        ({"data_dir": "a\0b"}, "data_dir"),
        ({"name": "a b", "nodes": {"a b": "127.0.0.1:1"}}, "is no name"),
        ({"installation": "../x"}, "installation"),
        ({"machine_upgrade_strategy": "some"}, "machine_upgrade_strategy"),
        ({"server_recovery_strategy": "some"}, "server_recovery_strategy"),
        ({"server_recovery_strategy": ["a b"]}, "server_recovery_strategy"),
        ({"servers": {"a b": {}}}, "servers"),
        ({"servers": {"kv": {"speed": 1}}}, "speed"),
        ({"time": {"heartbeat_interval_ms": 1_000}}, "three heartbeat"),
        ({"secret": "", "secret_file": ""}, "secret"),
    ],
)
def test_sec16_what_cannot_work_together_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Duplicates, unknown members, short passwords, bad names and paths: by the setting's name."""
    with pytest.raises((ConfigurationError, msgspec.ValidationError), match=said):
        msgspec.convert({**BASE, **changes}, NodeConfig).check()


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "0", "*", "[::0]"])
def test_s4_an_address_that_nobody_can_reach_is_refused(host: str) -> None:
    """It is right for `bind`, and wrong in `nodes`."""
    nodes = {"n1": f"{host}:7400"}
    with pytest.raises(ConfigurationError, match="none that others can reach"):
        msgspec.convert({**BASE, "nodes": nodes}, NodeConfig).check()
    msgspec.convert({**BASE, "bind": f"{host}:7400"}, NodeConfig).check()


@pytest.mark.parametrize("setting", ["nodes", "bind", "resp"])
@pytest.mark.parametrize("address", ["2001:db8::1", "::1", "fe80::1:7400", "2001:db8::1:7400", "::"])
def test_s4_an_ipv6_address_without_brackets_is_refused_with_the_form_to_write(
    setting: str, address: str
) -> None:
    """Where its port begins cannot be told."""
    value: Any = {"nodes": {"n1": address}, "bind": address, "resp": {"bind": address}}[setting]
    with pytest.raises(ConfigurationError, match=rf"write \[{address}\]:7400"):
        msgspec.convert({**BASE, setting: value}, NodeConfig).check()


def test_the_default_configuration_is_within_its_ranges(tmp_path: Path) -> None:
    """From a file too."""
    msgspec.convert(BASE, NodeConfig).check()
    path = tmp_path / "node.toml"
    path.write_text('name="n1"\ndata_dir="d"\nsecret="0123456789abcdef"\n[nodes]\nn1="127.0.0.1:1"\n')
    load_config(str(path))
