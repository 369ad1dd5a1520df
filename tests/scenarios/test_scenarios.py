"""Transcripts of whole conversations.

After a change: `BARQUE_REWRITE=1 pytest tests/scenarios`, then read the diff.
"""

import os
from pathlib import Path

import pytest
from tests.kit.scenarios import play

SCENARIOS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_what_happens_is_what_the_transcript_says(path: Path) -> None:
    """Each command leads to exactly the messages, answers and states that stand below it."""
    expected = path.read_text()
    happened = play(expected)
    if os.environ.get("BARQUE_REWRITE"):
        path.write_text(happened)
        return
    assert happened == expected


def test_a_transcript_with_a_wrong_command_is_refused() -> None:
    """A misspelt command is an error of the transcript, not silence."""
    with pytest.raises(ValueError, match="no such command"):
        play("> clutser a b c\n")
