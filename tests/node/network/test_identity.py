"""The node's name: made once, kept, and a file that holds none is said to hold none."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import DatadirError, NodeError
from node.network.identity import NODE_ID_BYTES, read_or_make_node_id


def test_it_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "node_id"
    made = read_or_make_node_id(path)
    assert len(made) == NODE_ID_BYTES
    assert path.read_text() == made.hex() + "\n"
    assert read_or_make_node_id(path) == made


def test_two_nodes_have_two_names(tmp_path: Path) -> None:
    assert read_or_make_node_id(tmp_path / "a") != read_or_make_node_id(tmp_path / "b")


def test_a_name_may_be_given(tmp_path: Path) -> None:
    path = tmp_path / "node_id"
    path.write_text(f"  {bytes(range(16)).hex().upper()}\n\n")
    assert read_or_make_node_id(path) == bytes(range(16))


@pytest.mark.parametrize("content", [b"", b"\n", b"zz" * 16, b"00" * 15, b"00" * 17, b"\xff" * 32])
def test_what_is_no_name_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node_id"
    path.write_bytes(content)
    with pytest.raises(DatadirError, match="holds no node id"):
        read_or_make_node_id(path)
    assert path.read_bytes() == content


def test_what_the_system_refuses_is_told_as_the_operators(tmp_path: Path) -> None:
    with pytest.raises((NodeError, OSError)):
        read_or_make_node_id(tmp_path / "missing" / "node_id")
    with pytest.raises((NodeError, OSError)):
        read_or_make_node_id(tmp_path)
