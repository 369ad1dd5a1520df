"""What both ends of a request agree on (transport/answers.py)."""

import asyncio
import gc

import pytest

from barque import errors
from barque.errors import BarqueError, NotLeader, OutcomeUnknown, QueryTimeout, Refused
from barque.transport.answers import UnansweredRanges, error_named, fail, unanswered
from barque.types import ServerId

NAMES = sorted(name for name, kind in vars(errors).items() if isinstance(kind, type) and kind is not ServerId)


@pytest.mark.parametrize("name", NAMES)
def test_every_error_travels_by_name(name: str) -> None:
    """The other end gets an error of the same class with the same text."""
    error = error_named(name, "why")
    assert (type(error).__name__, str(error)) == (name, "why")


def test_a_refusal_carries_the_leader() -> None:
    """`NotLeader` says which member to ask instead, if the refusing member knew one."""
    leader = ServerId("kv", "n2")
    known, unknown = error_named("NotLeader", "no", leader), error_named("NotLeader", "no")
    assert isinstance(known, NotLeader)
    assert isinstance(unknown, NotLeader)
    assert (known.leader, unknown.leader) == (leader, None)


@pytest.mark.parametrize("name", ["ErrorOfTheNextRelease", "ServerId", "KeyError", "__name__"])
def test_an_unknown_error_leaves_the_outcome_unknown(name: str) -> None:
    """A newer node may report that a command may have happened: we must not call it refused."""
    error = error_named(name, "why")
    assert type(error) is OutcomeUnknown
    assert str(error) == f"{name}: why"


def test_only_reading_verbs_are_told_as_reads() -> None:
    """Any other administrative request may have happened."""
    assert isinstance(unanswered("members", "t"), QueryTimeout)
    assert isinstance(unanswered("member_add", "t"), OutcomeUnknown)
    assert isinstance(unanswered("a verb of the next release", "t"), OutcomeUnknown)


async def test_an_error_that_nobody_awaits_is_not_logged() -> None:
    """The caller may be gone: asyncio has nothing to complain about."""
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    fail(loop.create_future(), Refused("no"))
    gc.collect()
    assert complaints == []


def test_answers_may_leave_holes() -> None:
    """Each answer closes what was still open of it; the rest stays open."""
    ranges = UnansweredRanges(10)
    assert ranges.close(3, 2) == [(3, 2)]
    assert ranges.close(0, 5) == [(0, 3)]
    assert ranges.close(4, 4) == [(5, 3)]
    assert ranges.close(0, 8) == []
    assert bool(ranges)
    assert ranges.close(5, 99) == [(8, 2)]
    assert not ranges


def test_timeouts_are_timeouts_of_python_too() -> None:
    """`except TimeoutError` catches them; each says by its other base whether it may have happened."""
    timeouts = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TimeoutError)
    }
    assert timeouts == {errors.QueryTimeout, errors.CommandTimeout, errors.LeaderTimeout}
    assert issubclass(errors.CommandTimeout, OutcomeUnknown)
    assert issubclass(errors.LeaderTimeout, errors.NoLeader)
    assert all(issubclass(kind, BarqueError) for kind in timeouts)
    assert not any(issubclass(kind, Refused) for kind in timeouts - {errors.LeaderTimeout})
