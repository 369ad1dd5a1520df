"""The checker of Ra's rules sees a step that breaks one."""

import pytest

from barque.core import messages as m
from barque.core.effects import Effect
from barque.core.state import Server
from barque.core.terms import KINDS
from barque.testing.checkers.rules import watched_rules
from barque.testing.sim.simulator import simulate


def silent(_server: Server, _message: m.Message) -> list[Effect]:
    """Answer nothing."""
    return []


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        (m.AppendEntriesRpc, {"L-21", "C-5", "P-12"}),
        (m.PreVoteRpc, {"C-11", "S-12"}),
    ],
    ids=["old leaders are not told", "candidates are not told"],
)
def test_a_broken_rule_is_named(monkeypatch: pytest.MonkeyPatch, kind: type, rules: set[str]) -> None:
    """Without the answer to an earlier term the rules that demand it are broken, and no other one."""
    monkeypatch.setitem(KINDS, kind, KINDS[kind]._replace(refuse=silent))
    with watched_rules() as watch:
        for seed in range(501, 531):
            simulate(seed)
            if watch.broken:
                break
    broken = {said.partition(":")[0] for said in watch.broken}
    assert broken
    assert broken <= rules
