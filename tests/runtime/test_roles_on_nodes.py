"""Roles, audit lines, and the change of secrets and certificates, on real nodes and real sockets."""

import contextlib
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.nodes import Nodes, until
from tests.transport.certificates import Authority

import barque
from barque.errors import Forbidden, InvalidCommand, Refused, Unauthenticated
from barque.runtime.admin import _LATER
from barque.runtime.client_session import SESSION_VERBS
from barque.transport.authorization import VERBS, Role

SECRETS = {
    Role.NODE: "the secret of the nodes",
    Role.ADMIN: "the secret of administrators",
    Role.CLIENT: "the secret of the clients",
}


@contextlib.asynccontextmanager
async def with_roles(directory: Path, count: int) -> AsyncIterator[Nodes]:
    """Nodes with a secret for each role, and a cluster of adders."""
    made = Nodes(directory, count, clusters=(barque.ClusterConfig("sum", "adder"),))
    made.credentials = {
        "secret": SECRETS[Role.NODE],
        "admin_secret": SECRETS[Role.ADMIN],
        "client_secret": SECRETS[Role.CLIENT],
    }
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def test_sec8_every_verb_of_a_node_has_a_role(tmp_path: Path) -> None:
    """The table and the verbs that a node serves are the same: a new verb needs a row."""
    async with with_roles(tmp_path, 1) as single:
        served = {*single.running["n1"].admin._verbs, *_LATER, *SESSION_VERBS}
        assert served == set(VERBS)


@pytest.mark.parametrize("held", list(Role))
async def test_sec8_each_role_may_ask_for_its_verbs(tmp_path: Path, held: Role) -> None:
    """A verb above the role is refused and counted, nothing happens; every other one gets as far as it did.

    A client that holds the nodes' secret is an administrator: it has no node's name.
    """
    async with with_roles(tmp_path, 1) as single, single.client("n1", secret=SECRETS[held]) as client:
        assert await client.process_command("sum", 5) == 5
        assert await client.consistent_query("sum") == 5
        role, refused = min(held, Role.ADMIN), 0
        for verb, needed in VERBS.items():
            arguments = {"cluster": "sum", "node": "n9", "member": "n9", "target": "n9", "machine": "adder"}
            if verb in ("start_cluster", "cluster_delete"):
                arguments["cluster"] = "another"
            if verb in ("force_shrink", "force_delete_server", "trigger_election"):
                arguments["cluster"] = "nowhere"
            if role < needed:
                refused += 1
                with pytest.raises(Forbidden, match=f"'{verb}' needs the role {needed.name.lower()}"):
                    await client.call(verb, arguments, timeout_s=1.0)
            else:
                try:
                    await client.call(verb, arguments, timeout_s=1.0)
                except Forbidden:
                    raise
                except barque.BarqueError:
                    pass  # these arguments fit no verb
        counters = single.running["n1"].transport.counters
        assert counters.forbidden_messages == refused > 0
        assert await client.consistent_query("sum") == 5
        with pytest.raises(InvalidCommand, match="unknown verb"):
            await client.call("no such verb")


async def test_sec8_a_client_can_neither_change_members_nor_delete(tmp_path: Path) -> None:
    """A client that may write a key cannot form, change or end a cluster: each method says so."""
    async with with_roles(tmp_path, 3) as three, three.client(secret=SECRETS[Role.CLIENT]) as client:
        assert await until(lambda: client.process_command("sum", 1), "a leader")
        for attempt in (
            client.start_cluster("other", "adder"),
            client.delete_cluster("sum"),
            client.add_member("sum", "n1"),
            client.remove_member("sum", "n2"),
            client.promote_member("sum", "n2"),
            client.replace_member("sum", "n2"),
            client.force_shrink("sum"),
            client.transfer_leadership("sum", "n2"),
            client.trigger_compaction("sum"),
            client.start_or_restart_cluster("sum", "adder"),
            client.start_server("other", "n1", "adder", members=["n1"]),
            client.stop_server("sum"),
            client.restart_server("sum"),
            client.force_delete_server("sum"),
            client.trigger_election("sum"),
            client.demote_member("sum", "n2"),
        ):
            with pytest.raises(Forbidden):
                await attempt
        assert len(await client.members("sum")) == 3
        assert (await client.status()).clusters


async def test_sec8_administration_through_another_node_needs_the_role_too(tmp_path: Path) -> None:
    """A node passes a verb on to the leader's node only for a client that may ask for it."""
    async with with_roles(tmp_path, 3) as three:
        async with three.client(secret=SECRETS[Role.ADMIN]) as admin:
            leader = await three.leader(admin, "sum")
        others = [name for name in three.addresses if name != leader]
        async with three.client(others[0], secret=SECRETS[Role.CLIENT]) as client:
            with pytest.raises(Forbidden):
                await client.remove_member("sum", others[1])
        async with three.client(others[0], secret=SECRETS[Role.ADMIN]) as admin:
            removed = await admin.remove_member("sum", others[1])
            assert removed.member.node == others[1]


async def test_administrative_acts_leave_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Verb, cluster, role, address and outcome: of what was done, what failed and what was forbidden.

    A machine's arguments and commands are not in it, and questions leave none.
    """
    caplog.set_level(logging.INFO, "barque.audit")
    async with with_roles(tmp_path, 1) as single:
        async with single.client(secret=SECRETS[Role.ADMIN]) as admin:
            await admin.start_cluster("new", "adder", arguments={"start": 4242})
            with pytest.raises(Refused):
                await admin.remove_member("sum", "n1")
            await admin.status()
            await admin.ping()
        async with single.client(secret=SECRETS[Role.CLIENT]) as client:
            await client.process_command("sum", 31337)
            with pytest.raises(Forbidden):
                await client.delete_cluster("sum")
    lines = [record.getMessage() for record in caplog.records if record.name == "barque.audit"]
    where = r"127\.0\.0\.1:\d+"
    for pattern in (
        rf"start_cluster cluster=new machine=adder by admin {where}: done",
        rf"member_remove cluster=sum member=n1 by admin {where}: ChangeNotPermitted: .*last voter",
        rf"cluster_delete cluster=sum by client {where}: Forbidden: ",
    ):
        assert [line for line in lines if re.match(pattern, line)], f"{pattern} in {lines}"
    assert not [line for line in lines if "4242" in line or "31337" in line]
    assert not [line for line in lines if line.startswith(("status", "ping", "nodes"))]


async def test_an_audit_line_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Names that clients have made up cannot forge lines, or fill the log."""
    caplog.set_level(logging.INFO, "barque.audit")
    async with with_roles(tmp_path, 1) as single, single.client(secret=SECRETS[Role.ADMIN]) as admin:
        name = "x\ncluster_delete by admin\x1b[2J" + "y" * 10_000
        with pytest.raises(barque.BarqueError):
            await admin.call("member_remove", {"cluster": "sum", "member": name}, timeout_s=0.2)
    [line] = [record.getMessage() for record in caplog.records if record.name == "barque.audit"]
    assert line.isprintable()
    assert len(line) < 500


async def test_s18_secrets_change_without_a_pause(tmp_path: Path) -> None:
    """Add the new secret, put it first, remove the old one: after each step all find each other.

    One node at a time takes the step; another one restarts in between, so that links are made anew.
    """
    made = Nodes(tmp_path, 3, clusters=(barque.ClusterConfig("sum", "adder"),))
    old, new = "the first secret of all", "the second secret of all"
    files = {name: tmp_path / f"{name}.secret" for name in made.addresses}
    for path in files.values():
        path.write_text(old)
        path.chmod(0o600)
    plain = made.config

    def config(name: str) -> barque.NodeConfig:
        made.credentials = {"secret": "", "secret_file": str(files[name])}
        return plain(name)

    made.config = config  # type: ignore[method-assign]
    await made.start()
    total = 0

    async def all_linked() -> bool:
        return all(len(node.transport.connected()) == 2 for node in made.running.values())

    try:
        await until(all_linked, "links")
        for text in (f"{old}\n{new}", f"{new}\n{old}", new):
            for name, path in files.items():
                path.write_text(text)
                assert made.running[name].reload_credentials()
                other = "n1" if name != "n1" else "n2"
                await made.stop(other)
                await made.start(other)
                await until(all_linked, f"links after {name} has {text!r}")
                valid = [
                    secret for secret in (old, new) if all(secret in f.read_text() for f in files.values())
                ]
                for secret in valid:
                    async with made.client(secret=secret) as client:
                        assert await until(
                            lambda client=client: client.process_command("sum", 1), "an answer"
                        )  # type: ignore[misc]
                        total += 1
        async with made.client(secret=new) as client:
            assert await client.consistent_query("sum") >= total
        with pytest.raises(Unauthenticated):
            await made.client(secret=old).connect()
    finally:
        await made.stop()


async def test_s2_nodes_and_clients_over_tls(tmp_path: Path) -> None:
    """Three nodes that speak TLS elect a leader and serve a client by URL; another node's file is refused."""
    ca = Authority(tmp_path / "pki")
    made = Nodes(tmp_path, 3, clusters=(barque.ClusterConfig("sum", "adder"),))
    plain = made.config

    def config(name: str) -> barque.NodeConfig:
        certificate = ca.issue(name, dns=(name,))
        key = str(ca.key_of(certificate))
        tls = barque.TlsConfig(str(certificate), key, str(ca.path), client_cert_required=True)
        made.credentials = {"secret": "", "tls": tls}
        return plain(name)

    made.config = config  # type: ignore[method-assign]
    await made.start()
    try:
        app = ca.issue("app", dns=("app",))
        url = f"barque://{','.join(made.addresses.values())}/sum?tls_ca_file={ca.path}"
        own = {"tls_cert_file": str(app), "tls_key_file": str(ca.key_of(app))}
        async with barque.connect(url, **own, timeout_s=10.0) as client:
            assert await until(lambda: client.cluster().process_command(3), "an answer") == 3
            with pytest.raises(Forbidden, match="has client"):
                await client.delete_cluster("sum")
        boss = ca.issue("boss", uris=("barque:admin",))
        own = {"tls_cert_file": str(boss), "tls_key_file": str(ca.key_of(boss))}
        async with barque.connect(url, **own, timeout_s=10.0) as admin:
            await admin.delete_cluster("sum")
    finally:
        await made.stop()


async def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    """Nobody has to send a signal: within a second or so the node has read the new secret."""
    path = tmp_path / "secret"
    path.write_text("the first secret of all")
    path.chmod(0o600)
    made = Nodes(tmp_path, 1)
    made.credentials = {"secret": "", "secret_file": str(path)}
    await made.start()
    try:
        path.write_text("the second secret of all")

        async def accepts() -> bool:
            async with made.client(secret="the second secret of all"):
                return True

        assert await until(accepts, "the new secret")
    finally:
        await made.stop()
