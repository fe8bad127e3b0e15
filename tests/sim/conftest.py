"""Makes the simulator's modules importable, in tests and in what they start."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
