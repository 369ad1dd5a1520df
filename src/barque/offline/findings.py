"""What an inspection finds: how bad it is, where, why, and what helps."""

import enum

import msgspec


class Severity(enum.StrEnum):
    """How bad a finding is."""

    DAMAGE = "damage"
    """Data are lost or in doubt, or a node would not start here."""
    WARNING = "warning"
    """A node starts, and something should be looked at."""
    NOTE = "note"
    """What a crash leaves behind, and the next start puts right."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as a clean stop leaves it. `kind` is for programs."""

    severity: Severity
    kind: str
    path: str
    cause: str
    remedy: str
    offset: int | None = None


RESTORE = (
    "put back a good copy of the whole data directory (barque backup restore); without one, give the members "
    "here up and replace them: barque member replace"
)
NEXT_START = "nothing: the next start removes it"


def damage(kind: str, path: str, cause: str, *, offset: int | None = None, remedy: str = RESTORE) -> Finding:
    """A finding that keeps a node from starting, or has lost data."""
    return Finding(Severity.DAMAGE, kind, path, cause, remedy, offset)


def warning(kind: str, path: str, cause: str, remedy: str, *, offset: int | None = None) -> Finding:
    """A finding that a node can live with."""
    return Finding(Severity.WARNING, kind, path, cause, remedy, offset)


def note(kind: str, path: str, cause: str, *, offset: int | None = None, remedy: str = NEXT_START) -> Finding:
    """What a crash has left, or a node that was killed."""
    return Finding(Severity.NOTE, kind, path, cause, remedy, offset)
