"""Somebody who watches a node while it is measured: the real ``time-monitor`` on a terminal.

The terminal is a pseudo-terminal of this process, read while it waits (`Onlooker.wait`), as a
terminal emulator would. `Onlooker` owns the process and the terminal; both are gone when the
context is left.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Final, Self

from tools.bench.errors import BenchFailed
from tools.bench.process import cpu_ns, die_with_parent
from tools.monitor.terminal import BEGIN_FRAME

COLUMNS: Final = 120
ROWS: Final = 40
INTERVAL_S: Final = 0.25  # four looks a second: the fastest that it can
READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 10.0
READ_BYTES: Final = 65_536
LAST_BYTES: Final = 512  # to quote, if it ends
_MARK: Final = BEGIN_FRAME.encode()


class Onlooker:
    """time-monitor on a data directory."""

    def __init__(self, datadir: Path) -> None:
        self.frames = 0
        self._last = b""
        self._master, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        unwanted = ("NO_COLOR", "COLUMNS", "LINES")
        environment = {name: value for name, value in os.environ.items() if name not in unwanted}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tools.monitor", str(datadir),
                 "--interval", str(INTERVAL_S)],
                stdin=terminal, stdout=terminal, stderr=terminal,
                env=environment | {"TERM": "xterm-256color", "LANG": "C.UTF-8"},
                start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        except BaseException:
            os.close(self._master)
            raise
        finally:
            os.close(terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    @property
    def cpu_ns(self) -> int:
        """What it has used so far."""
        return cpu_ns(self._process.pid)

    def wait_ready(self) -> None:
        """Wait until it draws what it has found out; raises BenchFailed."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while self.frames < 2:  # the first look knows no rates
            if time.monotonic() > deadline_s:
                raise BenchFailed(f"time-monitor drew nothing for {READY_TIMEOUT_S:g} s")
            self.wait(INTERVAL_S)

    def wait(self, seconds: float) -> None:
        """Let time pass, and take what is drawn; raises BenchFailed if it ended."""
        deadline_s = time.monotonic() + seconds
        while (left_s := deadline_s - time.monotonic()) > 0:
            if select.select([self._master], [], [], left_s)[0]:
                self._read()

    def stop(self) -> None:
        """Leave it as people do; raises BenchFailed unless it ends with 0."""
        os.write(self._master, b"q")
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline_s:
            if select.select([self._master], [], [], INTERVAL_S)[0]:
                try:
                    os.read(self._master, READ_BYTES)
                except OSError:  # it has closed the terminal: its end is near
                    self._process.wait(STOP_TIMEOUT_S)
        if self._process.poll() != 0:
            raise BenchFailed(f"time-monitor did not end in order ({self._process.poll()})")

    def _read(self) -> None:
        try:
            data = os.read(self._master, READ_BYTES)
        except OSError:
            text = self._last.decode(errors="replace").strip()
            raise BenchFailed(f"time-monitor ended: {text}") from None
        seen = self._last[1 - len(_MARK) :] + data  # a mark may be cut in two
        self.frames += seen.count(_MARK)
        self._last = (self._last + data)[-LAST_BYTES:]
