"""Show on stderr that a long piece of work goes on, and how far it is."""

import contextlib
import os
import sys
import threading
import time
from types import TracebackType

import click

_QUIET_S = 2.0
_TERMINAL_EVERY_S, _ELSEWHERE_EVERY_S = 0.25, 10.0


class Progress:
    """`with Progress("reading", "entries") as progress:` and set `done`, and `total` if it is known.

    Nothing is shown as long as the work is quiet for less than two seconds. Then a terminal shows one line
    that is written over; elsewhere a line comes every ten seconds. A thread shows it, so the work may block.
    Use `echo` for all other output of the work, which would be mixed up with the line otherwise.
    """

    def __init__(self, what: str, unit: str = "", total: int | None = None) -> None:
        self.what = what
        self.unit = unit
        self.total = total
        self.done = 0
        self._on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show_again_and_again, name="progress", daemon=True)
        self._begun_s = self._heard_s = time.monotonic()

    def __enter__(self) -> "Progress":
        self._begun_s = self._heard_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(1.0)  # it may hang in a write that nobody reads
        if not self._thread.is_alive():
            self._clear()

    def echo(self, text: str, *, err: bool = False) -> None:
        """Print a line of the work's own."""
        with self._lock:
            self._clear()
            click.echo(text, err=err)
            self._heard_s = time.monotonic()

    def __str__(self) -> str:
        """How far it is: `checking: 3 of 20 seeds, 12 s`."""
        counted = f"{self.done:,}" if self.total is None else f"{self.done:,} of {self.total:,}"
        spent = f"{time.monotonic() - self._begun_s:.0f} s"
        return f"{self.what}: {counted} {self.unit}, {spent}" if self.unit else f"{self.what}: {spent}"

    def _show_again_and_again(self) -> None:
        every_s = _TERMINAL_EVERY_S if self._on_terminal else _ELSEWHERE_EVERY_S
        shown_s = -every_s
        while not self._over.wait(_TERMINAL_EVERY_S):
            with self._lock, contextlib.suppress(OSError, ValueError):  # nobody reads it: no reason to end
                now = time.monotonic()
                if now - max(self._heard_s, self._begun_s) >= _QUIET_S and now - shown_s >= every_s:
                    self._show()
                    shown_s = now

    def _show(self) -> None:
        if self._on_terminal:
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            sys.stderr.write(f"\r\x1b[K{str(self)[: width - 1]}")
            self._shown = True
        else:
            sys.stderr.write(f"{self}\n")
        sys.stderr.flush()

    def _clear(self) -> None:
        if self._shown:
            self._shown = False
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
