"""TLS below the handshake: who is let in, who is told what, and that nothing is lost on the way."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.transport.certificates import Authority, config_of, tls_of
from tests.transport.support import SECRET, Recorder, until
from tests.transport.test_roles import SECRETS
from tests.transport.test_tcp import FAST, entries, make

from barque.errors import ConfigurationError, NoLeader, Unauthenticated
from barque.transport import wire
from barque.transport.authorization import Role
from barque.transport.client_link import ClientLink
from barque.transport.credentials import Credentials
from barque.transport.tcp import TcpTransport
from barque.transport.tls import client_context

Run = Callable[..., Any]
PLAIN = SECRET.decode()


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """The installation's authority."""
    return Authority(tmp_path)


def node(name: str, ca: Authority, certificate: Path | None = None, **changes: Any) -> TcpTransport:
    """A node with a certificate of its name, unless it is given another, and the tests' one secret."""
    shown = certificate or ca.issue(name, dns=(name,))
    credentials = Credentials(config_of(name, tls_of(ca.path, shown), secret=PLAIN))
    return make(name, changes.pop("recorder", None) or Recorder(), **{"credentials": credentials, **changes})


async def client(
    address: str, ca_file: Path | None, certificate: Path | None = None, secret: bytes = SECRET, **others: Any
) -> ClientLink:
    """A client's link, over TLS if it has a file of authorities."""
    tls = None
    if ca_file is not None:
        key = str(Authority.key_of(certificate)) if certificate else ""
        tls = client_context(str(ca_file), str(certificate or ""), key)
    options: dict[str, Any] = {"on_answers": lambda _: None, "on_closed": lambda _: None, **others}
    return await ClientLink.connect(address, "test", secret, tls=tls, **options)


async def until_told(link: TcpTransport, peer: str, text: str) -> None:
    """Wait until a link's last error says this."""
    await until(lambda: text in link.status()[peer].last_error, f"{text!r}: {link.status()[peer].last_error}")


def test_s2_nodes_and_clients_talk_over_tls(run: Run, ca: Authority) -> None:
    """Large frames arrive whole between nodes, and a client's requests and answers in both directions."""

    async def main() -> None:
        one, two, answers = Recorder(), Recorder(), []
        async with contextlib.AsyncExitStack() as stack:
            n1, n2 = node("n1", ca, recorder=one), node("n2", ca, recorder=two)
            for started in (n1, n2):
                await started.start()
                stack.push_async_callback(started.stop)
            n1.set_peer("n2", n2.advertise)
            n2.set_peer("n1", n1.advertise)
            await until(lambda: one.events and two.events, "both links")
            for _ in range(3):
                n1.send("n2", "s", entries(2_000_000))
            n1.flush()
            await until(lambda: len(two.received) == 3)
            assert all(message == entries(2_000_000) for message in two.messages())
            link = await client(n1.advertise, ca.path, on_answers=answers.extend)
            assert (link.node, link.role) == ("n1", Role.ADMIN)
            calls = [wire.ClientCall(number, "x", {"large": "x" * 500_000}, 1) for number in range(3)]
            link.send(calls)  # type: ignore[arg-type]
            link.flush()
            await until(lambda: one.sinks and one.sinks[0].requests == calls)
            one.sinks[0].connection.send([wire.ClientCallReply(1, "y" * 3_000_000)])
            n1.flush()
            await until(lambda: answers)
            assert answers[0].value == "y" * 3_000_000
            link.close()
            await until(lambda: one.sinks[0].closed)

    run(main)


def test_s2_a_peer_with_a_wrong_certificate_is_refused(run: Run, ca: Authority, tmp_path: Path) -> None:
    """Another authority, an expired one, another node's name, and a client's: both sides refuse."""

    async def main() -> None:
        other = Authority(tmp_path / "other")
        cases = {
            "other authority": (other.issue("n2", dns=("n2",)), "certificate"),
            "expired": (ca.issue("old", dns=("n2",), days=-1), "certificate"),
            "another node": (
                ca.issue("n3", dns=("n3",)),
                "node 'n2' shows DNS:n3; its certificate must name",
            ),
            "a client": (ca.issue("app", uris=("barque:client",)), "node 'n2' shows URI:barque:client"),
            "an administrator": (
                ca.issue("boss", uris=("barque:admin",)),
                "node 'n2' shows URI:barque:admin",
            ),
        }
        for what, (certificate, text) in cases.items():
            good = Recorder()
            n1, bad = node("n1", ca, recorder=good), node("n2", ca, certificate)
            await n1.start()
            await bad.start()
            n1.set_peer("n2", bad.advertise)
            bad.set_peer("n1", n1.advertise)
            await until_told(n1, "n2", text)  # as dialer
            await until(lambda n1=n1: n1.counters.handshakes_refused > 0, what)  # type: ignore[misc]  # as listener
            assert not bad.status()["n1"].connected, what
            assert not good.events, what
            await n1.stop()
            await bad.stop()

    run(main)


def test_s2_a_node_name_may_stand_in_a_uri(run: Run, ca: Authority) -> None:
    """`URI:barque:node:NAME` is as good as `DNS:NAME`."""

    async def main() -> None:
        heard = Recorder()
        n1 = node("n1", ca, recorder=heard)
        n2 = node("n2", ca, ca.issue("two", uris=("barque:node:n2",)))
        for started in (n1, n2):
            await started.start()
        n1.set_peer("n2", n2.advertise)
        await until(lambda: heard.events == [("up", "n2", 1)])
        for started in (n1, n2):
            await started.stop()

    run(main)


def test_s2_a_client_checks_the_node(run: Run, ca: Authority, tmp_path: Path) -> None:
    """A node of another authority, an expired one, and one under another's certificate are refused."""

    async def main() -> None:
        other = Authority(tmp_path / "other")
        for certificate in (other.issue("n1", dns=("n1",)), ca.issue("old", dns=("n1",), days=-1)):
            n1 = node("n1", ca, certificate)
            await n1.start()
            with pytest.raises(Unauthenticated, match="certificate of the other side is refused"):
                await client(n1.advertise, ca.path)
            await n1.stop()
        thief = node("n1", ca, ca.issue("n5", dns=("n5",)))
        await thief.start()
        with pytest.raises(Unauthenticated, match="node 'n1' shows DNS:n5"):
            await client(thief.advertise, ca.path)
        await thief.stop()

    run(main)


def test_s2_tls_on_one_side_only_is_told(run: Run, ca: Authority) -> None:
    """Both ends hear that the other one does, or does not, speak TLS."""

    async def main() -> None:
        secure, plain = node("n1", ca), make("n2", Recorder())
        await secure.start()
        await plain.start()
        with pytest.raises(NoLeader, match="demands TLS, give tls_ca_file"):
            await client(secure.advertise, None)
        with pytest.raises((Unauthenticated, NoLeader), match="TLS"):
            await client(plain.advertise, ca.path)
        await until(lambda: plain.counters.malformed_frames == 1)
        assert secure.counters.handshakes_refused == 1
        for started in (secure, plain):
            await started.stop()

    run(main)


def test_s2_certificate_and_secret_must_both_grant(run: Run, ca: Authority) -> None:
    """A client's certificate with an administrator's secret is a client, and the other way round."""

    async def main() -> None:
        files = config_of(
            "n1",
            tls_of(ca.path, ca.issue("n1", dns=("n1",))),
            secret=SECRETS[Role.NODE].decode(),
            admin_secret=SECRETS[Role.ADMIN].decode(),
            client_secret=SECRETS[Role.CLIENT].decode(),
        )
        n1 = make("n1", Recorder(), credentials=Credentials(files))
        await n1.start()
        app, boss = ca.issue("app", dns=("app.example",)), ca.issue("boss", uris=("barque:admin",))
        for certificate, secret, granted in (
            (app, SECRETS[Role.ADMIN], Role.CLIENT),
            (boss, SECRETS[Role.CLIENT], Role.CLIENT),
            (boss, SECRETS[Role.ADMIN], Role.ADMIN),
            (None, SECRETS[Role.ADMIN], Role.ADMIN),
        ):
            link = await client(n1.advertise, ca.path, certificate, secret)
            assert link.role is granted
            link.close()
        await n1.stop()

    run(main)


def test_s2_certificates_alone_are_enough(run: Run, ca: Authority) -> None:
    """Without secrets every side must show a certificate, and gets its role."""

    async def main() -> None:
        heard = Recorder()

        def bare(name: str, recorder: Recorder) -> TcpTransport:
            files = config_of(name, tls_of(ca.path, ca.issue(name, dns=(name,)), required=True))
            return make(name, recorder, credentials=Credentials(files))

        n1, n2 = bare("n1", heard), bare("n2", Recorder())
        for started in (n1, n2):
            await started.start()
        n1.set_peer("n2", n2.advertise)
        await until(lambda: heard.events)
        boss = await client(n1.advertise, ca.path, ca.issue("boss", uris=("barque:admin",)), b"")
        app = await client(n1.advertise, ca.path, ca.issue("app", dns=("app",)), b"")
        assert (boss.role, app.role) == (Role.ADMIN, Role.CLIENT)
        with pytest.raises((Unauthenticated, NoLeader)):
            await client(n1.advertise, ca.path, None, b"")
        for link in (boss, app):
            link.close()
        for started in (n1, n2):
            await started.stop()

    run(main)


def test_s18_new_files_count_without_a_restart(run: Run, ca: Authority, tmp_path: Path) -> None:
    """A second authority is added, certificates change, the first authority goes: connections stay."""

    async def main() -> None:
        bundle = tmp_path / "bundle.pem"
        bundle.write_bytes(ca.path.read_bytes())
        shown = ca.issue("n1", dns=("n1",))
        files = config_of("n1", tls_of(bundle, shown), secret=PLAIN)
        recorder = Recorder()
        n1 = make("n1", recorder, credentials=Credentials(files))
        await n1.start()
        first = await client(n1.advertise, ca.path)
        newer = Authority(tmp_path / "newer")
        late = newer.issue("app", dns=("app",))
        with pytest.raises((Unauthenticated, NoLeader)):
            await client(n1.advertise, ca.path, late)
        bundle.write_bytes(ca.path.read_bytes() + newer.path.read_bytes())
        n1.credentials.reload_if_changed()
        (await client(n1.advertise, ca.path, late)).close()
        moved = newer.issue("n1", dns=("n1",))
        shown.write_bytes(b"half a certi")
        n1.credentials.reload_if_changed()  # cannot be used: the old one stays
        (await client(n1.advertise, ca.path)).close()
        Authority.key_of(shown).write_bytes(Authority.key_of(moved).read_bytes())
        shown.write_bytes(moved.read_bytes())
        bundle.write_bytes(newer.path.read_bytes())
        n1.credentials.reload_if_changed()
        (await client(n1.advertise, newer.path)).close()
        with pytest.raises(Unauthenticated):
            await client(n1.advertise, ca.path)
        assert not first.is_closed
        first.close()
        await n1.stop()

    run(main)


def test_a_client_that_never_begins_tls_is_bounded(run: Run, ca: Authority) -> None:
    """It is a stranger like any other: the oldest goes first, and the time for the handshake ends."""

    async def main() -> None:
        limits = msgspec.structs.replace(FAST, unauthenticated_max=5, handshake_timeout_s=30.0)
        n1 = node("n1", ca, limits=limits)
        await n1.start()
        host, _, port = n1.advertise.rpartition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
        await until(lambda: n1.counters.unauthenticated_refused == 15)
        (await client(n1.advertise, ca.path)).close()
        for _, writer in idle:
            writer.close()
        await n1.stop()

    run(main)


def test_files_that_cannot_work_are_named(ca: Authority, tmp_path: Path) -> None:
    """A missing file, no PEM, and a key of another certificate are errors at the start."""
    good, other = ca.issue("n1", dns=("n1",)), ca.issue("n2", dns=("n2",))
    Authority.key_of(good).write_bytes(Authority.key_of(other).read_bytes())
    with pytest.raises(ConfigurationError, match=r"n1\.key.*KEY_VALUES_MISMATCH|not usable"):
        client_context(str(ca.path), str(good), str(Authority.key_of(good)))
    with pytest.raises(ConfigurationError, match=r"nowhere\.pem: No such file"):
        client_context(str(tmp_path / "nowhere.pem"))
    (tmp_path / "text").write_text("no certificate")
    with pytest.raises(ConfigurationError, match="text: not usable PEM"):
        client_context(str(tmp_path / "text"))
    with pytest.raises(ConfigurationError, match="belong together"):
        client_context(str(ca.path), str(other))
