"""`barque.connect`: what a URL says, and what is wrong with it (client/url.py)."""

from pathlib import Path
from typing import Any

import pytest
from tests.nodes import SECRET, nodes
from tests.transport.certificates import Authority

import barque
from barque.client.url import Place, read_url
from barque.errors import ConfigurationError
from barque.transport.tls import ClientTls

LONG = "a-secret-that-is-long-enough"
TLS = ("tls_ca_file", "tls_cert_file", "tls_key_file")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    tls = (f"BARQUE_{name.upper()}" for name in TLS)
    for name in ("BARQUE_SECRET_FILE", "BARQUE_SECRET", "BARQUE_INSTALLATION", *tls):
        monkeypatch.delenv(name, raising=False)


def read(url: str, **arguments: Any) -> Place:
    """The place that a URL names."""
    given: dict[str, Any] = dict.fromkeys(("secret", "secret_file", "installation", "timeout_s", *TLS))
    return read_url(url, **{**given, **arguments})


def secret_file(directory: Path, text: str) -> str:
    """A file that only its owner can read."""
    path = directory / f"{text[:8]}.secret"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("barque://h:1", (("h:1",), "barque", 5.0, None)),
        ("barque://h:1,i:2/kv", (("h:1", "i:2"), "barque", 5.0, "kv")),
        ("barque://[::1]:7401/kv/", (("[::1]:7401",), "barque", 5.0, "kv")),
        ("barque://h:1/?timeout_s=0.5", (("h:1",), "barque", 0.5, None)),
        ("barque://h:1/a%20b?installation=x&timeout_s=2", (("h:1",), "x", 2.0, "a b")),
    ],
)
def test_a_url_names_nodes_and_options(url: str, expected: tuple[Any, ...]) -> None:
    """All parts but the first address have defaults."""
    place = read(url, secret=LONG)
    assert (place.nodes, place.installation, place.timeout_s, place.cluster) == expected


def test_the_nearest_secret_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument counts more than the URL, and the URL more than the environment."""
    first, second = secret_file(tmp_path, f"1{LONG}"), secret_file(tmp_path, f"2{LONG}")
    monkeypatch.setenv("BARQUE_SECRET_FILE", first)
    monkeypatch.setenv("BARQUE_INSTALLATION", "of-the-environment")
    assert read("barque://h:1").secret == f"1{LONG}".encode()
    assert read("barque://h:1").installation == "of-the-environment"
    assert read(f"barque://h:1?secret_file={second}").secret == f"2{LONG}".encode()
    assert read("barque://:p%2Fq%40r@h:1").secret == b"p/q@r"
    assert read("barque://:in-the-url@h:1", secret=b"given").secret == b"given"
    assert read("barque://:in-the-url@h:1", secret_file=first).secret == f"1{LONG}".encode()
    monkeypatch.delenv("BARQUE_SECRET_FILE")
    monkeypatch.setenv("BARQUE_SECRET", f"3{LONG}")
    assert read("barque://h:1").secret == f"3{LONG}".encode()


def test_s2_tls_files_come_from_arguments_the_url_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nearest counts, for each file; with a certificate of its own a client needs no secret."""
    ca = Authority(tmp_path)
    app, boss = ca.issue("app", dns=("app",)), ca.issue("boss", uris=("barque:admin",))
    url = f"barque://h:1?tls_ca_file={ca.path}"
    own = {"tls_cert_file": str(app), "tls_key_file": str(ca.key_of(app))}
    assert read("barque://h:1", secret=LONG).tls is None
    assert read(url, secret=LONG).tls == ClientTls(str(ca.path))
    assert read(url, **own) == read(f"{url}&tls_cert_file={app}&tls_key_file={ca.key_of(app)}")
    assert read(url, **own).secret == b""
    monkeypatch.setenv("BARQUE_TLS_CA_FILE", str(ca.path))
    monkeypatch.setenv("BARQUE_TLS_CERT_FILE", str(boss))
    monkeypatch.setenv("BARQUE_TLS_KEY_FILE", str(ca.key_of(boss)))
    assert read("barque://h:1").tls == ClientTls(str(ca.path), str(boss), str(ca.key_of(boss)))
    assert read("barque://h:1", **own).tls == ClientTls(str(ca.path), str(app), str(ca.key_of(app)))
    options = read("barque://h:1").options()
    assert options["tls_cert_file"] == str(boss)
    barque.sync.connect("barque://h:1")
    with pytest.raises(ConfigurationError, match="nowhere"):
        read("barque://h:1", secret=LONG, tls_ca_file="/nowhere")
    assert read("barque://h:1?installation=x&timeout_s=9", installation="y", timeout_s=3.0).timeout_s == 3.0
    assert read("barque://h:1?installation=x", installation="y").installation == "y"


HIDDEN = "correct-horse-battery"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"http://:{HIDDEN}@h:1", "does not begin with barque://"),
        (f"barque://:{HIDDEN}", "address 1 of 1 .* is not HOST:PORT"),
        (f"barque://{HIDDEN}@h:1", "with a colon and without a user name"),
        (f"barque://user:{HIDDEN}@h:1", "without a user name"),
        (f"barque://:{HIDDEN}/x@h:1", "%2F"),
        (f"barque://:{HIDDEN}?x@h:1", "%3F"),
        (f"barque://:{HIDDEN}#x@h:1", "%23"),
        (f"barque://:{HIDDEN}@h", "address 1 of 1 .* is not HOST:PORT"),
        (f"barque://:{HIDDEN}@h:1,i:{HIDDEN}", "address 2 of 2 .* no port from 1 to 65535"),
        (f"barque://:{HIDDEN}@h:70000", "no port"),
        (f"barque://:{HIDDEN}@h:1,", "address 2 of 2"),
        (f"barque://:{HIDDEN}@h:1/a/b", "more than one part"),
        (f"barque://:{HIDDEN}@h:1?secret={HIDDEN}", "unknown option; known are: installation"),
        (f"barque://:{HIDDEN}@h:1?installation=", "installation no value"),
        (f"barque://:{HIDDEN}@h:1?timeout_s=1&timeout_s=2", "timeout_s twice"),
        (f"barque://:{HIDDEN}@h:1?timeout_s=soon", "'soon'; give seconds"),
        (f"barque://:{HIDDEN}@h:1?timeout_s=-1", "give seconds"),
        (f"barque://:{HIDDEN}@h:1?secret_file=f", "either the secret or secret_file"),
        (None, "does not begin with barque://"),
        ("barque://h:1", "BARQUE_SECRET_FILE"),
        ("barque://h:1?secret_file=/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_a_wrong_url_is_told_without_the_secret(url: str, told: str) -> None:
    """The text names the part that is wrong, and what belongs there."""
    with pytest.raises(ConfigurationError, match=told) as raised:
        read(url)
    error: BaseException | None = raised.value
    while error is not None:
        assert HIDDEN not in f"{error}{error!r}"
        error = error.__cause__ or error.__context__
    assert HIDDEN not in repr(read("barque://h:1", secret=HIDDEN))


async def test_a_client_from_a_url(tmp_path: Path) -> None:
    """It connects on entry; the cluster of the path is `client.cluster()`."""
    async with nodes(tmp_path, 1) as single:
        url = f"barque://{single.addresses['n1']}/sum"
        async with barque.connect(url, secret=SECRET, timeout_s=10.0) as client:
            total = client.cluster()
            assert (await total.start_cluster("adder", arguments={"start": 5})).not_started == {}
            assert await total.process_command(2) == 7
            assert await total.consistent_query() == await client.cluster("sum").leader_query() == 7
            assert (await total.members_info()).leader == await total.leader()
            assert (await total.delete_cluster()).cluster == "sum"
    with pytest.raises(ConfigurationError, match="which cluster"):
        barque.connect("barque://h:1", secret=SECRET).cluster()
