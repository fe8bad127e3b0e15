"""The units keep their promises: read by a parser of our own, and by systemd where it is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from node.config import defaults
from node.wiring import wire
from pipeline.placement import processes
from pipeline.supervisor import KILL_GRACE_S, START_DEADLINE_S, STOP_DEADLINE_MS

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNITS = {"timed.service": "main", "timed@.service": "%i"}
MAX_EXPOSURE = 1.4  # of systemd-analyze security; 10 is no protection at all
OFFLINE_SINCE = 250  # the version of systemd that can judge a unit that is not installed

HARDENING = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "PrivateUsers": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "ProcSubset": "pid",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
    "StateDirectoryMode": "0700",
}
LIFE = {
    "Type": "notify",
    "NotifyAccess": "main",
    "ExecReload": "/bin/kill -HUP $MAINPID",
    "KillMode": "mixed",
    "KillSignal": "SIGTERM",
    "Restart": "on-failure",
    "RestartPreventExitStatus": "2",
    "OOMPolicy": "continue",
    "User": "timed",
    "Group": "timed",
}


def _analyze() -> str | None:
    """Where a systemd-analyze lies that is new enough."""
    found = shutil.which("systemd-analyze")
    if found is None:
        return None
    told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.match(r"systemd (\d+)", told)
    return found if version is not None and int(version[1]) >= OFFLINE_SINCE else None


ANALYZE = _analyze()
BY_SYSTEMD = pytest.mark.skipif(
    ANALYZE is None, reason=f"no systemd-analyze of version {OFFLINE_SINCE} or newer"
)

Unit = dict[str, dict[str, list[str]]]


def parse(text: str) -> Unit:
    """Section -> name -> values in their order; raises ValueError for what is no unit file."""
    found: Unit = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in text.splitlines():
        if not line.strip() or line[0] in "#;":
            continue
        if header := re.fullmatch(r"\[([A-Za-z]+)\]", line):
            section = header[1]
            continue
        name, equals, value = line.partition("=")
        if not section or not equals or not re.fullmatch(r"[A-Za-z]+", name):
            raise ValueError(f"not a line of a unit: {line!r}")
        found[section][name].append(value)
    return found


def read(unit: str) -> Unit:
    return parse((SYSTEMD / unit).read_text(encoding="utf-8"))


def seconds(value: str) -> float:
    amount, unit = re.fullmatch(r"(\d+)(min|)", value).groups()  # type: ignore[union-attr]
    return int(amount) * (60.0 if unit else 1.0)


def test_the_parser_refuses_what_is_no_unit() -> None:
    assert parse("# x\n[A]\nB=1\nB=\n")["A"]["B"] == ["1", ""]
    for text in ("B=1\n", "[A]\nnonsense\n", "[A]\n B=1\n"):
        with pytest.raises(ValueError, match="not a line"):
            parse(text)


@pytest.mark.parametrize("unit", UNITS)
def test_promised_lines_are_there_once(unit: str) -> None:
    service = read(unit)["Service"]
    for name, value in (HARDENING | LIFE).items():
        assert service[name] == [value], name
    assert service["SystemCallFilter"][:2] == ["@system-service", "~@privileged @resources"]
    for name in ("LimitNOFILE", "MemoryMax", "MemoryHigh", "TasksMax", "RestartSec"):
        assert len(service[name]) == 1, name


@pytest.mark.parametrize("unit", UNITS)
def test_an_instance_has_its_directory_and_its_key(unit: str) -> None:
    service, instance = read(unit)["Service"], UNITS[unit]
    datadir = f"/var/lib/timed/{instance}"
    assert service["ExecStart"] == [f"/opt/timed/current/bin/timed run --datadir {datadir}"]
    assert service["StateDirectory"] == [f"timed/{instance}"]
    assert service["LoadCredential"] == [f"validator.key:/etc/timed/{instance}.key"]


def test_the_two_units_differ_in_their_instance_only() -> None:
    def plain(unit: str) -> list[str]:
        lines = (SYSTEMD / unit).read_text().splitlines()
        text = "\n".join(line for line in lines if not line.startswith("#"))
        for before, after in ("(", ")"), ("timed/", "\n"), ("timed/", ".key"):
            text = text.replace(f"{before}{UNITS[unit]}{after}", f"{before}X{after}")
        return text.replace("timed-%i", "timed").splitlines()

    assert plain("timed.service") == plain("timed@.service")


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_is_more_patient_than_the_supervisor(unit: str) -> None:
    service = read(unit)["Service"]
    topology = wire(defaults("main"), "nacl", [0, 1])
    slowest_stall_s = max(each.stall_ms for each in processes(topology)) / 1_000
    mending_s = slowest_stall_s + START_DEADLINE_S  # it may begin just before a feeding
    assert seconds(service["WatchdogSec"][0]) / 2 > mending_s
    assert seconds(service["TimeoutStartSec"][0]) > 60 + START_DEADLINE_S
    stop_s = len(topology.stages) * (STOP_DEADLINE_MS / 1_000 + KILL_GRACE_S)
    assert seconds(service["TimeoutStopSec"][0]) > stop_s


def test_user_and_directories_are_those_of_the_units() -> None:
    assert re.search(r"^u timed - ", (SYSTEMD / "timed.sysusers.conf").read_text(), re.M)
    tmpfiles = (SYSTEMD / "timed.tmpfiles.conf").read_text()
    assert re.search(r"^d /etc/timed 0700 root root -$", tmpfiles, re.M)
    assert re.search(r"^d /var/lib/timed 0755 root root -$", tmpfiles, re.M)


@pytest.fixture
def installed(tmp_path: Path) -> list[Path]:
    """Copies whose program exists, for a systemd that looks."""
    paths = []
    for unit in UNITS:
        path = tmp_path / unit.replace("@", "@x")
        text = (SYSTEMD / unit).read_text()
        path.write_text(text.replace("/opt/timed/current/bin/timed", "/bin/true"))
        paths.append(path)
    return paths


def analyze(*arguments: str) -> str:
    assert ANALYZE is not None
    done = subprocess.run([ANALYZE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@BY_SYSTEMD
def test_systemd_finds_nothing_wrong(installed: list[Path]) -> None:
    told = analyze("verify", "--man=no", *map(str, installed))
    assert [line for line in told.splitlines() if "timed" in line] == []


@BY_SYSTEMD
def test_systemd_finds_them_hardened(installed: list[Path]) -> None:
    for path in installed:
        told = analyze("security", "--offline=true", "--no-pager", str(path))
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
        assert found is not None, told
        assert float(found[1]) <= MAX_EXPOSURE
