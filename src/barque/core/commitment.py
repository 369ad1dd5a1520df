"""When an entry is committed (§3.5, §3.6.2; COMMIT-01 to COMMIT-04)."""

from barque.core.applying import apply_to
from barque.core.effects import AuxEval, Effect
from barque.core.quorum import agreed
from barque.core.server import Server
from barque.types import Index


def match_indexes(server: Server) -> list[Index]:
    """What each voter has on disk. The leader counts itself by what is *written*, too.

    One that is being removed, or has given up its vote, does not count itself (§4.2.2).
    """
    others = [peer.match_index for _, peer in server.peers() if peer.voter]
    return [server.log.last_written().index, *others] if server.is_voter(server.id) else others


def advance_commit_index(server: Server) -> bool:
    """Figure 2, Leaders' last rule. Returns whether the commit index moved.

    Only an entry of the current term is committed by counting; earlier ones are committed
    with it (§3.6.2, Figure 3.7).
    """
    candidate = agreed(match_indexes(server))
    if candidate <= server.commit_index or server.log.fetch_term(Index(candidate)) != server.current_term:
        return False
    server.commit_index = Index(candidate)
    return True


def is_established(server: Server) -> bool:
    """Whether we lead, and have applied an entry of our own term: all earlier ones are answered."""
    leads = server.leader_id == server.id
    return leads and server.log.fetch_term(server.last_applied) == server.current_term


def evaluate_quorum(server: Server) -> list[Effect]:
    """Advance the commit index, then apply what that allows; Ra's `evaluate_quorum`."""
    moved = advance_commit_index(server)
    effects = apply_to(server, server.commit_index)
    return [*effects, AuxEval()] if moved else effects
