"""Makes meeting.py importable, and closes whatever a test opened with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from meeting import Meeting


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    with Meeting() as made:
        yield made
