"""Each checker can fail, and does not when all is well."""

import itertools
import random
from types import SimpleNamespace
from typing import Any

from barque.core.entries import EntryBatch, encode_body
from barque.core.messages import AppendEntriesRpc
from barque.log.meta import MetaStore
from barque.testing.checkers.history import Operation, Outcome, check_history
from barque.testing.checkers.safety import (
    Committed,
    Durability,
    Elections,
    Incarnation,
    LogMatching,
    Violation,
)
from barque.testing.sim.disk import SimDisk
from barque.types import NOWHERE, Index, IndexTerm, ServerId, Term, Uid

A, B = ServerId("c", "n1"), ServerId("c", "n2")
AS_A, AS_B = Incarnation(A, Uid("u")), Incarnation(B, Uid("v"))
OK, FAIL, UNKNOWN = Outcome.OK, Outcome.FAIL, Outcome.UNKNOWN


def test_two_leaders_in_one_term() -> None:
    """I1: two servers that lead one term are reported; leaders of different terms are not."""
    found: list[Violation] = []
    elections = Elections(found.append)
    elections.leads(AS_A, Term(1))
    elections.leads(AS_A, Term(1))
    elections.leads(AS_B, Term(2))
    assert not found
    elections.leads(AS_B, Term(1))
    assert "I1" in found[0].name
    assert elections.count == 2


def test_two_votes_in_one_term() -> None:
    """I2: a second vote of a term is reported; a repeated vote is not."""
    found: list[Violation] = []
    elections = Elections(found.append)
    elections.votes(AS_A, B, Term(1))
    elections.votes(AS_A, B, Term(1))
    assert not found
    elections.votes(AS_A, A, Term(1))
    assert "I2" in found[0].name


def test_a_term_that_falls() -> None:
    """I3: a server that acts in an earlier term, or forgets a term in a restart, is reported."""
    found: list[Violation] = []
    elections = Elections(found.append)
    elections.speaks(AS_A, Term(3))
    elections.restarted(AS_A, Term(3))
    assert not found
    elections.speaks(AS_A, Term(2))
    elections.restarted(AS_A, Term(2))
    assert [violation.name for violation in found] == ["terms grow (I3)", "terms last (I3)"]


def _rpc(payload: bytes, previous: int = 0) -> AppendEntriesRpc:
    batch = EntryBatch(Index(1), Term(1), 1, 0, encode_body([payload]))
    return AppendEntriesRpc(Term(1), A, Index(0), Index(0), Term(previous), (batch,))


def test_two_entries_at_one_position() -> None:
    """I5: two entries with one index and term are reported."""
    found: list[Violation] = []
    LogMatching(found.append).sent(A, _rpc(b"x"))
    assert not found
    matching = LogMatching(found.append)
    matching.sent(A, _rpc(b"x"))
    matching._seen.clear()
    matching.sent(B, _rpc(b"y"))
    assert "I5" in found[0].name


def _leader(terms: dict[int, int], term: int) -> Any:
    return SimpleNamespace(
        id=A,
        current_term=term,
        log=SimpleNamespace(fetch_term=terms.get, snapshot_index_term=lambda: NOWHERE),
    )


def test_two_commands_at_one_index_and_a_leader_without_a_committed_entry() -> None:
    """I7 and I6: both are reported; a leader of the same term or an earlier term owes nothing."""
    found: list[Violation] = []
    committed = Committed(found.append)
    assert committed.applied("n1", Index(1), Term(1), "x", Term(2))
    assert not committed.applied("n2", Index(1), Term(1), "x", Term(2))
    committed.leader(_leader({1: 1}, 3))
    committed.leader(_leader({}, 2))
    assert not found
    committed.applied("n3", Index(1), Term(1), "y", Term(2))
    committed.leader(_leader({}, 3))
    assert ["I7" in found[0].name, "I6" in found[1].name] == [True, True]


def _durability(found: list[Violation], disk: SimDisk) -> Durability:
    return Durability(found.append, {"n1": disk}, random.Random(1), "/data", 1.0)


def test_an_ack_of_what_is_not_on_the_disk() -> None:
    """I11, I8: an acknowledgement and a commit are reported if the disk is empty."""
    found: list[Violation] = []
    durability = _durability(found, SimDisk(random.Random(1)))
    durability.ack(A, Uid("u"), IndexTerm(Index(0), Term(0)), promised_in=Term(1))
    assert not found
    durability.ack(A, Uid("u"), IndexTerm(Index(1), Term(1)), promised_in=Term(1))
    durability.committed(Index(1), Term(1), [("n1", Uid("u"))], 1)
    assert ["I11" in found[0].name, "I8" in found[1].name] == [True, True]


def test_a_restart_that_forgets_an_ack() -> None:
    """I11: an acknowledged entry must be there after a restart, unless a newer leader has replaced it."""
    found: list[Violation] = []
    durability = _durability(found, SimDisk(random.Random(1)))
    durability._rate = 0.0
    durability.ack(A, Uid("u"), IndexTerm(Index(1), Term(1)), promised_in=Term(1))
    log = SimpleNamespace(
        fetch_term=lambda _index: None, last_index_term=lambda: None, snapshot_index_term=lambda: NOWHERE
    )
    server: Any = SimpleNamespace(id=A, log=log, cfg=SimpleNamespace(uid=Uid("u")))
    durability.restarted(server)
    assert len(found) == 1
    newer = AppendEntriesRpc(Term(2), B, Index(0), Index(0), Term(0), _rpc(b"z").entries)
    durability.may_overwrite(A, newer)
    durability.restarted(server)
    assert len(found) == 1
    # An old promise that is repeated while the newer leader's entries are under way promises nothing.
    durability.ack(A, Uid("u"), IndexTerm(Index(1), Term(1)), promised_in=Term(1))
    durability.restarted(server)
    assert len(found) == 1
    durability.ack(A, Uid("u"), IndexTerm(Index(1), Term(2)), promised_in=Term(2))
    durability.restarted(server)
    assert len(found) == 2


def test_a_vote_that_is_not_on_the_disk() -> None:
    """I12: a vote counts once the meta store has synced it, and not before."""
    found: list[Violation] = []
    disk = SimDisk(random.Random(1))
    disk.mkdir("/data")
    MetaStore.create(disk, "/data")
    store = MetaStore.open(disk, "/data")
    durability = _durability(found, disk)
    store.store(Uid("u"), Term(1), B)
    durability.vote(A, Uid("u"), B, Term(1))
    assert "I12" in found.pop().name
    store.sync()
    durability.vote(A, Uid("u"), B, Term(1))
    assert not found
    durability.vote(A, Uid("u"), A, Term(1))
    assert found


def _append(
    element: str,
    called: float,
    returned: float = float("inf"),
    outcome: Outcome = UNKNOWN,
    result: int | None = None,
) -> Operation:
    return Operation("c", "k", called, element, returned, outcome, result)


def _read(called: float, returned: float, *elements: str) -> Operation:
    return Operation("c", "k", called, None, returned, OK, list(elements))


def test_histories_by_hand() -> None:
    """A clean history is accepted, and each kind of anomaly is reported."""
    a, b = _append("a", 0, 1, OK, 1), _append("b", 2, 3, OK, 2)
    assert check_history([a, b, _read(4, 5, "a", "b")]) is None
    assert check_history([_append("a", 0), _read(4, 5), _read(6, 7, "a")]) is None  # late, but in time
    assert check_history([a, _append("x", 0)]) is None  # unknown, and no read shows it
    bad = {
        "a lost append": [a, _read(2, 3)],
        "a stale read": [a, _read(2, 3, "a"), _read(4, 5)],
        "two orders": [_append("a", 0), _append("b", 0), _read(1, 2, "a", "b"), _read(1, 2, "b", "a")],
        "twice": [a, _read(2, 3, "a", "a")],
        "from nowhere": [_read(2, 3, "a")],
        "refused, and done": [_append("a", 0, outcome=FAIL), _read(2, 3, "a")],
        "out of order": [_append("a", 0, 1, OK), _append("b", 2, 3, OK), _read(4, 5, "b", "a")],
        "from the future": [_read(0, 1, "a"), _append("a", 2, 3, OK)],
        "the wrong place": [_append("a", 0, 1, OK, 2), _read(2, 3, "a")],
        "unseen, in a taken place": [_append("b", 0, 9, OK, 1), a, _read(10, 11, "a")],
        "another's answer": [a, Operation("c", "k", 2, None, 3, OK, 1)],
    }
    missed = [name for name, history in bad.items() if check_history(history) is None]
    assert missed == []


def _naive(history: list[Operation]) -> bool:
    """Whether some order of the operations explains them; tries all orders."""
    known = [o for o in history if o.outcome is OK]
    unknown = [o for o in history if o.outcome is UNKNOWN and o.element is not None]
    for size in range(len(unknown) + 1):
        for extra in itertools.combinations(unknown, size):
            if any(_explains(order) for order in itertools.permutations([*known, *extra])):
                return True
    return False


def _explains(order: tuple[Operation, ...]) -> bool:
    state: list[str] = []
    latest = 0.0
    for operation in order:
        end = operation.returned if operation.outcome is OK else float("inf")
        if end < latest:
            return False
        latest = max(latest, operation.called)
        if operation.element is not None:
            state.append(operation.element)
            if isinstance(operation.result, int) and operation.result != len(state):
                return False
        elif operation.result != state:
            return False
    return True


def test_agrees_with_a_naive_checker() -> None:
    """On thousands of small random histories the fast checker and a full search agree."""
    rng = random.Random(7)
    verdicts = set()
    for _ in range(2_000):
        history: list[Operation] = []
        state: list[str] = []
        for number in range(rng.randrange(1, 6)):
            called = rng.randrange(6)
            returned = called + rng.randrange(1, 4)
            if rng.random() < 0.5:
                element = f"e{number}"
                if rng.random() < 0.8:
                    state.append(element)
                outcome = rng.choice((OK, OK, UNKNOWN, FAIL))
                place = len(state) if outcome is OK and rng.random() < 0.5 else None
                history.append(_append(element, called, returned, outcome, place))
            else:
                length = len(state) if rng.random() < 0.6 else rng.randrange(len(state) + 1)
                history.append(_read(called, returned, *state[:length]))
        shown = {e for o in history if isinstance(o.result, list) for e in o.result}
        for operation in history:
            if operation.element is not None and operation.element not in shown:
                operation.result = None  # see the checker's docstring
        naive = _naive(history)
        verdicts.add(naive)
        assert (check_history(history) is None) == naive, "\n".join(map(str, history))
    assert verdicts == {True, False}
