"""Batches: how requests travel together, and when they do not (client/outcomes.py)."""

import pytest

from barque.client.outcomes import PART_BYTES_MAX, PART_REQUESTS_MAX, Batch


def batch(*payloads: bytes) -> Batch:
    """Commands for one cluster; who waits for each is its number."""
    made = Batch("command", "kv", 9.0, low_priority=True)
    made.payloads, made.waiters = list(payloads), list(range(len(payloads)))
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
def test_a_batch_is_cut_into_what_a_node_takes(payloads: list[bytes], lengths: list[int]) -> None:
    """In order, and each with whoever waits for it."""
    whole = batch(*payloads)
    parts = whole.parts()
    assert [len(part.waiters) for part in parts] == lengths
    assert [payload for part in parts for payload in part.payloads] == payloads
    assert [waiter for part in parts for waiter in part.waiters] == list(range(len(payloads)))
    assert {(part.kind, part.cluster, part.deadline, part.low_priority) for part in parts} == {
        ("command", "kv", 9.0, True)
    }


def test_a_call_travels_alone() -> None:
    """It has no payloads to be counted."""
    call = Batch("call", "members", 9.0, arguments={})
    assert call.parts() == [call]
