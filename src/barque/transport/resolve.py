"""Host names to addresses, and connections to them, with a deadline.

The loop's own look-ups run in a pool whose threads are joined when the process ends: a resolver that never
answers would keep it alive. Here a look-up has a daemon thread, which may be left behind. Callers that ask
for the same name wait for the same answer.
"""

import asyncio
import errno
import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Protocol = TypeVar("Protocol", bound=asyncio.BaseProtocol)

_LOOKUPS_MAX = 64
_lock = threading.Lock()
_lookups: dict[str, "Future[list[str]]"] = {}


async def resolve(host: str) -> list[str]:
    """The addresses of a host, in the resolver's order. Raises `OSError`. The caller sets the deadline."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        answer: asyncio.Future[list[str]] = asyncio.wrap_future(_look_up(host))
        return await answer
    return [host]


def _look_up(host: str) -> "Future[list[str]]":
    with _lock:
        found = _lookups.get(host)
        if found is not None:
            return found
        if len(_lookups) >= _LOOKUPS_MAX:
            text = f"cannot look up {host}: {_LOOKUPS_MAX} look-ups wait for the resolver already"
            raise OSError(errno.EADDRNOTAVAIL, text)
        answer: Future[list[str]] = Future()
        answer.set_running_or_notify_cancel()  # a waiter that gives up must not cancel it for the others
        _lookups[host] = answer
    threading.Thread(target=_answer, args=(host, answer), name=f"barque look-up {host}", daemon=True).start()
    return answer


def _answer(host: str, answer: "Future[list[str]]") -> None:
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        found = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    except (OSError, UnicodeError) as error:
        found, reason = [], error.strerror if isinstance(error, OSError) else str(error)
    else:
        reason = "it has no address"
    with _lock:
        _lookups.pop(host, None)
    if found:
        answer.set_result(found)
    else:
        answer.set_exception(OSError(errno.EADDRNOTAVAIL, f"cannot look up {host}: {reason}"))


async def connect(make: Callable[[], Protocol], host: str, port: int, timeout_s: float) -> Protocol:
    """Connect to the first address of a host that accepts; `make` makes a protocol for each attempt.

    Raises `OSError`, which is a `TimeoutError` if there was no answer within `timeout_s`, and a
    `ConnectionRefusedError` if every address refused.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        failure: OSError | None = None
        for address in await resolve(host):
            try:
                _, protocol = await loop.create_connection(make, address, port)
            except OSError as error:
                if failure is None or isinstance(failure, ConnectionRefusedError):
                    failure = error
            else:
                return protocol
    assert failure is not None, "a host has an address"
    raise failure
