"""A body's calls, carried out: methods found, arguments bound, answers put together.

Between the HTTP server and the methods. Calls of a batch are carried out one after the other;
neighbours of a method that says so (sendrawtransaction) run at the same time, so that a batch of
them goes through the node as one piece. Whatever a method raises becomes the answer of its call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from itertools import groupby
from typing import Any, Final

from node.rpc.jsonrpc import Code, Request, RpcError, encode, reply, status_of
from node.rpc.method import Method
from node.rpc.services import Services

NO_CONTENT: Final = 204
MAX_BATCH_BYTES: Final = 32 * 1024 * 1024  # of a batch's answers together
TOO_LARGE: Final = RpcError(Code.MISC_ERROR, "The batch's answers are too large: ask for fewer")


class Calls:
    """Carries out requests with these methods."""

    def __init__(self, services: Services, methods: Mapping[str, Method]) -> None:
        self._services = services
        self._methods = methods
        self._numbers = 0
        metrics = services.metrics
        self._called = metrics["calls"]
        self._failed = metrics["calls_failed"]

    def waits(self, request: Request | list[Request]) -> bool:
        """Whether a body is a call that waits and does no work meanwhile."""
        if isinstance(request, list):
            return False
        method = self._methods.get(request.method)
        return method is not None and method.waits

    async def answer(
        self, parsed: Request | list[Request], *, whole: bool = False
    ) -> tuple[int, bytes]:
        """Carry out a body's requests; returns the HTTP status and the answer's bytes.

        ``whole`` as in `node.rpc.jsonrpc.reply`.
        """
        if isinstance(parsed, Request):
            result, error = await self._outcome(parsed)
            if parsed.is_notification and parsed.error is None:
                return NO_CONTENT, b""
            shown = reply(parsed, result, error, whole=whole)
            return status_of(parsed, error), encode(shown)
        answers = _Answers(whole)
        for together, group in groupby(parsed, self._together):
            if together and not answers.full:
                requests = list(group)
                outcomes = await asyncio.gather(*map(self._outcome, requests))
                for request, outcome in zip(requests, outcomes, strict=True):
                    answers.add(request, *outcome)
                continue
            for request in group:
                if answers.full:
                    answers.add(request, None, TOO_LARGE)
                else:
                    answers.add(request, *await self._in_batch(request))
        if parsed and not answers.printed:
            return NO_CONTENT, b""
        return 200, b"[" + b",".join(answers.printed) + b"]\n"

    def _together(self, request: Request) -> bool:
        method = self._methods.get(request.method)
        return method is not None and method.together and request.error is None

    async def _in_batch(self, request: Request) -> tuple[Any, RpcError | None]:
        if self.waits(request):
            return None, RpcError(Code.INVALID_REQUEST, f"{request.method} has no place in a batch")
        return await self._outcome(request)

    async def _outcome(self, request: Request) -> tuple[Any, RpcError | None]:
        services = self._services
        services.metrics.add(self._called)
        self._numbers += 1
        number = self._numbers
        services.running[number] = request.method[:64], time.monotonic_ns()
        try:
            if request.error is not None:
                raise request.error
            method = self._methods.get(request.method)
            if method is None:
                raise RpcError(Code.METHOD_NOT_FOUND, "Method not found")
            return await method.answer(services, *method.bind(request)), None
        except RpcError as error:
            services.metrics.add(self._failed, 1)
            return None, error
        except Exception as error:  # ours: the caller learns that, the log what it was
            services.metrics.add(self._failed, 1)
            services.log.error("rpc_failed", method=request.method[:64], exc_info=error)
            return None, RpcError(Code.INTERNAL_ERROR, "Internal error: the node's log says more")
        finally:
            del services.running[number]


class _Answers:
    """The answers of a batch, printed one by one: as objects they would take far more memory."""

    def __init__(self, whole: bool) -> None:
        self._whole = whole
        self._size = 0
        self.printed: list[bytes] = []

    @property
    def full(self) -> bool:
        """Whether there is no room for more than errors."""
        return self._size >= MAX_BATCH_BYTES

    def add(self, request: Request, result: Any, error: RpcError | None) -> None:
        """Print an answer, unless nobody wants one; of one that is too large the error."""
        if request.is_notification:
            return
        printed = encode(reply(request, result, error, whole=self._whole)).rstrip()
        if self._size + len(printed) > MAX_BATCH_BYTES:
            self._size = MAX_BATCH_BYTES
            printed = encode(reply(request, None, TOO_LARGE, whole=self._whole)).rstrip()
        else:
            self._size += len(printed)
        self.printed.append(printed)
