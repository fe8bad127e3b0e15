"""Signals as readable bytes: what the supervisor's selector waits for instead of being interrupted.

Owns the process's handlers of the stop signals while it is entered, and puts the former ones back.
"""

from __future__ import annotations

import signal
import socket
from contextlib import suppress
from types import FrameType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Context manager; ``fileno`` is readable when a stop signal came, ``take`` says which.

    Enter it in the main thread. SIGHUP stays ignored if it was (nohup). SIGCHLD is set to its
    default, because a parent that was started with it ignored would never learn how its children
    ended.
    """

    def __enter__(self) -> Self:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._former: dict[int, Any] = {}
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, _noticed)
        self._former[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._former_fd = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.set_wakeup_fd(self._former_fd)
        for number, handler in self._former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._receiver.close()
        self._sender.close()

    def fileno(self) -> int:
        return self._receiver.fileno()

    def take(self) -> list[int]:
        """The stop signals that came since the last call."""
        with suppress(BlockingIOError):
            return [number for number in self._receiver.recv(256) if number in STOP_SIGNALS]
        return []


def _noticed(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor already has it."""
