"""Machines that the configuration names. Nothing from the network is ever imported by name."""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from barque.errors import ConfigurationError
from barque.machine.kv import KvMachine
from barque.machine.machine import Machine
from barque.machine.replicated import Replicated, machine_of


def load_machines(
    named: Mapping[str, str], given: Mapping[str, Machine[Any] | type[Replicated]] = MappingProxyType({})
) -> dict[str, Machine[Any]]:
    """The built-in machines, those of `named` (`package.module:Class`), and those that a program gives.

    The class is a `Replicated` one, or a `Machine` that is made without arguments. Raises
    `ConfigurationError` for what is neither.
    """
    machines: dict[str, Machine[Any]] = {"kv": KvMachine()}
    for name, path in named.items():
        module, _, attribute = path.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
            made = found if _is_replicated(found) else found()
        except Exception as error:
            raise ConfigurationError(f"machines.{name}: cannot make {path!r}: {error!r}") from error
        machines[name] = _machine(name, path, made)
    for name, machine in given.items():
        machines[name] = _machine(name, repr(machine), machine)
    return machines


def _machine(name: str, what: str, made: Any) -> Machine[Any]:
    if isinstance(made, Machine):
        return made
    if _is_replicated(made):
        try:
            return machine_of(made)
        except ConfigurationError as error:
            raise ConfigurationError(f"machines.{name}: {error}") from error
    raise ConfigurationError(
        f"machines.{name}: {what} is neither a barque.Machine nor a barque.Replicated class"
    )


def _is_replicated(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, Replicated)
