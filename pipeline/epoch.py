"""The tray segments of the current epoch, and who may write which.

Owned by the supervisor, which begins an epoch whenever an intake (re)starts and grants the segments
to its children: each segment to its one writer as it is, to everybody else read-only. Segments of
an older epoch live on in whoever still has them mapped, and end with the last mapping.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.control import MAX_FDS, Attach, SegmentGrant, close_all
from pipeline.errors import SegmentError, TopologyError
from pipeline.layout import TrayLayout
from pipeline.segment import Segment
from pipeline.topology import Role, Topology


class TraySegments:
    """All tray segments of a topology; ``epoch`` is 0 before the first ``begin``.

    Raises TopologyError if there are more than the system passes to a process at once.
    """

    def __init__(self, topology: Topology) -> None:
        self._layout = TrayLayout(topology.trays)
        self._writers = _writers(topology)
        self._segments: dict[str, Segment] = {}
        self.epoch = 0
        if len(self._writers) > MAX_FDS:
            raise TopologyError(
                f"{len(self._writers)} tray segments (one for each worker and two more), but the "
                f"system passes {MAX_FDS} at once; use fewer workers"
            )

    def begin(self) -> None:
        """Make the segments of the next epoch; a SegmentError leaves everything as it was."""
        made: dict[str, Segment] = {}
        try:
            for name in self._writers:
                made[name] = Segment.create(name, self._layout.segment_bytes(name))
        except SegmentError:
            for segment in made.values():
                segment.close()
            raise
        self.close()
        self._segments = made
        self.epoch += 1

    @contextmanager
    def grant(self, members: Sequence[tuple[str, int]]) -> Iterator[tuple[Attach, list[int]]]:
        """The message for a process with these (stage, index) members, and its descriptors.

        The descriptors are valid inside the context only. Raises OSError if there are none left.
        """
        readonly: list[int] = []
        try:
            grants = []
            fds = []
            for name, writer in self._writers.items():
                segment = self._segments[name]
                writable = writer in members
                if not writable:
                    readonly.append(segment.readonly_fd())
                fds.append(segment.fd if writable else readonly[-1])
                grants.append(SegmentGrant(name, segment.size_bytes, writable))
            yield Attach(self.epoch, grants), fds
        finally:
            close_all(readonly)

    def close(self) -> None:
        """Let go of the current segments."""
        for segment in self._segments.values():
            segment.close()


def _writers(topology: Topology) -> dict[str, tuple[str, int]]:
    """Each segment's name with the one (stage, index) that writes it."""
    writers: dict[str, tuple[str, int]] = {}
    for stage in topology.stages:
        match stage.role:
            case Role.INTAKE:
                writers["input"] = (stage.name, 0)
            case Role.WORKER:
                for index in range(stage.count):
                    writers[f"verdict-{index}"] = (stage.name, index)
            case Role.SINK:
                writers["admission"] = (stage.name, 0)
            case Role.SIDE:
                pass
    return writers
