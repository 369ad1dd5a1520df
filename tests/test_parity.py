"""Every rule of Ra's server, and every row of its reference page (v2.2): where it is here, and what shows it.

The page docs/reference/ra-parity.md is made from this file: `BARQUE_REWRITE=1 pytest tests/test_parity.py`.
"""

import ast
import importlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reference" / "ra-parity.md"
ID = re.compile(r"\b([A-Z]+)-(\d+)(?: to (?:\1-)?(\d+))?")
COUNTS = {"L": 37, "C": 18, "P": 12, "F": 21, "S": 13, "W": 6}
SECTIONS = {
    "L": "the leader",
    "C": "the candidate",
    "P": "pre-vote",
    "F": "the follower",
    "S": "receiving a snapshot",
    "W": "waiting for a condition",
}
RULES = [f"{letter}-{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
"""The rules of Ra's `handle_…` functions, message by message."""

DEVIATIONS = {
    "L-37": "there is no unknown message: each role's table is total, and the wire refuses other bytes",
    "F-21": "as L-37",
    "C-8": "as L-37; late answers are ignored",
}
"""Rules that have nothing to be tested, and why. Rules that are kept in another way have tests."""

ROWS = """
type | command() | core.messages.Commands | L-7 | one batch of encoded entries; the other kinds have messages of their own
type | {noop, command_meta(), Version} | core.messages.AppendNoop | C-1, VER-01 |
type | command_correlation() | core.effects.Applied.first_correlation | CMD-09 | a number; consecutive in a batch
type | command_meta() from | core.entries.BodyHead.origin | CMD-09 | the incarnation of a node's front
type | command_meta() ts | core.entries.EntryBatch.timestamp_ms | CMD-19 |
type | command_priority() | core.messages.Commands.low_priority | CMD-06 |
type | command_reply_mode() after_log_append | types.ReplyMode.AFTER_LOG_APPEND | L-7 |
type | command_reply_mode() await_consensus | types.ReplyMode.AWAIT_CONSENSUS | L-7 |
type | command_reply_mode() {notify, …} | types.ReplyMode.NOTIFY | L-7 |
type | command_reply_mode() noreply | types.ReplyMode.NOREPLY | L-8 |
type | command_type() '$usr' | core.entries.EntryKind.USER | L-7 |
type | command_type() '$ra_join' | core.messages.JoinMember | MEMB-05 | asked for by a message; the entry is the whole configuration
type | command_type() '$ra_leave' | core.messages.LeaveMember | MEMB-12 | as '$ra_join'
type | command_type() '$ra_cluster_change' | core.entries.EntryKind.CLUSTER_CHANGE | MEMB-02 |
type | command_type() '$ra_cluster' | core.messages.DeleteCluster | CMD-20 |
type | config(), ra_server_config() | core.state.ServerConfig | CORE-12 |
config | id | core.state.ServerConfig.id | CORE-12 |
config | uid | core.state.ServerConfig.uid | MEMB-10 |
config | cluster_name | core.state.ServerConfig.cluster_name | CNT-05 |
config | log_init_args | core.log_contract.Log | CORE-12 | the log is opened by whoever makes the server
config | initial_members | core.state.ServerConfig.initial_members | CORE-12 |
config | machine | core.state.ServerConfig.machine | VER-01 |
config | friendly_name | | | the address is readable; there is one name for one thing
config | metrics_key | | | counters are kept by cluster and node
config | broadcast_time | | | election timers are set by the node's measured spans
config | tick_timeout | config.NodeConfig | | a setting of the node, not of each server
config | install_snap_rpc_timeout | core.state.ServerConfig.receive_snapshot_timeout_ms | S-9 | a chunk is no call; the receiver's patience is what is set
config | await_condition_timeout | core.state.ServerConfig.await_condition_timeout_ms | W-4 |
config | max_pipeline_count | core.state.ServerConfig.max_pipeline_count | L-16 |
config | ra_event_formatter | | | events of clients are typed; there is nothing to format
config | counter | core.overview.metrics | CNT-05 | the runtime keeps the counters
config | system_config | core.ra_server.system_config | | what concerns a server is part of its own configuration
type | mutable_config() | | | a changed setting is taken at the next start
effect | ra_machine:effect() | machine.effects.MachineEffect | EFF-31 |
effect | ra_log:effect() | | | the log asks the runtime itself; nothing of it passes the core
effect | {reply, Body} | core.effects.SendRpc | F-9 | answers are messages: who asked is in the question
effect | {reply, From, Body} | core.effects.Applied | L-7 | and `Rejected` for what did not happen
effect | {cast, Id, Msg} | core.effects.SendRpc | F-2 |
effect | {send_vote_requests, …} | core.effects.SendVoteRequests | C-15 |
effect | {send_rpc, Id, Rpc} | core.effects.SendRpc | L-16 |
effect | {send_snapshot, To, …} | core.effects.SendSnapshot | SEND-01 |
effect | {next_event, Msg} | core.effects.NextEvent | CORE-20 |
effect | {next_event, cast, Msg} | core.effects.NextEvent | CORE-20 | one kind: nothing is a call
effect | {notify, Map} | core.effects.Applied | CMD-09 | the same effect as a reply
effect | {record_leader_msg, Id} | core.effects.CancelElectionTimeout | F-1 |
effect | start_election_timeout | core.effects.StartElectionTimeout | ELEC-18 | with its span
type | effects() | core.ra_server.Transition | CORE-01 |
type | machine_conf() {module, …} | machine.machine.Machine | MAC-10 | an object
type | machine_conf() {simple, …} | machine.simple.SimpleMachine | VER-09 |
type | simple_apply_fun() | machine.simple.SimpleMachine | VER-09 |
type | ra_await_condition_fun() | core.roles.Condition | W-6 | a named class for each
type | ra_event_formatter_fun() | | | see `ra_event_formatter`
message | #append_entries_rpc{} | core.messages.AppendEntriesRpc | F-1 |
message | {Id, #append_entries_reply{}} | core.messages.AppendEntriesReply | L-2 | names its sender
message | {Id, #install_snapshot_result{}} | core.messages.InstallSnapshotResult | L-15 | names the chunk, too
message | #request_vote_rpc{} | core.messages.RequestVoteRpc | F-9 |
message | #request_vote_result{} | core.messages.RequestVoteResult | C-1 | counted by voter
message | #pre_vote_rpc{} | core.messages.PreVoteRpc | P-8 |
message | #pre_vote_result{} | core.messages.PreVoteResult | P-6 |
message | #install_snapshot_rpc{} | core.messages.InstallSnapshotRpc | F-13 |
message | election_timeout | core.events.ElectionTimeout | F-17 | of another member's wish: `TimeoutNow`
message | await_condition_timeout | core.events.AwaitConditionTimeout | W-4 |
message | {command, …} | core.messages.Commands | L-7 |
message | {commands, […]} | core.messages.Commands | L-10 |
message | ra_log:event() | core.events.LogEvent | L-11 |
message | {consistent_query, …} | core.messages.Queries | L-22 |
message | #heartbeat_rpc{} | core.messages.HeartbeatRpc | F-3 |
message | {Id, #heartbeat_reply{}} | core.messages.HeartbeatReply | L-26 |
type | ra_reply_body() | core.effects.SendRpc | F-9 | any message may be an answer
state | cfg | core.state.Server.cfg | CORE-12 |
state | leader_id | core.state.Server.leader_id | F-1 |
state | cluster | core.state.Server.cluster | MEMB-02 |
state | cluster_change_permitted | core.configuration.may_change | MEMB-01 |
state | cluster_index_term | core.state.Server.cluster_index_term | MEMB-03 |
state | previous_cluster | core.state.Server.previous_cluster | MEMB-03 |
state | current_term | core.state.Server.current_term | F-9 |
state | log | core.state.Server.log | CORE-12 |
state | voted_for | core.state.Server.voted_for | F-8 |
state | votes | core.roles.CandidateRole.votes | C-1 | who, not how many
state | commit_index | core.state.Server.commit_index | F-1 |
state | last_applied | core.state.Server.last_applied | F-1 |
state | persisted_last_applied | core.state.Server.persisted_last_applied | COMMIT-08 |
state | stop_after | | | unused in Ra since
state | machine_state | core.state.Server.machine_state | S-6 |
state | aux_state | core.state.Server.aux_state | AUX-01 |
state | condition | core.roles.WaitingRole.condition | W-6 |
state | condition_timeout_changes | core.roles.WaitingRole.timeout_to | W-4 |
state | pre_vote_token | core.roles.PreVoteRole.token | P-6 |
state | query_index | core.state.Server.query_index | L-22 |
state | queries_waiting_heartbeats | core.roles.LeaderRole.waiting_queries | L-22 |
state | pending_consistent_queries | core.roles.LeaderRole.pending_queries | L-23 |
state | commit_latency | core.state.Server.commit_latency_ms | CNT-05 |
ra_state | leader | core.roles.RaftState.LEADER | L-2 |
ra_state | follower | core.roles.RaftState.FOLLOWER | F-1 |
ra_state | candidate | core.roles.RaftState.CANDIDATE | C-1 |
ra_state | pre_vote | core.roles.RaftState.PRE_VOTE | P-6 |
ra_state | await_condition | core.roles.RaftState.AWAIT_CONDITION | W-6 |
ra_state | delete_and_terminate | core.roles.RaftState.DELETE_AND_TERMINATE | LIFE-06 |
ra_state | terminating_leader | core.roles.RaftState.TERMINATING_LEADER | CORE-09 |
ra_state | terminating_follower | core.roles.RaftState.TERMINATING_FOLLOWER | CORE-10 |
ra_state | recover | core.roles.RaftState.RECOVER | CORE-12 |
ra_state | recovered | core.roles.RaftState.RECOVERED | CORE-12 |
ra_state | stop | core.roles.RaftState.STOP | MEMB-13 |
ra_state | receive_snapshot | core.roles.RaftState.RECEIVE_SNAPSHOT | S-1 |
function | name/2 | core.ra_server.name | LIFE-14 |
function | init/1 | core.ra_server.init | CORE-12 |
function | recover/1 | core.ra_server.recover | CORE-12 |
function | handle_leader/2 | core.ra_server.handle_leader | L-2 |
function | handle_candidate/2 | core.ra_server.handle_candidate | C-1 |
function | handle_pre_vote/2 | core.ra_server.handle_pre_vote | P-6 |
function | handle_follower/2 | core.ra_server.handle_follower | F-1 |
function | handle_receive_snapshot/2 | core.ra_server.handle_receive_snapshot | S-1 |
function | handle_await_condition/2 | core.ra_server.handle_await_condition | W-6 |
function | process_new_leader_queries/1 | core.ra_server.process_new_leader_queries | QRY-14 |
function | tick/1 | core.ra_server.tick | TIME-01 | also repairs what was lost
function | handle_state_enter/2 | core.ra_server.handle_state_enter | CORE-12 |
function | overview/1 | core.ra_server.overview | OVW-01 |
function | metrics/1 | core.ra_server.metrics | CNT-05 |
function | is_new/1 | core.ra_server.is_new | CORE-12 |
function | is_fully_persisted/1 | core.ra_server.is_fully_persisted | COMMIT-09 |
function | is_fully_replicated/1 | core.ra_server.is_fully_replicated | COMMIT-09 |
function | handle_aux/4 | core.ra_server.handle_aux | AUX-02 |
function | id/1 | core.ra_server.id | OVW-01 |
function | log_id/1 | core.ra_server.log_id | OVW-01 | the address
function | uid/1 | core.ra_server.uid | OVW-01 |
function | system_config/1 | core.ra_server.system_config | OVW-01 | the server's own configuration
function | leader_id/1 | core.ra_server.leader_id | OVW-01 |
function | current_term/1 | core.ra_server.current_term | OVW-01 |
function | machine_version/1 | core.ra_server.machine_version | OVW-01 |
function | machine_query/2 | core.ra_server.machine_query | QRY-01 | a query is a value, not a function
function | make_rpcs/1 | core.ra_server.make_rpcs | REPL-10 |
function | update_release_cursor/3 | core.ra_server.update_release_cursor | SNAP-02 |
function | persist_last_applied/1 | core.ra_server.persist_last_applied | COMMIT-08 | says what is to be stored
function | update_peer/3 | core.ra_server.update_peer | §9 |
function | register_external_log_reader/2 | core.ra_server.register_external_log_reader | §9 | refused: use `ReadLog` or an aux machine
function | handle_down/5 | core.ra_server.handle_down | MON-02 |
function | handle_node_status/6 | core.ra_server.handle_node_status | MON-03 |
function | terminate/2 | core.ra_server.terminate | LIFE-08 | files belong to the runtime; no recovery checkpoint
function | log_fold/3 | core.ra_server.log_fold | QRY-01 |
function | log_read/2 | core.ra_server.log_read | QRY-01 |
"""
# ruff: noqa: E501  # a row is a row
"""Group, Ra's name, ours below `barque`, what shows it, and a note: why, where it was replaced."""


def rows() -> list[list[str]]:
    """The rows of Ra's reference page."""
    return [[cell.strip() for cell in line.split(" |")] for line in ROWS.strip().splitlines()]


def ids_in(text: str) -> Iterator[str]:
    """The rule and row ids that a text names, ranges spelt out."""
    for found in ID.finditer(text):
        for number in range(int(found[2]), int(found[3] or found[2]) + 1):
            yield f"{found[1]}-{number:02}" if len(found[1]) > 1 else f"{found[1]}-{number}"


def evidence() -> dict[str, list[str]]:
    """The tests that name each id in their docstring, or in a row of the table that they run."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if path.name == Path(__file__).name:
            continue
        tree = ast.parse(path.read_text())
        tables = {ast.unparse(s.targets[0]): s for s in tree.body if isinstance(s, ast.Assign)} | {
            ast.unparse(s.target): s for s in tree.body if isinstance(s, ast.AnnAssign)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                text = " ".join([ast.get_docstring(node) or "", *_rows_of(node, tables)])
                for name in dict.fromkeys(ids_in(text)):
                    found.setdefault(name, []).append(f"{path.relative_to(TESTS)}::{node.name}")
                if "§9" in text:
                    found.setdefault("§9", []).append(node.name)
    return found


def _rows_of(node: ast.FunctionDef | ast.AsyncFunctionDef, tables: Mapping[str, ast.AST]) -> Iterator[str]:
    """The rule ids that stand first in a row of the test's parameters, there or in a table of the module."""
    places: list[ast.AST] = [*node.decorator_list]
    for name in (n for d in node.decorator_list for n in ast.walk(d) if isinstance(n, ast.Name)):
        places += [tables[name.id]] if name.id in tables else []
    for place in places:
        for row in ast.walk(place):
            if isinstance(row, ast.Tuple) and row.elts and isinstance(row.elts[0], ast.Constant):
                yield str(row.elts[0].value)


EVIDENCE = evidence()


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_shown_by_a_test_or_has_a_reason_not_to_be(rule: str) -> None:
    """A rule without a test is a rule that nobody keeps."""
    named = rule in EVIDENCE or rule in DEVIATIONS
    assert named, f"no test names {rule}"


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]} {row[1]}")
def test_every_row_of_the_reference_page_is_here_or_has_a_reason_not_to_be(row: list[str]) -> None:
    """What is named exists and is shown by a test; what was replaced says by what, or why."""
    _, _, ours, shown, note = row
    assert ours or note, "neither here nor with a reason"
    assert not ours or shown or note
    if ours:
        resolve(ours)
    names = ["§9"] if shown == "§9" else list(ids_in(shown))
    missing = [name for name in names if name not in EVIDENCE]
    assert not missing, f"no test names {missing}"


def resolve(dotted: str) -> Any:
    """The module, class or field of this name below `barque`."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module("barque." + ".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise AssertionError(f"no such name: {dotted}")


def page() -> str:
    """The page for people."""
    lines = ["# Ra's server, row by row", ""]
    lines += [
        "Made from `tests/test_parity.py`, which fails when a name or a test is missing, or this page is old.",
        "Where the same rule is kept in another way,",
        "[decision 1](../decisions/0001-where-we-differ-from-ra.md) says why. The column *shown by* names rules and rows; tests name them in their docstrings.",
        "",
        "## The reference page (v2.2)",
        "",
        "| kind | Ra | Barque | shown by | note |",
        "|---|---|---|---|---|",
    ]
    for kind, ra, ours, shown, note in rows():
        here = f"`{ours}`" if ours else "not here"
        lines.append(f"| {kind} | `{ra}` | {here} | {shown} | {note} |")
    for letter, title in SECTIONS.items():
        lines += ["", f"## Rules of {title}", "", "| rule | shown by |", "|---|---|"]
        for rule in (r for r in RULES if r.startswith(f"{letter}-")):
            tests = [test.split("::") for test in EVIDENCE.get(rule, [])]
            links = "; ".join(f"`{path}`: {name[5:].replace('_', ' ')}" for path, name in tests[:3])
            more = f", and {len(tests) - 3} more" if len(tests) > 3 else ""
            lines.append(f"| {rule} | {links + more or DEVIATIONS.get(rule, 'nothing yet')} |")
    return "\n".join(lines) + "\n"


def test_the_page_is_up_to_date() -> None:
    """People read what is true now; `BARQUE_REWRITE=1` writes it anew."""
    if os.environ.get("BARQUE_REWRITE"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "run BARQUE_REWRITE=1 pytest tests/test_parity.py"
