"""What a service manager is told, with a clock of the test's and with real sockets."""

import os
import socket

import pytest

from pipeline.service import (
    MAX_STATUS_CHARACTERS,
    MAX_UNSENT,
    RECHECK_S,
    STATUS_EVERY_S,
    Notifier,
    ServiceManager,
    from_environment,
    nobody,
)


class Manager:
    """Takes messages while it has room."""

    def __init__(self):
        self.messages = []
        self.room = True

    def __call__(self, message):
        if self.room:
            self.messages.append(message)
        return self.room

    def take(self):
        taken, self.messages = self.messages, []
        return taken


@pytest.fixture
def manager():
    return Manager()


def turn(service, now_s, progressed=True, status="fine"):
    service.turn(now_s, lambda within_s: progressed, lambda: status)


def test_the_watchdog_is_fed_at_half_of_its_patience(manager):
    service = ServiceManager(manager, watchdog_s=20.0)
    turn(service, 0.0)
    assert manager.take() == []
    assert service.next_due_s() is None
    service.ready(1.0)
    turn(service, 1.0)
    assert manager.take() == ["READY=1", "WATCHDOG=1", "STATUS=fine"]
    fed = [now for now in range(2, 42) if turn(service, float(now)) or manager.take()]
    assert fed == [11, 21, 31, 41]
    assert service.next_due_s() <= 51.0


def test_the_watchdog_starves_while_something_stands_still(manager):
    asked = []
    service = ServiceManager(manager, watchdog_s=10.0)
    service.ready(0.0)
    turn(service, 0.0)
    manager.take()
    service.turn(5.0, lambda within_s: asked.append(within_s), lambda: "fine")
    assert asked == [5.0]
    assert manager.take() == []
    assert service.stopped_feeding
    assert service.next_due_s() == 5.0 + RECHECK_S
    turn(service, 5.0 + RECHECK_S)
    assert manager.take() == ["WATCHDOG=1"]
    assert not service.stopped_feeding


def test_a_status_is_told_when_it_has_changed_and_in_one_line(manager):
    service = ServiceManager(manager)
    service.ready(0.0)
    manager.take()
    for now in range(100):
        turn(service, now * STATUS_EVERY_S / 4, status="height\n7" if now < 50 else "x" * 1_000)
    assert manager.take() == ["STATUS=height 7", "STATUS=" + "x" * MAX_STATUS_CHARACTERS]


def test_a_reload_is_framed_and_silent_before_everything_works(manager):
    service = ServiceManager(manager)
    service.reloading(1.0)
    service.reloaded()
    assert manager.take() == []
    service.ready(1.5)
    service.reloading(2.5)
    service.reloaded()
    service.stopping()
    reloading = "RELOADING=1\nMONOTONIC_USEC=2500000"
    assert manager.take() == ["READY=1", reloading, "READY=1", "STOPPING=1"]


def test_what_matters_waits_for_a_busy_manager_and_the_rest_does_not(manager):
    service = ServiceManager(manager, watchdog_s=2.0)
    manager.room = False
    service.ready(0.0)
    turn(service, 0.0)
    for _ in range(10 * MAX_UNSENT):
        service.reloaded()
    manager.room = True
    turn(service, 1.0)
    states = manager.take()
    assert states[:-2] == ["READY=1"] * MAX_UNSENT
    assert states[-2:] == ["WATCHDOG=1", "STATUS=fine"]


def test_a_busy_manager_is_tried_again_now_and_then(manager):
    service = ServiceManager(manager, watchdog_s=2.0)
    service.ready(0.0)
    turn(service, 0.0)
    manager.room = False
    service.stopping()
    for now_s in (5.0, 5.1, 9.0):  # the watchdog is overdue, too
        turn(service, now_s)
        assert service.next_due_s() == now_s + RECHECK_S
    manager.room = True
    manager.take()
    turn(service, 9.5)
    assert manager.take()[:2] == ["STOPPING=1", "WATCHDOG=1"]


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_messages_arrive_on_a_socket(tmp_path, kind):
    name = str(tmp_path / "notify") if kind == "path" else f"@timed-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1) if kind == "abstract" else name)
        sock.settimeout(10)
        environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000", "HOME": "/"}
        service = from_environment(environment, 7)
        assert environment == {"HOME": "/"}
        service.ready(0.0)
        turn(service, 0.0)
        received = [sock.recv(1_000) for _ in range(3)]
    assert received == [b"READY=1", b"WATCHDOG=1", b"STATUS=fine"]
    turn(service, 100.0, status="nobody is left to read this")


def test_a_socket_without_room_says_so(tmp_path):
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        notify = Notifier(name)
        sent = 0
        while notify("x" * 1_000):
            sent += 1
            assert sent < 100_000
        assert sent
        sock.recv(2_000)
        while sent:
            sock.recv(2_000)
            sent -= 1
            if notify("y"):
                return
    pytest.fail("there was room, and it was not used")


@pytest.mark.parametrize(
    ("variables", "fed"),
    [
        ({"WATCHDOG_USEC": "4000000"}, True),
        ({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "7"}, True),
        ({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "8"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
        ({}, False),
    ],
)
def test_a_watchdog_is_fed_if_it_is_this_process_that_it_watches(tmp_path, variables, fed):
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        sock.setblocking(False)
        service = from_environment({"NOTIFY_SOCKET": name, **variables}, 7)
        service.ready(0.0)
        turn(service, 0.0)
        received = [sock.recv(1_000) for _ in range(3 if fed else 2)]
        assert (b"WATCHDOG=1" in received) is fed
        with pytest.raises(BlockingIOError):
            sock.recv(1_000)


@pytest.mark.parametrize("address", ["", "@", "/", "relative/path", "vsock:2:1"])
def test_without_a_manager_nothing_is_said_or_computed(address):
    service = from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10"}, 7)
    service.ready(0.0)
    assert service.next_due_s() is None
    service.turn(1.0, None, None)
    ServiceManager(nobody).stopping()
