"""What systemd thinks of the unit of the service: 0 is no exposure, 10 no protection at all."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

from tools.bench.errors import BenchError

UNIT: Final = Path(__file__).parents[2] / "systemd" / "timed.service"

_COMMAND: Final = ("systemd-analyze", "security", "--offline=true", "--no-pager")
_OVERALL: Final = re.compile(r"Overall exposure level for \S+: (\d+(?:\.\d+)?)")


def exposure(unit: Path) -> float:
    """The overall exposure of a unit file that need not be installed.

    Raises BenchError without a systemd-analyze that can judge such a file (systemd 250 and newer),
    and without the file.
    """
    if not unit.is_file():
        raise BenchError(f"{unit} is not there", "run it from the project's folder")
    try:
        done = subprocess.run(
            [*_COMMAND, str(unit)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
    except OSError as error:
        raise BenchError(
            f"systemd-analyze does not run here ({error.strerror})", "install systemd 250 or newer"
        ) from None
    found = _OVERALL.search(done.stdout)
    if found is None:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise BenchError(
            f"systemd-analyze gives no exposure ({''.join(said)})", "install systemd 250 or newer"
        )
    return float(found[1])
