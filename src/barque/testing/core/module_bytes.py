"""A snapshot module's state as bytes, for stores without a disk: by a directory that is gone afterwards."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from barque.machine.snapshot_module import BoundModule, ModuleCapture


def read_out(captured: ModuleCapture) -> Sequence[bytes]:
    """Write a capture, and read out what the module would send. Raises `StorageError`."""
    with tempfile.TemporaryDirectory() as directory:
        captured.write(Path(directory))
        return list(captured.bound.read_chunks(Path(directory), captured.bound.context()))


def take_in(module: BoundModule, chunks: Sequence[bytes]) -> Any:
    """The state of what `read_out` gave. Raises `StorageError`."""
    with tempfile.TemporaryDirectory() as directory:
        module.accept_chunks(Path(directory), iter(chunks))
        return module.recover(Path(directory))
