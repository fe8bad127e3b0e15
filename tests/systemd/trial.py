"""The unit under a real systemd, by hand: ``python3 tests/systemd/trial.py`` as root, two minutes.

Boots a systemd of its own in fresh namespaces, with overlays over /etc, /var and /opt, the kernel's
settings read-only and none of the machine's services, so that nothing of the machine changes;
installs this project there as systemd/README.md says, twice, as two releases; and starts a chain of
two validators, ``timed@dev`` and ``timed@peer``, that reach each other over the namespace's
loopback. Then ``timed@dev`` is used (payments, JSON-RPC, /metrics, a subscriber, the monitor) and
suffers what happens to services: a stage killed and one frozen, reload, a watchdog that runs out,
upgrade and roll back, a mistake of the operator, stop. Each step says what it found; the first that
finds something else ends the trial with its journal. pytest does not run it: it needs root, a
network to install from, and a kernel that lets it mount.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "trial"  # the installation, so that a second trial starts at once
UNIT = "timed@dev"
PEER = "timed@peer"
DATADIR = "/var/lib/timed/dev"
PEER_DATADIR = "/var/lib/timed/peer"
CHAIN = "/var/lib/timed/.chain"  # genesis, two keys, signed payments
BIN = "/opt/timed/current/bin"
TIMED = f"{BIN}/timed"
AS_TIMED = ("runuser", "-u", "timed", "--")
RELEASES = ("0.1.0", "0.2.0")  # the same code; only the number differs
PYTHON = "/usr/bin/python3"  # the unit sees no home directories
DEADLINE_S = 90.0
PAYMENTS = 300
"""Of one load; there are LOADS, the last two after the upgrade and after the way back."""
LOADS = 3
PORTS = {"dev": 24301, "peer": 24401}  # JSON-RPC; ingest, notifications and peers follow it

MOUNTS = f"""
set -e
mount --make-rprivate /
mkdir -p {KEPT}/opt {KEPT}/room
mount -t tmpfs room {KEPT}/room
cd {KEPT}/room
for each in etc var opt; do
  mkdir $each $each.work
  mount -t overlay over -o lowerdir=/$each,upperdir=$each,workdir=$each.work /$each
done
cd /
mkdir -p /opt/timed
mount --bind {KEPT}/opt /opt/timed
"""

INSTALL = f"""
cd {KEPT}
rm -rf source && mkdir source
cp -r {ROOT}/pipeline {ROOT}/node {ROOT}/tools {ROOT}/pyproject.toml {ROOT}/README.md \\
  {ROOT}/LICENSE source/
pip() {{
  {sys.executable} -m pip --python /opt/timed/$release/bin/python --disable-pip-version-check "$@"
}}
for release in {" ".join(RELEASES)}; do
  sed -i "s/^version = .*/version = '$release'/" source/pyproject.toml
  sed -i "s/^__version__ = .*/__version__ = '$release'/" source/node/commands/__init__.py
  if [ ! -e opt/$release/complete ]; then
    rm -rf opt/$release
    {PYTHON} -m venv --without-pip /opt/timed/$release
    pip install -q -c {ROOT}/constraints.txt 'source/[avx512]'
    touch opt/$release/complete
  fi
  pip install -q --no-deps --force-reinstall source/
done
ln -sfn {RELEASES[0]} opt/current
"""

BOOT = f"""
mount --bind -o ro /proc/sys /proc/sys
mount -o remount,bind,ro /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs run /run
mkdir -p /run/lock
ip link set lo up
for each in /lib/systemd/system/*.wants; do mount -t tmpfs none $each; done
rm -rf /etc/systemd/system/*.wants /var/log/journal
: > /etc/fstab
cp {ROOT}/systemd/timed*.service /etc/systemd/system/
mkdir -p /etc/sysusers.d /etc/tmpfiles.d
cp {ROOT}/systemd/timed.sysusers.conf /etc/sysusers.d/timed.conf
cp {ROOT}/systemd/timed.tmpfiles.conf /etc/tmpfiles.d/timed.conf
printf '[Unit]\nRequires=systemd-journald.service\nAfter=systemd-journald.service\n\
DefaultDependencies=no\nAllowIsolate=yes\n' > /etc/systemd/system/trial.target
mount --make-rshared /
exec setpriv --bounding-set=-sys_module,-sys_boot,-sys_time,-sys_rawio \
  env -i container=trial PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=trial.target --show-status=no --log-target=journal
"""

MAKE_CHAIN = f"""
from pathlib import Path
from tools.devnet.chain import make_chain
from tools.loadgen.workload import WorkloadOptions
make_chain(Path({CHAIN!r}), 2, WorkloadOptions({PAYMENTS * LOADS}, seed="trial"))
"""

SUBSCRIBE = f"""
import zmq
socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.SUBSCRIBE, b"hashblock")
socket.setsockopt(zmq.RCVTIMEO, 60_000)
socket.connect("tcp://127.0.0.1:{PORTS["dev"] + 2}")
topic, body, number = socket.recv_multipart()
print(topic.decode(), body.hex())
"""

GET = f"""
from urllib.error import HTTPError
from urllib.request import urlopen
for page in ("healthz", "readyz", "metrics"):
    with urlopen(f"http://127.0.0.1:{PORTS["dev"]}/{{page}}") as answer:
        print(answer.status, answer.read().decode())
try:
    urlopen(f"http://127.0.0.1:{PORTS["dev"]}/", data=b"{{}}")
except HTTPError as error:
    print(error.code)
"""

CHECK = f"""[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
User=timed
LoadCredential=validator.key:/etc/timed/dev.key
ExecStart={TIMED} check --replay --datadir {DATADIR}
"""


class Machine:
    """The namespaces and their systemd; a context manager that leaves nothing behind."""

    def __enter__(self) -> Machine:
        shutil.rmtree(KEPT / "room", ignore_errors=True)
        namespaces = ["unshare", "--mount", "sh", "-c", MOUNTS + INSTALL]
        subprocess.run(namespaces, check=True)
        top = Path("/sys/fs/cgroup/unified")
        top = top if top.is_dir() else top.parent
        self.cgroup = top / f"timed-trial-{os.getpid()}"
        self.cgroup.mkdir()
        kinds = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--mount-proc")
        self.process = subprocess.Popen(
            ["unshare", *kinds, "--fork", "--kill-child", "sh", "-c", MOUNTS + BOOT],
            preexec_fn=self._enter_cgroup,
        )
        self.init = self._wait_for_init()
        wait(lambda: self.run("systemctl", "is-active", "trial.target").stdout == "active\n")
        return self

    def _enter_cgroup(self) -> None:
        (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # and with it every process of the namespace
        self.process.wait()
        wait(lambda: "populated 0" in (self.cgroup / "cgroup.events").read_text())
        for directory, _, _ in os.walk(self.cgroup, topdown=False):
            os.rmdir(directory)

    def _wait_for_init(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        wait(lambda: children.read_text().strip())
        return int(children.read_text())

    def run(self, *command: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """A command inside."""
        kinds = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup")
        enter = ["nsenter", f"--target={self.init}", *kinds]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_PAGER": ""}
        return subprocess.run(
            [*enter, "--", *command], capture_output=True, text=True, env=environment, check=check
        )

    def out(self, *command: str) -> str:
        """What a command inside prints; it must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
        return done.stdout.strip()

    def python(self, program: str) -> str:
        """What a program prints that the service's user runs with the release's Python."""
        return self.out(*AS_TIMED, f"{BIN}/python", "-c", program)

    def show(self, name: str, unit: str = UNIT) -> str:
        """A property of a unit."""
        return self.out("systemctl", "show", unit, "--property", name, "--value")

    def status(self) -> dict[str, object]:
        """`timed status`, asked by the service's user."""
        asked = self.run(*AS_TIMED, TIMED, "status", "--json", "--datadir", DATADIR)
        return json.loads(asked.stdout) if asked.returncode == 0 else {}

    def process_of(self, stage: str) -> dict[str, object]:
        found = self.status().get("processes", [])
        assert isinstance(found, list)
        return next((each for each in found if each["name"] == stage), {})

    def height(self) -> int:
        text = self.show("StatusText")
        return int(text.split("height ")[1].split(",")[0]) if "height" in text else 0

    def journal(self, *options: str) -> list[str]:
        return self.out("journalctl", "--no-pager", "-o", "cat", "-u", UNIT, *options).splitlines()


def wait(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    until_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until_s, "not in time"
        time.sleep(0.1)


def tell(what: str) -> None:
    print(f"ok   {what}", flush=True)


def prepare(machine: Machine) -> None:
    machine.out("systemd-sysusers")
    machine.out("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/timed.conf")
    machine.out(
        "install", "-d", "-o", "timed", "-g", "timed", "-m", "0700", str(Path(CHAIN).parent)
    )
    machine.python(MAKE_CHAIN)
    for number, (name, datadir) in enumerate((("dev", DATADIR), ("peer", PEER_DATADIR))):
        machine.out("install", "-d", "-o", "timed", "-g", "timed", "-m", "0700", datadir)
        chain = ("--genesis", f"{CHAIN}/genesis.json")
        key = ("--validator-key", f"{CHAIN}/validator-{number}.key")
        machine.out(*AS_TIMED, TIMED, "init", *chain, *key, "--datadir", datadir)
        machine.out("install", "-m", "0400", f"{datadir}/validator.key", f"/etc/timed/{name}.key")
        machine.out("rm", f"{datadir}/validator.key", f"{CHAIN}/validator-{number}.key")
        configure(machine, "info", name=name)
    tell("installed; the keys are root's, and not in the data directories")


def configure(machine: Machine, level: str, more: str = "", *, name: str = "dev") -> None:
    rpc, other = PORTS[name], PORTS["peer" if name == "dev" else "dev"]
    lines = [
        "[block]",
        "empty_pace_s = 1",
        "[rpc]",
        f'listen = "127.0.0.1:{rpc}"',
        "[network]",
        f'listen = "tcp://127.0.0.1:{rpc + 1}"',
        f'notify = "tcp://127.0.0.1:{rpc + 2}"',
        f'peer_listen = "127.0.0.1:{rpc + 3}"',
        f'peers = ["127.0.0.1:{other + 3}"]',
        *more.splitlines(),
        "[log]",
        f'level = "{level}"',
    ]
    text = "\\n".join(lines)
    machine.out("sh", "-c", f"printf '{text}\\n' > /var/lib/timed/{name}/config.toml")


def starts(machine: Machine) -> None:
    began_s = time.monotonic()
    machine.out("systemctl", "start", UNIT)
    tell(
        f"started and ready after {time.monotonic() - began_s:.1f} s: {machine.show('StatusText')}"
    )
    machine.out("systemctl", "start", PEER)
    wait(lambda: machine.height() >= 2 and "1 peer" in machine.show("StatusText"))
    tell(f"both validators sign with their credentials: {machine.show('StatusText')}")
    pid = machine.show("MainPID")
    status = machine.out("cat", f"/proc/{pid}/status")
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000000000" in status
    shown = machine.out("ps", "-o", "user=", "-p", pid)
    assert shown == "timed", shown
    resident_kb = sum(map(int, machine.out("ps", "-o", "rss=", "-u", "timed").split()))
    tell(f"runs as {shown}, without capabilities, system calls filtered, {resident_kb >> 10} MiB")
    lines = machine.journal("_COMM=timed")
    assert all(json.loads(line) for line in lines)
    assert not machine.journal("-p", "warning", "_COMM=timed")
    tell(f"{len(lines)} lines of the supervisor in the journal, all JSON, none above info")


def is_used(machine: Machine) -> None:
    pays(machine, 0)
    subscriber = threading.Thread(target=lambda: heard.append(machine.python(SUBSCRIBE)))
    heard: list[str] = []
    subscriber.start()
    asked = machine.out(*AS_TIMED, f"{BIN}/time-cli", "getblockcount", "--datadir", DATADIR)
    assert int(asked) > 0
    tell(f"JSON-RPC answers the service's user with its cookie: getblockcount {asked}")
    pages = machine.python(GET)
    samples = [line for line in pages.splitlines() if line and line[0] not in "#2"]
    assert any('stage="rpc"' in line for line in samples), pages
    assert pages.endswith("401"), pages
    tell(f"/healthz, /readyz and /metrics say 200, {len(samples)} samples; no cookie, no call: 401")
    subscriber.join()
    tell(f"a subscriber hears of a block: {heard[0]}")
    frame = machine.out(*AS_TIMED, f"{BIN}/time-monitor", "--once", DATADIR)
    stages = [line.split() for line in frame.splitlines() if line.startswith(" rpc ")]
    assert stages, frame
    assert "voting 2/2" in frame, frame
    tell("time-monitor --once: " + " ".join(frame.splitlines()[1].split()))


def pays(machine: Machine, number: int) -> None:
    """One of the loads, sent to the ingest of the service; every payment must become final."""
    done = machine.out(
        *AS_TIMED, f"{BIN}/time-load", "run", CHAIN, "--datadir", DATADIR, "--rate", "200",
        "--first", str(number * PAYMENTS), "--count", str(PAYMENTS),
    )  # fmt: skip
    found = next(line for line in done.splitlines() if "finalised" in line)
    assert str(PAYMENTS) in found.split(), done
    tell(f"{PAYMENTS} payments were sent to ingest, and all are final")


def mends_killed_and_frozen_stages(machine: Machine) -> None:
    main = machine.show("MainPID")
    for what, stage, number in (
        ("killed", "verify-0", signal.SIGKILL),
        ("killed", "rpc", signal.SIGKILL),
        ("frozen", "verify-0", signal.SIGSTOP),
    ):
        before = machine.process_of(stage)
        machine.out("kill", f"-{number}", str(before["pid"]))
        wait(lambda stage=stage, before=before: machine.process_of(stage).get("state") == "ready"
             and machine.process_of(stage)["pid"] != before["pid"])  # fmt: skip
        assert (machine.show("MainPID"), machine.show("NRestarts")) == (main, "0")
        tell(f"{stage}, {what}, was started again by the supervisor, not by systemd")


def reloads(machine: Machine) -> None:
    configure(machine, "debug", "max_inbound = 5")
    machine.out("systemctl", "reload", UNIT)
    wait(lambda: any("configuration_needs_a_restart" in line for line in machine.journal()))
    found = machine.journal("-p", "warning", "--grep", "needs_a_restart")
    assert len(found) == 1, found
    assert machine.show("ActiveState") == "active"
    tell(f"reloaded; with priority warning: {found[0]}")


def is_watched(machine: Machine) -> None:
    machine.out("mkdir", "-p", f"/run/systemd/system/{UNIT}.service.d")
    place = f"/run/systemd/system/{UNIT}.service.d/trial.conf"
    machine.out("sh", "-c", f"printf '[Service]\\nWatchdogSec=5\\n' > {place}")
    machine.out("systemctl", "daemon-reload")
    machine.out("systemctl", "restart", UNIT)
    time.sleep(8.0)  # longer than the watchdog's patience: it must have been fed
    assert (machine.show("ActiveState"), machine.show("NRestarts")) == ("active", "0")
    tell("the watchdog is fed")
    height = machine.height()
    machine.out("kill", "-STOP", machine.show("MainPID"))
    wait(lambda: machine.show("NRestarts") == "1" and machine.show("ActiveState") == "active")
    wait(lambda: machine.height() > height)
    tell(f"a frozen supervisor was ended by the watchdog and the chain goes on: {machine.height()}")


def upgrades_and_rolls_back(machine: Machine) -> None:
    for number, release in enumerate((RELEASES[1], RELEASES[0]), start=1):
        height = machine.height()
        machine.out("ln", "-sfn", release, "/opt/timed/current")
        machine.out("systemctl", "restart", UNIT)
        about = machine.status()["extra"]
        assert isinstance(about, dict)
        assert about["version"] == release, about
        command = machine.out("ps", "-o", "args=", "-p", machine.show("MainPID"))
        assert command.startswith(f"/opt/timed/{release}/"), command
        wait(lambda height=height: machine.height() > height + 2)
        tell(f"{'back on' if number == 2 else 'upgraded to'} {release}: "
             f"{machine.show('StatusText')}")  # fmt: skip
        pays(machine, number)
    assert machine.show("NRestarts", PEER) == "0"


def leaves_mistakes_to_people(machine: Machine) -> None:
    configure(machine, "info", "no_such_key = 1")
    assert machine.run("systemctl", "restart", UNIT).returncode != 0
    time.sleep(4.0)  # longer than RestartSec
    shown = {name: machine.show(name) for name in ("ActiveState", "ExecMainStatus", "NRestarts")}
    assert shown == {"ActiveState": "failed", "ExecMainStatus": "2", "NRestarts": "0"}, shown
    tell(f"status 2 is not tried again: {machine.journal('-n', '20', '_COMM=timed')[-1]}")
    configure(machine, "info")
    machine.out("systemctl", "reset-failed", UNIT)
    machine.out("systemctl", "start", UNIT)


def stops(machine: Machine) -> None:
    began_s = time.monotonic()
    machine.out("systemctl", "stop", UNIT)
    assert (machine.show("ActiveState"), machine.show("Result")) == ("inactive", "success")
    tell(f"stopped in order after {time.monotonic() - began_s:.1f} s")
    text = CHECK.replace("\n", "\\n")
    machine.out("sh", "-c", f"printf '{text}' > /run/systemd/system/trial-check.service")
    machine.out("systemctl", "daemon-reload")
    machine.out("systemctl", "start", "trial-check")
    told = machine.out("journalctl", "--no-pager", "-o", "cat", "_COMM=timed", "-u", "trial-check")
    assert "replayed" in told or "replay" in told, told
    assert "bad" not in told, told
    tell(f"timed check --replay finds nothing wrong: {told.splitlines()[-1]}")
    told = machine.out("systemd-analyze", "security", "--no-pager", f"{UNIT}.service")
    tell(told.splitlines()[-1].encode("ascii", "ignore").decode().strip())


STEPS = (
    prepare,
    starts,
    is_used,
    mends_killed_and_frozen_stages,
    reloads,
    is_watched,
    upgrades_and_rolls_back,
    leaves_mistakes_to_people,
    stops,
)


def main() -> int:
    if os.geteuid() != 0:
        print("trial: namespaces and mounts are for root; run it as root", file=sys.stderr)
        return 2
    with Machine() as machine:
        for step in STEPS:
            try:
                step(machine)
            except Exception:
                print(f"bad  {step.__name__}", machine.run("systemctl", "status", UNIT).stdout)
                print(machine.run("journalctl", "--no-pager", "-n", "40").stdout)
                raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
