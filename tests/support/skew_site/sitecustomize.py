"""Sets the clock of a node wrong: its directory goes first on PYTHONPATH of that one node.

Python imports it in every process of the node, before anything could have taken `time.time_ns`
away; TIMED_SKEW_S says by how many seconds the Unix time is to be wrong. CLOCK_MONOTONIC is not
touched, as it would not be on a machine whose clock is set wrong.
"""

from __future__ import annotations

import os
import time

NS_PER_S = 1_000_000_000
SKEW_NS = int(float(os.environ.get("TIMED_SKEW_S", "0")) * NS_PER_S)

if SKEW_NS:
    _time_ns = time.time_ns
    time.time_ns = lambda: _time_ns() + SKEW_NS
    time.time = lambda: time.time_ns() / NS_PER_S
