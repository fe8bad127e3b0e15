"""A wallet's side of JSON-RPC for the tests, by the standard library alone."""

from __future__ import annotations

import base64
import http.client
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from running_node import DEADLINE_S, RunningNode


class Refused(Exception):
    """An error that the node has answered with."""

    def __init__(self, error: dict[str, Any], status: int) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.status = status


class RpcClient:
    """Calls the node at host:port with a cookie's or a user's password."""

    def __init__(self, address: str, credentials: str) -> None:
        self.address = address
        self._headers = {
            "Authorization": "Basic " + base64.b64encode(credentials.encode()).decode(),
            "Content-Type": "application/json",
        }
        self._connection = http.client.HTTPConnection(address, timeout=DEADLINE_S)

    @staticmethod
    def of(node: RunningNode) -> RpcClient:
        return RpcClient(node.rpc, (node.datadir / ".cookie").read_text())

    def post(self, body: bytes, **headers: str) -> tuple[int, Any]:
        """Status and content of the answer to a body."""
        self._connection.request("POST", "/", body, self._headers | headers)
        response = self._connection.getresponse()
        data = response.read()
        return response.status, json.loads(data, parse_float=Decimal) if data else None

    def status(self, body: bytes) -> int:
        """Status of the answer to a body, whatever its content."""
        self._connection.request("POST", "/", body, self._headers)
        response = self._connection.getresponse()
        response.read()
        return response.status

    def call(self, method: str, *params: Any, **named: Any) -> Any:
        request = {"method": method, "params": named or list(params), "id": 1}
        status, answer = self.post(json.dumps(request, default=float).encode())
        if answer["error"] is not None:
            raise Refused(answer["error"], status)
        assert status == 200
        return answer["result"]

    def batch(self, *calls: tuple[Any, ...]) -> list[dict[str, Any]]:
        body = [
            {"jsonrpc": "2.0", "method": method, "params": list(params), "id": number}
            for number, (method, *params) in enumerate(calls)
        ]
        status, answer = self.post(json.dumps(body).encode())
        assert status == 200
        assert isinstance(answer, list)
        return answer

    def close(self) -> None:
        self._connection.close()


def page(address: str, path: str, **headers: str) -> tuple[int, str]:
    """Status and text of a page, without a password."""
    connection = http.client.HTTPConnection(address, timeout=DEADLINE_S)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def cookie(node: RunningNode) -> Path:
    return node.datadir / ".cookie"
