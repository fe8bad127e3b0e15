"""`timed peers` over the file of a process that a supervisor names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from node.commands.init import init
from node.commands.peers import peers
from node.datadir import Layout, layout
from node.errors import NotRunning
from node.network.peers import PeerInfo
from node.peers_file import PeersFile


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    found = layout(tmp_path / "d")
    init(found, "dev", None, None)
    monkeypatch.setattr("node.commands.peers.FRESH_S", 0.0)
    return found


def publish(where: Layout, *infos: PeerInfo) -> None:
    PeersFile(str(where.run), None).publish(lambda: infos, lambda peer: 12, 0)  # type: ignore


def supervised(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    def ask(where: Layout) -> dict[str, Any]:
        return {"processes": [{"pid": None}, {"pid": pid}]}

    monkeypatch.setattr("node.commands.peers.ask", ask)


def test_peers_are_listed(
    where: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    supervised(monkeypatch, os.getpid())
    publish(
        where,
        PeerInfo(1, bytes(16), "10.0.0.1:9", True, 1, 12_345, "timed/[red]", True, 3),
        PeerInfo(2, bytes(16), "[2001:db8::1]:9", False, 1, 0, "", False),
    )
    capsys.readouterr()
    peers(where, as_json=True)
    first, second = json.loads(capsys.readouterr().out)
    assert (first["address"], first["direction"], first["validator"]) == ("10.0.0.1:9", "out", 3)
    assert (second["protected"], second["score"]) == (False, 12)
    peers(where, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        "1",
        "10.0.0.1:9",
        "out",
        "12,345",
        "timed/[red]",
        "protected",
        "3",
        "12",
    ]
    assert "[2001:db8::1]:9" in lines[2]


def test_nobody_is_there(
    where: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    supervised(monkeypatch, os.getpid())
    publish(where)
    capsys.readouterr()
    peers(where, as_json=False)
    assert capsys.readouterr().out.strip() == "no peer is connected"


def test_what_a_dead_process_has_left_is_not_shown(
    where: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervised(monkeypatch, os.getpid() + 1)
    with pytest.raises(NotRunning, match="does not tell its peers"):
        peers(where, as_json=False)
    publish(where)
    with pytest.raises(NotRunning, match="does not tell its peers"):
        peers(where, as_json=False)


def test_without_a_node_there_is_nobody_to_ask(where: Layout) -> None:
    publish(where)
    with pytest.raises(NotRunning, match="no node is running"):
        peers(where, as_json=False)
