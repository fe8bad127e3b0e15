"""The client of the control socket: what ``status`` commands and monitors call.

Asks the supervisor that works in a run directory; owns nothing but the connection while it asks and
the mappings that it hands out. Needs no write access to anything and cannot slow the node.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.control import (
    CONTROL_SOCKET,
    FD_BYTES,
    MAX_FDS,
    MAX_REPLY_BYTES,
    MetricsAnswer,
    close_all,
    received_fds,
)
from pipeline.errors import MetricsError, NoNodeError, RequestRefused, SegmentError
from pipeline.metrics import ProcessMetricsLayout, ProcessMetricsReader
from pipeline.segment import MappedSegment, map_segment

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ProcessMetrics:
    """The metrics of one process: ``reader`` over ``segment``, which is mapped read-only."""

    process: str
    reader: ProcessMetricsReader
    segment: MappedSegment


def ask_status(run_dir: str | os.PathLike[str], *, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """The state of the node that runs in ``run_dir``, as the supervisor describes it.

    Raises NoNodeError if nobody, or nothing sensible, answers within the time.
    """
    answer, fds = _ask(run_dir, {"ask": "status"}, timeout_s)
    close_all(fds)
    return answer


def ask_logging(
    run_dir: str | os.PathLike[str],
    changes: Mapping[str, str] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, str]:
    """The level of each process's log ("supervisor" among them), after these changes.

    A change names a process, a stage, "supervisor" or "all"; all of them are made or none. Raises
    NoNodeError if nobody, or nothing sensible, answers within the time, and RequestRefused for a
    name or a level that does not exist.
    """
    answer, fds = _ask(run_dir, {"ask": "logging", "set": dict(changes or {})}, timeout_s)
    close_all(fds)
    try:
        return msgspec.convert(answer.get("levels"), dict[str, str])
    except msgspec.ValidationError:
        raise _nonsense(run_dir) from None


def fetch_metrics(
    run_dir: str | os.PathLike[str], *, timeout_s: float = TIMEOUT_S
) -> list[ProcessMetrics]:
    """Readers of all metrics of the node that runs in ``run_dir``.

    They stay valid for the life of that supervisor, over every restart of its stages; when it ends
    they freeze. Raises NoNodeError as ``ask_status``.
    """
    answer, fds = _ask(run_dir, {"ask": "metrics"}, timeout_s)
    try:
        announced = msgspec.convert(answer, MetricsAnswer).segments
        if len(announced) != len(fds):
            raise _nonsense(run_dir)
        found = []
        for one, fd in zip(announced, fds, strict=True):
            segment = map_segment(fd, writable=False)
            layout = ProcessMetricsLayout(one.members, one.region_bytes)
            reader = ProcessMetricsReader(segment.view, layout)
            found.append(ProcessMetrics(one.process, reader, segment))
        return found
    except (msgspec.ValidationError, MetricsError, SegmentError):
        raise _nonsense(run_dir) from None
    finally:
        close_all(fds)


def _ask(
    run_dir: str | os.PathLike[str], request: Mapping[str, Any], timeout_s: float
) -> tuple[dict[str, Any], list[int]]:
    """The answer, and the descriptors that came with it, which are the caller's."""
    fds: list[int] = []
    try:
        line = _exchange(run_dir, msgspec.json.encode(request) + b"\n", timeout_s, fds)
        answer = msgspec.json.decode(line, type=dict[str, Any])
        if "error" in answer:
            reason = str(answer["error"])
            raise RequestRefused(f"the node of {run_dir} refused to answer: {reason}", reason)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        close_all(fds)
        raise _nonsense(run_dir) from None
    except OSError as error:
        close_all(fds)
        reason = error.strerror or "no answer in time"
        raise NoNodeError(f"no node answers for {run_dir} ({reason}); start it first") from None
    except NoNodeError:
        close_all(fds)
        raise
    return answer, fds


def _exchange(
    run_dir: str | os.PathLike[str], request: bytes, timeout_s: float, fds: list[int]
) -> bytes:
    line = bytearray()
    # The path of a unix socket may have 107 bytes; a path through an open directory is always
    # short.
    directory_fd = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(f"/proc/self/fd/{directory_fd}/{CONTROL_SOCKET}")
            sock.sendall(request)
            while not line.endswith(b"\n"):
                data, ancillary, _, _ = sock.recvmsg(
                    65536, socket.CMSG_SPACE(MAX_FDS * FD_BYTES), socket.MSG_CMSG_CLOEXEC
                )
                fds += received_fds(ancillary)
                line += data
                if not data or len(line) > MAX_REPLY_BYTES + 1:
                    raise NoNodeError(f"the node of {run_dir} broke off its answer; ask again")
    finally:
        os.close(directory_fd)
    return bytes(line)


def _nonsense(run_dir: str | os.PathLike[str]) -> NoNodeError:
    return NoNodeError(
        f"the node of {run_dir} gave an answer that is not understood; "
        "use the version that runs there"
    )
