"""A node as a service: its key from the manager, what it says to it, reload, levels of its log."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from funded import Funds
from running_node import TIMED, RunningNode, run

BLOCK = {"pace_ms": 50, "empty_pace_s": 1}

# What is added to config.toml: what the log says of it. TOML's own reader stumbles on the last two.
BROKEN = {
    "[log]\nlevl = 1\n": "unknown key 'levl'",
    "[log]\nlevel = 0x" + "f" * 3_600: "level = (too long to be shown)",
    "[log]\nlevel = " + "9" * 5_000: "too many digits",
    "[log]\nlevel = " + "[" * 5_000: "nested too deeply",
}


class Service:
    """A node, and the manager's end of what it is started with."""

    def __init__(self, root: Path, funds: Funds, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node = RunningNode(root, funds.directory, block=BLOCK)
        self.config = self.node.datadir / "config.toml"
        self.text = self.config.read_text()
        credentials = root / "credentials"
        credentials.mkdir(mode=0o700)
        key = self.node.datadir / "validator.key"
        key.chmod(0o400)
        key.rename(credentials / key.name)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(root / "notify"))
        self.socket.setblocking(False)
        self.said: list[str] = []
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
        monkeypatch.setenv("NOTIFY_SOCKET", str(root / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")

    def messages(self) -> list[str]:
        with suppress(BlockingIOError):
            while True:
                self.said.append(self.socket.recv(4_096).decode())
        return self.said

    def states(self) -> list[str]:
        """What was said of its life, by the first line of each message."""
        lines = [each.splitlines()[0] for each in self.messages()]
        return [line for line in lines if not line.startswith(("STATUS", "WATCHDOG"))]

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self.node.log.read_text().splitlines())
        return [line for line in lines if line["event"] == name]

    def reload(self, text: str, event: str) -> dict[str, Any]:
        """Write config.toml and reload; the event that follows."""
        before = len(self.events(event))
        self.config.write_text(text)
        assert self.node.process is not None
        self.node.process.send_signal(signal.SIGHUP)
        # Read what it says meanwhile: its socket holds ten messages, and then the oldest get lost.
        self.node.wait_until(lambda: self.messages() and len(self.events(event)) > before)
        return self.events(event)[-1]

    def timed(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(*TIMED, command, "--datadir", str(self.node.datadir), *arguments)

    def levels(self, *changes: str) -> dict[str, str]:
        done = self.timed("logging", "--json", *changes)
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout)
        return found


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    made = Service(tmp_path, Funds(tmp_path / "funds", 1), monkeypatch)
    try:
        yield made
    finally:
        made.node.end()
        made.socket.close()


def test_a_node_is_a_good_service(service: Service) -> None:
    node = service.node
    refused = service.timed("logging")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "no node is running" in refused.stderr
    node.start()
    node.wait_until(lambda: any("height 2" in each for each in service.messages()))
    assert service.said.count("READY=1") == 1
    assert "WATCHDOG=1" in service.said
    assert not (node.datadir / "validator.key").exists()

    assert set(service.levels().values()) == {"info"}
    levels = service.levels("consensus=warning", "verify=debug")
    assert (levels["consensus"], levels["verify-0"], levels["net"]) == ("warning", "debug", "info")
    node.kill("consensus")
    assert service.levels() == levels
    assert len(service.events("consensus_started")) == 1  # its second start is below its level
    for wrong in ("consensus", "consensus=", "nobody=info", "net=loud"):
        refused = service.timed("logging", wrong)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr

    for wrong, named in BROKEN.items():
        broken = service.reload(service.text + wrong, "configuration_not_reloaded")
        assert named in broken["why"]
    assert service.levels() == levels
    changed = service.text.replace("pace_ms = 50", "pace_ms = 60") + '[log]\nlevel = "warning"\n'
    waits = service.reload(changed, "configuration_needs_a_restart")
    assert waits["keys"] == ["block.pace_ms"]
    assert set(service.levels().values()) == {"warning"}
    node.kill("net")
    assert service.levels("supervisor=info")["net"] == "warning"
    done = service.reload(service.text, "configuration_reloaded")
    assert done["applied"] == ["log.level"]
    assert set(service.levels().values()) == {"info"}
    reloads = len(BROKEN) + 2
    node.wait_until(lambda: service.states() == ["READY=1"] + ["RELOADING=1", "READY=1"] * reloads)

    assert node.stop() == 0
    assert service.messages().count("STOPPING=1") == 1


def test_a_node_stops_with_its_terminal_and_not_with_a_hangup(service: Service) -> None:
    node = service.node
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(2, termios.TIOCSCTTY, 0)

    node.process = subprocess.Popen(
        [*TIMED, "run", "--datadir", str(node.datadir)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    try:
        shown = b""
        while b" ready " not in shown:
            shown += os.read(ours, 4_096)
        node.process.send_signal(signal.SIGHUP)
        while b"configuration_reloaded" not in shown:
            shown += os.read(ours, 4_096)
        assert node.process.poll() is None
    finally:
        os.close(ours)
    assert node.process.wait(60) == 0
