"""Makes tests/support importable, in tests and in what they start; sets up hypothesis."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "support"))

# A deadline per example measures how busy the machine is, nothing else.
settings.register_profile("timed", deadline=None)
settings.load_profile("timed")
