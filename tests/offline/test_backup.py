"""`barque backup`: a copy that proves itself, and a node that starts with it, also under another name."""

import asyncio
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.cli.support import run_barque
from tests.nodes import SECRET, Adder, Nodes, nodes, until
from tests.offline.support import SMALL, copy, fill, flip, log_files
from tests.ports import free_port

import barque
from barque.log.checked_text import MalformedText
from barque.log.identity import Owner
from barque.offline.backup_format import BackedUpFile, BackupManifest, decode_manifest, encode_manifest

SUM = sum(range(60))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a node that was stopped in order; tests copy it."""
    return asyncio.run(fill(tmp_path_factory.mktemp("stopped")))


@pytest.fixture(scope="module")
def backup(stopped: Path) -> Path:
    """A backup of it."""
    target = stopped.parent / "backup"
    done = run_barque("backup", "create", str(target), "--data-dir", str(stopped))
    assert done.returncode == 0, done.stderr
    assert "node 'n1' of installation 'barque'" in done.stdout
    return target


def content(root: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_backup_holds_every_file_that_counts(stopped: Path, backup: Path) -> None:
    """All but the lock and prepared log files, byte for byte; only the owner may read it; verify agrees."""
    original, copied = content(stopped), content(backup / "data")
    assert {path for path in original if path not in copied} <= {"lock"} | {
        path for path in original if "spare-" in path
    }
    assert all(original[path] == data for path, data in copied.items())
    for path in backup.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    done = run_barque("backup", "verify", str(backup))
    assert (done.returncode, done.stdout) == (0, "nothing is wrong\n")


async def test_a_node_starts_with_what_was_restored(backup: Path, tmp_path: Path) -> None:
    """Everything that was acknowledged before the backup is there, and the node goes on."""
    done = await asyncio.to_thread(run_barque, "backup", "restore", str(backup), "--to", str(tmp_path / "n1"))
    assert done.returncode == 0, done.stderr
    async with nodes(tmp_path, 1, log=SMALL) as single, single.client() as client:
        assert await client.process_command("sum", 1) == SUM + 1


async def test_restored_in_a_new_installation(backup: Path, tmp_path: Path) -> None:
    """All members go on as a cluster with another id, which the former members cannot meet."""
    done = await asyncio.to_thread(
        run_barque, "backup", "restore", str(backup), "--to", str(tmp_path / "n1"), "--installation", "other"
    )
    assert done.returncode == 0, done.stderr
    async with nodes(tmp_path, 1, log=SMALL, installation="other") as single:
        client = barque.Client(list(single.addresses.values()), secret=SECRET, installation="other")
        async with client:
            assert await client.process_command("sum", 1) == SUM + 1
            [found] = [c for c in (await client.status()).clusters if c.name == "sum"]
            assert found.leader is not None


async def test_restored_for_another_node(backup: Path, tmp_path: Path) -> None:
    """The restored member is alone after `force_shrink`, has everything, and others can join it."""
    done = await asyncio.to_thread(
        run_barque,
        *("backup", "restore", str(backup), "--to", str(tmp_path / "x1")),
        *("--as-node", "x1", "--installation", "other"),
    )
    assert done.returncode == 0, done.stderr
    assert "barque recover force-shrink CLUSTER x1" in done.stdout
    address = f"127.0.0.1:{free_port()}"
    config = barque.NodeConfig(
        name="x1",
        data_dir=str(tmp_path / "x1"),
        nodes={"x1": address},
        installation="other",
        secret=SECRET,
        log=SMALL,
        time=barque.TimeConfig(broadcast_time_ms=20, detector_poll_ms=300, tick_ms=50),
    )
    client = barque.Client([address], secret=SECRET, installation="other")
    async with barque.Node(config, {"adder": Adder()}), client:

        async def shrunk() -> Any:
            return await client.force_shrink("sum")

        done_shrink = await until(shrunk, "the member to be alone")
        assert str(done_shrink.member) == "sum@x1"
        assert await client.process_command("sum", 1) == SUM + 1


def test_restored_beside_its_former_cluster_it_has_another_id(backup: Path, tmp_path: Path) -> None:
    """In the same installation, under another node's name, no member of the former cluster hears it."""
    done = run_barque("backup", "restore", str(backup), "--to", str(tmp_path / "n9"), "--as-node", "n9")
    assert done.returncode == 0, done.stderr

    def ids(root: Path) -> set[str]:
        return {
            json.loads(path.read_text().partition("\n")[2])["cluster_id"]
            for path in root.glob("servers/*/config")
        }

    assert len(ids(tmp_path / "n9")) == 2
    assert not ids(tmp_path / "n9") & ids(backup / "data")
    assert run_barque("doctor", "--data-dir", str(tmp_path / "n9")).returncode == 0


def test_nothing_is_written_over(stopped: Path, backup: Path, tmp_path: Path) -> None:
    """Neither a backup nor a data directory, not even an empty one; a wrong name is refused."""
    (tmp_path / "there").mkdir()
    for verb in (
        ("create", str(tmp_path / "there"), "--data-dir", str(stopped)),
        ("create", str(backup), "--data-dir", str(stopped)),
        ("restore", str(backup), "--to", str(tmp_path / "there")),
        ("restore", str(backup), "--to", str(stopped)),
        ("restore", str(tmp_path / "there"), "--to", str(tmp_path / "new")),
        ("restore", str(backup), "--to", str(tmp_path / "new"), "--as-node", "../x"),
        ("restore", str(backup), "--to", str(tmp_path / "new"), "--installation", "a b"),
    ):
        done = run_barque("backup", *verb)
        assert done.returncode == 78, (verb, done.stderr)
    assert sorted(os.listdir(tmp_path)) == ["there"]


async def test_a_running_node_is_refused(tmp_path: Path) -> None:
    """Its files change while they are copied, so the copy would be worth nothing."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        done = await asyncio.to_thread(
            run_barque, "backup", "create", str(tmp_path / "b"), "--data-dir", str(tmp_path / "n1")
        )
        assert done.returncode == 74
        assert "a node runs in this data directory" in done.stderr
        assert not (tmp_path / "b").exists()


async def test_no_node_starts_while_its_directory_is_copied(stopped: Path, tmp_path: Path) -> None:
    """The copy holds the directory's lock, together with other readers and with no node."""
    import fcntl

    data_dir = copy(stopped, tmp_path / "n1")
    with (data_dir / "lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(barque.StorageError, match="another process uses this data directory"):
            await Nodes(tmp_path, 1, log=SMALL).start()
        done = await asyncio.to_thread(
            run_barque, "backup", "create", str(tmp_path / "b"), "--data-dir", str(data_dir)
        )
        assert done.returncode == 0, done.stderr


def test_a_damaged_directory_is_not_copied(stopped: Path, tmp_path: Path) -> None:
    """A backup must not hide that there is nothing left to restore; nothing is left behind."""
    data_dir = copy(stopped, tmp_path / "n1")
    flip(log_files(data_dir)[0], 5_000)
    done = run_barque("backup", "create", str(tmp_path / "b"), "--data-dir", str(data_dir))
    assert done.returncode == 74
    assert "barque doctor" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["n1"]


@pytest.mark.parametrize("harm", ["changed", "missing", "added", "list"])
def test_a_backup_that_changed_is_found_and_not_restored(backup: Path, tmp_path: Path, harm: str) -> None:
    """Whatever has happened to it: verify names the file, and a restore leaves no data directory."""
    changed = tmp_path / "b"
    shutil.copytree(backup, changed)
    victim = log_files(changed / "data")[0]
    match harm:
        case "changed":
            flip(victim, 2_000)
        case "missing":
            victim.unlink()
        case "added":
            (changed / "data" / "wal" / f"{77:017}.wal").write_bytes(victim.read_bytes())
        case "list":
            flip(changed / "backup", 80)
    done = run_barque("backup", "verify", str(changed), "-o", "json")
    assert done.returncode == 74
    if harm != "list":
        kinds = [json.loads(line)["kind"] for line in done.stdout.splitlines()]
        assert kinds[0] == harm
    done = run_barque("backup", "restore", str(changed), "--to", str(tmp_path / "new"))
    if harm == "added":
        assert done.returncode == 0, "what the list does not name is not restored"
        assert not (tmp_path / "new" / "wal" / f"{77:017}.wal").exists()
    else:
        assert done.returncode == 74
        assert sorted(os.listdir(tmp_path)) == ["b"], "nothing is left of it"


def test_golden_bytes_of_the_list() -> None:
    """The list is a line with a checksum and a JSON text, as docs/formats/backup.md says."""
    manifest = BackupManifest(
        owner=Owner("barque", "n1"),
        at_ms=1_700_000_000_000,
        release="0.1.0",
        files=(BackedUpFile("identity", 3, "ab" * 32),),
    )
    data = encode_manifest(manifest)
    assert data == (
        b"barque backup, format 1, crc32 eda06577\n"
        b'{"owner":{"installation":"barque","node":"n1"},"at_ms":1700000000000,"release":"0.1.0",'
        b'"files":[{"path":"identity","size":3,"sha256":"' + b"ab" * 32 + b'"}]}\n'
    )
    assert decode_manifest(data) == manifest


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "a\0b"])
def test_a_list_cannot_lead_out_of_the_backup(path: str) -> None:
    """A restore writes below its target and nowhere else."""
    manifest = BackupManifest(
        owner=Owner("barque", "n1"), at_ms=1, release="x", files=(BackedUpFile(path, 1, ""),)
    )
    with pytest.raises(MalformedText):
        decode_manifest(encode_manifest(manifest))


async def test_a_running_node_is_copied_as_of_one_moment(tmp_path: Path) -> None:
    """Under load, with log files that roll over and segments that come and go: the copy is a whole directory.

    Everything acknowledged before the copy is in it, and the node goes on; nothing of the copy is left there.
    """
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    async with nodes(tmp_path, 1, log=SMALL) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        stopped = False

        async def load() -> int:
            total = 0
            while not stopped:
                total = await client.process_command("sum", 1)
                await client.process_command("sum", "x" * 2_000)
            return total

        for number in range(3):
            task = asyncio.create_task(load())
            await asyncio.sleep(0.3)
            before = await client.consistent_query("sum", "value")
            target = tmp_path / f"backup{number}"
            done = await asyncio.to_thread(
                run_barque,
                *("backup", "live", str(target), "--node", single.addresses["n1"]),
                *("--secret-file", str(secret)),
            )
            assert done.returncode == 0, done.stderr
            stopped = True
            await task
            stopped = False
            assert not (tmp_path / "n1" / "linked-copy").exists()
            verified = await asyncio.to_thread(run_barque, "backup", "verify", str(target))
            assert (verified.returncode, verified.stdout) == (0, "nothing is wrong\n")
            home = tmp_path / f"restored{number}"
            home.mkdir()
            done = await asyncio.to_thread(
                run_barque, "backup", "restore", str(target), "--to", str(home / "n1")
            )
            assert done.returncode == 0, done.stderr
            async with nodes(home, 1, log=SMALL) as again, again.client() as other:
                assert await other.consistent_query("sum", "value") >= before
        final = await client.consistent_query("sum", "value")
    async with nodes(tmp_path, 1, log=SMALL) as single, single.client() as client:
        assert await client.consistent_query("sum", "value") == final
