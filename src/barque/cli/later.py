"""Verbs that have their place but no function in this release. They say so, and fail."""

import click

from barque.errors import NotAvailableYet

_ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}


@click.group()
def member() -> None:
    """Change a cluster's members (not in this release)."""


@click.group()
def recover() -> None:
    """Recover from a lost quorum (not in this release)."""


def _later(group: click.Group, name: str, purpose: str, what: str) -> None:
    @group.command(name=name, context_settings=_ANYTHING, help=f"{purpose} (Not in this release.)")
    def verb() -> None:
        raise NotAvailableYet(f"`barque {group.name} {name}`: {what} designed but not built in this release")


_MEMBERSHIP = "membership changes are"
_RECOVERY = "recovery from a lost quorum is"
_later(member, "add", "Add a member to a cluster.", _MEMBERSHIP)
_later(member, "remove", "Remove a member from a cluster.", _MEMBERSHIP)
_later(member, "promote", "Let a member vote.", _MEMBERSHIP)
_later(recover, "force-shrink", "Make the members that are left the whole cluster.", _RECOVERY)
_later(recover, "force-new-cluster", "Begin again with one member's data.", _RECOVERY)
