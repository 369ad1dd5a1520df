"""`barque doctor`: each kind of damage in a real node's directory is found, with place, cause and remedy."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.support import run_barque
from tests.nodes import Nodes
from tests.offline import support
from tests.offline.support import copy, fill, flip, log_files, uid_of, write_segment, write_snapshot

from barque.cli.doctor import line_of
from barque.errors import BarqueError
from barque.log.disk import OsDisk, ReadingDisk
from barque.log.wal_format import FILE_HEAD_SIZE, FileHead, decode_file_head, encode_file_head
from barque.offline.findings import Severity
from barque.offline.inspection import inspect


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a node that was stopped in order; tests copy it."""
    return asyncio.run(fill(tmp_path_factory.mktemp("stopped")))


def doctor(data_dir: Path) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON document of `barque doctor`."""
    done = run_barque("doctor", "--data-dir", str(data_dir), "-o", "json")
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_a_directory_that_was_stopped_in_order_is_clean(stopped: Path) -> None:
    """Exit code 0 and no finding; the servers are listed as a start would find them. Nothing is changed."""
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in stopped.rglob("*")}
    code, report = doctor(stopped)
    assert (code, report["verdict"], report["findings"]) == (0, "clean", [])
    assert report["owner"] == {"installation": "barque", "node": "n1"}
    assert {(server["cluster"], server["last_index"] > 60) for server in report["servers"]} == {
        ("sum", True),
        ("other", True),
    }
    assert report["bytes_read"] > 200_000
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in stopped.rglob("*")} == before
    done = run_barque("doctor", "--data-dir", str(stopped))
    assert (done.returncode, "nothing is wrong" in done.stdout) == (0, True)


def cut(path: Path, size: int) -> None:
    """Keep only the beginning of a file."""
    os.truncate(path, size)


def at_servers(data_dir: Path) -> Path:
    """The directory of the member of cluster sum."""
    return data_dir / "servers" / uid_of(data_dir, "sum")


def segment_of_another(data_dir: Path) -> None:
    """A segment in the wrong server's directory."""
    write_segment(at_servers(data_dir) / "segments" / f"{1:017}.segment", "SOMEBODYELSE")


def damaged_segment(data_dir: Path) -> None:
    """A segment with a changed byte in its first batch."""
    uid = uid_of(data_dir, "sum")
    flip(write_segment(at_servers(data_dir) / "segments" / f"{1:017}.segment", uid), 60)


def damaged_snapshot(data_dir: Path) -> None:
    """A snapshot with a changed byte in its state."""
    path = write_snapshot(at_servers(data_dir) / "snapshots")
    flip(path, path.stat().st_size - 22)


def misnamed_snapshot(data_dir: Path) -> None:
    """A snapshot whose directory names another position."""
    path = write_snapshot(at_servers(data_dir) / "snapshots")
    path.parent.rename(path.parent.parent / f"{1:016X}_{2:016X}")


def snapshot_without_file(data_dir: Path) -> None:
    """The directory of a snapshot that holds something, and not its file."""
    path = write_snapshot(at_servers(data_dir) / "checkpoints")
    path.rename(path.parent / "moved")


def snapshot_that_was_removed(data_dir: Path) -> None:
    """A crash came between the removal of the file and that of its directory."""
    write_snapshot(at_servers(data_dir) / "checkpoints").unlink()


def crash_leftovers(data_dir: Path) -> None:
    """What a crash may leave in each place."""
    server = at_servers(data_dir)
    (server / "segments").mkdir(exist_ok=True, mode=0o700)
    (server / "snapshots").mkdir(exist_ok=True, mode=0o700)
    for path in (
        data_dir / "meta.tmp",
        data_dir / "wal" / "manifest.tmp",
        data_dir / "servers" / "tombstones.tmp",
        server / "segments" / f"{9:017}.segment.tmp",
        server / "segments" / f"{8:017}.segment.compacting",
    ):
        path.write_bytes(b"half")
        path.chmod(0o600)
    for path in (server / "accepting", server / "snapshots" / "x.writing", data_dir / "servers" / "NEWBORN"):
        path.mkdir(mode=0o700)


def bury(data_dir: Path) -> None:
    """The files of a deleted server, back in their place."""
    from barque.runtime.tombstones import decode_tombstones

    [tombstone] = decode_tombstones((data_dir / "servers" / "tombstones").read_bytes())
    folder = data_dir / "servers" / tombstone.uid
    folder.mkdir(mode=0o700)
    (folder / "config").write_bytes(b"whatever")
    (folder / "config").chmod(0o600)


def strangers(data_dir: Path) -> None:
    """Files that Barque did not make, in each place."""
    server = at_servers(data_dir)
    (server / "segments").mkdir(exist_ok=True, mode=0o700)
    for path in (
        data_dir / "notes.txt",
        data_dir / "wal" / "old.wal.bak",
        data_dir / "servers" / "README",
        server / "config.bak",
        server / "segments" / "1.segment",
    ):
        path.write_bytes(b"mine")
        path.chmod(0o600)


def renumbered(data_dir: Path) -> None:
    """A log file that says it has another number."""
    path = log_files(data_dir)[-1]
    data = path.read_bytes()
    head = decode_file_head(data)
    path.write_bytes(encode_file_head(FileHead(head.epoch + 7, head.salt)) + data[FILE_HEAD_SIZE:])


def segments(data_dir: Path) -> list[Path]:
    """The segments that the node itself has written, oldest first."""
    found = sorted((data_dir / "servers" / uid_of(data_dir, "other") / "segments").glob("*.segment"))
    assert found
    return found


def lost_server(data_dir: Path) -> None:
    """The directory of a server is gone."""
    shutil.rmtree(at_servers(data_dir))


def other_meta(data_dir: Path) -> None:
    """A meta file that knows no server: another installation's, or an old one."""
    from barque.log.meta import MetaStore

    (data_dir / "meta").unlink()
    MetaStore.create(OsDisk(), str(data_dir))


D, W, N = Severity.DAMAGE, Severity.WARNING, Severity.NOTE
CASES: list[tuple[str, Callable[[Path], object], Severity, str, str]] = [
    ("no identity", lambda d: (d / "identity").unlink(), D, "missing", "identity"),
    ("identity", lambda d: flip(d / "identity", 60), D, "identity", "identity"),
    ("no meta", lambda d: (d / "meta").unlink(), D, "missing", "meta"),
    ("meta", lambda d: flip(d / "meta", 60), D, "meta", "meta"),
    ("meta head", lambda d: flip(d / "meta", 3), D, "meta", "meta"),
    ("other meta", other_meta, D, "start-refused", ""),
    ("no wal", lambda d: shutil.rmtree(d / "wal"), D, "missing", "wal"),
    ("no manifest", lambda d: (d / "wal" / "manifest").unlink(), D, "missing", "manifest"),
    ("manifest", lambda d: flip(d / "wal" / "manifest", 25), D, "manifest", "manifest"),
    ("no log file", lambda d: log_files(d)[0].unlink(), D, "missing", ".wal"),
    ("log file", lambda d: flip(log_files(d)[0], 5_000), D, "log-file", ".wal"),
    ("log file head", lambda d: flip(log_files(d)[0], 9), D, "log-file", ".wal"),
    ("cut log file", lambda d: cut(log_files(d)[0], 9_000), D, "log-file", ".wal"),
    ("renumbered log file", renumbered, D, "log-file", ".wal"),
    ("no tombstones", lambda d: (d / "servers" / "tombstones").unlink(), D, "missing", "tombstones"),
    ("tombstones", lambda d: flip(d / "servers" / "tombstones", 70), D, "tombstones", "tombstones"),
    ("no servers", lambda d: shutil.rmtree(d / "servers"), D, "missing", "servers"),
    ("no server", lost_server, D, "start-refused", ""),
    ("config", lambda d: flip(at_servers(d) / "config", 80), D, "config", "config"),
    (
        "copied config",
        lambda d: shutil.copy(
            d / "servers" / uid_of(d, "other") / "config", d / "servers" / uid_of(d, "sum") / "config"
        ),
        D,
        "config",
        "config",
    ),
    (
        "link",
        lambda d: ((d / "meta").rename(d / "m"), (d / "meta").symlink_to(d / "m")),
        D,
        "unreadable",
        "meta",
    ),
    ("no segment", lambda d: segments(d)[0].unlink(), D, "start-refused", ""),
    ("segment's head", lambda d: flip(segments(d)[0], 5), D, "segment", ".segment"),
    (
        "segment's tail",
        lambda d: flip(segments(d)[-1], segments(d)[-1].stat().st_size - 9),
        D,
        "segment",
        ".seg",
    ),
    ("segment's body", lambda d: flip(segments(d)[0], 3_000), D, "segment", ".segment"),
    ("cut segment", lambda d: cut(segments(d)[0], 3_000), D, "segment", ".segment"),
    ("segment's batch", damaged_segment, D, "segment", ".segment"),
    ("foreign segment", segment_of_another, D, "segment", ".segment"),
    ("snapshot", damaged_snapshot, W, "snapshot", "snapshot"),
    ("misnamed snapshot", misnamed_snapshot, W, "snapshot", "snapshot"),
    ("snapshot without a file", snapshot_without_file, W, "snapshot", "snapshot"),
    ("removed snapshot", snapshot_that_was_removed, N, "leftover", "checkpoints"),
    ("open to others", lambda d: (d / "meta").chmod(0o644), W, "permissions", "meta"),
    ("strangers", strangers, W, "unknown", "notes.txt"),
    ("leftovers", crash_leftovers, N, "leftover", "meta.tmp"),
    ("buried", bury, N, "deletion", "servers/"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_each_damage_is_found(stopped: Path, tmp_path: Path, case: Any) -> None:
    """The finding names the path, the cause and a remedy; the exit code says how bad the worst one is."""
    _, harm, severity, kind, where = case
    data_dir = copy(stopped, tmp_path / "n1")
    harm(data_dir)
    code, report = doctor(data_dir)
    found = [
        finding for finding in report["findings"] if finding["kind"] == kind and where in finding["path"]
    ]
    assert found, report["findings"]
    assert found[0]["severity"] == severity
    assert found[0]["cause"]
    assert found[0]["remedy"]
    worst = min(list(Severity).index(Severity(finding["severity"])) for finding in report["findings"])
    assert report["verdict"] == list(Severity)[worst]
    assert code == {D: 74, W: 1, N: 0}[Severity(report["verdict"])]


@pytest.mark.parametrize("case", [case for case in CASES if case[2] is D], ids=lambda case: case[0])
async def test_damage_means_that_a_node_does_not_start(stopped: Path, tmp_path: Path, case: Any) -> None:
    """What `doctor` calls damage, a node refuses, and says so too: the tool and the node agree."""
    _, harm, _, kind, _ = case
    data_dir = copy(stopped, tmp_path / "n1")
    harm(data_dir)
    report = inspect(ReadingDisk(), str(data_dir))
    assert report.worst is D
    if kind == "segment" and not any(finding.kind == "start-refused" for finding in report.findings):
        return  # a start reads heads and tails of segments only
    alone = Nodes(tmp_path, 1, log=support.SMALL)
    with pytest.raises((BarqueError, OSError)) as refused:
        await alone.start()
    for finding in report.findings:
        line = line_of(finding)
        assert finding.kind != "start-refused" or str(refused.value) in line
        assert max(line.count("What to do"), line.count("good copy")) <= 1, "no advice is given twice"


def test_strangers_and_leftovers_are_found_in_every_place(stopped: Path, tmp_path: Path) -> None:
    """No name is passed over in silence."""
    data_dir = copy(stopped, tmp_path / "n1")
    strangers(data_dir)
    crash_leftovers(data_dir)
    findings = inspect(ReadingDisk(), str(data_dir)).findings
    assert sum(finding.kind == "unknown" for finding in findings) == 5
    assert sum(finding.kind == "leftover" for finding in findings) >= 8


async def test_a_killed_nodes_directory_has_notes_at_most(tmp_path: Path) -> None:
    """A torn tail and files that a crash has left are no damage."""
    data_dir = await fill(tmp_path, commands=5)
    newest = log_files(data_dir)[-1]
    with newest.open("r+b") as file:
        file.seek(0, 2)
        file.write(b"\xb5Rec" + b"torn" * 100)
    code, report = doctor(data_dir)
    assert code == 0, report["findings"]


async def test_a_running_node_is_detected(tmp_path: Path) -> None:
    """The files of a running node change under the reader's eyes; nothing is read, and the node goes on."""
    from tests.nodes import nodes

    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        for verb in (("doctor", "--data-dir"), ("wal", "verify")):
            done = await asyncio.to_thread(run_barque, *verb, str(tmp_path / "n1"))
            assert done.returncode == 74
            assert "a node runs in this data directory" in done.stderr
        assert await client.process_command("sum", 1) == 1


def test_no_data_directory(tmp_path: Path) -> None:
    """A wrong path is wrong usage, and is named."""
    for path in (tmp_path, tmp_path / "absent"):
        done = run_barque("doctor", "--data-dir", str(path))
        assert (done.returncode, str(path) in done.stderr) == (2, True)
    assert run_barque("doctor").returncode == 2


def test_wal_verify(stopped: Path, tmp_path: Path) -> None:
    """It checks the log alone, as far as the manifest says that it counts."""
    done = run_barque("wal", "verify", str(stopped))
    assert (done.returncode, done.stdout) == (0, "nothing is wrong\n")
    data_dir = copy(stopped, tmp_path / "n1")
    flip(log_files(data_dir)[0], 5_000)
    done = run_barque("wal", "verify", str(data_dir), "-o", "json")
    assert done.returncode == 74
    [finding] = [json.loads(line) for line in done.stdout.splitlines()]
    assert (finding["kind"], finding["severity"]) == ("log-file", "damage")
    assert 0 < finding["offset"] <= 5_000
