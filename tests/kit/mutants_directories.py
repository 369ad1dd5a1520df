"""Planted bugs of data directories: whose they are. See `mutants`."""

import contextlib
from typing import Any
from unittest.mock import patch

from barque.errors import ConfigurationError
from barque.log import storage
from barque.log.disk import Disk
from barque.log.identity import Claim, Owner, read_claim, write_identity
from tests.kit.mutant_registry import mutant


@mutant("a node starts on another node's data directory (D1)", layer="node")
def foreign_directory_accepted() -> Any:
    """See `MUTANTS`."""

    def ours(disk: Disk, data_dir: str, owner: Owner) -> Claim:
        with contextlib.suppress(ConfigurationError):
            return read_claim(disk, data_dir, owner)
        return Claim.OURS

    return patch.object(storage, "read_claim", ours)


@mutant("a node refuses another node's data directory, and writes its own name into it (D1)", layer="node")
def foreign_directory_taken() -> Any:
    """See `MUTANTS`."""

    def take(disk: Disk, data_dir: str, owner: Owner) -> Claim:
        try:
            return read_claim(disk, data_dir, owner)
        except ConfigurationError:
            write_identity(disk, data_dir, owner)
            raise

    return patch.object(storage, "read_claim", take)
