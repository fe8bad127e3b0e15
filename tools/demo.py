"""``make demo``: four validators on this machine, 15 seconds of load, and what came of it.

Runs the very commands that an operator would type, prints each of them, and ends with status 0
only if all went well: every answer of the nodes was right, they stopped in order, and the data of
each checks out. All that it makes lies below ./demo. Whatever happens, Ctrl-C included, it leaves
no process behind.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

NODES: Final = 4
LOAD_PER_S: Final = 1_500.0
STOP_DEADLINE_S: Final = 90.0


class DemoFailed(Exception):
    """A step did not end as it should."""


def main() -> None:
    """Run the demonstration; the status says whether all was well."""
    parser = argparse.ArgumentParser(prog="demo", description="A network under load, from nothing.")
    parser.add_argument("--directory", type=Path, default=Path("demo"), help="deleted first")
    parser.add_argument("--nodes", type=int, default=NODES, help="validators")
    parser.add_argument("--seconds", type=int, default=15, help="of load")
    parser.add_argument("--load", type=float, default=LOAD_PER_S, help="payments per second")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        demonstrate(options.directory, options.nodes, options.seconds, options.load)
    except DemoFailed as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(130)


def demonstrate(directory: Path, nodes: int, seconds: int, load_per_s: float) -> None:
    """Run a network and check what it leaves; raises ``DemoFailed`` at the first failure."""
    if directory.exists():
        shutil.rmtree(directory)
    say(f"{nodes} validators, {seconds} seconds of load, every answer checked")
    size = ("--nodes", nodes, "--load", f"{load_per_s:g}", "--seconds", seconds)
    call("devnet", *size, "--directory", directory, "--base-port", 0)
    say("what is on disk")
    for number in range(nodes):
        call("check", "--datadir", directory / f"node-{number}" / "data")
    say(f"all is well; everything lies in {directory}/")


def call(*words: object) -> None:
    """Run a command of ``timed``; raises ``DemoFailed`` if it does not end with status 0."""
    # A session of its own: Ctrl-C is for us, and we tell it to stop.
    with subprocess.Popen(show(*words), start_new_session=True) as process:
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(STOP_DEADLINE_S)
            finally:
                process.kill()  # its children die with it
            raise
    if status != 0:
        raise DemoFailed(f"that command ended with status {status}")


def show(*words: object) -> Sequence[str]:
    """Print a command as people type it, and return it as it is run."""
    arguments = [str(word) for word in words]
    print("$ timed", *arguments, flush=True)
    return [sys.executable, "-m", "node", *arguments]


def say(what: str) -> None:
    """Announce a step."""
    print(f"\n== {what}", flush=True)


if __name__ == "__main__":
    main()
