"""A network on one machine: its parts, and the command with real nodes, stopped in every way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from node.config import defaults, example, parse
from node.genesis import read_genesis
from node.keys import read_key_file
from tools.devnet.chain import key_path, make_chain
from tools.devnet.errors import DevnetError
from tools.devnet.load import Load, shares
from tools.devnet.nodes import Network, configure, init_nodes
from tools.devnet.places import (
    PORTS_PER_NODE,
    Place,
    configuration,
    places,
    shared_machine,
)
from tools.devnet.sight import line, sight
from tools.loadgen.workload import WorkloadOptions
from tools.loadgen.workload_file import Workload

DEADLINE_S = 60.0
ROOT = Path(__file__).parents[2]
PLACE = Place(1, Path("somewhere"), 24410, 24411, 24412, 24413)


def until(look: Callable[[], Any], what: str) -> Any:
    deadline_s = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)
    return found


# -- places and configuration ----------------------------------------------------------------------


def test_every_node_has_directories_and_ports_of_its_own(tmp_path: Path) -> None:
    found = places(tmp_path, 4, 0)
    ports = [
        port for p in found for port in (p.peer_port, p.rpc_port, p.ingest_port, p.notify_port)
    ]
    assert len(set(ports)) == 16
    assert len({place.datadir for place in found}) == 4
    assert [place.name for place in found] == ["node-0", "node-1", "node-2", "node-3"]


def free_base_port(nodes: int) -> int:
    """The first of enough ports, all free as far as is known."""
    for candidate in range(20_000, 30_000, 500):
        try:
            places(Path(), nodes, candidate)
        except DevnetError:
            continue
        return candidate
    raise AssertionError("no ports are free")


def test_ports_are_ten_apart(tmp_path: Path) -> None:
    base = free_base_port(2)
    first, second = places(tmp_path, 2, base)
    assert (first.peer_port, first.rpc_port) == (base, base + 1)
    assert (first.ingest_port, first.notify_port) == (base + 2, base + 3)
    assert second.peer_port == base + PORTS_PER_NODE
    assert second.peer == f"127.0.0.1:{base + PORTS_PER_NODE}"


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    base = free_base_port(2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", base + PORTS_PER_NODE + 2))
        other.listen()
        with pytest.raises(DevnetError, match=f"port {base + PORTS_PER_NODE + 2} cannot be had"):
            places(tmp_path, 2, base)


@pytest.mark.parametrize(("nodes", "base"), [(0, 0), (33, 0), (1, 80), (4, 65_500)])
def test_impossible_networks_are_refused(tmp_path: Path, nodes: int, base: int) -> None:
    with pytest.raises(DevnetError, match="give"):
        places(tmp_path, nodes, base)


def test_the_configuration_is_the_example_with_the_nodes_own_values() -> None:
    text = configuration(
        PLACE, ["127.0.0.1:24400", "127.0.0.1:24420"], {"block": {"pace_ms": 50}}, "dev"
    )
    config = parse(text.encode(), "config.toml", "dev")
    assert config.network.listen == "tcp://127.0.0.1:24412"
    assert config.network.notify == "tcp://127.0.0.1:24413"
    assert config.network.peer_listen == "127.0.0.1:24410"
    assert config.network.peers == ("127.0.0.1:24400", "127.0.0.1:24420")
    assert config.block.pace_ms == 50
    assert config.mempool == defaults("dev").mempool
    changed = [new for new, old in zip(text.splitlines(), example("dev").splitlines(), strict=True)
               if new != old]  # fmt: skip
    assert [each.split(" = ")[0] for each in changed] == [
        *("listen", "notify", "peer_listen", "peers", "pace_ms", "listen")
    ]
    assert config.rpc.listen == "127.0.0.1:24411"


def test_nodes_that_share_a_machine_take_no_core_for_themselves() -> None:
    assert shared_machine(1, 2) == {}
    assert shared_machine(4, 2) == {"pipeline": {"cores": "off"}, "verify": {"workers": 1}}
    assert shared_machine(4, 16) == {"pipeline": {"cores": "off"}, "verify": {"workers": 4}}
    configuration(PLACE, [], shared_machine(4, 16), "dev")  # these keys exist


def test_a_key_that_the_example_does_not_have_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="pase_ms"):
        configuration(PLACE, [], {"block": {"pase_ms": 50}}, "dev")


# -- the chain -------------------------------------------------------------------------------------


def test_a_chain_has_validators_with_keys_in_its_order_and_payments(tmp_path: Path) -> None:
    genesis = make_chain(tmp_path / "chain", 4, WorkloadOptions(50, seed="4"))
    assert read_genesis(tmp_path / "chain" / "genesis.json") == genesis
    keys = [read_key_file(key_path(tmp_path / "chain", n)).verify_key for n in range(4)]
    assert [bytes(key).hex() for key in keys] == [each.key for each in genesis.validators]
    assert {each.power for each in genesis.validators} == {1}
    workload = Workload.open(tmp_path / "chain")
    assert workload.count == 50
    assert workload.summary["validators"] == 4
    assert genesis.allocations.count == 50


def test_a_chain_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DevnetError, match="not a directory; check the path"):
        make_chain(tmp_path / "file" / "chain", 1, WorkloadOptions(1))


def test_shares_add_up() -> None:
    everybody = [Place(n, Path(str(n)), 1, 4, 2, 3) for n in range(3)]
    found = shares(everybody, 10, 99.0, first=5)
    assert [(each.first, each.count) for each in found] == [(5, 4), (9, 3), (12, 3)]
    assert sum(each.rate_per_s or 0 for each in found) == pytest.approx(99.0)
    assert len(shares(everybody, 2, None)) == 2  # nobody is asked to send nothing


# -- what is seen ----------------------------------------------------------------------------------


def status(uptime_s: float, finalised: int, **net: int) -> dict[str, Any]:
    consensus = {"height": 7, "round": 1, "mempool_items": 12, "items_out": finalised}
    return {
        "uptime_s": uptime_s,
        "state": "running",
        "metrics": {
            "net": [{"stage": "net", "index": 0, "values": net}],
            "consensus": [{"stage": "consensus", "index": 0, "values": consensus}],
        },
    }


def test_a_line_shows_what_a_status_says() -> None:
    before, now = sight(status(10.0, 1_000, peers=3)), sight(status(12.0, 5_000, peers=3))
    words = line(now, before, 231.4).split()
    shown = dict(zip(words[:8:2], words[1:8:2], strict=True))
    assert shown == {"height": "7", "round": "1", "peers": "3", "mempool": "12"}
    assert words[8:10] == ["2,000", "tx/s"]
    assert words[10:] == ["final", "231", "ms"]


def test_what_is_not_known_is_a_dash() -> None:
    first = sight(status(10.0, 1_000))
    assert line(first, None, None).split()[5:] == ["-", "mempool", "12", "-", "tx/s", "final",
                                                   "-", "ms"]  # fmt: skip
    restarted = sight(status(11.0, 10))
    assert restarted.per_s(first) is None
    assert first.per_s(first) is None


# -- nodes and load --------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Network]:
    make_chain(tmp_path / "chain", 1, WorkloadOptions(20))
    found = places(tmp_path, 1, 0)
    init_nodes(found, tmp_path / "chain")
    configure(found[0], [], {})
    with Network(found) as network:
        yield network


def test_a_node_that_does_not_stop_is_killed(alone: Network) -> None:
    alone.start()
    alone.wait_ready()
    (node,) = alone.nodes
    supervisor = psutil.Process(node.pid)
    children = supervisor.children(recursive=True)
    supervisor.suspend()
    assert alone.stop(timeout_s=0.2) == ["node-0 did not stop and was killed"]
    assert not node.running
    for process in children:
        with suppress(psutil.NoSuchProcess):
            assert process.status() == psutil.STATUS_ZOMBIE
    assert alone.stop() == []  # nothing is left to stop


def test_a_node_runs_stops_and_runs_again(alone: Network) -> None:
    (node,) = alone.nodes
    assert node.status() is None
    for _ in range(2):
        alone.start()
        alone.wait_ready()
        assert node.ready()
        assert alone.stop() == []
        assert "ended with status 0" in (node.ended() or "")


def test_a_load_that_finds_nobody_says_so(alone: Network, tmp_path: Path) -> None:
    (node,) = alone.nodes
    with Load(tmp_path / "chain", shares([node.place], 20, None)) as load:
        (report,) = load.reports(DEADLINE_S)
    assert load.done
    assert report.document is None
    assert "no node answers at" in report.line()


def test_a_load_that_is_left_is_gone(alone: Network, tmp_path: Path) -> None:
    alone.start()
    alone.wait_ready()
    with Load(tmp_path / "chain", shares([alone.nodes[0].place], 20, 0.5)) as load:
        assert load.reports(0)[0].line() == "the load generator did not end in time"
        assert not load.done
    assert load.done


# -- the command -----------------------------------------------------------------------------------


@contextmanager
def devnet(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "node", "devnet", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for told in process.stdout:
        if text in told:
            return
    raise AssertionError(f"it ended without {text!r}")


def at_work(directory: Path) -> list[psutil.Process]:
    """Processes that work in a directory: whose command line names it, or who stand in it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if str(directory) in words or process.cwd().startswith(str(directory)):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def test_a_network_runs_under_load_and_stops(tmp_path: Path) -> None:
    directory = tmp_path / "net"
    with devnet(
        *("--nodes", 1, "--load", 200, "--seconds", 4, "--base-port", 0),
        *("--directory", directory),
    ) as process:
        printed, told = process.communicate(timeout=100)
    assert process.returncode == 0, printed + told
    lines = printed.splitlines()
    assert "every answer right" in next(each for each in lines if "sent" in each)
    last = [each for each in lines if "height" in each][-1].split()
    assert int(last[last.index("height") + 1]) > 0
    assert float(last[last.index("final") + 1]) > 0  # the probes know
    assert lines[-1] == f"stopped; everything is in {directory}"
    assert at_work(directory) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_every_node_in_order(number: signal.Signals, tmp_path: Path) -> None:
    directory = tmp_path / "net"
    with devnet(
        *("--nodes", 2, "--validators-only", "--base-port", 0, "--directory", directory)
    ) as process:
        read_until(process, "height")
        assert len(at_work(directory)) >= 2
        process.send_signal(number)
        printed, told = process.communicate(timeout=60)
    assert process.returncode == 0, printed + told
    assert at_work(directory) == []
    for node in ("node-0", "node-1"):
        assert '"event":"stopped","status":0' in (directory / node / "node.log").read_text()


def test_a_killed_network_leaves_no_process(tmp_path: Path) -> None:
    directory = tmp_path / "net"
    with devnet(
        *("--nodes", 2, "--load", 50, "--base-port", 0, "--directory", directory)
    ) as process:
        read_until(process, "height")
        running = at_work(directory)
        assert len([each for each in running if "tools.loadgen" in each.cmdline()]) == 2
        process.kill()
        process.communicate()
    until(lambda: not at_work(directory), "something outlived it")


def test_a_node_that_ends_is_told_of_and_its_log_kept(tmp_path: Path) -> None:
    directory = tmp_path / "net"
    with devnet(
        *("--nodes", 2, "--validators-only", "--base-port", 0, "--directory", directory)
    ) as process:
        read_until(process, "height")
        lock = directory / "node-1" / "data" / "LOCK"
        os.kill(int(lock.read_text()), signal.SIGKILL)
        read_until(process, "node-1  ended with status -9")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 1
    assert at_work(directory) == []


def test_a_node_that_cannot_start_is_quoted(tmp_path: Path) -> None:
    """A port is taken after it was found free: by us, as soon as the directory is there."""
    base = free_base_port(1)
    directory = tmp_path / "net"
    with (
        devnet(
            *("--nodes", 1, "--validators-only", "--base-port", base, "--directory", directory)
        ) as process,
        socket.socket() as other,
    ):
        until((directory / "chain").exists, "the directory")
        other.bind(("127.0.0.1", base + 2))
        other.listen()
        _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told.startswith("timed: node-0 ended with status 2: timed: ")
    assert f"{base + 2} is in use" in told
    assert told.count("\n") == 1
    assert at_work(directory) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--nodes", 0), "a network of 0 nodes is impossible"),
        (("--load", 1e9), "change --load or --seconds"),
        (("--load", 10, "--validators-only"), "leave one of the two out"),
        (("--seconds", 0), "--seconds 0 is impossible"),
        (("--directory", ROOT), "is not empty"),
        (("--frobnicate",), "--frobnicate"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments: tuple[object, ...], said: str) -> None:
    with devnet(*arguments) as process:
        printed, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told.startswith("timed: ")
    assert said in told
    assert told.count("\n") == 1
    assert printed == ""
