"""Machines that the configuration names. Nothing from the network is ever imported by name."""

import importlib
from collections.abc import Mapping
from typing import Any

from barque.errors import ConfigurationError
from barque.machine.kv import KvMachine
from barque.machine.machine import Machine


def load_machines(named: Mapping[str, str]) -> dict[str, Machine[Any]]:
    """The built-in machines, and those of `named` (`package.module:Class`, made without arguments).

    Raises `ConfigurationError` for a name that leads to no machine.
    """
    machines: dict[str, Machine[Any]] = {"kv": KvMachine()}
    for name, path in named.items():
        module, _, attribute = path.partition(":")
        try:
            made = getattr(importlib.import_module(module), attribute)()
        except Exception as error:
            raise ConfigurationError(f"machines.{name}: cannot make {path!r}: {error!r}") from error
        if not isinstance(made, Machine):
            raise ConfigurationError(f"machines.{name}: {path!r} is not a barque.Machine")
        machines[name] = made
    return machines
