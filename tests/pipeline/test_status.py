"""What the client of the control socket makes of an answer, whatever it is."""

import os
import socket
import threading

import pytest
from damage import damaged_json
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.errors import NoNodeError
from pipeline.status import ask_logging, ask_status, fetch_metrics

ANSWERS = [
    b'{"state": "running", "processes": [{"name": "net"}]}',
    b'{"levels": {"supervisor": "info", "net": "debug"}}',
    b'{"segments": [{"process": "net", "members": [["net", 0]], "region_bytes": 65536}]}',
    b'{"error": "ask for something else"}',
]


class Answering:
    """A server on a control socket that answers everybody with ``answer``."""

    def __init__(self, directory):
        self.answer = b""
        self.fds = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "control.sock"))
        self._listener.listen(4)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                sock.recv(4096)
                try:
                    socket.send_fds(sock, [self.answer[:1]], self.fds)
                    sock.sendall(self.answer[1:])
                except OSError:  # the client has read enough
                    pass


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def server(run_dir):
    server = Answering(run_dir)
    yield server
    server.close()


@settings(max_examples=200)
@given(st.sampled_from(ANSWERS).flatmap(damaged_json), st.integers(0, 2))
@example(b'{"x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", 1)
@example(b'{"x": "\xff"}', 1)
@example(ANSWERS[2], 1)
def test_any_answer_is_understood_or_is_no_node(run_dir, server, answer, n_fds):
    server.answer = answer.replace(b"\n", b"") + b"\n"
    server.fds = [0] * n_fds
    before = len(os.listdir("/proc/self/fd"))
    for ask in (ask_status, ask_logging, fetch_metrics):
        try:
            ask(run_dir)
        except NoNodeError:
            continue
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the server's end may still be open
