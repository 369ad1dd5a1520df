"""Whether the nodes run the same code of each machine: compared whenever two nodes connect.

Machines of equal version must know the same commands. If they do not, a member will stop at the first command
that it cannot decode. Nodes say so before that happens. A difference of versions is an upgrade under way, and
no fault.
"""

import logging
from collections.abc import Mapping
from typing import Any

from barque.machine.fingerprint import fingerprint
from barque.machine.machine import Machine
from barque.transport.wire import MachineCode, MachinesAre

logger = logging.getLogger("barque.node")


class MachineCodes:
    """The code of this node's machines, and which other nodes have other code under the same version."""

    def __init__(self, name: str, machines: Mapping[str, Machine[Any]]) -> None:
        self._name = name
        self._own = {known: MachineCode(m.version, fingerprint(m)) for known, m in machines.items()}
        self._differing: dict[str, tuple[str, ...]] = {}

    def message(self) -> MachinesAre:
        """The facts that another node compares."""
        return MachinesAre(self._own)

    def heard(self, node: str, message: MachinesAre) -> None:
        """Another node has told its facts; log a difference once, until that node has other code."""
        differing = tuple(
            name
            for name, code in sorted(message.machines.items())
            if (own := self._own.get(name)) is not None and own.version == code.version and own != code
        )
        if differing and differing != self._differing.get(node):
            logger.warning(
                "node %s: node %s runs other code of %s under the same version: it knows other commands. A "
                "member stops at the first command that it cannot decode. Install the same code on both, or "
                "raise the machine's version",
                self._name,
                node,
                ", ".join(differing),
            )
        self._differing[node] = differing

    def overview(self) -> dict[str, list[str]]:
        """For `status`: the machines that differ, by node."""
        return {node: list(names) for node, names in sorted(self._differing.items()) if names}
