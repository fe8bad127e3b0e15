"""The terminal is given back as it was, however it is left; what has not changed is not sent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pty_screen import PtyProgram, Screen

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
from tools.monitor.terminal import Terminal
with Terminal(sys.stdin, sys.stdout, colour=True) as terminal:
    seen = 0
    while True:
        size = terminal.size()
        lines = [[("word", "bold"), (f" {seen}", "good")], [(f"{size.columns}x{size.rows}", "")]]
        terminal.show(lines)
        happened = terminal.wait(60)
        seen += len(happened.keys)
        if "x" in happened.keys:
            raise RuntimeError("on demand")
        if happened.ended_by is not None:
            sys.exit(100 + happened.ended_by)
"""
COMMAND = (sys.executable, "-c", PROGRAM)
LOST_OUTPUT = 120  # the interpreter's word for what it could not write at its end


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_while_it_shows_the_terminal_is_its_own() -> None:
    with PtyProgram(COMMAND) as program:
        program.wait_for_text("word 0", "80x24")
        assert program.screen.modes == {1049}  # the other screen, no cursor, no wrapping
        assert program.modes() != program.modes_before
        program.press("ab")
        program.wait_for_text("word 2")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_is_told_and_the_terminal_given_back(number: signal.Signals) -> None:
    with PtyProgram(COMMAND) as program:
        program.wait_for_text("word 0")
        program.process.send_signal(number)
        assert program.wait_end() == 100 + number
        assert program.is_restored()


def test_ctrl_c_is_a_signal() -> None:
    with PtyProgram(COMMAND) as program:
        program.wait_for_text("word 0")
        program.press("\x03")
        assert program.wait_end() == 100 + signal.SIGINT
        assert program.is_restored()


def test_an_exception_leaves_the_terminal_as_it_was() -> None:
    with PtyProgram(COMMAND) as program:
        program.wait_for_text("word 0")
        program.press("x")
        assert program.wait_end() == 1
        assert program.is_restored()
        assert "RuntimeError: on demand" in program.screen.text()  # and can be read


def test_a_new_size_is_noticed_at_once() -> None:
    with PtyProgram(COMMAND) as program:
        program.wait_for_text("80x24")
        program.resize(132, 43)
        program.wait_for_text("132x43")


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on() -> None:
    with PtyProgram(COMMAND) as program:
        program.wait_for_text("word 0")
        program.press("\x1a")
        process = psutil.Process(program.process.pid)
        program.wait_for(lambda _: process.status() == psutil.STATUS_STOPPED, "it sleeps")
        program.wait_for(lambda _: program.is_restored(), "the terminal is given back")
        os.kill(process.pid, signal.SIGCONT)
        program.wait_for(lambda screen: screen.modes == {1049}, "it is back")
        program.wait_for_text("word 0")
        program.press("y")
        program.wait_for_text("word 1")


def test_lines_that_have_not_changed_are_not_sent_again() -> None:
    script = (
        "import io, sys\n"
        "from tools.monitor.terminal import Terminal\n"
        "with Terminal(sys.stdin, sys.stdout, colour=False) as terminal:\n"
        "    terminal._write = sent = []\n"
        "    terminal._write = sent.append\n"
        "    a, b, c = [('same', '')], [('old', '')], [('new', '')]\n"
        "    for lines in ([a, b], [a, b], [a, c]):\n"
        "        terminal.show(lines)\n"
        "    del terminal._write\n"
        "print(repr(sent), 'end')\n"
    )
    with PtyProgram((sys.executable, "-c", script), 200) as program:
        assert program.wait_end() == 0
        (line,) = [line for line in program.screen.lines() if line.endswith("end")]
    sent = eval(line.removesuffix("end"))
    assert len(sent) == 2  # the second frame was the first
    assert "same" in sent[0]
    assert "same" not in sent[1]
    assert "new" in sent[1]


def test_a_terminal_that_hangs_up_is_an_end() -> None:
    with PtyProgram(COMMAND) as program:
        program.wait_for_text("word 0")
        program.hang_up()
        assert program.process.wait(60) in (100 + signal.SIGHUP, 1, LOST_OUTPUT)


def test_without_utf_8_the_glyphs_are_ascii() -> None:
    script = PROGRAM.replace('"word"', '"▶word█"')
    command = (sys.executable, "-c", script)
    with PtyProgram(command, environment={"PYTHONIOENCODING": "ascii"}) as program:
        program.wait_for_text(">word= 0")


def test_the_screen_of_these_tests_sees_what_is_sent() -> None:
    screen = Screen(10, 3)
    screen.feed("\x1b[?25l\x1b[2;3Hab\x1b[1")
    screen.feed(";1Hx\x1b[31mY\x1b[0m")
    assert screen.lines() == ["xY", "  ab", ""]
    assert screen.styles == {"31", "0"}
    assert screen.modes == {7}
    screen.feed("\x1b[2H\x1b[K")
    assert screen.lines() == ["xY", "", ""]
    screen.feed("\x1b[3H0123456789\x1b[K")
    assert screen.lines() == ["xY", "", "012345678"]
    with pytest.raises(AssertionError):
        screen.feed("\x1b[3A")


def test_it_does_not_run_where_there_is_no_terminal() -> None:
    done = subprocess.run(
        COMMAND, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "\x1b[" not in done.stdout
