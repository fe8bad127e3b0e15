"""The unit under a real systemd, by hand: ``python3 tests/systemd/trial.py`` as root, two minutes.

Boots a systemd of its own in fresh namespaces, with overlays over /etc, /var and /opt, the kernel's
settings read-only and none of the machine's services, so that nothing of the machine changes;
installs this project there as systemd/README.md says; and then does to ``timed@dev`` what happens
to services: start, a stage killed and one frozen, reload, a watchdog that runs out, a mistake of
the operator, stop. Each step says what it found; the first that finds something else ends the trial
with its journal. pytest does not run it: it needs root, a network to install from, and a kernel
that lets it mount.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "trial"  # the installation, so that a second trial starts at once
UNIT = "timed@dev"
DATADIR = "/var/lib/timed/dev"
TIMED = "/opt/timed/current/bin/timed"
PYTHON = "/usr/bin/python3"  # the unit sees no home directories
DEADLINE_S = 90.0

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
  {sys.executable} -m pip --python /opt/timed/0.1.0/bin/python --disable-pip-version-check "$@"
}}
if [ ! -e opt/complete ]; then
  rm -rf opt/*
  {PYTHON} -m venv --without-pip /opt/timed/0.1.0
  ln -s 0.1.0 opt/current
  pip install -q -c {ROOT}/constraints.txt 'source/[avx512]'
  touch opt/complete
fi
pip install -q --no-deps --force-reinstall source/
"""

BOOT = f"""
mount --bind -o ro /proc/sys /proc/sys
mount -o remount,bind,ro /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs run /run
mkdir -p /run/lock
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

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.out("systemctl", "show", UNIT, "--property", name, "--value")

    def status(self) -> dict[str, object]:
        """`timed status`, asked by the service's user."""
        asked = self.run(
            "runuser", "-u", "timed", "--", TIMED, "status", "--json", "--datadir", DATADIR
        )
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
    machine.out("install", "-d", "-o", "timed", "-g", "timed", "-m", "0700", DATADIR)
    as_timed = ("runuser", "-u", "timed", "--", TIMED)
    machine.out(*as_timed, "init", "--network", "dev", "--datadir", DATADIR)
    configure(machine, "info")
    machine.out("install", "-m", "0400", f"{DATADIR}/validator.key", "/etc/timed/dev.key")
    machine.out("rm", f"{DATADIR}/validator.key")
    tell("installed; the key is root's, and not in the data directory")


def configure(machine: Machine, level: str, more: str = "") -> None:
    text = f'[block]\\nempty_pace_s = 1\\n[log]\\nlevel = "{level}"\\n{more}'
    machine.out("sh", "-c", f"printf '{text}' > {DATADIR}/config.toml")


def starts(machine: Machine) -> None:
    began_s = time.monotonic()
    machine.out("systemctl", "start", UNIT)
    tell(
        f"started and ready after {time.monotonic() - began_s:.1f} s: {machine.show('StatusText')}"
    )
    wait(lambda: machine.height() >= 2)
    tell(f"the validator signs with its credential: {machine.show('StatusText')}")
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


def mends_a_killed_and_a_frozen_stage(machine: Machine) -> None:
    main = machine.show("MainPID")
    for what, number in (("killed", signal.SIGKILL), ("frozen", signal.SIGSTOP)):
        before = machine.process_of("verify-0")
        machine.out("kill", f"-{number}", str(before["pid"]))
        wait(lambda before=before: machine.process_of("verify-0").get("state") == "ready"
             and machine.process_of("verify-0")["pid"] != before["pid"])  # fmt: skip
        assert (machine.show("MainPID"), machine.show("NRestarts")) == (main, "0")
        tell(f"a {what} stage was started again by the supervisor, not by systemd")


def reloads(machine: Machine) -> None:
    configure(machine, "debug", "[network]\\nmax_inbound = 5\\n")
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


def leaves_mistakes_to_people(machine: Machine) -> None:
    configure(machine, "info", "no_such_section = 1\\n")
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
    mends_a_killed_and_a_frozen_stage,
    reloads,
    is_watched,
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
            except AssertionError:
                print(f"bad  {step.__name__}", machine.run("systemctl", "status", UNIT).stdout)
                print(machine.run("journalctl", "--no-pager", "-n", "40").stdout)
                raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
