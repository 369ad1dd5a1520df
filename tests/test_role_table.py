"""The page of roles and messages: made from the core's tables, so that it cannot be wrong.

`BARQUE_REWRITE=1 pytest tests/test_role_table.py` writes docs/reference/roles-and-messages.md anew.
"""

import os
from pathlib import Path
from typing import Any, get_args

from barque.core import messages as m
from barque.core.dispatch import MESSAGES, ignore, impossible
from barque.core.step import TABLES
from barque.core.terms import KINDS

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "roles-and-messages.md"
GROUPS: list[tuple[str, tuple[Any, ...]]] = [
    ("Between servers", get_args(m.FromServer)),
    ("From clients", get_args(m.FromClient)),
    ("Inside a server", tuple(k for k in MESSAGES if k not in get_args(m.RemoteMessage))),
]
HEAD = """# Roles and messages

What a server does with each message in each role. This page is made from the tables of the core
(`BARQUE_REWRITE=1 pytest tests/test_role_table.py`). A cell names the function in `src/barque/core/`; `·`
means ignored (the table of the role says why), `×` means impossible: the term rule ends the role first.

## Before the table: the term rule

`core/terms.py` settles the term of a message before the table is asked (§3.3).

| message | lower term | higher term, from a server outside the configuration | in our term |
|---|---|---|---|
"""


def name_of(handler: Any) -> str:
    """How a cell names what handles the message."""
    if handler is ignore:
        return "·"
    return "×" if handler is impossible else f"`{handler.__name__.lstrip('_')}`"


def page() -> str:
    """The page as the code says it now."""
    lines = [HEAD.rstrip()]
    for kind, row in KINDS.items():
        lower = "dropped" if row.counted else f"`{row.refuse.__name__}`"
        outside = "deposes a leader too" if row.from_outside else "a leader ignores it"
        equal = "its sender leads: candidates give way, followers follow it" if row.from_leader else "–"
        lines.append(f"| {kind.__name__} | {lower} | {outside} | {equal} |")
    lines.append(
        "\nEvery role adopts the higher term of a member: the server stores the term, forgets the old leader"
        "\nand its vote, and becomes a follower. `TimeoutNow` and `ServerDown` carry no term."
    )
    for title, kinds in GROUPS:
        lines += ["", f"## {title}", "", "| message | " + " | ".join(map(str, TABLES)) + " |"]
        lines.append("|---" * (len(TABLES) + 1) + "|")
        for kind in kinds:
            cells = [name_of(table[kind]) for table in TABLES.values()]
            lines.append(f"| {kind.__name__} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def test_the_page_of_roles_and_messages_is_up_to_date() -> None:
    """People read what the tables say now; each message has its row, and each role its column."""
    if os.environ.get("BARQUE_REWRITE"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "run BARQUE_REWRITE=1 pytest tests/test_role_table.py"


def test_every_message_is_in_one_group() -> None:
    """The page leaves no message out."""
    assert sorted(k.__name__ for _, kinds in GROUPS for k in kinds) == sorted(k.__name__ for k in MESSAGES)
