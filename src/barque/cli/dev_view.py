"""The display of `barque dev`: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections import deque
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from barque.cli.dev_processes import DevCluster
from barque.cli.tables import report_tables

_EVENTS_SHOWN = 10


class View(Protocol):
    """Displays reports and events."""

    def show(self, report: dict[str, Any]) -> None:
        """Show the newest report."""

    def tell(self, event: str, style: str = "") -> None:
        """Tell one event."""

    def close(self) -> None:
        """Stop, and leave the last table on the terminal."""


class LiveView:
    """A table that is redrawn, with the last events below it."""

    def __init__(self, headline: str) -> None:
        self._headline = Text.from_markup(headline)
        self._events: deque[Text] = deque(maxlen=_EVENTS_SHOWN)
        self._report: dict[str, Any] = {"nodes": [], "clusters": []}
        self._live = Live(
            self._picture(), console=Console(highlight=False), auto_refresh=False, vertical_overflow="crop"
        )
        self._live.start()

    def _picture(self) -> Group:
        return Group("", self._headline, "", report_tables(self._report), *self._events)

    def show(self, report: dict[str, Any]) -> None:
        """See `View`."""
        self._report = report
        self._live.update(self._picture(), refresh=True)

    def tell(self, event: str, style: str = "") -> None:
        """See `View`."""
        for line in event.splitlines():
            stamped = f"{time.strftime('%H:%M:%S')}  {line}"
            self._events.append(Text(stamped, style=style, no_wrap=True, overflow="ellipsis"))
        self._live.update(self._picture(), refresh=True)

    def close(self) -> None:
        """See `View`."""
        self._live.stop()


class PlainView:
    """One line per event, for logs and pipes."""

    def __init__(self, headline: str) -> None:
        for line in Text.from_markup(headline).plain.splitlines():
            print(line, flush=True)

    def show(self, report: dict[str, Any]) -> None:
        """Show nothing: the events are enough."""

    def tell(self, event: str, style: str = "") -> None:
        """See `View`."""
        for line in event.splitlines():
            print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

    def close(self) -> None:
        """See `View`."""


def make_view(headline: str) -> View:
    """A live view if stdout is a terminal, else plain lines."""
    return LiveView(headline) if sys.stdout.isatty() else PlainView(headline)


class News:
    """Tells what changed between two reports."""

    def __init__(self, cluster: DevCluster, view: View) -> None:
        self._cluster = cluster
        self._view = view
        self._states: dict[str, tuple[str, Any]] = {}
        self._leaders: dict[str, str | None] = {}

    def take(self, report: dict[str, Any]) -> None:
        """Compare the newest report with the one before, and tell the differences."""
        for node in report["nodes"]:
            name, state, pid = str(node["name"]), str(node["state"]), node["pid"]
            was, was_pid = self._states.get(name, (state, pid))
            self._states[name] = (state, pid)
            if (state, pid) != (was, was_pid):
                self._on_node(name, state, was, pid)
        for cluster in report["clusters"]:
            name, leader = cluster["name"], cluster["leader"]
            known = name in self._leaders
            was_leader = self._leaders.get(name)
            self._leaders[name] = leader
            if known and leader != was_leader:
                self._on_leader(name, leader, was_leader, cluster["term"])

    def _on_node(self, name: str, state: str, was: str, pid: int | None) -> None:
        if state == "down":
            self._view.tell(f"node {name} has died, {self._cluster.how_it_ended(name)}", "bold red")
            for line in self._cluster.directory.log_tail(name, 4):
                self._view.tell(f"    {name}: {line}", "dim")
            self._view.tell(f"    start it again with: barque dev restart {name}", "dim")
        elif state == "running":
            verb = "is back" if was in ("down", "unreachable") else f"runs again after {was}"
            self._view.tell(f"node {name} {verb}, pid {pid}", "green")
        elif was == "running":
            self._view.tell(f"node {name} is {state}", "yellow")

    def _on_leader(self, name: str, leader: str | None, was: str | None, term: int) -> None:
        if leader is None:
            self._view.tell(f"cluster {name}: no leader in term {term} (it was {was})", "yellow")
        else:
            self._view.tell(f"cluster {name}: {leader} leads now, term {term}", "bold green")
