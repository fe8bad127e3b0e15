"""The errors of the pipeline, in one small tree that says whose fault a failure is.

``OperatorError`` is for what only a person can put right (configuration, permissions, a full disk):
the process that meets one ends the whole node with its message and its exit status, and no restart
is tried. Everything else is ours: the process dies loudly and the supervisor starts it again.
"""

from __future__ import annotations

OPERATOR_EXIT_STATUS = 2
"""Exit status when only a person can help: argparse's for a wrong command line."""


class PipelineError(Exception):
    """Base of everything that this package raises on purpose."""


class OperatorError(PipelineError):
    """What only a person can put right; ``message`` is one line that names cause and remedy."""

    exit_status: int = OPERATOR_EXIT_STATUS

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class TopologyError(OperatorError):
    """The table of stages and links is impossible; the message says what to change."""


class RunDirectoryError(OperatorError):
    """The run directory cannot be used: not ours, not writable, or a node is at work in it."""


class NoNodeError(OperatorError):
    """Nobody answers, or nobody answers sensibly, on the control socket of a run directory."""


class RequestRefused(NoNodeError):
    """The node answers, but not to this request; ``reason`` is what it said."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class SegmentError(PipelineError):
    """A shared memory segment cannot be made or mapped, or is not what it was said to be."""


class MetricsError(PipelineError):
    """Metrics were declared impossibly, or a region does not hold what it should."""


class ControlError(PipelineError):
    """The channel between a process and its supervisor broke its contract."""


class ChannelClosed(ControlError, EOFError):
    """The other end of a channel is gone: seen by a child, the supervisor has died."""


class ChannelFull(ControlError):
    """The other end of a channel does not read: hundreds of messages wait there already."""
