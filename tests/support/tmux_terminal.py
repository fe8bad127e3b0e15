"""A program in tmux: a real terminal emulator, with a server and a socket of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

DEADLINE_S = 60.0
TMUX = shutil.which("tmux")


class TmuxTerminal:
    """A detached session with one program in it; a context manager that leaves nothing behind."""

    def __init__(self, command: Sequence[str], columns: int = 80, rows: int = 24) -> None:
        self._command = command
        self._size = ("-x", str(columns), "-y", str(rows))

    def __enter__(self) -> Self:
        self._directory = Path(
            tempfile.mkdtemp(prefix="tmux-")
        )  # short: a socket's path is bounded
        self._server: psutil.Process | None = None
        try:
            # As in a shell, which stays when the program ends, and here says with which status.
            program = f"{shlex.join(self._command)}; echo ended with $?; exec cat"
            self.tmux("new-session", "-d", *self._size, program)
            self._server = psutil.Process(int(self.asked("#{pid}")))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        processes = []
        if self._server is not None:
            processes = [self._server, *self._server.children(recursive=True)]
        with suppress(subprocess.SubprocessError):
            self.tmux("kill-server")
        _, alive = psutil.wait_procs(processes, timeout=5)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        shutil.rmtree(self._directory)

    def tmux(self, *command: str) -> str:
        """What tmux says to a command for this server alone."""
        assert TMUX is not None
        environment = {name: value for name, value in os.environ.items() if name != "TMUX"}
        done = subprocess.run(
            [TMUX, "-u", "-f", "/dev/null", "-S", str(self._directory / "socket"), *command],
            env=environment | {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"},
            capture_output=True, text=True, timeout=DEADLINE_S, check=True,
        )  # fmt: skip
        return done.stdout

    def press(self, *keys: str) -> None:
        """Type keys, as tmux names them."""
        self.tmux("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self.tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def lines(self) -> list[str]:
        """What stands on the screen."""
        return self.tmux("capture-pane", "-p").split("\n")[:-1]

    def asked(self, wanted: str) -> str:
        """A format of tmux, as "#{cursor_flag}"."""
        return self.tmux("display", "-p", wanted).strip()

    def wait_for(self, condition: Callable[[list[str]], bool], what: str) -> list[str]:
        """The screen as soon as it is so."""
        until_s = time.monotonic() + DEADLINE_S
        while not condition(lines := self.lines()):
            assert time.monotonic() < until_s, f"not in time: {what}\n" + "\n".join(lines)
            time.sleep(0.05)
        return lines

    def wait_for_text(self, *words: str) -> list[str]:
        return self.wait_for(lambda lines: all(w in "\n".join(lines) for w in words), str(words))
