"""`barque.transport.resolve`: look-ups end within the time given, and keep no process alive."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.ports import free_port
from tests.transport.support import SECRET, Recorder, until
from tests.transport.test_tcp import make

from barque.errors import NoLeader
from barque.transport import resolve as resolver
from barque.transport.client_link import ClientLink
from barque.transport.resolve import connect, resolve

Run = Callable[..., Any]
DEAF = """
import socket, sys, threading
real = socket.getaddrinfo
def deaf(host, *rest, **more):
    if str(host).endswith(".invalid"):
        threading.Event().wait(3600)
    return real(host, *rest, **more)
socket.getaddrinfo = deaf
from barque.cli.main import main
sys.argv = ["barque", *sys.argv[1:]]
main()
"""
"""The command line of a machine whose resolver never answers for some names."""


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A resolver that answers for no name until the test has ended; the names that it was asked for."""
    asked: list[str] = []
    end = threading.Event()

    def answer(host: str, *_rest: object, **_more: object) -> Any:
        asked.append(host)
        end.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    yield asked
    end.set()
    while resolver._lookups:  # the next test may ask for the same name, and must not share this look-up
        time.sleep(0.001)


def test_addresses_are_not_looked_up(run: Run, deaf: list[str]) -> None:
    """Numbers need no resolver."""

    async def main() -> None:
        for address in ("127.0.0.1", "::1", "fe80::1%lo"):
            assert await resolve(address) == [address]
        assert not deaf

    run(main)


def test_h3_a_resolver_that_never_answers_costs_the_time_given(run: Run, deaf: list[str]) -> None:
    """A connection attempt ends at its deadline; callers that ask for one name cost one look-up."""

    async def main() -> None:
        attempts = [connect(asyncio.BufferedProtocol, "slow.invalid", 1, 0.2) for _ in range(50)]
        ends = await asyncio.gather(*attempts, return_exceptions=True)
        assert {type(end) for end in ends} == {TimeoutError}
        await until(lambda: bool(deaf), "the thread that looks it up")
        assert deaf == ["slow.invalid"]

    run(main)


def test_an_unknown_name_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the host and the resolver's reason; a later look-up asks again."""

    def unknown(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def main() -> None:
        with pytest.raises(NoLeader, match=r"cannot look up nobody\.invalid: Name or service not known"):
            await ClientLink.connect(
                "nobody.invalid:1", "test", SECRET, on_answers=lambda _: None, on_closed=lambda _: None
            )
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", 0))])
        assert await resolve("nobody.invalid") == ["127.0.0.1"]

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    run(main)


def test_every_address_of_a_host_is_tried(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that listens on one of them is reached."""
    found = [(10, 1, 6, "", ("::1", 0, 0, 0)), (2, 1, 6, "", ("127.0.0.1", 0))]

    async def main() -> None:
        n1 = make("n1", Recorder())
        await n1.start()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        port = n1.advertise.rpartition(":")[2]
        link = await ClientLink.connect(
            f"node.invalid:{port}", "test", SECRET, on_answers=lambda _: None, on_closed=lambda _: None
        )
        assert link.node == "n1"
        link.close()
        await n1.stop()

    run(main)


def test_h3_a_node_stops_while_look_ups_hang(run: Run, deaf: list[str]) -> None:
    """Its peers' names are being looked up; stopping does not wait for that."""

    async def main() -> None:
        n1 = make("n1", Recorder(), peers={"n2": "n2.invalid:1", "n3": "n3.invalid:1"})
        await n1.start()
        await until(lambda: len(deaf) == 2, "the look-ups")
        await asyncio.wait_for(n1.stop(), 10)

    run(main)


def test_h3_a_verb_ends_within_its_timeout(tmp_path: Path) -> None:
    """`barque status --timeout 1` with a name that cannot be looked up ends soon after, with the reason."""
    secret = tmp_path / "secret"
    secret.write_text("s" * 32)
    secret.chmod(0o600)
    began = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-c", DEAF, "status", "--node", "n1.invalid:7400", "--node", "n2.invalid:7400"),
            *("--secret-file", str(secret), "--timeout", "1"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 69, done.stderr
    assert "did not answer within 1 s" in done.stderr
    assert time.monotonic() - began < 20, "a resolver's pool was waited for"


def test_h3_a_node_ends_soon_after_its_signal(tmp_path: Path) -> None:
    """SIGTERM ends a node process whose peers cannot be looked up, although the look-ups go on."""
    secret = tmp_path / "secret"
    secret.write_text("s" * 32)
    secret.chmod(0o600)
    nodes = f"n1=127.0.0.1:{free_port()},n2=n2.invalid:7400,n3=n3.invalid:7400"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", DEAF, "node", "--name", "n1", "--nodes", nodes),
            *("--data-dir", str(tmp_path / "data"), "--secret-file", str(secret)),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "is up" in line:
                break
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stderr.close()
        process.wait()
