"""Data directories on the real disk: what is in them, and how older releases wrote them."""

from pathlib import Path

import msgspec

from barque.runtime.server_record import decode_record
from barque.runtime.tombstones import decode_tombstones


def tree(root: Path) -> dict[str, bytes | None]:
    """Every path below `root`, with its bytes; None for a directory."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def as_format_1(root: Path, *, server_format: int = 2, initial_uids: bool = True) -> None:
    """Turn a data directory into one that a release without owners and checksums left."""
    (root / "identity").write_bytes(b"barque data directory, format 1\n")
    tombstones = root / "servers" / "tombstones"
    if not decode_tombstones(tombstones.read_bytes()):
        tombstones.unlink()
    for path in root.glob("servers/*/config"):
        record = decode_record(path.read_bytes(), "barque")
        fields = {"format": server_format, **msgspec.structs.asdict(record)}
        if not initial_uids:
            fields["initial_uids"] = {}
        if server_format == 1:
            for later in ("cluster_id", "membership", "initial_uids", "joined_at"):
                del fields[later]
        path.write_bytes(msgspec.json.encode(fields))
