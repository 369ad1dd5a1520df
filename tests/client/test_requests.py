"""Batches: how requests travel together, and how each finds its answer (client/requests.py)."""

import asyncio

import pytest

from barque.client.outcomes import Notification, Notifications
from barque.client.requests import PART_BYTES_MAX, PART_REQUESTS_MAX, Batch, Call, CommandBatch, ReadBatch
from barque.errors import CommandTimeout, LeaderTimeout, NoLeader, OutcomeUnknown, QueryTimeout, Stopped
from barque.types import ReplyMode


def commands(*payloads: bytes) -> CommandBatch:
    """Pipelined commands for one cluster; the correlation of each is its number."""
    made = CommandBatch("kv", 9.0, ReplyMode.NOTIFY, Notifications(), low_priority=True)
    for number, payload in enumerate(payloads):
        made.payloads.append(payload)
        made.waiters.append(number)
    return made


@pytest.mark.parametrize(
    ("payloads", "lengths"),
    [
        ([b""] * PART_REQUESTS_MAX, [PART_REQUESTS_MAX]),
        ([b""] * (PART_REQUESTS_MAX + 1), [PART_REQUESTS_MAX, 1]),
        ([bytes(PART_BYTES_MAX - 1), b"a"], [2]),
        ([bytes(PART_BYTES_MAX), b"a", b"b"], [1, 2]),
        ([b"a", bytes(PART_BYTES_MAX + 1), b"b"], [1, 1, 1]),
        ([b""], [1]),
    ],
    ids=["as many as may", "one more", "as large as may", "larger", "one too large alone", "one"],
)
def test_a_batch_is_cut_into_parts_that_a_node_accepts(payloads: list[bytes], lengths: list[int]) -> None:
    """The parts keep the order, and each request keeps its waiter."""
    whole = commands(*payloads)
    parts = [part for part in whole.parts() if isinstance(part, CommandBatch)]
    assert [len(part.waiters) for part in parts] == lengths
    assert [payload for part in parts for payload in part.payloads] == payloads
    assert [waiter for part in parts for waiter in part.waiters] == list(range(len(payloads)))
    assert {(part.cluster, part.deadline, part.reply_mode, part.low_priority) for part in parts} == {
        ("kv", 9.0, ReplyMode.NOTIFY, True)
    }
    assert {part.listener for part in parts} == {whole.listener}


def test_reads_are_cut_likewise() -> None:
    """The parts of a batch of reads have its level."""
    reads = ReadBatch("kv", 9.0, "leader")
    for _ in range(PART_REQUESTS_MAX + 1):
        reads.payloads.append(b"")
        reads.waiters.append(None)
    assert [(type(p), p.seeks_leader, len(p.waiters)) for p in reads.parts()] == [
        (ReadBatch, True, PART_REQUESTS_MAX),
        (ReadBatch, True, 1),
    ]


def test_a_call_travels_alone() -> None:
    """It has no payloads to be counted."""
    call = Call("members", {"cluster": "kv"}, 9.0, 5.0)
    assert call.parts() == [call]
    assert call.message(700).arguments == {"cluster": "kv"}


def test_a_command_can_be_sent_once() -> None:
    """Its payloads are gone when its message is built: it may have happened."""
    batch = commands(b"a", b"bc")
    message = batch.message(100)
    assert (message.count, message.columns) == (2, b"\x01\x00\x00\x00\x02\x00\x00\x00abc")
    assert batch.payloads == []


async def test_answers_may_come_in_parts_and_twice() -> None:
    """Each waiter hears once; the batch is done when the last one has heard."""
    batch, news = commands(b"", b"", b""), Notifications()
    batch.listener = news
    assert not batch.is_begun
    batch.replied(1, ["b"], None)
    batch.replied(1, ["again"], None)
    assert batch.is_begun
    assert not batch.is_answered
    lost = OutcomeUnknown("lost")
    batch.failed_rest(lost)
    batch.replied(0, ["a", "b", "c"], None)
    assert batch.is_answered
    assert await news.take() == [
        Notification(1, "b"),
        Notification(0, None, lost),
        Notification(2, None, lost),
    ]


async def test_a_whole_answer_leaves_nothing_open() -> None:
    """One answer for all requests, with an error for one of them, ends the batch."""
    batch = CommandBatch("kv", 9.0, ReplyMode.AWAIT_CONSENSUS)
    good, bad, cancelled = batch.ask(b""), batch.ask(b""), batch.ask(b"")
    cancelled.cancel()
    batch.replied(0, [1, None, 3], {1: Stopped("no")})
    assert batch.is_answered
    assert (good.result(), str(bad.exception())) == (1, "no")


async def test_commands_that_nobody_waits_for_end_in_silence() -> None:
    """Without a correlation there is nobody to be told of an error either."""
    news = Notifications()
    batch = CommandBatch("kv", 9.0, ReplyMode.NOREPLY, news)
    batch.payloads.append(b"")
    batch.waiters.append(None)
    assert not batch.is_awaited
    batch.failed_rest(Stopped("no"))
    news.end("over")
    with pytest.raises(Stopped, match="over"):
        await asyncio.wait_for(news.take(), 1.0)


@pytest.mark.parametrize(
    ("batch", "error", "late"),
    [
        (commands(b""), OutcomeUnknown("t"), CommandTimeout),
        (commands(b""), NoLeader("t"), LeaderTimeout),
        (commands(b""), Stopped("t"), Stopped),
        (ReadBatch("kv", 9.0, "leader"), QueryTimeout("t"), QueryTimeout),
        (Call("member_add", {}, 9.0, 5.0), OutcomeUnknown("t"), CommandTimeout),
    ],
)
def test_an_error_after_the_deadline_is_a_timeout(batch: Batch, error: Exception, late: type) -> None:
    """Before the deadline an error stays what it is; its answer to "did it happen?" never changes."""
    assert batch.dated(error, 5.0) is error  # type: ignore[arg-type]
    dated = batch.dated(error, 9.1)  # type: ignore[arg-type]
    assert (type(dated), str(dated), isinstance(dated, type(error))) == (late, "t", True)
    assert isinstance(dated, TimeoutError) is (late is not Stopped)


def test_a_node_gives_up_a_call_before_its_caller() -> None:
    """It answers at four fifths of the time; that is the caller's time that has run out."""
    call = Call("member_list", {}, 10.0, 5.0)
    assert type(call.dated(NoLeader("t"), 8.9)) is NoLeader
    assert type(call.dated(NoLeader("t"), 9.0)) is LeaderTimeout
