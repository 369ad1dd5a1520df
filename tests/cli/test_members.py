"""The verbs that change members and end clusters, as a user types them."""

import json

import pytest
from tests.cli.support import Dev, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("verbs")]


def members_of(running: Dev, cluster: str) -> dict[str, str]:
    """What each member may do, by its name, from `member list -o json`."""
    listed = json.loads(running.ok("member", "list", cluster, "-o", "json"))
    assert listed["cluster"] == cluster
    assert listed["leader"] in {member["server"] for member in listed["members"]}
    return {member["server"]: member["membership"] for member in listed["members"]}


def test_members_are_listed_added_and_removed(running: Dev) -> None:
    """`member list -o json` prints one document; the other verbs say what is the case now."""
    running.ok("cluster", "create", "small", "--machine", "kv", "--nodes", "n1,n2")
    assert members_of(running, "small") == {"small@n1": "voter", "small@n2": "voter"}
    assert "small@n3 is a non-voter now" in running.ok("member", "add", "small", "n3", "--non-voter")
    assert members_of(running, "small")["small@n3"] == "non_voter"
    assert "small@n3 is a voter now" in running.ok("member", "promote", "small", "n3")
    refused = running.run("member", "add", "small", "n3")
    assert refused.returncode == 1
    assert "barque member list" in refused.stderr
    assert "small@n3 is removed" in running.ok("member", "remove", "small", "small@n3")
    assert set(members_of(running, "small")) == {"small@n1", "small@n2"}


def test_servers_are_listed_stopped_and_started(running: Dev) -> None:
    """A stopped server is listed with its reason and its cure; its cluster goes on; it runs again at once."""
    running.ok("cluster", "create", "part", "--machine", "kv")
    assert "part@n2 is stopped" in running.ok("server", "stop", "part", "n2")
    assert "part@n2 is already stopped" in running.ok("server", "stop", "part", "n2")
    listed = json.loads(running.ok("server", "list", "n2", "-o", "json"))
    [stopped] = [server for server in listed if server["cluster"] == "part"]
    assert (stopped["server"], stopped["role"]) == ("part@n2", "stopped")
    assert "barque server restart part n2" in stopped["failure"]
    running.ok("kv", "set", "a", "1", "--cluster", "part")
    assert "part@n2 runs again" in running.ok("server", "restart", "part", "n2")
    assert "part@n2 runs already" in running.ok("server", "restart", "part", "n2")
    assert "part@n3 is a non-voter now" in running.ok("member", "demote", "part", "n3")
    assert "its files stay" in running.ok("member", "remove", "part", "n3", "--keep-data")
    assert running.run("server", "stop", "nothing", "n2").returncode != 0
    assert "alone@n1 is started" in running.ok(
        "server", "start", "alone", "n1", "--machine", "kv", "--members", "n1"
    )


def test_a_cluster_is_deleted_only_by_who_means_it(running: Dev) -> None:
    """Without an answer nothing happens; with `--yes` it is gone from every list."""
    running.ok("cluster", "create", "brief", "--machine", "kv")
    asked = running.run("cluster", "delete", "brief")  # stdin is at its end
    assert asked.returncode != 0
    assert "for good?" in asked.stdout + asked.stderr
    assert len(members_of(running, "brief")) == 3
    assert "'brief' is deleted" in running.ok("cluster", "delete", "brief", "--yes")

    def is_gone() -> bool:
        names = {cluster["name"] for cluster in json.loads(running.ok("cluster", "list", "-o", "json"))}
        return "brief" not in names

    wait_for(is_gone, "the cluster to disappear")


def test_force_shrink_says_what_is_lost_and_asks(running: Dev) -> None:
    """It warns where there is a leader, aborts without an answer, and changes nothing then."""
    running.ok("cluster", "create", "whole", "--machine", "kv")
    asked = running.run("recover", "force-shrink", "whole", "n1")
    assert asked.returncode != 0
    said = asked.stdout + asked.stderr
    assert "whole@n1 will be the only member" in said
    assert "WARNING: the cluster has a leader" in said
    assert "wipe their directories" in said
    assert "Go on?" in said
    assert len(members_of(running, "whole")) == 3
    elsewhere = running.run("recover", "force-shrink", "whole", "n9", "--yes")
    assert elsewhere.returncode == 1
    assert "n9" in elsewhere.stderr
