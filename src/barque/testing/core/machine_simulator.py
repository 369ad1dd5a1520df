"""Run a user's machine on core servers, under the faults of a seed: `simulate_machine`.

In the end all members must have equal states. For machines of version 0 the states must also equal that of a
fresh machine to which the committed commands are applied.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from barque.core.entries import EntryKind, decode_head, payloads_of
from barque.machine.machine import CommandMeta, Machine
from barque.testing.checkers.history import Operation
from barque.testing.checkers.safety import Violation
from barque.testing.core.simulator import CoreReport, CoreSimulation
from barque.testing.core.swarm import CoreScenario, draw_core_scenario
from barque.testing.core.world import CoreWorld

Make = Callable[[], Machine[Any]]
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class _MachineSimulation(CoreSimulation):
    """A core world with a user's machine. Clients send the commands in order, over and over."""

    def __init__(self, seed: int, scenario: CoreScenario, make: Make, commands: Sequence[Any]) -> None:
        super().__init__(seed, scenario)
        self.make = make
        self.commands = commands
        self.world = CoreWorld(scenario.world, self.world.rng, machine=make())
        self.submitted = 0

    def _work(self) -> None:
        if not self.over:
            self.world.after(self.rng.expovariate(self.scenario.operations_a_s), self._work)
            for member in self.world.leaders()[:1]:
                self._append(member.id.name)

    def _append(self, name: str) -> Operation:
        self.submitted += 1
        return self.world.submit(name, self.commands[self.submitted % len(self.commands)])

    def _judge(self) -> Violation | None:
        """Check that all members are equal, and equal to a replay of the committed commands."""
        self.world.cluster.observer.check_logs()
        servers = self.world.servers()
        expected = self._replay() if self.make().version == 0 else servers[0].machine_state
        wanted = _encode(expected)
        if any(_encode(server.machine_state) != wanted for server in servers):
            shown = (f"expected: {expected!r}", *(f"{s.id}: {s.machine_state!r}" for s in servers))
            text = "equal logs, different machines"
            return Violation("same state (I18)", text, tuple(line[:500] for line in shown))
        return None

    def _replay(self) -> Any:
        machine, time_ms = self.make(), 0
        state = machine.init({})
        for entry, _ in self.world.cluster.observer.committed:
            head = decode_head(entry.body)
            time_ms = max(time_ms, entry.timestamp_ms)
            if head.kind is not EntryKind.USER:
                continue
            [payload] = payloads_of(entry.body, 1, head)
            command = msgspec.msgpack.decode(payload, type=machine.command_type)
            place = (entry.first_index, entry.term, 0, time_ms)
            meta = CommandMeta(*place, head.origin, head.reply_mode, head.first_correlation)
            state = machine.apply(meta, command, state)[0]
        return state


def simulate_machine(make: Make, commands: Sequence[Any], seed: int) -> CoreReport:
    """Run a machine on three or five core servers under the faults of a seed.

    `make` returns a new machine. Clients send the commands one after the other, over and over, for five
    virtual seconds. `report.violation` is None if the members are equal in the end and, for machines of
    version 0, equal to a replay. Timers of the machine do not run.
    """
    scenario = msgspec.structs.replace(draw_core_scenario(seed), duration_s=5.0)
    return _MachineSimulation(seed, scenario, make, commands).run()
