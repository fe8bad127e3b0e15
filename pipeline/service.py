"""What the service manager that started this process is told (sd_notify(3), systemd's protocol).

The manager gives the address of a datagram socket in ``NOTIFY_SOCKET``, and in ``WATCHDOG_USEC``
the time after which it ends a service that has not said ``WATCHDOG=1``. The supervisor calls this
when it is ready, in each of its turns, when it reloads and when it stops. The watchdog is told only
while whoever knows says that everything makes progress, so the manager learns of what the
supervisor could not mend.

Owns the variables, which are taken out of the environment: no child is to speak for the service.
Nothing here waits and nothing here fails: a manager that is gone, or too busy to listen, does not
stop the pipeline. Without a manager every call does nothing.
"""

from __future__ import annotations

import re
import socket
from collections import deque
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Final

STATUS_EVERY_S: Final = 5.0
RECHECK_S: Final = 0.5  # of what made no progress when the watchdog was due, or found no room
MAX_STATUS_CHARACTERS: Final = 300  # it is shown in one line
MAX_UNSENT: Final = 8  # states that the manager had no room for; in practice one or two
US_PER_S: Final = 1_000_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Notifier:
    """Sends to a manager's datagram socket; ``address`` is a path, or "@" and an abstract name."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address[0] == "@" else address

    def __call__(self, message: str) -> bool:
        """Send; False if there was no room, and it may be tried again."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(message.encode(), self._address)
            except BlockingIOError:
                return False
            except OSError:  # nobody is there any more
                pass
        return True


class ServiceManager:
    """Says how the service is. ``send(message) -> bool`` is a ``Notifier`` or the like.

    ``watchdog_s``: the manager's patience; None if it has no watchdog. Times are CLOCK_MONOTONIC,
    in seconds.
    """

    def __init__(self, send: Callable[[str], bool], watchdog_s: float | None = None) -> None:
        self._send = send
        self._feed_every_s = None if watchdog_s is None else watchdog_s / 2
        self._feed_at_s = 0.0
        self._status_at_s = 0.0
        self._said = ""
        self._unsent: deque[str] = deque(maxlen=MAX_UNSENT)
        self._retry_at_s = 0.0
        self._is_ready = False
        self.stopped_feeding = False
        """Whether the watchdog waits for progress now."""

    def ready(self, now_s: float) -> None:
        """The service works; the watchdog runs from now on."""
        self._is_ready = self._send is not nobody
        self._feed_at_s = now_s
        self._state("READY=1")

    def reloading(self, now_s: float) -> None:
        """The configuration is being read again; nothing before ``ready``."""
        if self._is_ready:
            self._state(f"RELOADING=1\nMONOTONIC_USEC={round(now_s * US_PER_S)}")

    def reloaded(self) -> None:
        """It was."""
        if self._is_ready:
            self._state("READY=1")

    def stopping(self) -> None:
        """The service stops, whoever wanted it."""
        self._state("STOPPING=1")

    def next_due_s(self) -> float | None:
        """When ``turn`` has something to do."""
        if self._unsent:
            return self._retry_at_s
        if not self._is_ready:
            return None
        if self._feed_every_s is None:
            return self._status_at_s
        return min(self._status_at_s, self._feed_at_s)

    def turn(
        self, now_s: float, progressed: Callable[[float], bool], status: Callable[[], str]
    ) -> None:
        """Feed the watchdog and tell the status, when due.

        ``progressed(within_s)`` says whether everything that has to move has moved within so many
        seconds; ``status()`` is a line for people.
        """
        while self._unsent and self._send(self._unsent[0]):
            self._unsent.popleft()
        self._retry_at_s = now_s + RECHECK_S
        if not self._is_ready or self._unsent:
            return
        if self._feed_every_s is not None and now_s >= self._feed_at_s:
            self.stopped_feeding = not progressed(self._feed_every_s)
            if self.stopped_feeding or not self._send("WATCHDOG=1"):
                self._feed_at_s = now_s + min(RECHECK_S, self._feed_every_s)
            else:
                self._feed_at_s = now_s + self._feed_every_s
        if now_s >= self._status_at_s:
            self._status_at_s = now_s + STATUS_EVERY_S
            text = _CONTROL.sub(" ", status())[:MAX_STATUS_CHARACTERS]
            if text != self._said and self._send(f"STATUS={text}"):
                self._said = text

    def _state(self, message: str) -> None:
        """Say what must not get lost, in order."""
        if self._unsent or not self._send(message):
            self._unsent.append(message)


def nobody(message: str) -> bool:
    """Send to no manager."""
    return True


def from_environment(environment: MutableMapping[str, str], pid: int) -> ServiceManager:
    """The manager that the environment of a process names, whose variables are taken out of it.

    The watchdog is for another process if ``WATCHDOG_PID`` says so.
    """
    address = environment.pop("NOTIFY_SOCKET", "")
    usec = environment.pop("WATCHDOG_USEC", "")
    for_pid = environment.pop("WATCHDOG_PID", "") or str(pid)
    watchdog_s = None
    if for_pid == str(pid):
        with suppress(ValueError):
            watchdog_s = int(usec) / US_PER_S or None
    if len(address) < 2 or address[0] not in "/@":
        return ServiceManager(nobody)
    return ServiceManager(Notifier(address), watchdog_s)
