"""Makes tests/support importable, in tests and in what they start; sets up hypothesis, signals."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent / "support"))

# A deadline per example measures how busy the machine is, nothing else.
settings.register_profile("timed", deadline=None)
settings.load_profile("timed")

# nohup, and a shell that starts something in the background, leave these ignored, here and in all
# that is started here; tests send them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
