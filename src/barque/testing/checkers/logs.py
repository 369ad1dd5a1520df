"""I20: snapshot, segments, memory and write-ahead log together hold each entry once, without a gap."""

from barque.core.log_contract import read_batches
from barque.core.state import Server
from barque.testing.checkers.safety import Violation


def judge_log(server: Server) -> Violation | None:
    """Read a member's whole log: what its snapshot leaves out must be there, each entry with its term."""
    log, states = server.log, list[str]()
    first, last, snapshot = log.first_index(), log.last_index_term(), log.snapshot_index_term()
    if first > snapshot.index + 1:
        states.append(f"the log begins at {first}, its snapshot ends at {snapshot}")
    expected, term = int(first), 0
    for batch in read_batches(log, first, last.index):
        if batch.first_index != expected or batch.term < term:
            states.append(f"{batch.first_index} of term {batch.term} follows {expected - 1} of term {term}")
        for index in (batch.first_index, batch.last_index):
            if log.fetch_term(index) != batch.term:
                states.append(f"{index} has term {log.fetch_term(index)}, and its entry {batch.term}")
        expected, term = batch.last_index + 1, batch.term
    if expected != last.index + 1:
        states.append(f"the entries end at {expected - 1}, the log at {last}")
    if last.index < snapshot.index or log.last_written().index < min(first - 1, last.index):
        states.append(f"the log ends at {last}, written {log.last_written()}, snapshot {snapshot}")
    return Violation("one log without gaps (I20)", str(server.id), tuple(states)) if states else None
