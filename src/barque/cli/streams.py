"""The standard streams of a node: nobody who reads them, or does not, can stop the process.

A write to a pipe that nobody reads waits, and so does one to a terminal in ^S. The event loop must never do
that. So a node writes to an `Outlet`: lines wait in a bounded queue for a daemon thread that writes them.
Outlets take the place of `sys.stdout` and `sys.stderr`, since log handlers, tracebacks, warnings and the
`print` of a machine all end there. A line that finds the queue full is dropped and counted, and so is a line
that cannot be written (a full disk, a closed pipe). The count is told when lines can be written again.
"""

import atexit
import contextlib
import io
import os
import queue
import select
import sys
import threading
import time

_LINES_MAX = 1_000
_LINE_MAX = 16 * 1024
_DRAIN_S = 1.0
_NAMES = ("stdin", "stdout", "stderr")


def open_closed_streams() -> None:
    """Open /dev/null in the place of standard streams that were closed when the process started.

    Otherwise the next file or socket would take the number, and get what is meant for the stream.
    """
    for descriptor, name in enumerate(_NAMES):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


class Outlet(io.TextIOBase):
    """A text stream whose writers never wait."""

    def __init__(self, descriptor: int, encoding: str = "utf-8", lines_max: int = _LINES_MAX) -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._lines_max = lines_max
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._unfinished = threading.local()  # each thread's last line, until it ends
        self._count_lock = threading.RLock()  # a finalizer may print in the middle of anything
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name=f"outlet-{descriptor}", daemon=True)
        self._thread.start()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has a plain attribute
        """The encoding of the bytes that are written."""
        return self._encoding

    def writable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def fileno(self) -> int:
        """See `io.IOBase`."""
        return self._descriptor

    def isatty(self) -> bool:
        """See `io.IOBase`."""
        return os.isatty(self._descriptor)

    def write(self, text: str) -> int:
        """Take the text; each whole line waits for the thread, or is dropped."""
        *lines, rest = (getattr(self._unfinished, "text", "") + text).split("\n")
        if len(rest) > _LINE_MAX:
            lines, rest = [*lines, rest], ""
        self._unfinished.text = rest
        for line in lines:
            if self._lines.qsize() < self._lines_max:
                self._lines.put(line[:_LINE_MAX])
            else:
                self._count_dropped(1)
        return len(text)

    def drain(self, timeout_s: float) -> None:
        """Wait at most this long until everything is written. Nothing may be written afterwards."""
        if getattr(self._unfinished, "text", ""):
            self.write("\n")
        self._lines.put(None)
        self._thread.join(timeout_s)

    def _count_dropped(self, count: int) -> None:
        with self._count_lock:
            self._dropped += count

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            if not self._write_line(line):
                self._count_dropped(1)
            elif self._dropped and self._lines.empty():
                self._tell_dropped()

    def _tell_dropped(self) -> None:
        dropped = self._dropped
        if self._write_line(f"barque: {dropped} lines were dropped: they could not be written in time"):
            self._count_dropped(-dropped)

    def _write_line(self, line: str) -> bool:
        data = memoryview(f"{line}\n".encode(self._encoding, "backslashreplace"))
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another program has made the terminal or pipe non-blocking
                select.select((), (self._descriptor,), ())
            except OSError:
                return False
        return True


def install_outlets() -> None:
    """Let `sys.stdout` and `sys.stderr` never wait, until the process ends; drain them then."""
    for descriptor, name in enumerate(_NAMES[1:], 1):
        stream = getattr(sys, name)
        if isinstance(stream, Outlet):
            continue
        with contextlib.suppress(OSError):
            stream.flush()
        setattr(sys, name, Outlet(descriptor, getattr(stream, "encoding", None) or "utf-8"))
    atexit.register(drain_outlets)


def drain_outlets() -> None:
    """Give what was printed a second to be written."""
    deadline = time.monotonic() + _DRAIN_S
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Outlet):
            stream.drain(max(0.0, deadline - time.monotonic()))
