"""The JSON-RPC client against a real HTTP server that says what a test wants it to say."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from damage import damaged_json
from hypothesis import example, given, settings
from rpc_server import COOKIE, RpcServer, serving

from node.errors import UsageError
from tools.cli.errors import CliError, NoAnswer, Refused
from tools.cli.places import Place
from tools.cli.transport import Access, Client


@pytest.fixture
def server() -> Iterator[RpcServer]:
    with serving() as server:
        yield server


@pytest.fixture
def access(server: RpcServer, tmp_path: Path) -> Access:
    (tmp_path / ".cookie").write_text(COOKIE)
    return Access("127.0.0.1", server.server_port, tmp_path / ".cookie", "start it")


def test_a_call_and_its_result(server: RpcServer, access: Access) -> None:
    server.result('{"a": [1, 0.10000000]}')
    params = [msgspec.Raw(b"12345678.00000001"), "x", Decimal("0.10000000")]
    result = Client(access).call("some", params)
    assert result == b'{"a": [1, 0.10000000]}'  # as the node wrote it
    assert Client(access).value("some")["a"] == [1, Decimal("0.10000000")]
    headers, body = server.asked[0]
    assert b"12345678.00000001" in body
    assert b"0.10000000" in body
    request = json.loads(body)
    assert (request["jsonrpc"], request["method"]) == ("2.0", "some")
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == COOKIE.encode()
    assert headers["Content-Type"] == "application/json"


def test_named_parameters_travel_as_an_object(server: RpcServer, access: Access) -> None:
    Client(access).call("some", {"b": 1, "args": [2]})
    assert json.loads(server.asked[0][1])["params"] == {"b": 1, "args": [2]}


@pytest.mark.parametrize("host", ["a..b", "x" * 80 + ".invalid"])
def test_a_name_that_none_can_be_is_no_host(access: Access, host: str) -> None:
    with pytest.raises(NoAnswer, match="there is no host"):
        Client(replace(access, host=host)).call("some")


def test_a_parameter_that_is_no_text(access: Access) -> None:
    with pytest.raises(CliError, match="not UTF-8"):
        Client(access).call("some", [b"\xff".decode("utf-8", "surrogateescape")])


def test_a_password_of_any_bytes(server: RpcServer, access: Access) -> None:
    password = b"\xff\xfe"
    Client(replace(access, user="ann", password=password.decode("utf-8", "surrogateescape"))).call(
        "some"
    )
    given = server.asked[0][0]["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(given) == b"ann:" + password


def test_the_nodes_own_errors(server: RpcServer, access: Access) -> None:
    server.status = 500
    server.body = b'{"result":null,"error":{"code":-8,"message":"out of range"},"id":1}'
    with pytest.raises(Refused) as caught:
        Client(access).call("some")
    assert (caught.value.code, str(caught.value)) == (-8, "error -8: out of range")


@pytest.mark.parametrize(
    ("status", "named"),
    [
        (401, ["does not accept", ".cookie", "--datadir"]),
        (403, ["lets nobody", "[rpc]"]),
        (413, ["longer than the node takes"]),
        (503, ["too much to do", "try again"]),
        (404, ["is no node", "404"]),
        (200, ["is no node"]),
    ],
)
def test_what_http_says(server: RpcServer, access: Access, status: int, named: list[str]) -> None:
    server.status, server.body = status, b"<html>not for you</html>"
    with pytest.raises(NoAnswer) as caught:
        Client(access).call("some")
    for part in named:
        assert part in caught.value.message
    assert "0123456789abcdef" not in caught.value.message


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b'{"error": 5}', b"\xff"])
def test_answers_that_are_none(server: RpcServer, access: Access, body: bytes) -> None:
    server.body = body
    with pytest.raises(NoAnswer, match="is no node"):
        Client(access).call("some")


def test_a_user_with_a_password(server: RpcServer, access: Access) -> None:
    user = Access(access.host, access.port, access.cookie, "start it", "alice", "sésame")
    Client(user).call("some")
    sent = server.asked[0][0]["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == "alice:sésame"
    server.status = 401
    with pytest.raises(NoAnswer) as caught:
        Client(user).call("some")
    assert "alice" in caught.value.message
    assert "sésame" not in caught.value.message


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    cookie = tmp_path / ".cookie"
    access = Access("127.0.0.1", port, cookie, "start it with: timed run --datadir D")
    with pytest.raises(NoAnswer, match=r"no node is running here.*timed run --datadir D"):
        Client(access)
    cookie.write_text(COOKIE)
    with pytest.raises(NoAnswer, match=f"no node answers at 127.0.0.1:{port}; start it with"):
        Client(access).call("some")
    cookie.write_text("nonsense")
    with pytest.raises(NoAnswer, match="not a node's cookie"):
        Client(access)


def test_a_connection_that_breaks(access: Access, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(1)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        broken = Access("127.0.0.1", listener.getsockname()[1], access.cookie, "start it")
        with pytest.raises(NoAnswer, match=r"broke .*starting or stopping"):
            Client(broken).call("some")
        thread.join()


# -- where the node is ---------------------------------------------------------------------------


def test_an_address_given_by_hand(tmp_path: Path) -> None:
    access = Place(datadir=tmp_path, network="dev", rpc="[::1]:5").access()
    assert (access.host, access.port, access.where) == ("::1", 5, "[::1]:5")
    assert Place(datadir=tmp_path, rpc="0.0.0.0:5").access().host == "127.0.0.1"
    for wrong in ("nothing", ":5", "a:", "a:0", "a:70000", "a:b"):
        with pytest.raises(UsageError, match="--rpc ADDRESS:PORT"):
            Place(datadir=tmp_path, rpc=wrong).access()


def test_no_data_directory_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NoAnswer, match="timed init"):
        Place(datadir=tmp_path / "d", network="dev").access()
    with pytest.raises(UsageError, match="main, test, dev"):
        Place(network="moon").access()


def test_a_user_needs_a_password_that_only_he_can_read(tmp_path: Path) -> None:
    place = Place(datadir=tmp_path, rpc="a:5", user="alice")
    with pytest.raises(UsageError, match="--password-file"):
        place.access()
    secret = tmp_path / "password"
    secret.write_text("sesame\nmore")
    secret.chmod(0o600)
    with_file = Place(datadir=tmp_path, rpc="a:5", user="alice", password_file=secret)
    assert with_file.access().password == "sesame"


def test_options_behind_a_command_win_over_those_before() -> None:
    before = Place(datadir=Path("a"), network="dev", rpc="x:1")
    assert Place(datadir=Path("b")).merged(before) == Place(Path("b"), "dev", "x:1")


def test_wallets_lie_beside_the_data_directories(tmp_path: Path) -> None:
    place = Place(datadir=tmp_path, network="test")
    assert place.wallet("a").parts[-4:] == (".timecoin", "wallets", "test", "a.wallet")
    assert place.wallet("./b") == Path("b").absolute()
    for wrong in ("", ".hidden", "x" * 101):
        with pytest.raises(UsageError, match="no name for a wallet"):
            place.wallet(wrong)


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RpcServer, Access]]:
    cookie = tmp_path_factory.mktemp("any-bytes") / ".cookie"
    cookie.write_text(COOKIE)
    with serving() as server:
        yield server, Access("127.0.0.1", server.server_port, cookie, "start it")


@settings(max_examples=100)
@given(damaged_json(b'{"jsonrpc": "2.0", "result": {"a": [1.5, "x"]}, "error": null, "id": 1}'))
@example(b'{"result": ' + b"[" * 5_000 + b"]" * 5_000 + b"}")
def test_any_answer_is_one_or_is_no_nodes(telling: tuple[RpcServer, Access], data: bytes) -> None:
    server, access = telling
    server.body = data
    try:
        result = Client(access).call("some")
    except (NoAnswer, Refused):
        return
    assert result in data or result == b"null"  # what is not there
