"""The file that tells whom ``net`` is connected to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from damage import damaged_json
from hypothesis import given, settings

from node.network.peers import PeerInfo
from node.peers_file import PEERS_FILE, WRITE_EVERY_NS, PeerRow, PeersFile, PeersSeen, read_peers

INFO = PeerInfo(3, bytes(16), "10.0.0.3:1", True, 1, 5, "timed/1", True, 2)
ROW = PeerRow(3, "00" * 16, "10.0.0.3:1", "out", 1, 5, "timed/1", True, 2, 40)


class Log:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def info(self, event: str, **values: Any) -> None:
        self.lines.append(values)

    warning = error = info


@pytest.fixture
def log() -> Log:
    return Log()


def rows(path: Path) -> list[PeerRow]:
    found = read_peers(path)
    assert found is not None
    assert found.pid == os.getpid()
    return found.peers


def test_who_is_there_is_told_once_a_second_at_most(tmp_path: Path, log: Log) -> None:
    file = PeersFile(str(tmp_path), log)
    now: list[PeerInfo] = []
    file.publish(lambda: now, lambda peer: 40, 0)
    assert rows(tmp_path) == []
    now.append(INFO)
    file.publish(lambda: now, lambda peer: 40, WRITE_EVERY_NS - 1)
    assert rows(tmp_path) == []
    file.publish(lambda: now, lambda peer: 40, WRITE_EVERY_NS)
    assert rows(tmp_path) == [ROW]
    before = (tmp_path / PEERS_FILE).stat()
    file.publish(lambda: now, lambda peer: 40, 2 * WRITE_EVERY_NS)
    assert (tmp_path / PEERS_FILE).stat().st_ino == before.st_ino  # nothing has changed
    file.publish(lambda: now, lambda peer: 41, 3 * WRITE_EVERY_NS)
    assert rows(tmp_path)[0].score == 41
    file.close()
    assert os.listdir(tmp_path) == []
    file.close()
    assert log.lines == []


def test_a_directory_that_is_gone_is_told_once(tmp_path: Path, log: Log) -> None:
    file = PeersFile(str(tmp_path / "gone"), log)
    for second in range(3):
        now = [INFO] * second  # something else each time
        file.publish(now.copy, lambda peer: 0, second * WRITE_EVERY_NS)
    assert len(log.lines) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b'{"pid":1,"peers":[1]}'])
def test_nonsense_tells_nothing(tmp_path: Path, content: bytes) -> None:
    assert read_peers(tmp_path) is None
    (tmp_path / PEERS_FILE).write_bytes(content)
    assert read_peers(tmp_path) is None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any-bytes")


@settings(max_examples=200)
@given(damaged_json(msgspec.json.encode(PeersSeen(7, [ROW]))))
def test_any_damaged_file_tells_peers_or_nothing(scratch: Path, data: bytes) -> None:
    (scratch / PEERS_FILE).write_bytes(data)
    seen = read_peers(scratch)
    if seen is not None:
        assert msgspec.json.decode(msgspec.json.encode(seen), type=PeersSeen) == seen
