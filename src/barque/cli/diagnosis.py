"""Why a verb on one cluster failed, in words that help: found by asking the nodes once more."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from barque.cli.failures import UNAVAILABLE, USAGE, CliError
from barque.cli.reach import Reach, run_with_client
from barque.cli.status import fetch_status
from barque.client.client import Client
from barque.errors import (
    BarqueError,
    InvalidCommand,
    NoLeader,
    NoQuorum,
    OutcomeUnknown,
    QueryTimeout,
    UnknownCluster,
    UnknownMember,
)

Result = TypeVar("Result")

_LOOK_S_MIN, _LOOK_S_MAX = 0.4, 2.0
_EXPLAINED = (NoLeader, NoQuorum, UnknownCluster, UnknownMember, QueryTimeout, InvalidCommand)


def run_on_cluster(
    reach: Reach,
    cluster: str,
    work: Callable[[Client], Awaitable[Result]],
    *,
    machine: str | None = None,
) -> Result:
    """Run `work` as `run_with_client` does. If the cluster cannot serve it, say what is wrong there.

    `machine` is the class of the machine that the verb needs.
    """
    began = time.monotonic()
    try:
        return run_with_client(reach, work)
    except _EXPLAINED as error:
        left = reach.timeout_s - (time.monotonic() - began)
        look = msgspec.structs.replace(reach, timeout_s=min(max(left, _LOOK_S_MIN), _LOOK_S_MAX))
        raise _explain(look, cluster, machine, error) from error


def find_cluster(report: dict[str, Any], name: str) -> dict[str, Any]:
    """The cluster in a status report. Raises `CliError` that names the clusters there are."""
    for found in report["clusters"]:
        if found["name"] == name:
            return dict(found)
    known = ", ".join(found["name"] for found in report["clusters"]) or "none"
    silent = ", ".join(node["name"] for node in report["nodes"] if node["pid"] is None)
    if silent:
        raise CliError(
            f"no node that answers has a member of cluster {name!r} (they have: {known}); "
            f"these nodes do not answer: {silent}",
            UNAVAILABLE,
        )
    raise CliError(f"there is no cluster {name!r}; there are: {known}", USAGE)


def _explain(look: Reach, name: str, machine: str | None, error: BarqueError) -> Exception:
    if isinstance(error, OutcomeUnknown):
        return error
    try:
        report = asyncio.run(fetch_status(look))
        found = find_cluster(report, name)
    except CliError as better:
        return better
    except (BarqueError, OSError):
        return error
    if machine is not None and isinstance(error, InvalidCommand):
        return _other_machine(look, name, machine) or error
    if found["leader"] is None:
        return CliError(f"no member leads {name!r}: {_members_text(report, found)}", UNAVAILABLE)
    if isinstance(error, UnknownMember):
        members = ", ".join(str(member["server"]) for member in found["members"])
        return CliError(f"{error}; its members that answer: {members}", USAGE)
    return error


def _other_machine(reach: Reach, name: str, machine: str) -> CliError | None:
    """The error for a cluster of another machine; None if it is of this one, or cannot be asked."""
    try:
        kind = run_with_client(reach, lambda client: client.overview(name)).machine.get("type")
    except (BarqueError, CliError, OSError):
        return None
    return None if kind == machine else CliError(f"cluster {name!r} is a {kind}, not a {machine}", USAGE)


def _members_text(report: dict[str, Any], found: dict[str, Any]) -> str:
    """What its members do, and which nodes do not answer."""
    parts = [f"{member['server']} is {str(member['role']).replace('_', ' ')}" for member in found["members"]]
    parts += [
        f"{node['name']} does not answer ({node.get('failure') or 'no reason known'})"
        for node in report["nodes"]
        if node["pid"] is None
    ]
    return "; ".join(parts)
