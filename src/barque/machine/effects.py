"""What a machine may ask for beside its reply. The leader performs these, followers do not.

An effect may be repeated or lost when leadership changes (EFF-33): machines must be able
to live with both. Snapshots (`release_cursor`, `checkpoint`), monitors and log effects have
their place here in a later release; a machine that returns anything else than the classes below
stops its server with a `MachineFault`.
"""

from typing import Any, TypeAlias

import msgspec

from barque.types import ClientRef


class Timer(msgspec.Struct, frozen=True, gc=False):
    """Commit `Timeout(name)` later (EFF-09, EFF-10). Setting a name again replaces it.

    Exactly one of the two times is given: `after_ms` from now, or `at_ms`, Unix
    milliseconds on the leader's clock. Both None cancels. Timers die with leadership: set them again in
    `state_enter`.
    """

    name: str
    after_ms: int | None = None
    at_ms: int | None = None


class SendMsg(msgspec.Struct, frozen=True, gc=False):
    """Send a value to a client, as a `machine` event (EFF-01). At most once."""

    to: ClientRef
    message: Any


class Append(msgspec.Struct, frozen=True, gc=False):
    """Commit another user command; nobody is answered (EFF-04)."""

    command: Any


class Aux(msgspec.Struct, frozen=True, gc=False):
    """Hand a value to this member's `handle_aux` (EFF-18)."""

    command: Any


MachineEffect: TypeAlias = Timer | SendMsg | Append | Aux
