"""Thousands of broken inputs for each codec, always the same ones; `python -m tests.fuzz` looks for more."""

import random
import tracemalloc
from collections.abc import Sequence

import pytest

from tests.fuzz.targets import Target, targets, without_checksums

INPUTS = 3_000
MEASURED = 300
MEMORY_BYTES_MAX = 1 << 20
"""More than any of these inputs needs, and far less than a length field of four bytes can ask for."""

_WORDS = (
    b"\xff" * 4,
    b"\x00" * 4,
    b"\xff" * 8,
    b"\x7f",
    b"\x80",
    b"\r\n",
    b"\xdd\xff\xff\xff\xff",
    b"$-1",
    b'"',
)


def broken(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """One of the seeds with some changes: bits, bytes, words, cuts, copies, and pieces of another one."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at, size = chance.randrange(len(data) + 1), chance.choice((1, 2, 4, 8, 40))
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at : at + size] = chance.randbytes(size)
            case 2:
                word = chance.choice(_WORDS)
                data[at : at + len(word)] = word
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = data[at : at + size]
            case _:
                other = chance.choice(seeds)
                data[at:] = other[min(at, len(other)) :]
    return bytes(data)


@pytest.mark.parametrize("codec", targets())
def test_any_bytes_are_read_or_refused(codec: str) -> None:
    """There is no other error, and memory stays within what the bytes can need."""
    target, chance = targets()[codec], random.Random(codec)
    with without_checksums():
        seeds = target.seeds()
        for seed in seeds:
            target.decode(seed)
        for number in range(INPUTS):
            data = broken(seeds, chance)
            try:
                target.decode(data)
            except Exception as error:
                raise AssertionError(f"input {number}: {data!r}") from error
        measure(target, seeds, chance)


def measure(target: Target, seeds: Sequence[bytes], chance: random.Random) -> None:
    """Watch the memory of some more inputs, one by one."""
    tracemalloc.start()
    try:
        for _ in range(MEASURED):
            data = broken(seeds, chance)
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            target.decode(data)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < MEMORY_BYTES_MAX, data
    finally:
        tracemalloc.stop()
