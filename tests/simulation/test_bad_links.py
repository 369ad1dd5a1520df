"""Slow links keep order and fill up; impostors are refused by the handshake of production."""

import random
from functools import partial

import pytest
from tests.kit.mutants import planted

from barque.testing.faults.bad_links import BUFFER_BYTES, Impostor, SlowLink
from barque.testing.sim.loop import VirtualLoop


def test_a_slow_link_takes_time_by_size_and_says_when_it_is_full() -> None:
    """Frames leave in order, each after its own bytes; on a fast link the rest leaves at once."""
    loop = VirtualLoop()
    link = SlowLink(loop, bytes_a_second=1_000)
    left: list[tuple[float, str]] = []

    def leave(name: str) -> None:
        left.append((loop.now, name))

    for name, size in (("a", 500), ("b", 250), ("c", BUFFER_BYTES), ("d", 1)):
        link.put(size, partial(leave, name))
    assert link.is_full
    loop.later(1.0, loop.stop)
    loop.run_forever()
    assert left == [(0.5, "a"), (0.75, "b")]
    link.end()
    assert left[2:] == [(1.0, "c"), (1.0, "d")]
    assert not link.is_full
    loop.later(10.0, loop.stop)
    loop.run_forever()
    assert len(left) == 4
    loop.close()


@pytest.mark.parametrize("kind", Impostor.KINDS)
def test_an_impostor_is_refused(kind: str) -> None:
    """The handshake fails with every node that dials the impostor or that the impostor dials."""
    taken_in: list[str] = []
    impostor = Impostor(kind, "n2", random.Random(1), taken_in.append)
    impostor.answer("n1", 5)
    assert not taken_in
    assert impostor.refusals == 2


def test_an_impostor_would_be_noticed_if_it_were_welcome() -> None:
    """Without secrets, an impostor that differs by its secret only is accepted, in both directions."""
    taken_in: list[str] = []
    with planted("any_secret_will_do"):
        Impostor("secret", "n2", random.Random(1), taken_in.append).answer("n1", 5)
    assert taken_in == ["n1", "n1"]
