"""A line for every administrative act: who asked for what, and how it ended.

The lines go to the logger `barque.audit`, at INFO. They name the verb, the cluster, the arguments that choose
what is changed, the role and the address of whoever asked, and the outcome. They never hold commands,
replies, a machine's arguments, or secrets. What every client may ask leaves no line.
"""

import logging
from collections.abc import Mapping
from typing import Any

from barque.transport.authorization import VERBS, Role

logger = logging.getLogger("barque.audit")

_SHOWN = ("cluster", "node", "nodes", "member", "membership", "target", "machine", "consistent", "forwarded")
_TEXT_MAX = 120


def note(verb: str, arguments: Mapping[str, Any], who: str, outcome: str) -> None:
    """Write the line of one act, unless every client may ask for its verb."""
    if VERBS.get(verb, Role.NODE) is Role.CLIENT:
        return
    shown = [
        f"{name}={_text(arguments[name])}" for name in _SHOWN if arguments.get(name) not in (None, False)
    ]
    logger.info("%s: %s", " ".join((_text(verb), *shown, "by", who)), _text(outcome))


def _text(value: Any) -> str:
    """One short line of printable characters, whatever a client has sent."""
    text = "".join(c if c.isprintable() else "?" for c in str(value)[: _TEXT_MAX + 1])
    return text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + "…"
