"""Load on a network: a ``time-load`` for every node, each with its share of the payments.

Owns the load generators' processes, which die with this one. Their reports lie in the nodes'
directories.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from tools.devnet.nodes import die_with, last_line
from tools.devnet.places import Place

DRAIN_S: Final = 20.0
"""After the last sending: what a network takes at most to finalise what waits, and a little."""

_STATUS_WRONG: Final = 1


@dataclass(frozen=True, slots=True)
class Share:
    """One node's part: payments ``first`` .. ``first + count`` - 1; None is flat out."""

    place: Place
    first: int
    count: int
    rate_per_s: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a share; ``wrong`` says what was, a line each, and ``document`` is time-load's
    report, None if there is none.
    """

    share: Share
    document: dict[str, Any] | None
    wrong: tuple[str, ...]

    def line(self) -> str:
        """The outcome in one line."""
        if self.document is None:
            return "; ".join(self.wrong)
        counts, figures = self.document["counts"], self.document["figures"]
        parts = [f"sent {counts['sent']:,}", f"final {counts['finalised']:,}"]
        if refused := counts["rejected"]:
            parts.append(f"refused {refused:,}")
        if "final.p50_ms" in figures:
            parts.append(
                f"finality p50 {figures['final.p50_ms']:,.0f} ms, "
                f"p99 {figures['final.p99_ms']:,.0f} ms"
            )
        parts += [f"WRONG: {each}" for each in self.wrong] or ["every answer right"]
        return "  ".join(parts)


def shares(
    places: Sequence[Place], transactions: int, rate_per_s: float | None, first: int = 0
) -> list[Share]:
    """Deal out ``transactions`` and the rate, as evenly as they go."""
    count = len(places)
    rate = None if rate_per_s is None else rate_per_s / count
    sizes = [transactions // count + (number < transactions % count) for number in range(count)]
    return [
        Share(place, first + sum(sizes[:number]), sizes[number], rate)
        for number, place in enumerate(places)
        if sizes[number]
    ]


class Load:
    """Load generators at work; leaving the context ends them in any case."""

    def __init__(self, workload: Path, parts: Sequence[Share], *options: str) -> None:
        self._running: list[tuple[Share, subprocess.Popen[bytes]]] = []
        try:
            for share in parts:
                self._start(workload, share, options)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def done(self) -> bool:
        """Whether all have ended."""
        return all(process.poll() is not None for _, process in self._running)

    def stop(self) -> None:
        """Let them send no more, and end when what was sent is final."""
        for _, process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End them now."""
        for _, process in self._running:
            process.kill()
            process.wait()

    def reports(self, timeout_s: float) -> list[Report]:
        """Wait for their ends, and for no longer than that; returns what came of each share."""
        deadline_s = time.monotonic() + timeout_s
        found = []
        for share, process in self._running:
            try:
                status = process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                found.append(Report(share, None, ("the load generator did not end in time",)))
                continue
            found.append(_report(share, status))
        return found

    def _start(self, workload: Path, share: Share, options: Sequence[str]) -> None:
        place = share.place
        command = [sys.executable, "-m", "tools.loadgen", "run", str(workload)]
        command += ["--ingest", place.ingest, "--notify", place.notify]
        command += ["--first", str(share.first), "--count", str(share.count)]
        command += ["--json", str(_report_path(place)), *options]
        if share.rate_per_s is not None:
            command += ["--rate", f"{share.rate_per_s:.3f}"]
        _report_path(place).unlink(missing_ok=True)
        with _log_path(place).open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=die_with(os.getpid()),
            )  # fmt: skip
        self._running.append((share, process))


def _report(share: Share, status: int) -> Report:
    if status not in (0, _STATUS_WRONG):
        why = last_line(_log_path(share.place))
        return Report(share, None, (f"the load generator ended with status {status}: {why}",))
    try:
        document = orjson.loads(_report_path(share.place).read_bytes())
    except (OSError, ValueError):
        return Report(share, None, ("the load generator left no report",))
    wrong = tuple(f"{f['count']:,} {f['meaning']}" for f in document["findings"])
    return Report(share, document, wrong)


def _report_path(place: Place) -> Path:
    return place.root / "load.json"


def _log_path(place: Place) -> Path:
    return place.root / "load.log"
