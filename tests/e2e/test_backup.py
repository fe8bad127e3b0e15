"""Backing up and restoring a data directory, as systemd/README.md says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from devnet import Devnet, wait_until
from funded import Funds
from rocksdict import Options, Rdict
from running_node import TIMED, RunningNode, run

README = Path(__file__).resolve().parents[2] / "systemd" / "README.md"
RESTORED = 3

pytestmark = pytest.mark.timeout(180)


def left_out() -> set[str]:
    """What the backup of the README leaves out."""
    found = set(re.findall(r"--exclude=/(\S+)", README.read_text()))
    assert {"signer", "wal", "run"} <= found
    return found


def ignore(root: Path) -> Callable[[str, list[str]], set[str]]:
    return lambda directory, names: left_out() & set(names) if Path(directory) == root else set()


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Devnet]:
    block = {"pace_ms": 200, "empty_pace_s": 1}
    with Devnet(tmp_path, 4, transactions=10, block=block) as made:
        yield made


def test_a_validator_from_a_backup_is_silent_and_then_signs(net: Devnet, tmp_path: Path) -> None:
    net.start()
    datadir = net.places[RESTORED].datadir

    def metric(stage: str, name: str) -> int:
        return int(net.metrics(RESTORED, stage)[name])

    wait_until(lambda: metric("consensus", "height") >= 2)
    stopped = metric("consensus", "height")
    net.stop(RESTORED)
    backup = tmp_path / "backup"
    shutil.copytree(datadir, backup, ignore=ignore(datadir))
    key = (datadir / "validator.key").read_bytes()
    net.start(RESTORED)
    wait_until(lambda: metric("sign", "signatures") > 0, what="the original signs on")

    (backup / "validator.key").write_bytes(key)  # it was kept elsewhere
    (backup / "validator.key").chmod(0o600)
    (backup / "run").mkdir(mode=0o700)
    checked = run(*TIMED, "check", "--replay", "--datadir", str(backup))
    told = [line for line in checked.stdout.splitlines() if not line.startswith("ok")]
    assert [line.split()[1] for line in told] in ([], ["addresses"]), checked.stdout
    assert "silent until two heights were decided by the others" in checked.stdout

    net.stop(RESTORED)
    shutil.rmtree(datadir)
    shutil.copytree(backup, datadir)
    net.start(RESTORED)
    wait_until(lambda: metric("sign", "signatures") > 0, what="it signs again")
    assert metric("consensus", "height") >= stopped + 2  # decided by the others
    words = [
        str(each.get("text")) for each in net.events(RESTORED) if each["event"] == "stage_says"
    ]
    assert "no record of what was signed" in words[-1]


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        ("timed 2 {}", "was written by a newer timed (format 2; this one knows 1)"),
        ("timed 0 {}", "names format 0 and no chain that this timed knows"),
    ],
)
def test_data_of_another_version_is_left_alone(tmp_path: Path, marker: str, says: str) -> None:
    node = RunningNode(tmp_path, Funds(tmp_path / "funds", 1).directory)
    path = node.datadir / "FORMAT"
    path.write_text(marker.format(path.read_text().split()[2]) + "\n")
    before = sorted(each.name for each in node.datadir.rglob("*"))
    refused = run(*TIMED, "run", "--datadir", str(node.datadir))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert says in refused.stderr
    assert sorted(each.name for each in node.datadir.rglob("*")) == before


def marked(store: Path, number: int, *lacking: str) -> None:
    """Give a store the number of another format, and take away what that format does not have."""
    families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(store))}
    database = Rdict(str(store), Options(raw_mode=True), column_families=families)
    for name in lacking:
        database.drop_column_family(name)
    if "addresses" in lacking:
        database.delete(b"addresses")
    database.put(b"format", number.to_bytes(4, "little"))
    database.close()


def test_an_upgrade_says_what_it_changed_and_the_way_back_is_the_backup(tmp_path: Path) -> None:
    node = RunningNode(tmp_path, Funds(tmp_path / "funds", 1).directory, block={"empty_pace_s": 1})
    store = node.datadir / "store"
    marked(store, 2, "heights", "addresses")
    backup = tmp_path / "backup"
    shutil.copytree(store, backup)

    node.start()
    node.wait_until(lambda: node.metrics("consensus")["height"] >= 1)
    assert node.stop() == 0
    lines = [json.loads(line) for line in node.log.read_text().splitlines()]
    (told,) = [line for line in lines if line["event"] == "store_upgraded"]
    assert (told["level"], told["source"], told["from_format"]) == ("warning", "consensus", 2)

    marked(store, 4)  # and now this version is the old one
    refused = run(*TIMED, "run", "--datadir", str(node.datadir))
    assert refused.returncode == 2
    said = refused.stderr.splitlines()[-1]
    assert said.startswith(f"timed: {store} has format 4, and this version knows 3; install"), said
    assert said.endswith("or restore the backup made before it did")
    assert "Traceback" not in refused.stderr
    shutil.rmtree(store)
    shutil.copytree(backup, store)
    checked = run(*TIMED, "check", "--datadir", str(node.datadir))
    assert "upgraded from format 2" in checked.stdout
