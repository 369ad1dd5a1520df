"""The verbs against three running nodes: what they print, and their exit codes."""

import json
import shutil
import subprocess

import pytest
import redis
from tests.cli.support import Dev, run_barque, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("verbs")]

NODE_FIELDS = {"name", "pid", "address", "resp_address", "state", "uptime_s"}
MEMBER_FIELDS = {
    *("server", "node", "role", "current_term", "commit_index", "last_applied"),
    *("last_index", "last_written_index", "snapshot_index"),
}


@pytest.mark.parametrize("verb", [("status",), ("dev", "status")])
def test_status_has_one_shape(running: Dev, verb: tuple[str, ...]) -> None:
    """`status` and `dev status` print JSON of the documented shape and nothing else."""
    report = json.loads(running.ok(*verb, "-o", "json"))
    assert [node["name"] for node in report["nodes"]] == ["n1", "n2", "n3"]
    for number, node in enumerate(report["nodes"]):
        assert node.keys() >= NODE_FIELDS
        assert node["state"] == "running"
        assert node["address"] == f"127.0.0.1:{running.port + number}"
        assert node["resp_address"] == f"127.0.0.1:{running.resp_port + number}"
    [kv] = [cluster for cluster in report["clusters"] if cluster["name"] == "kv"]
    assert kv["leader"] in {member["server"] for member in kv["members"]}
    assert kv["term"] >= 1
    for member in kv["members"]:
        assert member.keys() >= MEMBER_FIELDS


def test_any_single_node_answers(running: Dev) -> None:
    """One address is enough, also when dead ones stand before it."""
    address = f"127.0.0.1:{running.port + 2}"
    secret = str(running.directory.secret_path("admin"))
    done = run_barque("status", "--node", "127.0.0.1:1", "--node", address, "--secret-file", secret)
    assert done.returncode == 0, done.stderr
    assert "led by kv@" in done.stdout
    by_variable = run_barque(
        "kv", "scan", BARQUE_NODES=f"x=127.0.0.1:1,n3={address}", BARQUE_SECRET_FILE=secret
    )
    assert by_variable.returncode == 0, by_variable.stderr


def test_kv_verbs_tell_by_their_exit_code(running: Dev) -> None:
    """`get` of an absent key and a `cas` that does not swap exit with 1; deletes are counted."""
    assert running.run("kv", "get", "absent").returncode == 1
    running.ok("kv", "set", "verb:a", "1")
    assert running.ok("kv", "get", "verb:a") == "1\n"
    assert running.ok("kv", "get", "verb:a", "--level", "leader") == "1\n"
    assert running.run("kv", "set", "verb:a", "2", "--nx").returncode == 1
    assert running.run("kv", "cas", "verb:a", "9", "2").returncode == 1
    running.ok("kv", "cas", "verb:a", "1", "2")
    running.ok("kv", "cas", "verb:b", "new", "--absent")
    assert running.run("kv", "cas", "verb:b", "new", "--absent").returncode == 1
    assert set(running.ok("kv", "scan", "--match", "verb:*", "--count", "1").split()) == {"verb:a", "verb:b"}
    assert running.ok("kv", "del", "verb:a", "verb:b", "verb:c") == "2\n"
    assert running.run("kv", "get", "k", "--cluster", "nowhere", "--timeout", "1").returncode == 2


def test_redis_clients_reach_the_cluster_through_every_node(running: Dev) -> None:
    """redis-py writes through one node and reads through all; redis-cli does, too."""
    for number in range(3):
        with redis.Redis(port=running.resp_port + number) as client:
            assert client.set("from", str(number))
            assert client.get("from") == str(number).encode()
    tool = shutil.which("redis-cli")
    if tool is None:
        pytest.skip("redis-cli is not installed")
    said = subprocess.run(
        [tool, "-p", str(running.resp_port), "get", "from"],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    assert said.stdout.strip() == "2"


def test_leadership_is_shown_and_handed_over(running: Dev) -> None:
    """`leader transfer` to a node makes it lead; again, it leads already; without a target another does."""
    shown = json.loads(running.ok("leader", "show", "-o", "json"))
    target = "n1" if shown["node"] != "n1" else "n2"
    assert f"kv@{target} leads" in running.ok("leader", "transfer", target)
    assert "already" in running.ok("leader", "transfer", target)
    assert running.leader_node() == target
    running.ok("leader", "transfer")
    wait_for(lambda: running.leader_node() not in (None, target), "another leader")
    assert running.run("leader", "show", "--cluster", "nowhere").returncode == 2


def test_clusters_are_formed_and_listed(running: Dev) -> None:
    """A new cluster serves at once; one of an unknown machine is refused with the reason."""
    running.ok("cluster", "create", "second", "--machine", "kv")
    running.ok("kv", "set", "k", "in second", "--cluster", "second")
    assert running.ok("kv", "get", "k", "--cluster", "second") == "in second\n"
    names = {cluster["name"] for cluster in json.loads(running.ok("cluster", "list", "-o", "json"))}
    assert names == {"kv", "second"}
    refused = running.run("cluster", "create", "third", "--machine", "nonsense")
    assert refused.returncode != 0
    assert "nonsense" in refused.stderr


def test_a_member_is_told_to_compact(running: Dev) -> None:
    """API-27: `cluster compact` says whether there was anything to compact; an unknown node is refused."""
    assert running.ok("cluster", "compact", "kv", "n2") == "kv@n2 has nothing to compact now\n"
    refused = running.run("cluster", "compact", "kv", "n9")
    assert refused.returncode != 0
    assert "n9" in refused.stderr


def test_the_log_is_dumped_record_by_record(running: Dev) -> None:
    """`wal dump` shows heads, records and ends, as text and as JSON lines."""
    running.ok("kv", "set", "dumped", "x")
    said = running.ok("wal", "dump", "--node-name", "n1")
    assert "head" in said
    assert " term " in said
    data = str(running.directory.data_path("n1"))
    lines = [json.loads(line) for line in run_barque("wal", "dump", data, "-o", "json").stdout.splitlines()]
    assert {line["kind"] for line in lines} == {"head", "record", "end"}
    assert any(line["kind"] == "record" and line["entries"] > 0 for line in lines)
    assert run_barque("wal", "dump", str(running.root / "n1")).returncode == 2


def test_leaders_are_balanced_from_the_command_line(running: Dev) -> None:
    """API-21: `leader balance` shows each node's leaders and its moves; one cluster stays where it is."""
    told = json.loads(running.ok("leader", "balance", "--dry-run", "-o", "json"))
    clusters = json.loads(running.ok("cluster", "list", "-o", "json"))  # `kv`, and what other tests have left
    assert sum(told["before"].values()) == sum(told["after"].values()) == len(clusters)
    if max(told["before"].values()) - min(told["before"].values()) <= 1:
        assert told["moves"] == []
        assert told["after"] == told["before"]
    names = [f"deal{number}" for number in range(3)]
    for name in names:
        running.ok("cluster", "create", name, "--machine", "kv")
        running.ok("leader", "transfer", "n1", "--cluster", name)
    try:
        said = running.ok("leader", "balance", "--per-second", "50")
        assert "moved" in said
        assert all(f"{node} leads " in said for node in ("n1", "n2", "n3"))
        counts = json.loads(running.ok("leader", "balance", "--dry-run", "-o", "json"))["before"]
        assert max(counts.values()) - min(counts.values()) <= 1
    finally:
        for name in names:
            running.ok("cluster", "delete", name, "--yes")
