"""A program in a real pseudo-terminal, and what stands on the screen.

Understands what full-screen programs of this project send: cursor addresses, erasing, private
modes; colours are noted and otherwise passed over. Anything else is an error, so that a test sees
it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

DEADLINE_S = 60.0
_TOKEN = re.compile(r"\x1b\[([?]?)([0-9;]*)([A-Za-z])|\x1b|[\r\n]|[^\x1b\r\n]+", re.DOTALL)
_MARK = b"\x00mark\x00"
_PARTIAL = re.compile(r"\x1b(?:\[[?]?[0-9;]*)?\Z")


class Screen:
    """A grid of characters, fed with what a program writes."""

    def __init__(self, columns: int, rows: int) -> None:
        self.modes: set[int] = {7, 25}  # private modes that are on: wrapping, cursor shown
        self.styles: set[str] = set()
        self._rest = ""
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._cells = [[" "] * columns for _ in range(rows)]
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        text = self._rest + text
        partial = _PARTIAL.search(text)
        self._rest = partial[0] if partial else ""
        for token in _TOKEN.finditer(text[: len(text) - len(self._rest)]):
            self._take(token)

    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._cells]

    def text(self) -> str:
        return "\n".join(self.lines())

    def line_with(self, word: str) -> str:
        """The first line with this word, "" if there is none."""
        return next((line for line in self.lines() if word in line), "")

    def _take(self, token: re.Match[str]) -> None:
        private, numbers, what = token.groups()
        if what is None:
            self._write(token[0])
        elif private:
            assert what in "hl", token[0]
            change = self.modes.add if what == "h" else self.modes.discard
            change(int(numbers))
        elif what == "m":
            self.styles.add(numbers)
        elif what == "H":
            row, _, column = numbers.partition(";")
            self._row, self._column = int(row or 1) - 1, int(column or 1) - 1
        elif what == "K":
            if self._row < self.rows:
                self._cells[self._row][self._column :] = [" "] * (self.columns - self._column)
        elif what == "J":
            assert numbers == "2", token[0]
            self._cells = [[" "] * self.columns for _ in range(self.rows)]
        else:
            raise AssertionError(f"the screen was sent {token[0]!r}")

    def _write(self, text: str) -> None:
        for character in text:
            if character == "\r":
                self._column = 0
            elif character == "\n":
                self._row = min(self._row + 1, self.rows - 1)
            elif self._row < self.rows:  # else: drawn for the size before
                self._cells[self._row][self._column] = character
                # Without wrapping it stays at the last column, and what erases there takes that.
                self._column = min(self._column + 1, self.columns - 1)


class PtyProgram:
    """A program whose terminal is a pseudo-terminal of its own; ends with the context."""

    def __init__(
        self,
        command: Sequence[str],
        columns: int = 80,
        rows: int = 24,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._master, self._slave = pty.openpty()
        self.screen = Screen(columns, rows)
        self._set_size(columns, rows)
        self.modes_before = termios.tcgetattr(self._slave)
        given = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        given |= {"TERM": "xterm-256color", "LANG": "C.UTF-8"} | dict(environment or {})
        for name in ("COLUMNS", "LINES"):
            given.pop(name, None)
        self.process = subprocess.Popen(
            command,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=given,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        for end in (self._master, self._slave):
            if end >= 0:
                os.close(end)

    def hang_up(self) -> None:
        """The terminal goes away."""
        for end in (self._master, self._slave):
            os.close(end)
        self._master = self._slave = -1

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        self.read()
        self.screen.resize(columns, rows)
        self._set_size(columns, rows)  # the kernel sends SIGWINCH

    def read(self, at_most_s: float = 0.0) -> None:
        """Take what the program has written."""
        while select.select([self._master], [], [], at_most_s)[0]:
            self.screen.feed(os.read(self._master, 65_536).decode("utf-8", "replace"))
            at_most_s = 0.0

    def wait_for(self, condition: Callable[[Screen], Any], what: str = "") -> Any:
        """Read until the screen is as it should be; fails at the deadline."""
        until_s = time.monotonic() + DEADLINE_S
        while not (found := condition(self.screen)):
            assert time.monotonic() < until_s, f"{what}\n{self.screen.text()}"
            self.read(0.05)
        return found

    def wait_for_text(self, *words: str) -> None:
        self.wait_for(
            lambda screen: all(word in screen.text() for word in words), f"no {words} on the screen"
        )

    def wait_end(self) -> int:
        """The exit status, after all output was read."""
        until_s = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < until_s, f"it does not end\n{self.screen.text()}"
            self.read(0.05)
        self._read_all()
        return self.process.wait()

    def _read_all(self) -> None:
        """Read until a mark of ours, which comes behind everything: the kernel takes its time."""
        self.read()
        os.write(self._slave, _MARK)
        output = b""
        while not output.endswith(_MARK):
            assert select.select([self._master], [], [], DEADLINE_S)[0], "the mark does not come"
            output += os.read(self._master, 65_536)
        self.screen.feed(output.removesuffix(_MARK).decode("utf-8", "replace"))

    def modes(self) -> list[Any]:
        """What the kernel knows of the terminal now."""
        return termios.tcgetattr(self._slave)

    def is_restored(self) -> bool:
        """Whether the terminal is as it was before the program."""
        return self.modes() == self.modes_before and self.screen.modes == {7, 25}

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
