"""``make demo``: a node on a fresh directory, 15 seconds of load, and what came of it.

Runs the very commands that an operator would type, prints each of them, and ends with status 0
only if all went well: every answer of the node was right, it stopped in order, and its data check
out. All that it makes lies below ./demo. Whatever happens, Ctrl-C included, it leaves no process
behind.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from node.verification.select import measure, select_backend

READY_DEADLINE_S: Final = 60.0
STOP_DEADLINE_S: Final = 60.0
MOST_TRANSACTIONS: Final = 1_200_000
"""80,000 a second for 15 seconds; they take half a gigabyte."""


class DemoFailed(Exception):
    """A step did not end as it should."""


def main() -> None:
    """Run the demonstration; the status says whether all was well."""
    parser = argparse.ArgumentParser(prog="demo", description="A node under load, from nothing.")
    parser.add_argument("--directory", type=Path, default=Path("demo"), help="deleted first")
    parser.add_argument("--seconds", type=int, default=15, help="of load")
    parser.add_argument("--transactions", type=int, help="to prepare [default: enough]")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        demonstrate(options.directory, options.seconds, options.transactions)
    except DemoFailed as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(130)


def demonstrate(directory: Path, seconds: int, transactions: int | None) -> None:
    """Prepare, run, load, stop and check; raises ``DemoFailed`` at the first step that fails."""
    load, node, log = directory / "load", directory / "node", directory / "node.log"
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)

    say("payments to send: a funded chain, and payments signed in advance")
    call("tools.loadgen", "prepare", load, "--transactions", transactions or enough(seconds))
    say("a node of this chain")
    keys = ("--genesis", load / "genesis.json", "--validator-key", load / "validator.key")
    call("node", "init", "--datadir", node, *keys)
    avoid_ports_in_use(node / "config.toml")
    with running(node, log) as process:
        say(f"{seconds} seconds of load, every answer checked")
        call("tools.loadgen", "run", load, "--datadir", node, "--duration", seconds)
        say("what its processes did")
        call("node", "status", "--datadir", node)
        say("an orderly stop")
        process.send_signal(signal.SIGTERM)
        finish(process, log)
    say("what is on disk")
    call("node", "check", "--datadir", node)
    say(f"all is well; everything lies in {directory}/, the node's log in {log}")


def enough(seconds: int) -> int:
    """Payments that last for so many seconds: what the cores could verify if they did only that."""
    per_second = measure(select_backend("auto"), 0.2) * len(os.sched_getaffinity(0))
    return min(MOST_TRANSACTIONS, int(per_second) * seconds)


def avoid_ports_in_use(config: Path) -> None:
    """Let the node listen elsewhere if something else, another node perhaps, has its ports."""
    text = config.read_text()
    for key in ("listen", "notify"):
        found = re.search(rf"(?m)^#{key} = .*:(\d+)\"$", text)
        assert found is not None
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", int(found[1])))
            except OSError:
                probe.bind(("127.0.0.1", 0))
                address = f'{key} = "tcp://127.0.0.1:{probe.getsockname()[1]}"'
                print(f"port {found[1]} is in use: {address}")
                text = text.replace(found[0], address)
    config.write_text(text)


@contextmanager
def running(node: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node that is ready for clients; gone afterwards in any case."""
    say("the node starts")
    command = show("node", "run", "--datadir", node)
    # A session of its own: Ctrl-C is for us, and we stop the node.
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True) as process,
    ):
        try:
            wait_until_ready(node, process, log)
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_DEADLINE_S)
                finally:
                    process.kill()  # its children die with it


def wait_until_ready(node: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask the node for its status until it runs."""
    deadline = time.monotonic() + READY_DEADLINE_S
    ask = [sys.executable, "-m", "node", "status", "--json", "--datadir", str(node)]
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoFailed(f"the node ended with status {process.returncode}: {last_line(log)}")
        answer = subprocess.run(ask, capture_output=True, check=False)
        if answer.returncode == 0 and json.loads(answer.stdout)["state"] == "running":
            return
        time.sleep(0.2)
    raise DemoFailed(f"the node was not ready after {READY_DEADLINE_S:.0f} s; see {log}")


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the node's end, which must be orderly."""
    try:
        status = process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"the node did not stop in {STOP_DEADLINE_S:.0f} s; see {log}") from None
    if status != 0:
        raise DemoFailed(f"the node ended with status {status}: {last_line(log)}")


def call(module: str, *arguments: object) -> None:
    """Run one of our commands; raises ``DemoFailed`` if it does not end with status 0."""
    status = subprocess.run(show(module, *arguments), check=False).returncode
    if status != 0:
        raise DemoFailed(f"that command ended with status {status}")


def show(module: str, *arguments: object) -> Sequence[str]:
    """Print a command as people type it, and return it as it is run."""
    words = [str(argument) for argument in arguments]
    print("$", {"node": "timed", "tools.loadgen": "time-load"}[module], *words, flush=True)
    return [sys.executable, "-m", module, *words]


def say(what: str) -> None:
    """Announce a step."""
    print(f"\n== {what}", flush=True)


def last_line(log: Path) -> str:
    """The end of the node's log."""
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"


if __name__ == "__main__":
    main()
