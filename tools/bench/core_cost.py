"""What the consensus core costs: microseconds for handling one vote.

The core is driven by itself through whole heights, as one validator of many: the proposal, every
prevote and precommit, and what comes between. Its inputs are made before the clock is read, so what
is timed is `Core.handle` alone. The figure goes to the benchmark's report; nothing is owned.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from node.consensus.core import Core, Step, Timeouts
from node.consensus.messages import (
    BlockBuilt,
    BlockJudged,
    BodyDurable,
    Committed,
    Input,
    Proposal,
    Started,
    Timer,
    TimerElapsed,
    TimerKind,
    TransactionsWaiting,
    Vote,
    VoteType,
)
from node.consensus.validators import ValidatorSet

ME = 0
SIGNATURE = b"s" * 64
NS_PER_US = 1000


def us_per_vote(
    validators: int = 100, heights: int = 50, clock: Callable[[], int] = time.perf_counter_ns
) -> float:
    """Return the time of `heights` whole heights, in microseconds per vote.

    `clock` returns nanoseconds. Raises RuntimeError if the core has not decided them all.
    """
    everybody = ValidatorSet([1] * validators)
    core = Core(everybody, ME, Timeouts())
    spent_ns = 0
    for height in range(1, heights + 1):
        inputs = inputs_of_height(everybody, height)
        started_ns = clock()
        for each in inputs:
            core.handle(each)
        spent_ns += clock() - started_ns
        if core.height != height or core.step is not Step.COMMIT:
            raise RuntimeError(f"height {height} is not decided: {core.step.name}")
    return spent_ns / (2 * validators * heights) / NS_PER_US


def inputs_of_height(everybody: ValidatorSet, height: int) -> list[Input]:
    """What a validator hears in a height in which all goes well."""
    value = height.to_bytes(32, "little")
    proposer = everybody.proposer(height, 0)
    inputs: list[Input] = [
        Committed(height - 1) if height > 1 else Started(0),
        TimerElapsed(Timer(TimerKind.PACE, height)),
        TransactionsWaiting(height),
    ]
    if proposer == ME:
        inputs.append(BlockBuilt(height, 0, value))
    inputs += [
        Proposal(height, 0, value, -1, proposer, None, SIGNATURE),
        BlockJudged(height, value, True),
        BodyDurable(height, value),
    ]
    for type_ in (VoteType.PREVOTE, VoteType.PRECOMMIT):
        inputs += [Vote(type_, height, 0, value, each, SIGNATURE) for each in range(everybody.n)]
    return inputs
