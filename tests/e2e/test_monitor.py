"""``time-monitor`` beside a real node: in a terminal over its restarts, in a pipe, and for JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pty_screen import PtyProgram, Screen
from running_node import RunningNode, prepare, run
from tmux_terminal import TMUX, TmuxTerminal

MONITOR = (sys.executable, "-m", "tools.monitor")
TRANSACTIONS = 4_000
FIRST_HALF = ("--count", "2000")
SECOND_HALF = ("--first", "2000", "--count", "2000")

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("monitor") / "workload"
    options = ("--transactions", str(TRANSACTIONS), "--bad-signatures", "0.05")
    return prepare(directory, *options, "--seed", "monitor")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, workload: Path) -> Iterator[RunningNode]:
    root = tmp_path_factory.mktemp("node")
    node = RunningNode(root, workload, verify={"workers": 2, "backend": "nacl"})
    yield node
    node.end()


@pytest.fixture
def node(shared: RunningNode) -> RunningNode:
    """One node for all tests, started again after one that stopped it."""
    return shared if shared.process is not None else shared.start()


def monitor(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run(*MONITOR, *map(str, arguments))


def watched(*arguments: object) -> list[Any]:
    """The nodes of one document."""
    done = monitor("--once", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    nodes: list[Any] = json.loads(done.stdout)["nodes"]
    return nodes


def figures(screen: Screen, process: str) -> list[str]:
    """The words of a process' line in the table."""
    return screen.line_with(f" {process} ").split()


def test_a_terminal_follows_a_node_through_its_lives(node: RunningNode) -> None:
    with PtyProgram((*MONITOR, str(node.datadir))) as program:
        program.wait_for_text("running", "in step", "voting 1/1", "verify-0", "verify-1", "sign")
        columns = program.screen.line_with("busy").split()
        assert columns[:7] == ["process", "pid", "core", "busy", "back", "keep", "idle"]
        died = columns.index("died")
        corners = [line for line in program.screen.lines() if line.startswith("╭")]
        assert [(len(line), line[-1]) for line in corners] == [(80, "╮")]  # to the last column

        load = node.load(*FIRST_HALF, "--rate", "600", "--allow-shedding", "--resubmit")
        program.wait_for(lambda screen: "work" in screen.text() and moving(screen), "items flow")

        def times_sum(screen: Screen) -> bool:
            row = figures(screen, "verify-0")
            return len(row) > 7 and row[3].isdigit() and sum(map(int, row[3:7])) == 100

        program.wait_for(times_sum, "busy, back, keep and idle sum to 100")

        program.press("2")
        program.wait_for_text("pid", "MiB")
        program.wait_for(lambda screen: "conveyor" not in screen.text(), "another pane")
        program.press("4")
        program.wait_for(lambda screen: "bad signature" in screen.text(), "rejected by cause")
        program.press("?")
        program.wait_for_text("keys and words")
        program.press("?1")
        program.resize(200, 60)
        program.wait_for_text("service ms", "last death", "rejected", "bad signature", "events")
        program.wait_for(lambda s: sum("▁" <= c <= "█" for c in s.text()) > 30, "trends")
        program.resize(80, 24)
        program.wait_for(lambda s: "service ms" not in s.text() and "MiB" in s.text(), "narrow")

        node.kill("verify-0")
        program.wait_for(
            lambda screen: figures(screen, "verify-0")[died : died + 1] == ["1"], "the restart"
        )
        assert figures(program.screen, "verify-1")[died] == "0"
        program.press("7")
        program.wait_for_text("process_died", "process=verify-0", "SIGKILL")
        program.press("1")
        output, _ = load.communicate(timeout=120)
        assert load.returncode == 0, output

        node.stop()
        program.wait_for_text("not running", "trying again")
        node.start()
        program.wait_for(
            lambda screen: figures(screen, "verify-0")[died : died + 1] == ["0"], "a new life"
        )
        node.kill_all()
        program.wait_for_text("not running")
        node.start()
        program.wait_for_text("running", "in step")

        program.press("q")
        assert program.wait_end() == 0
        assert program.is_restored()


def moving(screen: Screen) -> bool:
    """Whether the picture of the conveyor shows items that come back."""
    row = screen.line_with("returns").split()
    return any(word.endswith("/s") and word[0] in "123456789" for word in row)


def test_a_document_of_a_loaded_node(node: RunningNode) -> None:
    before = node.metrics("consensus")["items_out"]
    load = node.load(*SECOND_HALF, "--rate", "600", "--allow-shedding")
    node.wait_until(lambda: node.metrics("consensus")["items_out"] > before + 200)
    (view,) = watched(node.datadir)
    assert (view["state"], view["absent"], view["about"]["chain"]) == ("running", None, "dev")
    rows = {(row["stage"], row["index"]): row for row in view["rows"]}
    told = node.status()["topology"]["stages"]
    assert set(rows) == {(one["name"], n) for one in told for n in range(one["count"])}
    for row in rows.values():
        assert sum(row["shares"].values()) == pytest.approx(100)
        assert os.path.exists(f"/proc/{row['pid']}")
        assert row["memory_mb"] > 0
    assert rows["verify", 0]["service"]["count"] > 0
    assert rows["consensus", 0]["wait"]["count"] > 0
    flows = {flow["link"]: flow["items_per_s"] for flow in view["flows"]}
    assert all(flows[link] > 0 for link in ("work", "judged", "returns"))
    at = view["agreement"]
    assert (at["voting"], at["validators"], at["peers"], at["sync"]) == (1, 1, 0, "in step")
    assert at["height"] > 0
    assert view["finality"]["count"] > 0
    rejected = {each["cause"]: each["total"] for each in view["rejections"]}
    assert rejected["bad signature"] > 0
    assert sum(count for _, count in view["trays"]) == node.status()["topology"]["trays"]["trays"]
    assert [event["event"] for event in view["events"]][:1] == ["supervising"]
    output, _ = load.communicate(timeout=120)
    assert load.returncode == 0, output

    done = monitor("--once", node.datadir)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "running" in done.stdout
    assert "verify-1" in done.stdout

    with subprocess.Popen(
        [*MONITOR, "--json", str(node.datadir)], stdout=subprocess.PIPE, text=True
    ) as stream:
        assert stream.stdout is not None
        documents = [json.loads(stream.stdout.readline()) for _ in range(3)]
        stream.stdout.close()  # nobody reads any more
        assert stream.wait(60) == 1
    assert documents[0]["unix_s"] < documents[1]["unix_s"] < documents[2]["unix_s"]

    node.kill_all()
    (view,) = watched("--datadir", node.datadir)
    assert "no node answers" in view["absent"]


def test_several_nodes_of_which_one_runs(node: RunningNode, workload: Path, tmp_path: Path) -> None:
    other = RunningNode(tmp_path, workload)
    with PtyProgram((*MONITOR, str(node.datadir), str(other.datadir)), 150, 30) as program:
        program.wait_for_text("running", "1 of 2", "8 nodes")
        program.press("8")
        program.wait_for_text("not running", "no node answers")
        program.press("1n")
        program.wait_for_text("2 of 2", "not running", "trying again")
        program.process.send_signal(signal.SIGTERM)
        assert program.wait_end() == 128 + signal.SIGTERM
        assert program.is_restored()


def fills(lines: list[str], columns: int, rows: int) -> bool:
    """Whether a frame stands on the screen from its first line to the last, and to its edges."""
    rules = [len(line) for line in lines if line.startswith("─ ")]
    return (
        len(lines) == rows
        and lines[0].startswith(" timed dev ")
        and lines[-1].startswith(" 1 overview ")
        and columns in rules
        and max(map(len, lines)) == columns
    )


@pytest.mark.skipif(TMUX is None, reason="there is no tmux")
def test_tmux_shows_what_the_keys_ask_for(node: RunningNode) -> None:
    with TmuxTerminal((*MONITOR, str(node.datadir))) as terminal:
        terminal.wait_for_text("running", "in step", "voting 1/1", "verify-1", "rpc", "conveyor")
        terminal.wait_for(lambda lines: fills(lines, 80, 24), "the overview, 80x24")
        assert terminal.asked("#{alternate_on} #{cursor_flag}") == "1 0"
        terminal.press("3")
        shown = terminal.wait_for_text("other links", "consensus ─told▶ rpc")
        assert fills(shown, 80, 24)
        terminal.press("7")
        shown = terminal.wait_for_text("events", "process_ready", "process=rpc")
        assert fills(shown, 80, 24)
        assert "other links" not in "\n".join(shown)
        terminal.press("?")
        shown = terminal.wait_for_text("keys and words", "quit", "resident memory")
        assert fills(shown, 80, 24)
        terminal.press("?", "1")
        terminal.resize(200, 60)
        terminal.wait_for(
            lambda lines: fills(lines, 200, 60) and "last death" in "\n".join(lines), "200x60"
        )
        terminal.resize(80, 24)  # of a larger screen tmux leaves lines behind, whoever drew them
        terminal.wait_for(lambda lines: fills(lines, 80, 24), "80x24 again")
        terminal.press("q")
        shown = terminal.wait_for_text("ended with 0")
        assert shown[1:] == [""] * 23
        assert terminal.asked("#{alternate_on} #{cursor_flag}") == "0 1"


@pytest.mark.parametrize("how", ["--no-colour", "NO_COLOR", "colour"])
def test_colours_can_be_left_out(tmp_path: Path, workload: Path, how: str) -> None:
    idle = RunningNode(tmp_path, workload)
    arguments = [how] if how.startswith("--") else []
    environment = {how: "1"} if how == "NO_COLOR" else {}
    command = (*MONITOR, *arguments, str(idle.datadir))
    with PtyProgram(command, environment=environment) as program:
        program.wait_for_text("not running")
        program.press("q")
        assert program.wait_end() == 0
        coloured = any(
            set(style.split(";")) & {"31", "33", "36"} for style in program.screen.styles
        )
        assert coloured == (how == "colour")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--interval", "0.1", "."], "--interval 0.1 is impossible; give 0.25 to 10 seconds"),
        (["no-such-directory"], "does not exist; make a data directory with: timed init"),
        (["--network", "moon"], "there is no network 'moon'; give --network main, test, dev"),
        (["--colour-me"], "No such option"),
        (["x"] * 17, "17 data directories are too many; name 16 at most"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments: list[str], said: str) -> None:
    done = monitor(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("time-monitor: ")
    assert done.stderr.count("\n") == 1
