"""What people do: a node is stopped, or gets new code; a call is cancelled; all at any moment."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from barque.testing.faults.nemesis import Nemesis
    from barque.testing.sim.host import Host


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


def upgrade(nemesis: "Nemesis") -> None:
    """A node gets the machine's next version and is started with it; others have the former one meanwhile."""
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
    """If one has the next version, all get it: a member without the version in force applies nothing."""
    if any(host.upgraded for host in hosts):
        for host in hosts:
            if not host.upgraded:
                host.upgraded = True
                host.crash(power=False)


PROCESS_FAULTS: dict[str, Callable[["Nemesis"], None]] = {"stop": stop, "cancel": cancel, "upgrade": upgrade}
"""By name; each may find that it cannot happen now, and is then not counted."""
