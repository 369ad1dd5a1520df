"""The events of a run: a hash of all events, and the last events as text."""

import hashlib
import re
from collections import Counter, deque

from barque.errors import ProtocolError
from barque.testing.sim.loop import VirtualLoop
from barque.transport import wire

_LAST = 400
_NOISE = re.compile(r"ServerId\(name='\w+', node=|, timestamp_ms=\d+|(?<='n\d')\)")


class Transcript:
    """Takes every event of a run. Two runs are the same if and only if their hashes are equal.

    `keep` is how many of the last events it keeps for `tail`; `echo` prints all events.
    """

    def __init__(self, loop: VirtualLoop, *, keep: int = _LAST, echo: bool = False) -> None:
        self._loop = loop
        self._hash = hashlib.blake2b(digest_size=16)
        self._last: deque[tuple[float, str, str, bytes | None]] = deque(maxlen=keep)
        self._echo = echo
        self.events = 0
        self.counts: Counter[str] = Counter()

    def note(self, who: str, text: str) -> None:
        """Add an event of a node, a client or the simulation."""
        self._add(who, text, None)

    def frame(self, source: str, target: str, payload: bytes) -> None:
        """Add a frame that a node has written."""
        self._add(source, target, payload)

    def _add(self, who: str, text: str, payload: bytes | None) -> None:
        now = self._loop.now
        self.events += 1
        if payload is None:
            self._hash.update(f"{now!r} {who} {text} ".encode())
        else:
            self._hash.update(b"%a %b %b %b" % (now, who.encode(), text.encode(), payload))
            if payload == wire.ALIVE_PAYLOAD:
                return
        self._last.append((now, who, text, payload))
        if self._echo:
            for line in _lines(self._last[-1]):
                print(line)  # the user asked for a trace

    def hexdigest(self) -> str:
        """The hash of all events so far."""
        return self._hash.hexdigest()

    def tail(self, events: int = 60) -> str:
        """The last events, one in each line."""
        lines = [line for event in self._last for line in _lines(event)]
        return "\n".join(lines[-events:])


def _lines(event: tuple[float, str, str, bytes | None]) -> list[str]:
    now, who, text, payload = event
    if payload is None:
        return [f"{now:12.6f}  {who:4} {text}"]
    try:
        envelopes = wire.decode_envelopes(payload)
    except ProtocolError as error:
        return [f"{now:12.6f}  {who:4} → {text}: {error}"]
    return [
        f"{now:12.6f}  {who:4} → {text}: {_short(envelope.message)}"
        for envelope in envelopes
        if not isinstance(envelope.message, wire.Alive)
    ]


def _short(message: object) -> str:
    text = _NOISE.sub("", repr(message))
    return text if len(text) < 200 else text[:197] + "…"
