"""Compressed chunks of snapshots: there and back, refused when they lie, and bounded in memory."""

import random
import struct
import tracemalloc
import zlib

import pytest

import barque
from barque.core import packing
from barque.core.packing import UNPACKED_BYTES_MAX, Packing, UnpackError, available, pack, unpack

HERE = [Packing(number) for number in available()]
SAMPLES = (b"x", b"barque " * 10_000, bytes(1 << 20), random.Random(1).randbytes(5_000), b"")


@pytest.mark.parametrize("how", [Packing.NONE, *HERE], ids=lambda how: how.name)
def test_a_chunk_comes_back(how: Packing) -> None:
    """As it was; what would become longer stays as it is, and says so."""
    for data in SAMPLES:
        packed, used = pack(data, how)
        assert unpack(packed, used) == data
        assert len(packed) <= len(data)
        assert used in (how, Packing.NONE)
    assert pack(SAMPLES[1], how)[1] is how
    assert pack(SAMPLES[3], how)[1] is Packing.NONE


@pytest.mark.parametrize("how", HERE, ids=lambda how: how.name)
def test_data_that_lies_is_refused(how: Packing) -> None:
    """Another size than it says, an end too early, a size that no chunk has, noise: always `UnpackError`."""
    data = SAMPLES[1]
    packed, _ = pack(data, how)
    sizes = (0, 1, len(data) - 1, len(data) + 1, UNPACKED_BYTES_MAX + 1, 2**32 - 1)
    wrong = [struct.pack("<I", size) + packed[4:] for size in sizes]
    wrong += [packed[:end] for end in (0, 3, 4, 5, len(packed) // 2)]
    wrong += [packed[:4] + random.Random(seed).randbytes(100) for seed in range(20)]
    for one in wrong:
        with pytest.raises(UnpackError):
            unpack(one, how)


@pytest.mark.parametrize("how", HERE, ids=lambda how: how.name)
def test_few_bytes_that_stand_for_many_take_little_memory(how: Packing) -> None:
    """A bomb is given up at the size that it says, long before it is unpacked."""
    bomb = pack(bytes(64 << 20), how)[0]
    lying = struct.pack("<I", 100_000) + bomb[4:]
    tracemalloc.start()
    try:
        with pytest.raises(UnpackError):
            unpack(lying, how)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20, f"{peak:,} bytes of memory"


@pytest.mark.parametrize("number", [3, 9, -1, 2**40])
def test_an_unknown_packing_is_refused(number: int) -> None:
    """A later release may have others; they are used only towards members that know them."""
    with pytest.raises(UnpackError, match="not known"):
        unpack(b"\x01\x00\x00\x00x", number)


def test_without_the_package_there_is_no_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither offered nor used; a node that is told to use it says what to install."""
    monkeypatch.setattr(packing, "_CODECS", {Packing.ZLIB: packing._CODECS[Packing.ZLIB]})
    assert available() == (1,)
    assert pack(SAMPLES[1], Packing.ZSTD) == (SAMPLES[1], Packing.NONE)
    assert packing.packing_named("none") is Packing.NONE
    assert packing.packing_named("zlib") is Packing.ZLIB
    with pytest.raises(barque.ConfigurationError, match=r"barque\[zstd\]"):
        packing.packing_named("zstd")
    with pytest.raises(UnpackError, match="not known"):
        unpack(struct.pack("<I", 1) + zlib.compress(b"x"), Packing.ZSTD)
