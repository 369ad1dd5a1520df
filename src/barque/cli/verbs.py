"""The table of verbs, each loaded at its first use."""

import importlib

import click

_VERBS = {
    "dev": ("barque.cli.dev:dev", "Run a cluster on this machine, for trials and development."),
    "demo": ("barque.cli.demo:demo", "Kill a leader while writing, and count what was lost."),
    "node": ("barque.cli.node:node", "Run one node until a signal stops it."),
    "status": ("barque.cli.status:status", "Show all nodes and clusters."),
    "kv": ("barque.cli.kv:kv", "Read and write keys."),
    "leader": ("barque.cli.leader:leader", "Show who leads a cluster, or hand leadership over."),
    "cluster": ("barque.cli.cluster:cluster", "List clusters, form or delete one, or compact its segments."),
    "member": ("barque.cli.member:member", "List a cluster's members, or change them."),
    "server": ("barque.cli.server:server", "List servers, or start, stop and restart one."),
    "recover": ("barque.cli.recover:recover", "Recover from a lost quorum."),
    "doctor": ("barque.cli.doctor:doctor", "Check a stopped node's data directory."),
    "backup": ("barque.cli.backup:backup", "Copy a stopped node's data, and restore it."),
    "wal": ("barque.cli.wal:wal", "Print or check write-ahead logs."),
    "log": ("barque.cli.log:log", "Replay a server's log through a machine."),
    "segment": ("barque.cli.segment:segment", "Print or check segment files."),
    "snapshot": ("barque.cli.snapshot:snapshot", "List, check or copy snapshots."),
    "simulate": ("barque.cli.simulate:simulate_command", "Run clusters on virtual time, with faults."),
    "nemesis": (
        "barque.cli.nemesis:nemesis",
        "Kill, freeze and cut off real nodes; check the clients' histories.",
    ),
    "bench": ("barque.cli.bench:bench", "Measure this machine."),
    "version": ("barque.cli.version:version", "Show versions: package, protocol, formats."),
}
"""Verb → the place of its click command, and its line in the list of verbs."""


class LazyGroup(click.Group):
    """Import a verb's module when the verb is called: `barque version` loads no node."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of the list."""
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the verb's command; None if there is no such verb."""
        if cmd_name not in _VERBS:
            return None
        module, _, attribute = _VERBS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without loading them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, help_line) for verb, (_, help_line) in _VERBS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def barque() -> None:
    """Barque: multi-Raft for Python.

    Start with `barque demo`, or `barque dev` and `redis-cli -p 6401`. Exit codes: 0 ok, 1 it
    failed, 2 wrong usage, 69 address in use, 70 a bug, 74 disk, 77 permission, 78 configuration.
    """
