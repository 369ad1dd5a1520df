"""Faults that people cause: a node is stopped or gets new code, a call is cancelled, at any moment."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from barque.testing.faults.nemesis import Nemesis
    from barque.testing.sim.host import Host


def stop(nemesis: "Nemesis") -> None:
    """An operator stops a node; half of the time the node is killed before it has stopped."""
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
    """A client cancels its next call while it waits: the outcome is unknown, other calls go on."""
    client = nemesis.rng.choice(nemesis.sim.clients)
    client.cancel_after_s = nemesis.rng.choice((0.0, 0.001, 0.05)) * nemesis.rng.random()


def upgrade(nemesis: "Nemesis") -> None:
    """A node gets the next version of the machine and starts with it; other nodes keep the former version."""
    old = [host for host in nemesis.sim.hosts if not host.upgraded]
    if old:
        host = nemesis.rng.choice(old)
        nemesis.count("upgrade", host.name)
        host.upgraded = True
        if nemesis.rng.random() < 0.5:
            host.crash(power=False)
        else:
            host.stop()


def complete_upgrade(hosts: "list[Host]") -> None:
    """Upgrade all nodes if one is upgraded: a member without the version in force applies nothing."""
    if any(host.upgraded for host in hosts):
        for host in hosts:
            if not host.upgraded:
                host.upgraded = True
                host.crash(power=False)


PROCESS_FAULTS: dict[str, Callable[["Nemesis"], None]] = {"stop": stop, "cancel": cancel, "upgrade": upgrade}
"""By name. A fault that cannot happen now is not counted."""
