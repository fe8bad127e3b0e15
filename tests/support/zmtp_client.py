"""A client of ingest without ZeroMQ: it may stop in the middle, and need not read.

ZMTP 3.0 with the NULL mechanism (rfc.zeromq.org/spec/23), as much as a DEALER says of it.
"""

from __future__ import annotations

import socket
import struct

GREETING = (b"\xff" + bytes(8) + b"\x7f" + b"\3\0" + b"NULL".ljust(20, b"\0")).ljust(64, b"\0")
READY = b"\5READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
MORE, LONG, COMMAND = 1, 2, 4
DEADLINE_S = 60.0
SEGMENT_BYTES = 536  # RFC 9293: what every network carries


def frame_head(size_bytes: int, flags: int) -> bytes:
    """What stands before a frame's body."""
    return struct.pack(">BQ", flags | LONG, size_bytes)


class ZmtpClient:
    """One connection to ``address`` (tcp://host:port), greeted.

    With a small ``window_bytes`` the system takes little for a client that does not read: the
    buffers at both ends begin with some ten segments, which loopback makes 64 KiB long otherwise.
    """

    def __init__(self, address: str, *, window_bytes: int | None = None) -> None:
        host, port = address.removeprefix("tcp://").split(":")
        self.socket = socket.socket()
        self.socket.settimeout(DEADLINE_S)
        if window_bytes is not None:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
        self.socket.connect((host, int(port)))
        self.send_raw(GREETING, frame_head(len(READY), COMMAND), READY)
        # ZeroMQ ends a connection on which something follows READY before it has sent its own.
        self._receive(len(GREETING))
        flags, size_bytes = self._receive(2)
        assert flags == COMMAND
        assert self._receive(size_bytes).startswith(b"\5READY")

    def send_raw(self, *pieces: bytes) -> None:
        """Bytes as they are."""
        self.socket.sendall(b"".join(pieces))

    def send(self, *frames: bytes) -> None:
        """One message of these frames."""
        flags = [MORE] * (len(frames) - 1) + [0]
        heads = [frame_head(len(frame), flag) for frame, flag in zip(frames, flags, strict=True)]
        self.send_raw(*(part for pair in zip(heads, frames, strict=True) for part in pair))

    def read_to_the_end(self) -> None:
        """Read until the other side closes the connection; raises TimeoutError if it does not."""
        try:
            while self.socket.recv(65_536):
                pass
        except ConnectionResetError:  # it had not read all that we sent
            pass

    def _receive(self, size_bytes: int) -> bytes:
        data = b""
        while len(data) < size_bytes:
            piece = self.socket.recv(size_bytes - len(data))
            assert piece, "the connection is closed"
            data += piece
        return data

    def __enter__(self) -> ZmtpClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()
