"""All validators lose power right after they have precommitted: what they promised is on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from devnet import Devnet
from power_cut import bodies, cut, start_to_be_cut

pytestmark = pytest.mark.timeout(240)
ALL = range(4)
BLOCKS = {"pace_ms": 100, "empty_pace_s": 1}


def test_a_precommitted_block_survives_a_power_cut_everywhere(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with Devnet(tmp_path / "net", 4, transactions=1_000, block=BLOCKS) as net:
        start_to_be_cut(net, notes)
        with net.load(1_000, rate_per_s=100):
            net.wait_blocks(1)
            height, precommitted = cut(net, notes)
        assert len(precommitted) >= 3, "no quorum has precommitted"
        (block,) = set(precommitted.values())
        for number in precommitted:
            assert block in bodies(net, number), f"node {number} has promised what it has lost"
        net.start()
        net.wait_height(height + 2)
        net.stop()
        assert net.compare_chains() >= height + 2
        for number in ALL:
            with net.opened(number) as store:
                assert store.block_id(height) == block, "who had locked on it was overruled"
        net.check_value()
        net.judge_signatures()
