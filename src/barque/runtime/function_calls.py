"""Functions of the node's program that machines call by the effect `ModCall` (EFF-03).

A program registers functions by names; no name from the network or the log is ever imported. They run beside
the loop, in one thread, one after the other, so a slow one delays the next and nothing else. What they return
is dropped, and what they raise is counted and logged.
"""

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from barque.errors import ConfigurationError
from barque.log.background import Job, Worker
from barque.machine.effects import ModCall
from barque.runtime.server_process import ServerProcess

logger = logging.getLogger("barque.calls")

_WAITING_MAX = 1_000
_PATIENCE_S = 1.0
_decode = msgspec.msgpack.decode


class FunctionCalls:
    """The functions that the machines of one node may call, and the calls that wait."""

    def __init__(self, functions: dict[str, Callable[..., Any]], worker: Worker) -> None:
        self._functions = functions
        self._worker = worker
        self._waiting = 0

    def call(self, process: ServerProcess, effect: ModCall) -> None:
        """Call the function later, in the thread. Copy its arguments now: the machine may change them."""
        process.counters.mod_calls += 1
        function = self._functions.get(effect.name)
        if function is None:
            self._failed(process, effect.name, "no function of that name is registered on this node")
        elif self._waiting >= _WAITING_MAX:
            self._failed(process, effect.name, f"{self._waiting} calls wait already")
        else:
            self._waiting += 1
            arguments = msgspec.msgpack.encode(effect.arguments)
            self._worker.submit(
                _job(function, arguments),
                lambda _result, error: self._finished(process, effect.name, error),
            )

    def _finished(self, process: ServerProcess, name: str, error: Exception | None) -> None:
        self._waiting -= 1
        if error is not None:
            self._failed(process, name, f"{type(error).__name__}: {error}", error)

    def _failed(self, process: ServerProcess, name: str, why: str, error: Exception | None = None) -> None:
        process.counters.mod_call_failures += 1
        logger.error("%s: the call of %r has failed: %s", process.server.id, name, why, exc_info=error)

    def close(self) -> None:
        """Wait for the call under way, for a moment, and drop those that wait."""
        self._worker.close(_PATIENCE_S)


def _job(function: Callable[..., Any], arguments: bytes) -> Job:
    yield
    function(*_decode(arguments))


def checked(name: str, function: Callable[..., Any], known: dict[str, Callable[..., Any]]) -> None:
    """Raise `ConfigurationError` for a name that is taken, and for what cannot be called."""
    if name in known:
        raise ConfigurationError(f"a function named {name!r} is registered on this node already")
    if not callable(function):
        raise ConfigurationError(f"what is registered as {name!r} cannot be called: {function!r}")
