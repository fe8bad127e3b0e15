"""config.toml: what is accepted, what is refused and how, and that no key is without effect."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.config import Config, defaults, example, keys, network_of, parse
from node.datadir import layout
from node.errors import ConfigError
from node.genesis import Allocations, Genesis, Validator
from node.settings import NodeSettings, resolve
from node.wiring import wire
from pipeline.topology import Topology

GENESIS = Genesis(
    chain="dev",
    time_ms=1,
    min_fee=1,
    dust_limit=1,
    reward=0,
    max_block_bytes=1_000_000,
    max_block_transactions=1_000,
    validators=(Validator(key="11" * 32, power=1),),
    allocations=Allocations(count=0, total=0, digest="00" * 32),
)

USER = "ann:5a17$" + "0" * 64

Extract = Callable[[NodeSettings, Topology], object]

# For every key: a value that is not its default, and what the node gets from it.
CASES: dict[tuple[str, str], tuple[str, Extract, object]] = {
    ("network", "listen"): ('"tcp://*:7001"', lambda s, t: s.ingest_address, "tcp://*:7001"),
    ("network", "notify"): ('"tcp://[::1]:7"', lambda s, t: s.notify_address, "tcp://[::1]:7"),
    ("network", "peer_listen"): ('"[::]:7"', lambda s, t: s.peer_listen, "[::]:7"),
    ("network", "peers"): ('["a.b:7", "[::1]:8"]', lambda s, t: s.peers, ("a.b:7", "[::1]:8")),
    ("network", "max_inbound"): ("5", lambda s, t: s.max_inbound, 5),
    ("network", "max_outbound"): ("5", lambda s, t: s.max_outbound, 5),
    ("verify", "backend"): ('"nacl"', lambda s, t: s.backend, "nacl"),
    ("verify", "workers"): ("7", lambda s, t: t.stage("verify").count, 7),
    ("mempool", "max_transactions"): ("5", lambda s, t: s.policy.max_count, 5),
    ("mempool", "max_mb"): ("5", lambda s, t: s.policy.max_bytes, 5 << 20),
    ("mempool", "relay_fee_per_kb"): ("5", lambda s, t: s.policy.relay_fee_per_kb, 5),
    ("mempool", "max_ancestors"): ("5", lambda s, t: s.policy.max_ancestors, 5),
    ("mempool", "replacement_increment"): ("5", lambda s, t: s.policy.replacement_increment, 5),
    ("mempool", "expiry_s"): ("5", lambda s, t: s.policy.expiry_ms, 5_000),
    ("mempool", "max_orphans"): ("5", lambda s, t: s.policy.max_orphans, 5),
    ("mempool", "max_orphan_mb"): ("5", lambda s, t: s.policy.max_orphan_bytes, 5 << 20),
    ("block", "pace_ms"): ("100", lambda s, t: s.pace_ms, 100),
    ("block", "empty_pace_s"): ("5", lambda s, t: s.empty_pace_ms, 5_000),
    ("store", "cache_mb"): ("9", lambda s, t: s.cache_mb, 9),
    ("store", "write_buffer_mb"): ("9", lambda s, t: s.write_buffer_mb, 9),
    ("store", "address_index"): ("false", lambda s, t: s.address_index, False),
    ("pipeline", "cores"): ('"off"', lambda s, t: t.cores, "off"),
    ("pipeline", "trays"): ("16", lambda s, t: (t.trays.trays, t.links[0].capacity), (16, 16)),
    ("pipeline", "fuse"): (
        '["net", "verify"]',
        lambda s, t: [(x.process, x.count) for x in t.stages],
        [("net_verify", 1), ("net_verify", 1), (None, 1), (None, 1), (None, 1)],
    ),
    ("pipeline", "net_memory_mb"): ("5", lambda s, t: s.net_memory_mb, 5),
    ("rpc", "listen"): ('""', lambda s, t: (s.rpc.listen, len(t.stages)), ("", 4)),
    ("rpc", "rpcauth"): (f'["{USER}"]', lambda s, t: s.rpc.rpcauth, (USER,)),
    ("rpc", "max_connections"): ("5", lambda s, t: s.rpc.max_connections, 5),
    ("rpc", "max_body_kb"): ("16", lambda s, t: s.rpc.max_body_kb, 16),
    ("rpc", "max_batch"): ("5", lambda s, t: s.rpc.max_batch, 5),
    ("rpc", "workers"): ("5", lambda s, t: s.rpc.workers, 5),
    ("rpc", "work_queue"): ("5", lambda s, t: s.rpc.work_queue, 5),
    ("rpc", "max_waits"): ("5", lambda s, t: s.rpc.max_waits, 5),
    ("rpc", "timeout_s"): ("5", lambda s, t: s.rpc.timeout_s, 5),
    ("rpc", "memory_mb"): ("5", lambda s, t: s.rpc.memory_mb, 5),
    ("log", "level"): ('"debug"', lambda s, t: s.log_level, "debug"),
    ("log", "format"): ('"json"', lambda s, t: s.log_format, "json"),
}


def effect(config: Config) -> tuple[NodeSettings, Topology]:
    settings = resolve(config, GENESIS, layout(Path("/data")), terminal=True)
    return settings, wire(config, "avx512", range(4))


def test_no_key_is_without_a_case() -> None:
    assert set(CASES) == set(keys())


@pytest.mark.parametrize(("section", "key"), CASES, ids=".".join)
def test_changing_a_key_changes_what_the_node_gets(section: str, key: str) -> None:
    value, extract, expected = CASES[section, key]
    changed = parse(f"[{section}]\n{key} = {value}\n".encode(), "config.toml", "dev")
    assert extract(*effect(changed)) == expected
    assert extract(*effect(defaults("dev"))) != expected


@pytest.mark.parametrize("network", ["main", "test", "dev"])
def test_the_example_is_the_defaults(network: str) -> None:
    text = example(network)
    assert parse(text.encode(), "config.toml", network) == defaults(network)
    uncommented, count = re.subn(r"(?m)^#(\w+ = )", r"\1", text)
    assert count == len(list(keys()))
    assert parse(uncommented.encode(), "config.toml", network) == defaults(network)


def test_an_empty_file_is_the_defaults() -> None:
    assert parse(b"", "config.toml", "main") == defaults("main")
    assert defaults("main").network.listen == "tcp://127.0.0.1:24102"
    assert defaults("test").network.notify == "tcp://127.0.0.1:24203"


def test_private_chains_are_of_the_dev_network() -> None:
    assert [network_of(chain) for chain in ("main", "test", "dev", "mine")] == [
        "main",
        "test",
        "dev",
        "dev",
    ]


REFUSED: list[tuple[bytes, list[str]]] = [
    (b"[verify]\nworker = 2", ["'worker'", "[verify]", "'workers'"]),
    (b"[block]\nworkers = 2", ["'workers'", "[block]", "move it to [verify]"]),
    (b"[block]\nzzz = 2", ["'zzz'", "valid here: pace_ms, empty_pace_s"]),
    (b"[verfy]\nworkers = 2", ["[verfy]", "'verify'"]),
    (b"workers = 2", ["'workers'", "[verify]"]),
    (b"zzz = 2", ["'zzz'"]),
    (b"verify = 2", ["verify", "[verify]"]),
    (b"[[verify]]\nworkers = 2", ["verify", "[verify]"]),
    (b"[verify]\nworkers = -1", ["workers = -1", "0 to 64"]),
    (b"[verify]\nworkers = 65", ["workers = 65", "0 to 64"]),
    (b"[verify]\nworkers = true", ["workers = true", "integer"]),
    (b"[verify]\nworkers = 2.0", ["workers = 2.0", "integer"]),
    (b'[verify]\nworkers = "2"', ['workers = "2"', "integer"]),
    (b"[verify]\nworkers = 1979-05-27", ["workers", "integer"]),
    (b"[verify]\nworkers = " + b"9" * 200, ["workers", "..."]),
    (b'[verify]\nbackend = "gpu"', ['"gpu"', '"auto", "avx512", "nacl"']),
    (b"[mempool]\nmax_transactions = 0", ["max_transactions = 0", "1 to 10_000_000"]),
    (b'[log]\nlevel = "loud"', ['"loud"', '"debug"']),
    (b'[network]\nlisten = "tcp://127.0.0.1"', ["listen", "tcp://ADDRESS:PORT"]),
    (b'[network]\nlisten = "tcp://127.0.0.1:0"', ["listen", "1 to 65535"]),
    (b'[network]\nlisten = "tcp://127.0.0.1:70000"', ["listen", "1 to 65535"]),
    (b'[network]\nlisten = "ipc:///tmp/x"', ["listen", "tcp://ADDRESS:PORT"]),
    (b'[network]\nlisten = "tcp://*:5"\nnotify = "tcp://*:5"', ["listen", "notify", "different"]),
    (b'[network]\npeer_listen = "*:5"', ["peer_listen", '"ADDRESS:PORT"', '""']),
    (b'[network]\npeer_listen = "a:0"', ["peer_listen", "1 to 65535"]),
    (b'[network]\npeers = "a:5"', ["peers", 'a list of "ADDRESS:PORT"']),
    (b'[network]\npeers = ["a:5", "a"]', ["peers", 'a list of "ADDRESS:PORT"']),
    (b'[network]\npeers = ["a:5", "b:70000"]', ["peers", "1 to 65535"]),
    (b'[network]\npeers = ["a:5", "a:5"]', ["peers", "twice"]),
    (b'[pipeline]\nfuse = "net"', ["fuse", "list"]),
    (b'[pipeline]\nfuse = ["net", "sign"]', ["fuse", "sign"]),
    (b'[pipeline]\nfuse = ["net"]', ["fuse", "two different"]),
    (b'[pipeline]\nfuse = ["net", "net"]', ["fuse", "two different"]),
    (b'[verify]\nworkers = 2\n[pipeline]\nfuse = ["net", "verify"]', ["fuse", "workers"]),
    (b"[block]\npace_ms = 2000\nempty_pace_s = 1", ["pace_ms", "empty_pace_s"]),
    (b'[rpc]\nlisten = "tcp://127.0.0.1:5"', ["listen", '"ADDRESS:PORT"', '""']),
    (b'[rpc]\nlisten = "127.0.0.1:0"', ["listen", "1 to 65535"]),
    (b'[rpc]\nlisten = "127.0.0.1:24302"', ["listen", "[rpc]", "[network]", "different ports"]),
    (
        b'[rpc]\nlisten = "0.0.0.0:5"\n[network]\npeer_listen = "0.0.0.0:5"',
        ["peer_listen in section [network] and listen in section [rpc]", "different ports"],
    ),
    (
        b'[network]\npeer_listen = "127.0.0.1:24302"',
        ["listen in section [network] and peer_listen in section [network]", "127.0.0.1:24302"],
    ),
    (
        b'[network]\npeer_listen = "0.0.0.0:5"\nnotify = "tcp://0.0.0.0:5"',
        ["notify in section [network] and peer_listen in section [network]", "different ports"],
    ),
    (b'[rpc]\nrpcauth = ["ann:secret"]', ["rpcauth", "NAME:SALT$DIGEST"]),
    (b"[rpc]\nmax_batch = 0", ["max_batch = 0", "1 to 10_000"]),
    (b"[store]\naddress_index = 1", ["address_index = 1", "true or false"]),
    (b"\n\n[block\n", ["TOML", "line 3"]),
    (b"[block]\npace_ms = = 3", ["TOML", "line 2, column 11"]),
    (b"[block]\npace_ms = 100\npace_ms = 200", ["TOML", "overwrite"]),
    (b"[log]\nlevel = 'a\xff'", ["line 2", "UTF-8"]),
    (b"#" * 70_000, ["70,000 bytes"]),
    (b"[verify]\nworkers = " + b"9" * 5_000, ["too many digits", "4300", "range"]),
    (b"[verify]\nworkers = 0x" + b"f" * 3_600, ["workers = (too long", "0 to 64"]),
    (b"[pipeline]\nfuse = " + b"[" * 5_000 + b"]" * 5_000, ["nested too deeply", "remove them"]),
    (b"[pipeline]\nfuse = " + b"{a=" * 5_000, ["nested too deeply", "remove them"]),
    (b"[verify]\nworkers" + b".a" * 2_000 + b" = 1", ["workers = (too long", "0 to 64"]),
    (b"[verify]\n" + b"w" * 60_000 + b" = 1", ["'wwww", "...'", "[verify]"]),
    (b"[" + b"w" * 60_000 + b"]", ["[wwww", "...]"]),
    (b'["new\\nline"]', ["[new\\nline]"]),
    (b'["' + b"w" * 30_000 + b'"]\n["' + b"w" * 30_000 + b'"]', ["TOML", "line 2", "..."]),
    (b'[rpc]\nlisten = "127.0.0.1:5\\n"', ["listen", '"ADDRESS:PORT"']),
    (b'[network]\nnotify = "tcp://127.0.0.1:5\\n"', ["notify", "tcp://ADDRESS:PORT"]),
    (b'[network]\npeers = ["a:5\\n"]', ["peers", 'a list of "ADDRESS:PORT"']),
    (f'[rpc]\nrpcauth = ["{USER}\\n"]'.encode(), ["rpcauth", "NAME:SALT$DIGEST"]),
]


@pytest.mark.parametrize(("text", "named"), REFUSED)
def test_what_is_wrong_is_one_line_that_names_it(text: bytes, named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "/d/config.toml", "dev")
    message = caught.value.message
    for part in ["/d/config.toml", "; ", *named]:
        assert part in message
    assert "\n" not in message
    assert len(message) < 500
    assert caught.value.exit_status == 2


def refusal(text: bytes) -> str | None:
    """What is said against a file; any other error is a failure of the test."""
    try:
        parse(text, "/d/config.toml", "dev")
    except ConfigError as error:
        return error.message
    return None


def accepted_or_refused(text: bytes) -> None:
    """Nothing but a configuration or a ConfigError of one line comes of a file."""
    message = refusal(text)
    if message is not None:
        assert "/d/config.toml" in message
        assert "; " in message
        assert len(message.splitlines()) == 1
        assert len(message) < 1_000


# What TOML is made of, and what its readers have stumbled over.
PIECES = st.sampled_from(
    [*b"=[]{}\"'.,#\n\r\t _-+:\\"]  # as numbers: a byte each
    + [b"[[", b'"""', b"'''", b"\\u0000", b"\\ud800", b"\xff", b"\xc2\x85", b"\xe2\x80\xa8"]
    + [b"nan", b"-inf", b"1e999", b"0x", b"0o7", b"true", b"1979-05-27T07:32:00Z", b"07:32:00"]
    + [b"9" * 5_000, b"0x" + b"f" * 4_000, b"[" * 3_000, b"{a=" * 3_000, b"a." * 2_000, b"{}"]
    + [name.encode() for pair in keys() for name in pair]
).map(lambda piece: bytes((piece,)) if isinstance(piece, int) else piece)


@settings(max_examples=300)
@given(st.binary(max_size=300) | st.lists(PIECES, max_size=12).map(b"".join))
def test_any_bytes_are_accepted_or_refused(text: bytes) -> None:
    accepted_or_refused(text)


@settings(max_examples=300)
@given(st.data())
def test_an_example_in_which_anything_changes_is_accepted_or_refused(data: st.DataObject) -> None:
    text = re.sub(rb"(?m)^#(\w+ = )", rb"\1", example("dev").encode())
    text = re.sub(rb"(?m)^(#.*)?\n", b"", text)  # without it most changes are in comments
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 6)))
        piece = data.draw(PIECES | st.binary(max_size=6))
        # a whole value as often as any bytes: those in the middle of a word are soon refused
        if data.draw(st.booleans()):
            start = text.find(b" = ", start) + 3
            end = max(start, text.find(b"\n", start))
        text = text[:start] + piece + text[end:]
    accepted_or_refused(text)


def test_a_core_list_that_cannot_be_is_the_configuration_s_fault() -> None:
    for cores in ("net=64", "nobody=0", "net=x"):
        config = parse(f'[pipeline]\ncores = "{cores}"'.encode(), "config.toml", "dev")
        with pytest.raises(ConfigError, match=r"\[pipeline\]"):
            wire(config, "nacl", range(2))


def test_errors_survive_pickling() -> None:
    import pickle

    error: Any = pickle.loads(pickle.dumps(ConfigError("this is wrong", "do that")))
    assert (type(error), error.message) == (ConfigError, "this is wrong; do that")
    assert error.remedy == "do that"
