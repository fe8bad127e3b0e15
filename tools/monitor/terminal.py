"""The terminal: the one place that writes to the screen, reads keys and hears signals.

`Terminal` is a context: inside, the terminal shows the alternate screen and gives keys as they are
pressed; after it, however it was left, everything is as before. `show` sends the lines that have
changed and no others, so nothing flickers and a slow line is not flooded. `wait` returns what came:
keys, a new size, a wish to end. Signals are turned into bytes of a pipe, so nothing happens between
two lines of anybody's code. What kills it: a terminal that is gone (OSError).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import termios
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, Self, TextIO

from rich.console import Console

from tools.monitor.frame import Frame, Size
from tools.monitor.ink import Line
from tools.monitor.keys import decode

ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
LEAVE: Final = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
BEGIN_FRAME, END_FRAME = "\x1b[?2026h", "\x1b[?2026l"
"""Synchronised output: terminals that know it show a frame at once, others ignore the marks."""

ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
HEARD: Final = (*ENDING, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
READ_BYTES: Final = 1024
DEFAULT_SIZE: Final = Size(80, 24)


@dataclass(frozen=True, slots=True)
class Happened:
    """What came while the terminal waited; ``ended_by`` is a signal that wants an end."""

    keys: tuple[str, ...] = ()
    redraw: bool = False
    ended_by: int | None = None


def console_on(file: TextIO, *, colour: bool) -> Console:
    """Rich as the frames need it; NO_COLOR is heeded, too."""
    return Console(
        file=file, no_color=None if colour else True, highlight=False, legacy_windows=False
    )


class Terminal:
    """The terminal behind two open files, ``keys`` and ``screen``, for the length of a context."""

    def __init__(self, keys: TextIO, screen: TextIO, *, colour: bool) -> None:
        self._keys_fd = keys.fileno()
        self._screen = screen
        self._console = console_on(screen, colour=colour)
        self._ascii_only = "utf" not in (screen.encoding or "").lower()
        self._shown: list[str] = []
        self._former: dict[int, object] = {}
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)

    def __enter__(self) -> Self:
        self._modes = termios.tcgetattr(self._keys_fd)
        self._former_wakeup = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        for number in HEARD:
            self._former[number] = signal.signal(number, _heard)
        try:
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._give()
        finally:
            for number, handler in self._former.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            signal.set_wakeup_fd(self._former_wakeup)
            self._ours.close()
            self._theirs.close()

    def size(self) -> Size:
        """The size of the screen now."""
        found = os.get_terminal_size(self._screen.fileno())
        return Size(*found) if found.columns and found.lines else DEFAULT_SIZE

    def show(self, lines: Sequence[Line]) -> None:
        """Bring the screen to these lines, each as wide as the screen: nothing is erased, which at
        the last column would take a character away.
        """
        self._console.width = max(1, sum(len(text) for text, _ in lines[0])) if lines else 1
        with self._console.capture() as captured:
            frame = Frame(lines, ascii_only=self._ascii_only)
            self._console.print(frame, end="", soft_wrap=True)
        texts = captured.get().split("\n")
        parts = [
            f"\x1b[{row}H{text}"
            for row, text in enumerate(texts, 1)
            if row > len(self._shown) or self._shown[row - 1] != text
        ]
        self._shown = texts
        if parts:
            self._write(BEGIN_FRAME + "".join(parts) + END_FRAME)

    def wait(self, at_most_s: float) -> Happened:
        """Wait for keys or signals, no longer than that; returns what came."""
        ours_fd = self._ours.fileno()
        ready, _, _ = select.select([self._keys_fd, ours_fd], [], [], max(0.0, at_most_s))
        keys: tuple[str, ...] = ()
        ended_by, redraw = None, False
        if ours_fd in ready:
            for number in self._ours.recv(READ_BYTES):
                if number in ENDING:
                    ended_by = number
                else:
                    self._changed(number)
                    redraw = True
        if self._keys_fd in ready:
            data = os.read(self._keys_fd, READ_BYTES)
            if not data:  # hung up
                ended_by = signal.SIGHUP
            keys = tuple(decode(data))
        if redraw or "redraw" in keys:
            self._shown = []
            self._write("\x1b[2J")
            redraw = True
        return Happened(keys, redraw, ended_by)

    def _changed(self, number: int) -> None:
        """Stop as the shell wants it (Ctrl-Z), with the terminal as it was, until it goes on; take
        the terminal again after any stop, for the shell had it meanwhile.
        """
        if number == signal.SIGTSTP:
            self._give()
            os.kill(os.getpid(), signal.SIGSTOP)
        if number != signal.SIGWINCH:
            self._take()

    def _take(self) -> None:
        modes: list[Any] = list(self._modes)
        modes[6] = list(modes[6])
        modes[3] &= ~(termios.ICANON | termios.ECHO)  # Ctrl-C and Ctrl-Z remain signals
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 0, 0
        termios.tcsetattr(self._keys_fd, termios.TCSADRAIN, modes)
        self._shown = []
        self._write(ENTER)

    def _give(self) -> None:
        try:
            self._write(LEAVE)
        finally:
            termios.tcsetattr(self._keys_fd, termios.TCSADRAIN, self._modes)

    def _write(self, text: str) -> None:
        self._screen.write(text)
        self._screen.flush()


def _heard(_number: int, _frame: FrameType | None) -> None:
    """Nothing: the number is in the pipe."""
