"""Everything that an operator can get wrong, through the real command: one line, and status 2."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node import datadir
from node.genesis import genesis_from_json, genesis_to_json
from node.keys import hold_key_file

ROOT = Path(__file__).parents[2]

INTELS_LIBRARIES = (
    *("libintlc.so.5", "libimf.so", "libirng.so", "libsvml.so"),
    "libcrypto_mb.so.13",
)


def timed(
    *arguments: str | Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=before,
    )


def refused(*arguments: str | Path, before: Callable[[], None] | None = None) -> str:
    """The one line that a command ends with when the operator has to do something."""
    done = timed(*arguments, before=before)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("timed: ")
    cause, semicolon, remedy = done.stderr.removeprefix("timed: ").rstrip("\n").partition("; ")
    assert all((cause, semicolon, remedy)), done.stderr
    return done.stderr


def said_at_the_end(d: Path) -> str:
    """The operator's line of a node that a stage could not be started for, after its log."""
    done = timed("run", "--datadir", d)
    assert done.returncode == 2, (done.returncode, done.stderr)
    *log, last = done.stderr.splitlines()
    assert last.startswith("timed: ")
    assert all(json.loads(line)["event"] for line in log)
    return last


def drop_root() -> None:
    """Make permissions count for root too: give up the capabilities that override them."""
    if os.geteuid() == 0:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            assert libc.prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine") / "d"
    done = timed("init", "--network", "dev", "--datadir", root)
    assert done.returncode == 0, done.stderr
    assert f"timed run --datadir {root}" in done.stdout
    return root


@pytest.fixture
def d(pristine: Path, tmp_path: Path) -> Path:
    """A data directory of one's own, on free ports."""
    root = tmp_path / "d"
    shutil.copytree(pristine, root)
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for each in (one, two, three):
            each.bind(("127.0.0.1", 0))
        listen, notify, rpc = (each.getsockname()[1] for each in (one, two, three))
    configure(
        root,
        f'[network]\nlisten = "tcp://127.0.0.1:{listen}"\nnotify = "tcp://127.0.0.1:{notify}"\n'
        f'[rpc]\nlisten = "127.0.0.1:{rpc}"',
    )
    return root


def configure(root: Path, text: str) -> None:
    (root / "config.toml").write_text(text)


@pytest.fixture
def a_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


# -- usage ---------------------------------------------------------------------------------------


def test_wrong_usage() -> None:
    assert "--nonsense" in refused("run", "--nonsense")
    assert "'rnu'" in refused("rnu")
    assert "main, test, dev" in refused("init", "--network", "moon")


def test_help_and_version() -> None:
    done = timed("--help")
    assert done.returncode == 0
    for command in ("init", "run", "check", "status", "resume-signing"):
        assert command in done.stdout
    assert timed("--version").stdout.startswith("timed 0.")


# -- init ----------------------------------------------------------------------------------------


def test_init_takes_only_what_is_empty(pristine: Path, tmp_path: Path) -> None:
    assert "data directory already" in refused("init", "--network", "dev", "--datadir", pristine)
    (tmp_path / "letter").write_text("")
    assert "not empty" in refused("init", "--network", "dev", "--datadir", tmp_path)
    assert os.listdir(tmp_path) == ["letter"]
    file = tmp_path / "letter"
    refused("init", "--network", "dev", "--datadir", file)
    refused("init", "--network", "dev", "--datadir", file / "below")


def test_an_interrupted_init_is_recognised(tmp_path: Path) -> None:
    where = datadir.layout(tmp_path / "d")
    datadir.create(where)
    for command in ("init", "run", "check", "status"):
        assert f"rm -r {where.root}" in refused(command, "--datadir", where.root, *(
            ("--network", "dev") if command == "init" else ()
        ))  # fmt: skip


def test_init_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    line = refused("init", "--network", "dev", "--datadir", tmp_path / "d", before=drop_root)
    assert "no permission" in line
    tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []


def test_init_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file sizes fails writes as a full disk does, in the middle of everything."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))

    refused("init", "--network", "dev", "--datadir", tmp_path / "d", before=limit)
    assert os.listdir(tmp_path) == []


def test_init_on_too_small_a_disk(tmp_path: Path) -> None:
    mounted = "mount -t tmpfs -o size=1m tmpfs"
    tried = subprocess.run(["unshare", "-rm", "sh", "-c", f"{mounted} {tmp_path}"], check=False)
    if tried.returncode:
        pytest.skip("no private mounts here")
    done = subprocess.run(
        [
            *("unshare", "-rm", "sh", "-c"),
            f'{mounted} "$1" && exec "$2" -m node init --network dev --datadir "$1/d"',
            *("sh", str(tmp_path), sys.executable),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "are free on the device" in done.stderr


def test_init_needs_a_genesis_for_a_public_network(tmp_path: Path) -> None:
    assert "--genesis" in refused("init", "--datadir", tmp_path / "d")
    assert "--genesis" in refused("init", "--datadir", tmp_path / "d", "--network", "test")
    assert os.listdir(tmp_path) == []


def test_init_checks_what_it_is_given(pristine: Path, tmp_path: Path) -> None:
    to = ("init", "--datadir", tmp_path / "d")
    for name in ("genesis.json", "genesis.alloc", "validator.key"):
        shutil.copy2(pristine / name, tmp_path)
    genesis, key = tmp_path / "genesis.json", tmp_path / "validator.key"
    given = ("--genesis", genesis, "--validator-key", key)

    assert "--validator-key" in refused(*to, "--genesis", genesis)
    assert "--network dev" in refused(*to, *given, "--network", "main")
    assert "none.json" in refused(*to, "--genesis", tmp_path / "none.json")
    assert "none.key" in refused(*to, *given[:2], "--validator-key", tmp_path / "none.key")

    key.chmod(0o640)
    assert "chmod 600" in refused(*to, *given)
    key.chmod(0o600)
    text = key.read_text()
    key.write_text(text[:-9] + "00000000\n")
    assert "not that of a validator" in refused(*to, *given)
    key.write_text("\n")
    assert "validator.key" in refused(*to, *given)
    key.write_text(text)

    allocations = tmp_path / "genesis.alloc"
    content = allocations.read_bytes()
    allocations.write_bytes(content[:-1] + b"\0")
    assert "genesis.alloc" in refused(*to, *given)
    allocations.unlink()
    assert "genesis.alloc" in refused(*to, *given)
    allocations.write_bytes(content)
    genesis.write_text('{"chain": "dev"}')
    assert "genesis.json" in refused(*to, *given)
    assert not (tmp_path / "d").exists()

    shutil.copy2(pristine / "genesis.json", genesis)
    assert timed(*to, *given).returncode == 0
    assert (tmp_path / "d" / "FORMAT").read_text() == (pristine / "FORMAT").read_text()


# -- every command on a data directory -----------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "check", "status"])
def test_not_a_data_directory(command: str, tmp_path: Path) -> None:
    assert "timed init" in refused(command, "--datadir", tmp_path / "none")
    (tmp_path / "letter").write_text("")
    assert "not a data directory" in refused(command, "--datadir", tmp_path)
    assert os.listdir(tmp_path) == ["letter"]


@pytest.mark.parametrize("command", ["run", "check", "status"])
def test_a_newer_data_directory(command: str, d: Path) -> None:
    (d / "FORMAT").write_text("timed 7\n")
    assert "newer timed" in refused(command, "--datadir", d)


@pytest.mark.parametrize("command", ["run", "check"])
def test_another_genesis(command: str, d: Path) -> None:
    genesis = genesis_from_json((d / "genesis.json").read_bytes())
    import msgspec

    other = msgspec.structs.replace(genesis, reward=genesis.reward + 1)
    (d / "genesis.json").write_bytes(genesis_to_json(other))
    assert "genesis.json is not the genesis" in refused(command, "--datadir", d)


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[verify]\nworker = 2", "did you mean 'workers'"),
        ("[verify]\nworkers = 1000", "0 to 64"),
        ("[verify\n", "line 1"),
        ('[pipeline]\ncores = "net=4095"', "4095"),
    ],
)
def test_a_wrong_configuration(command: str, text: str, named: str, d: Path) -> None:
    configure(d, text)
    line = refused(command, "--datadir", d)
    assert named in line
    assert str(d / "config.toml") in line or "config.toml" in line


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_key_that_others_can_read(command: str, d: Path) -> None:
    (d / "validator.key").chmod(0o644)
    assert "chmod 600" in refused(command, "--datadir", d)


def test_a_key_of_somebody_else(d: Path) -> None:
    text = (d / "validator.key").read_text()
    (d / "validator.key").write_text(text[:-9] + "00000000\n")
    assert "not a validator's" in refused("check", "--datadir", d)
    assert "not a validator's" in refused("resume-signing", "--datadir", d)
    assert "not a validator's" in said_at_the_end(d)


def test_a_key_that_is_in_use(d: Path) -> None:
    with hold_key_file(d / "validator.key"):
        said = said_at_the_end(d)
        assert f"(process {os.getpid()}) signs with the key file {d / 'validator.key'}" in said
        assert "signs with the key file" in refused("resume-signing", "--datadir", d)


def test_a_damaged_record_of_what_was_signed(d: Path) -> None:
    (d / "signer" / "signer.state").write_bytes(b"")
    for line in (refused("check", "--datadir", d), said_at_the_end(d)):
        assert f"{d / 'signer' / 'signer.state'} is damaged; move it away" in line


def test_signing_is_resumed_only_with_a_yes(d: Path) -> None:
    record = d / "signer" / "signer.state"
    assert "nothing to resume" in refused("resume-signing", "--datadir", d, "--yes")
    record.unlink()
    assert "see timed resume-signing" in refused("check", "--datadir", d)
    assert "give --yes" in refused("resume-signing", "--datadir", d)
    assert "is decided already" in refused(
        *("resume-signing", "--datadir", d, "--yes", "--from-height", "0")
    )
    assert not record.exists()
    done = timed("resume-signing", "--datadir", d, "--yes", "--from-height", "1")
    assert done.returncode == 0, done.stderr
    assert "signs from height 1 on" in timed("check", "--datadir", d).stdout


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("section", "key", "before"),
    [
        *(("network", "listen", "tcp://"), ("network", "notify", "tcp://")),
        *(("network", "peer_listen", ""), ("rpc", "listen", "")),
    ],
)
def test_a_port_in_use(
    command: str, section: str, key: str, before: str, a_port: int, d: Path
) -> None:
    configure(d, f'[{section}]\n{key} = "{before}127.0.0.1:{a_port}"')
    line = refused(command, "--datadir", d)
    assert f"127.0.0.1:{a_port} is in use" in line
    assert f"change {key} in section [{section}]" in line


def test_addresses_that_cannot_be(d: Path) -> None:
    configure(d, '[network]\nlisten = "tcp://203.0.113.7:24302"')
    assert "203.0.113.7:24302 is not an address of this machine" in refused("run", "--datadir", d)
    configure(d, '[network]\nlisten = "tcp://no-such-host.invalid:24302"')
    assert "no-such-host.invalid" in refused("run", "--datadir", d)


def test_a_fast_backend_that_is_asked_for_and_broken(
    d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"  # stands before the installed package of this name
    information = broken / "ipp_crypto-0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Name: ipp-crypto\nVersion: 0\n")
    (information / "RECORD").write_text("".join(f"{name},,\n" for name in INTELS_LIBRARIES))
    for name in INTELS_LIBRARIES:
        (broken / name).write_bytes(b"no library")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    text = (d / "config.toml").read_text()
    configure(d, f'{text}\n[verify]\nbackend = "avx512"')
    line = refused("run", "--datadir", d)
    assert "set the backend to nacl" in line


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_second_node(command: str, d: Path) -> None:
    with datadir.locked(datadir.layout(d)):
        line = refused(command, "--datadir", d)
        assert f"(process {os.getpid()}) is running on {d}" in line


@pytest.mark.parametrize("part", [".", "run", "blocks", "store"])
def test_without_permission_to_write(part: str, d: Path) -> None:
    (d / part).chmod(0o500)
    (d / "LOCK").touch()
    line = refused("run", "--datadir", d, before=drop_root)
    assert f"no permission for {(d / part).resolve()}" in line
    (d / part).chmod(0o700)


def test_links_are_not_followed(d: Path, tmp_path: Path) -> None:
    (d / "run").rmdir()
    (tmp_path / "victim").mkdir()
    (d / "run").symlink_to(tmp_path / "victim")
    assert "is not a directory" in refused("run", "--datadir", d)
    assert os.listdir(tmp_path / "victim") == []


def test_a_damaged_store(d: Path) -> None:
    (d / "store" / "CURRENT").write_text("nothing\n")
    assert str(d / "store") in refused("check", "--datadir", d)


def test_what_a_stage_finds_out_is_said_at_the_end(d: Path) -> None:
    """The store is opened by a stage: its message still ends as the operator's line."""
    (d / "store" / "CURRENT").write_text("nothing\n")
    assert str(d / "store") in said_at_the_end(d)


def test_lost_blocks_are_noticed(d: Path) -> None:
    shutil.rmtree(d / "store")
    assert str(d / "store") in refused("check", "--datadir", d)


# -- check ---------------------------------------------------------------------------------------


def test_check_says_everything_at_once(d: Path) -> None:
    good = timed("check", "--datadir", d, "--replay")
    assert (good.returncode, good.stderr) == (0, "")
    assert all(line.startswith("ok   ") for line in good.stdout.splitlines())
    assert "replay          10 outputs" in good.stdout

    (d / "validator.key").chmod(0o644)
    (d / "genesis.alloc").write_bytes(b"")
    bad = timed("check", "--datadir", d)
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1
    assert bad.stderr.startswith("timed: 3 checks failed")  # the key's file stops the preflight too
    assert [line[5:20].strip() for line in bad.stdout.splitlines() if line.startswith("bad")] == [
        "allocations",
        "validator key",
        "verification",
    ]


def test_check_changes_nothing(d: Path) -> None:
    before = {path: path.read_bytes() for path in d.iterdir() if path.is_file()}
    assert timed("check", "--datadir", d).returncode == 0
    after = {p: p.read_bytes() for p in d.iterdir() if p.is_file() and p.name != "LOCK"}
    assert after == before
    assert os.listdir(d / "run") == []


# -- status --------------------------------------------------------------------------------------


def test_status_without_a_node(d: Path) -> None:
    assert f"timed run --datadir {d}" in refused("status", "--datadir", d)
    with datadir.locked(datadir.layout(d)):
        assert "does not answer" in refused("status", "--datadir", d, "--json")


def test_status_of_something_that_talks_nonsense(d: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, datadir.locked(datadir.layout(d)):
        server.bind(str(d / "run" / "control.sock"))
        server.listen()

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(json.dumps("hello").encode() + b"\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert "does not answer" in refused("status", "--datadir", d)
        thread.join()
