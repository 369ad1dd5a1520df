"""One PySyncObj node, which is a client as well: its API has no other way in.

Runs in PySyncObj's own virtual environment. Reads orders from standard input and answers each
with one line: `leader` → `yes`, `no`; `load ROW SECONDS PAYLOAD` → the result as JSON;
`probe` → milliseconds to the first write acknowledged from then on.
"""

import json
import sys
import threading
import time

from pysyncobj import SyncObj, SyncObjConf, replicated

WINDOW, CALLERS, MARK_EVERY = 5 * 500, 64, 32
TIMEOUT_S = 30.0


class Counter(SyncObj):
    """The machine: counts commands."""

    def __init__(self, address: str, others: list[str], journal: str) -> None:
        conf = SyncObjConf(journalFile=journal, commandsQueueSize=1_000_000, dynamicMembershipChange=False)
        super().__init__(address, others, conf)
        self.count = 0

    @replicated
    def add(self, payload: bytes) -> None:
        """One command."""
        self.count += 1


class Window:
    """Keeps so many commands in flight, from their own callbacks, until the time is over."""

    def __init__(self, node: Counter, size: int, payload: bytes, seconds: float) -> None:
        self._node, self._payload = node, payload
        self._start = time.perf_counter()
        self._until = self._start + seconds
        self._lock = threading.Lock()
        self._every = MARK_EVERY if size > CALLERS else 1
        self.sent = self.answered = self.failed = 0
        self.latencies: list[int] = []
        self.done = threading.Event()
        for _ in range(size):
            self._send()

    def _send(self) -> None:
        with self._lock:
            number = self.sent
            self.sent += 1
        then = time.perf_counter()
        self._node.add(self._payload, callback=lambda _, error: self._answered(number, then, error))

    def _answered(self, number: int, then: float, error: object) -> None:
        now = time.perf_counter()
        with self._lock:
            self.answered += 1
            if error:
                self.failed += 1
            elif number % self._every == 0:
                self.latencies.append(int((now - then) * 1e6))
            over = now >= self._until
            if over and self.answered == self.sent:
                self.elapsed = now - self._start
                self.done.set()
        if not over:
            self._send()

    def result(self) -> dict[str, object]:
        """Wait for the end."""
        if not self.done.wait(self._until - time.perf_counter() + TIMEOUT_S) or self.failed:
            raise SystemExit(f"{self.failed} of {self.sent} failed, {self.answered} answered")
        latencies = sorted(self.latencies)
        step = max(1, len(latencies) // 4000)
        return {
            "commands": self.answered,
            "seconds": self.elapsed,
            "latencies_us": latencies[::step] if len(latencies) > 4000 else latencies,
        }


def probe(node: Counter, payload: bytes) -> float:
    """Attempt a write every 2 ms; milliseconds until one of them is acknowledged."""
    start = time.perf_counter()
    success = threading.Event()

    def on_answer(_: object, error: object) -> None:
        if not error:
            success.set()

    while not success.wait(0.002):
        node.add(payload, callback=on_answer)
        if time.perf_counter() - start > TIMEOUT_S:
            raise SystemExit("no failover")
    return (time.perf_counter() - start) * 1000


def main() -> None:
    """Obey until standard input ends."""
    address, others, journal = sys.argv[1], sys.argv[2].split(","), sys.argv[3]
    node = Counter(address, others, journal)
    for line in sys.stdin:
        match line.split():
            case ["leader"]:
                answer = "yes" if node._isLeader() and node.isReady() else "no"
            case ["load", row, seconds, payload]:
                size = {"pipeline": WINDOW, "sequential": 1, "concurrent": CALLERS}[row]
                answer = json.dumps(Window(node, size, b"x" * int(payload), float(seconds)).result())
            case ["probe", payload]:
                answer = str(probe(node, b"x" * int(payload)))
            case _:
                raise SystemExit(f"what is {line!r}?")
        print(answer, flush=True)


main()
