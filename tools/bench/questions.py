"""What is asked over JSON-RPC while the surface is measured, and what must be answered. Pure.

A question source gives whole HTTP requests and checks the bodies of their answers: every one of
them, because a fast wrong answer is worth nothing.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import orjson

from tools.loadgen.workload_file import Workload

HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length:"
MAX_HEAD_BYTES: Final = 8 * 1024


class WrongAnswer(Exception):
    """An answer that is none, or not the right one; the message says how."""


class Questions(Protocol):
    """Gives requests and judges answers."""

    def next(self) -> tuple[int, bytes] | None:
        """The next request with its number; None when there are no more."""
        ...

    def judge(self, number: int, body: bytes) -> int:
        """What the answer to a request is worth, in units; raises WrongAnswer."""
        ...


class BlockCounts:
    """``getblockcount``, for ever."""

    def __init__(self, host: str, authorization: str) -> None:
        body = orjson.dumps({"jsonrpc": "1.0", "id": 1, "method": "getblockcount", "params": []})
        self._request = request(host, authorization, body)

    def next(self) -> tuple[int, bytes] | None:
        """The same request each time."""
        return 0, self._request

    def judge(self, number: int, body: bytes) -> int:
        """One, if it is a height."""
        answer = _parsed(body)
        right = isinstance(answer, dict) and answer.get("error") is None and answer.get("id") == 1
        height = answer["result"] if right and "result" in answer else None
        if type(height) is not int or height < 0:
            raise WrongAnswer(f"getblockcount was answered {body[:200]!r}")
        return 1


class Payments:
    """``sendrawtransaction`` in batches, from the first payment of a workload on."""

    def __init__(
        self, host: str, authorization: str, workload: Workload, first: int, batch: int
    ) -> None:
        self._host = host
        self._authorization = authorization
        self._workload = workload
        self._next = first
        self._batch = batch

    def next(self) -> tuple[int, bytes] | None:
        """A batch; its number is that of its first payment."""
        first = self._next
        last = min(first + self._batch, self._workload.count)
        if first >= last:
            return None
        self._next = last
        calls = [
            b'{"jsonrpc":"1.0","id":%d,"method":"sendrawtransaction","params":["%s"]}'
            % (number, self._workload.transaction(number).hex().encode())
            for number in range(first, last)
        ]
        return first, request(self._host, self._authorization, b"[" + b",".join(calls) + b"]")

    def judge(self, number: int, body: bytes) -> int:
        """How many payments were accepted, which must be all, each under its id."""
        answers = _parsed(body)
        last = min(number + self._batch, self._workload.count)
        if not isinstance(answers, list) or len(answers) != last - number:
            raise WrongAnswer(f"a batch of {last - number} was answered {body[:200]!r}")
        for at, answer in enumerate(answers, number):
            expected = self._workload.columns.txids[at].tobytes().hex()
            if answer != {"result": expected, "error": None, "id": at}:
                raise WrongAnswer(f"payment {at} ({expected}) was answered {answer!r}")
        return len(answers)


def request(host: str, authorization: str, body: bytes) -> bytes:
    """A whole HTTP request; its connection is kept."""
    return (
        f"POST / HTTP/1.1\r\nHost: {host}\r\nAuthorization: {authorization}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def cut_answer(received: bytes | bytearray) -> bytes | None:
    """The body of the one answer that was received, None while it is not complete.

    Raises WrongAnswer for a status other than 200, or what is no answer.
    """
    end = received.find(HEAD_END)
    if end < 0:
        if len(received) > MAX_HEAD_BYTES:
            raise WrongAnswer(f"this is no HTTP: {bytes(received[:200])!r}")
        return None
    head = bytes(received[:end]).lower()
    if not head.startswith(b"http/1.1 200 "):
        raise WrongAnswer(f"the answer was {bytes(received[:200])!r}")
    at = head.find(LENGTH)
    if at < 0:
        raise WrongAnswer(f"an answer without its length: {bytes(received[:200])!r}")
    length = int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0])
    total = end + len(HEAD_END) + length
    if len(received) > total:
        raise WrongAnswer("more was answered than was asked")
    return bytes(received[end + len(HEAD_END) :]) if len(received) == total else None


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError:
        raise WrongAnswer(f"the answer is not JSON: {body[:200]!r}") from None
