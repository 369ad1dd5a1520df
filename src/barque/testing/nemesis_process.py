"""Ends in order: a node is stopped, a call is cancelled; at any moment, and then something else happens."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from barque.testing.nemesis import Nemesis


def stop(nemesis: "Nemesis") -> None:
    """An operator stops a node; half of the time it is killed before it has done all that it does then."""
    host = nemesis.some_host()
    process = host.process
    if host.stop():
        nemesis.count("stop", host.name)
        if nemesis.rng.random() < 0.5:
            power = nemesis.rng.random() < 0.5

            def kill() -> None:
                if host.process is process and not nemesis.over:
                    host.crash(power=power)

            nemesis.sim.loop.later(nemesis.rng.choice((0.001, 0.02, 0.5)) * nemesis.rng.random(), kill)


def cancel(nemesis: "Nemesis") -> None:
    """The next call of a client is cancelled while it waits: its outcome is unknown, others go on."""
    client = nemesis.rng.choice(nemesis.sim.clients)
    client.cancel_after_s = nemesis.rng.choice((0.0, 0.001, 0.05)) * nemesis.rng.random()


PROCESS_FAULTS: dict[str, Callable[["Nemesis"], None]] = {"stop": stop, "cancel": cancel}
"""By name; each may find that it cannot happen now, and is then not counted."""
