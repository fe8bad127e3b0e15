"""Starting a child process: ``multiprocess`` with what a pipeline of processes does not want left
out.

Takes a ``Launch`` and gives a started process, its descriptors inherited, nothing else. Five things
differ from a plain ``Process.start()``, all of them only while it runs:

- the parent's ``__main__`` is not run again in the child: started from a console script, a test
  runner or ``python -m``, a child imports what its stages import and nothing more (``net`` must
  never map what a command line may need);
- no resource tracker is started: it is a process that outlives ``kill -9`` of everything, and a
  pipeline has nothing for it to track;
- standard streams are not flushed: a log that nobody reads any more (a closed pipe, a full disk)
  must not keep a stage from being started;
- stop signals are blocked until the child ignores them, so Ctrl-C never hits one half-way;
- ``dill`` is not imported, which ``multiprocess`` would use as its pickle: 5 MB and 80 ms a
  process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

if "multiprocess" not in sys.modules and "dill" not in sys.modules:
    sys.modules["dill"] = None  # type: ignore[assignment]  # an import of it fails, as if not installed
    import multiprocess.spawn

    del sys.modules["dill"]

import multiprocess
import multiprocess.resource_tracker
import multiprocess.spawn

from pipeline.child import Launch, child_main
from pipeline.signals import STOP_SIGNALS

_WITHOUT_DILL = (
    "import sys; sys.modules['dill'] = None; import multiprocess.spawn; del sys.modules['dill']; "
)


def start_process(launch: Launch) -> Any:
    """Spawn ``child_main(launch)`` and return the ``multiprocess`` Process object.

    Must be called from the main thread: PDEATHSIG, by which the child dies with its parent, means
    the parent's thread. Raises OSError if the system cannot start another process.
    """
    process = multiprocess.get_context("spawn").Process(
        target=child_main, args=(launch,), name=launch.process.name
    )
    with (
        _without_main(),
        _without_tracker(),
        _lean_command_line(),
        _without_streams(),
        _signals_blocked(),
    ):
        process.start()
    return process


@contextmanager
def _without_main() -> Iterator[None]:
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _without_tracker() -> Iterator[None]:
    """Let the tracker look as if it ran, with /dev/null to hear it."""
    tracker = multiprocess.resource_tracker._resource_tracker
    before = tracker._fd
    tracker._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.close(tracker._fd)
        tracker._fd = before


@contextmanager
def _lean_command_line() -> Iterator[None]:
    plain = multiprocess.spawn.get_command_line

    def lean(**arguments: Any) -> list[str]:
        command: list[str] = plain(**arguments)
        at = command.index("-c") + 1
        command[at] = _WITHOUT_DILL + command[at]
        return command

    multiprocess.spawn.get_command_line = lean
    try:
        yield
    finally:
        multiprocess.spawn.get_command_line = plain


@contextmanager
def _without_streams() -> Iterator[None]:
    streams = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = None
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


@contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
