"""Golden bytes of a server's record, and how old ones read (docs/formats/server-config.md)."""

import contextlib
import random

import msgspec
import pytest

from barque.errors import ConfigurationError, Damaged
from barque.log.checked_text import MalformedText, encode_text
from barque.log.identity import Owner
from barque.runtime.directory import Directory
from barque.runtime.server_record import (
    ServerRecord,
    configured_cluster_id,
    decode_record,
    encode_record,
)
from barque.runtime.tombstones import encode_tombstones
from barque.testing.sim.disk import SimDisk
from barque.types import Index, IndexTerm, ServerId, Term, Uid

RECORD = ServerRecord(
    name="kv",
    uid=Uid("KV1"),
    cluster="kv",
    machine="kv",
    arguments={"a": 1},
    initial_members=(ServerId("kv", "n1"), ServerId("kv", "n2")),
    cluster_id="RABC",
    membership="voter",
    initial_uids={"kv@n1": Uid("KV1"), "kv@n2": Uid("KV2")},
    joined_at=IndexTerm(Index(5), Term(2)),
)
_BODY = (
    b'{"name":"kv","uid":"KV1","cluster":"kv","machine":"kv","arguments":{"a":1},'
    b'"initial_members":[["kv","n1"],["kv","n2"]],"cluster_id":"RABC","membership":"voter",'
    b'"initial_uids":{"kv@n1":"KV1","kv@n2":"KV2"},"joined_at":[5,2]}'
)
WITHOUT_LIVES = b"barque server, format 3, crc32 fb9afffb\n" + _BODY + b"\n"
_WITH_LIVES = _BODY[:-1] + b',"stopped":false,"keep_data":false,"initial_machine_version":0,"skipped":[]}\n'
GOLDEN = b"barque server, format 4, crc32 809c2142\n" + _WITH_LIVES
FORMAT_3 = b"barque server, format 3, crc32 809c2142\n" + _WITH_LIVES
FORMAT_2 = b'{"format":2,' + _BODY[1:]
FORMAT_1 = (
    b'{"format":1,"name":"kv","uid":"KV1","cluster":"kv","machine":"kv","arguments":{"a":1},'
    b'"initial_members":[["kv","n1"],["kv","n2"]]}'
)
PATH = "/data/servers/KV1/config"


def directory(disk: SimDisk) -> Directory:
    """A directory on this disk, not loaded yet."""
    return Directory(disk, "/data", Owner("barque", "n1"))


def loaded(content: bytes, disk: SimDisk | None = None) -> Directory:
    """What a directory makes of a record of this content, on this disk or on one of its own."""
    disk = SimDisk(random.Random(0)) if disk is None else disk
    disk.mkdir("/data/servers/KV1")
    disk.set_content(PATH, content)
    disk.set_content("/data/servers/tombstones", encode_tombstones(()))
    found = directory(disk)
    found.load()
    return found


def test_a_record_is_as_it_always_was() -> None:
    """Golden bytes, both ways."""
    disk = SimDisk(random.Random(0))
    found = directory(disk)
    found.create()
    found.add(RECORD)
    assert disk.read_file(PATH) == GOLDEN
    assert loaded(GOLDEN).records == {"kv": RECORD}


def test_api7_a_record_without_lives_is_of_a_server_that_runs() -> None:
    """The first files of format 3 do not say whether it is stopped. A change is written as the whole was."""
    found = loaded(WITHOUT_LIVES)
    assert found.records == {"kv": RECORD}
    stopped = msgspec.structs.replace(RECORD, stopped=True)
    found.change(stopped)
    assert decode_record(encode_record(stopped), "barque").stopped
    assert found.records == {"kv": stopped}


@pytest.mark.parametrize(
    "settled",
    [{}, {"stopped": True}, {"keep_data": True}, {"initial_machine_version": 2}, {"skipped": (7,)}],
    ids=str,
)
def test_what_an_older_release_would_ignore_has_a_format_that_it_refuses(
    settled: dict[str, object],
) -> None:
    """Releases that write format 3 would start a stopped server. Other records stay as they are."""
    record = msgspec.structs.replace(RECORD, **settled)
    assert encode_record(record).startswith(b"barque server, format 4, ")
    content = encode_text("server", 3, msgspec.json.encode(record) + b"\n")
    disk = SimDisk(random.Random(0))
    found = loaded(content, disk)
    assert found.records == {"kv": record}
    found.migrate()
    assert disk.read_file(PATH) == (encode_record(record) if settled else content)
    assert loaded(FORMAT_3).records == loaded(GOLDEN).records


def test_a_record_of_format_1_is_of_the_configured_cluster() -> None:
    """It knows no incarnations; the cluster's id follows from its name, on every node alike."""
    record = loaded(FORMAT_1).records["kv"]
    assert record.cluster_id == configured_cluster_id("barque", "kv") == "CSVOWPHOWO5G5MIEJSVI"
    assert (record.membership, record.initial_uids, record.uid) == ("voter", {}, "KV1")


@pytest.mark.parametrize("old", [FORMAT_1, FORMAT_2])
def test_sec13_a_record_without_a_checksum_is_written_again_with_one(old: bytes) -> None:
    """After the first start every changed byte of it is found; a crash on the way leaves one of the two."""
    for nth in range(1, 12):
        disk = SimDisk(random.Random(nth))
        disk.mkdir("/data/servers/KV1")
        disk.set_content(PATH, old)
        found = directory(disk)
        found.load(all_there=False)
        end = disk.operations + nth
        disk.fault = lambda op, path, disk=disk, end=end: (  # type: ignore[misc]
            OSError(5, "EIO") if disk.operations >= end else None
        )
        with contextlib.suppress(OSError):
            found.migrate()
        disk.fault = None
        disk.crash()
        again = directory(disk)
        again.load(all_there=False)
        again.migrate()
        assert disk.read_file(PATH).startswith(b"barque server, format 4")
        last = directory(disk)
        last.load()
        assert last.records == found.records


def test_sec13_every_byte_of_a_record_counts() -> None:
    """A changed bit, a shorter and a longer file are damage."""
    for offset in range(len(GOLDEN)):
        data = bytearray(GOLDEN)
        data[offset] ^= 1 << offset % 8
        with pytest.raises(MalformedText):
            decode_record(bytes(data), "barque")
    for data in (*(GOLDEN[:end] for end in range(len(GOLDEN))), GOLDEN + b"\0"):
        with pytest.raises(MalformedText):
            decode_record(data, "barque")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOLDEN[:-1],
        GOLDEN.replace(b"format 4", b"format 5"),
        GOLDEN.replace(b"format 4", b"format 2"),
        FORMAT_2.replace(b'"format":2', b'"format":3'),
        FORMAT_2.replace(b'"format":2', b'"format":4'),
        encode_record(msgspec.structs.replace(RECORD, uid=Uid("KV9"))),
        encode_record(msgspec.structs.replace(RECORD, cluster_id="")),
        FORMAT_2.replace(b'"cluster_id":"RABC",', b""),
    ],
)
def test_what_cannot_be_read_stops_the_node(content: bytes) -> None:
    """Broken, copied and newer records are damage: absence is never deletion."""
    with pytest.raises(Damaged):
        loaded(content)


@pytest.mark.parametrize("uid", ["", "..", "a/b", "x" * 65, "tombstones", "a\n"])
def test_uids_become_file_names_only_after_a_look(uid: str) -> None:
    """They may come over the network."""
    disk = SimDisk(random.Random(0))
    with pytest.raises(ConfigurationError, match="must be 1 to 64"):
        directory(disk).add(msgspec.structs.replace(RECORD, uid=Uid(uid)))
    assert not disk.exists("/data/servers")


def test_ids_of_configured_clusters_depend_on_all_names() -> None:
    """Other installations and other clusters have other ids, whatever the names are made of."""
    names = [("a", "b"), ("ab", ""), ("", "ab"), ("b", "a"), ("barque", "kv")]
    assert len({configured_cluster_id(*pair) for pair in names}) == len(names)


def test_what_a_killed_process_left_is_durable_before_it_is_used() -> None:
    """A rename that was not synced is seen after a kill; a loss of power must not take it away later."""
    disk = SimDisk(random.Random(0))
    disk.mkdir("/data/servers/KV1")
    disk.set_content("/data/servers/tombstones", encode_tombstones(()))
    disk.create(PATH + ".tmp").pwritev([GOLDEN], 0, sync=True)
    disk.rename(PATH + ".tmp", PATH)
    disk.kill()
    directory(disk).load()
    assert disk.survivor().exists(PATH)


@pytest.mark.parametrize("operation", ["mkdir", "create", "rename", "fsync_dir"])
def test_a_creation_that_failed_leaves_no_second_record_of_its_name(operation: str) -> None:
    """Its own may be on the disk although it was told to have failed: the node could not start any more.

    Found by the simulator (I24). As long as the disk refuses to take it away, nobody else gets the name.
    """
    disk = SimDisk(random.Random(0))
    found = directory(disk)
    found.create()

    def fails(what: str, path: str) -> OSError | None:
        return OSError(5, "refused", path) if what == operation and "KV1" in path else None

    other = msgspec.structs.replace(RECORD, uid=Uid("KV2"))
    disk.fault = fails
    with pytest.raises(OSError, match="refused"):
        found.add(RECORD)
    assert found.unfinished == {Uid("KV1")}
    disk.fault = None
    found.add(other)
    assert not found.unfinished
    again = directory(disk)
    again.load()
    assert again.records == {"kv": other}
    assert not disk.exists("/data/servers/KV1")
