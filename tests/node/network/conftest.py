"""Closes whatever a test opened with a meeting of hubs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from meeting import Meeting


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    with Meeting() as made:
        yield made
