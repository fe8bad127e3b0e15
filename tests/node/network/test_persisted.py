"""Small JSON files: whole or not at all, and never an exception."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from damage import damaged_json
from hypothesis import given, settings

from node.network.persisted import MAX_FILE_BYTES, read_json, write_json


def test_there_and_back(tmp_path: Path) -> None:
    path = str(tmp_path / "x.json")
    assert read_json(path) == (None, None)
    assert write_json(path, [{"a": 1}]) is None
    assert write_json(path, [{"a": 2}]) is None
    assert read_json(path) == ([{"a": 2}], None)
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]
    assert Path(path).stat().st_mode & 0o777 == 0o600


def test_what_goes_wrong_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        assert read_json(str(path)) == (None, f"{path} is not JSON")
    path.write_bytes(b" " * (MAX_FILE_BYTES + 1))
    assert "too large" in str(read_json(str(path))[1])
    assert "cannot read" in str(read_json(str(tmp_path))[1])
    assert "cannot write" in str(write_json(str(tmp_path / "no" / "x.json"), []))
    (tmp_path / "y.json").mkdir()
    assert "cannot write" in str(write_json(str(tmp_path / "y.json"), []))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any-bytes") / "x.json"


@settings(max_examples=200)
@given(damaged_json(b'[{"address": "8.8.8.8:1", "reached_ms": 5}, {"until_ms": 1e3, "x": null}]'))
def test_any_bytes_are_read_or_told_not_to_be_json(scratch: Path, data: bytes) -> None:
    scratch.write_bytes(data)
    content, wrong = read_json(str(scratch))
    if wrong is None:
        assert orjson.loads(orjson.dumps(content)) == content
    else:
        assert (content, wrong) == (None, f"{scratch} is not JSON")
