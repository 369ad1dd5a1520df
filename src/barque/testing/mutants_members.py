"""Planted bugs of membership: what counts as a configuration, and who has left for good. See `mutants`."""

from typing import Any
from unittest.mock import patch

from barque.core.server import Server
from barque.runtime.directory import Directory
from barque.runtime.inbox import Inbox
from barque.testing.mutant_registry import find, mutant, replace, together


@mutant("a change may begin at any time (the single-server bug of 2015, row 47; I22)", layer="core")
def changes_at_any_time() -> Any:
    """See `MUTANTS`."""

    def permitted(name: str) -> Any:
        real = find(name)

        def change(server: Server, asked: Any) -> Any:
            before, server.cluster_change_permitted = server.cluster_change_permitted, True
            done = real(server, asked)
            if server.cluster_change_permitted:  # refused for another reason
                server.cluster_change_permitted = before
            return done

        return replace(name, change)

    return together(permitted("on_join"), permitted("on_leave"))


@mutant("recovery stops at the committed part of the log to find its configuration (row 48)", layer="core")
def uncommitted_configuration_forgotten() -> Any:
    """See `MUTANTS`."""
    return replace("scan_uncommitted", lambda _server: None)


@mutant("a member that was removed while it was away does not believe it (I23)", layer="node")
def removal_not_believed() -> Any:
    """See `MUTANTS`."""
    return patch.object(Inbox, "_on_gone", lambda *_: None)


@mutant("the folder of a deleted server is left behind (I24)", layer="node")
def folder_left_behind() -> Any:
    """See `MUTANTS`."""
    return patch.object(Directory, "erase", lambda self, uid: self.unfinished.discard(uid))
