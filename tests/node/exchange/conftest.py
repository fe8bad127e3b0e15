"""Makes the simulated network of this folder importable, and gives tests a chain and worlds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chains import SmallChain, make_genesis

from node.exchange import catchup, download, judging, messages

if TYPE_CHECKING:
    from exchange_world import World

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def chain() -> SmallChain:
    return SmallChain(*make_genesis(powers=(1, 1, 1, 1)))


@pytest.fixture
def worlds(chain: SmallChain, tmp_path: Path) -> Iterator[list[World]]:
    made: list[World] = []
    yield made
    for world in made:
        world.close()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make answers, parts and slices so small that a little block takes many of each."""
    for module in (messages, download, catchup):
        monkeypatch.setattr(module, "ANSWER_BYTES", 4_000)
    monkeypatch.setattr(messages, "PART_BYTES", 1_500)
    monkeypatch.setattr(judging, "SLICE_BYTES", 1_000)
