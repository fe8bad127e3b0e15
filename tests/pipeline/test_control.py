"""The channel between supervisor and child, and the server behind the control socket."""

import itertools
import json
import os
import selectors
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from damage import damaged, damaged_json
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.control import (
    CLIENT_IDLE_S,
    MAX_CLIENTS,
    MAX_FDS,
    MAX_MESSAGE_BYTES,
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    PAUSE_S,
    WAKEUPS_BURST,
    Attach,
    Channel,
    ControlServer,
    Fatal,
    Info,
    Message,
    PeerDied,
    PeerStarted,
    Ready,
    Reply,
    SegmentGrant,
    SetLogLevel,
    Stop,
)
from pipeline.errors import ChannelClosed, ChannelFull, ControlError


@pytest.fixture
def channels():
    """The supervisor's end and the child's."""
    parent, sock = Channel.pair()
    child = Channel(sock)
    yield parent, child
    parent.close()
    child.close()


def open_fds():
    return set(os.listdir("/proc/self/fd"))


ONE_OBJECT = "a request is one JSON object in one line"
GRANTS = [SegmentGrant("input", 4096, False), SegmentGrant("verdict-0", 8192, True)]


@pytest.mark.parametrize(
    "message",
    [
        PeerDied("work", 3, 7, 9, None),
        PeerDied("work", 3, 7, None, 1),
        PeerStarted("work", 0, 2),
        Stop(1500),
        Ready(),
        Fatal("the disk is full; free some space", 2),
        Info("ein Gruß"),
    ],
)
def test_messages_arrive_as_they_were_sent_either_way(channels, message):
    for one, other in (channels, reversed(channels)):
        assert other.receive() is None
        one.send(message)
        assert other.receive() == (message, [])
        assert other.receive() is None


def test_descriptors_come_with_their_attach_and_do_not_leak_into_children(channels):
    parent, child = channels
    reading, writing = os.pipe()
    parent.send(Attach(5, GRANTS), [reading, writing])
    message, fds = child.receive()
    assert message == Attach(5, GRANTS)
    os.write(fds[1], b"through")
    assert os.read(reading, 10) == b"through"
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in (reading, writing, *fds):
        os.close(fd)


def test_as_many_descriptors_as_the_system_passes(channels):
    parent, child = channels
    grants = [SegmentGrant(f"verdict-{number}", 4096, False) for number in range(MAX_FDS)]
    parent.send(Attach(1, grants), [0] * MAX_FDS)
    _, fds = child.receive()
    assert len(fds) == MAX_FDS
    for fd in fds:
        os.close(fd)
    with pytest.raises(ControlError, match="over the limit"):
        parent.send(Attach(1, grants), [0] * (MAX_FDS + 1))


def test_a_child_cannot_pass_descriptors_to_its_supervisor(channels):
    parent, child = channels
    before = open_fds()
    child.send(Info("take these"), [0, 1, 2])
    assert parent.receive() == (Info("take these"), [])
    assert open_fds() == before


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",
        b"garbage",
        msgspec.msgpack.encode({"type": "nothing"}),
        msgspec.msgpack.encode({"type": "stop", "deadline_ms": "soon"}),
        msgspec.msgpack.encode({"type": "stop"}),
        msgspec.msgpack.encode(Attach(1, GRANTS)),  # without its descriptors
        b"x" * (MAX_MESSAGE_BYTES + 1),
    ],
)
def test_what_breaks_the_contract_is_an_error_and_the_next_message_is_not(data):
    parent, sock = Channel.pair()
    child = Channel(sock)
    before = open_fds()
    raw = socket.socket(fileno=os.dup(parent.fileno()))
    socket.send_fds(raw, [data], [0])
    parent.send(Stop(1))
    with pytest.raises(ControlError):
        child.receive()
    assert child.receive() == (Stop(1), [])
    raw.close()
    assert open_fds() == before
    parent.close()
    child.close()


def test_messages_too_large_are_refused_by_the_sender(channels):
    parent, child = channels
    with pytest.raises(ControlError, match="over the limit"):
        child.send(Info("x" * MAX_MESSAGE_BYTES))
    assert parent.receive() is None


def test_a_channel_that_nobody_reads_is_full_and_never_blocks(channels):
    parent, child = channels
    sent = []

    def send_for_ever():
        for number in itertools.count():
            parent.send(PeerStarted("work", 0, number))
            sent.append(number)

    with pytest.raises(ChannelFull):
        send_for_ever()
    assert len(sent) > 100  # an orderly child never has so many before it
    assert child.receive() == (PeerStarted("work", 0, 0), [])


def test_the_end_of_the_other_side_is_an_end_of_file(channels):
    parent, child = channels
    parent.close()
    with pytest.raises(EOFError):
        child.receive()
    with pytest.raises(ChannelClosed):
        child.send(Ready())


def test_last_words_are_heard_even_of_one_that_read_nothing(channels):
    parent, child = channels
    parent.send(Stop(1))  # lies unread when it dies: the kernel reports a reset first
    child.send(Fatal("the disk is full", 2))
    child.close()
    assert parent.receive() == (Fatal("the disk is full", 2), [])
    with pytest.raises(ChannelClosed):
        parent.receive()


class Served:
    """A server with a clock that only the test moves, and clients beside it in the same process."""

    def __init__(self, directory):
        self.selector = selectors.DefaultSelector()
        listener = socket.socket(socket.AF_UNIX)
        self.path = str(Path(directory) / "control.sock")
        listener.bind(self.path)
        listener.listen(MAX_CLIENTS)
        self.now_s = 1000.0
        self.asked = []
        self.reply = Reply(b'{"fine":true}')
        self.server = ControlServer(listener, self.selector, self.answer)
        self.clients = []
        self.wakeups = 0

    def answer(self, request):
        self.asked.append(request)
        return self.reply

    def turn(self, turns=1):
        """Handle what there is, without letting time go by."""
        for _ in range(turns):
            for key, _ in self.selector.select(0):
                self.wakeups += 1
                key.data(self.now_s)
            self.server.tick(self.now_s)

    def wait(self, seconds):
        self.now_s += seconds
        self.server.tick(self.now_s)
        self.turn()

    def connect(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(self.path)
        self.clients.append(sock)
        self.turn()
        return sock

    def close(self):
        self.server.close()
        self.selector.close()
        for sock in self.clients:
            sock.close()


@pytest.fixture
def served(tmp_path):
    before = open_fds()
    one = Served(tmp_path)
    yield one
    one.close()
    assert open_fds() == before


def is_dropped(sock):
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True
    except BlockingIOError:
        return False


def test_a_request_is_answered_however_it_is_cut(served):
    sock = served.connect()
    for byte in b'{"ask": "status"}\n':
        sock.send(bytes([byte]))
        served.turn()
    assert served.asked == [{"ask": "status"}]
    assert sock.recv(100) == b'{"fine":true}\n'
    sock.send(b'{"n": 1}\n{"n": 2}\n{"n"')
    served.turn(5)
    assert served.asked[1:] == [{"n": 1}, {"n": 2}]
    sock.send(b": 3}\n")
    served.turn(5)
    assert served.asked[3:] == [{"n": 3}]
    assert sock.recv(1000) == b'{"fine":true}\n' * 3


def test_descriptors_travel_with_an_answer_and_are_closed_here(served):
    reading, writing = os.pipe()
    served.reply = Reply(b"{}", [os.dup(writing)])
    before = open_fds()
    sock = served.connect()
    sock.send(b"{}\n")
    served.turn(2)
    data, fds, _, _ = socket.recv_fds(sock, 100, 10)
    assert data == b"{}\n"
    assert len(fds) == 1
    os.write(fds[0], b"x")
    assert os.read(reading, 1) == b"x"
    os.close(fds[0])
    assert len(open_fds()) == len(before) + 1  # two ends of the connection, one descriptor gone
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("line", [b"", b"no", b"[1]", b"\xff\xfe", b'"x"', b"[" * 4000])
def test_garbage_is_answered_with_an_error_and_harms_nobody(served, line):
    other = served.connect()
    sock = served.connect()
    sock.send(line + b"\n")
    served.turn(3)
    assert "error" in json.loads(sock.recv(1000))
    other.send(b"{}\n")
    served.turn(3)
    assert other.recv(100) == b'{"fine":true}\n'
    assert served.asked == [{}]


def test_a_request_that_is_too_long_drops_the_client(served):
    sock = served.connect()
    sock.send(b"x" * MAX_REQUEST_BYTES)
    served.turn(2)
    assert not is_dropped(sock)
    sock.send(b"x")
    served.turn(2)
    assert is_dropped(sock)
    assert served.server.dropped == 1


def test_a_silent_client_is_dropped_and_a_busy_one_is_not(served):
    silent = served.connect()
    busy = served.connect()
    for _ in range(4):
        served.wait(CLIENT_IDLE_S / 2)
        busy.send(b"{}\n")
        served.turn(2)
        assert busy.recv(100)
    assert is_dropped(silent)
    assert served.server.dropped == 1


def test_a_client_that_does_not_read_is_dropped(served):
    served.reply = Reply(b"x" * MAX_REPLY_BYTES)
    sock = served.connect()
    sock.send(b"{}\n")
    served.turn(2)
    served.wait(CLIENT_IDLE_S + 0.1)
    assert served.server.dropped == 1
    assert served.server.next_due_s() is None


def test_a_slow_reader_gets_all_of_a_long_answer(served):
    served.reply = Reply(b"x" * MAX_REPLY_BYTES)
    sock = served.connect()
    sock.send(b"{}\n")
    got = b""
    while len(got) <= MAX_REPLY_BYTES:
        served.wait(0.1)
        got += sock.recv(1 << 20)
    assert got == b"x" * MAX_REPLY_BYTES + b"\n"


def test_an_answer_without_end_is_not_sent(served):
    served.reply = Reply(b"x" * (MAX_REPLY_BYTES + 1), [os.dup(0)])
    sock = served.connect()
    sock.send(b"{}\n")
    served.turn(2)
    assert sock.recv(100) == b'{"error":"the answer would be too long"}\n'


def test_more_clients_than_allowed_wait_for_their_turn(served):
    first = [served.connect() for _ in range(MAX_CLIENTS)]
    late = served.connect()
    late.send(b"{}\n")
    served.turn(5)
    assert served.asked == []
    first[0].close()
    served.turn(5)
    assert late.recv(100) == b'{"fine":true}\n'


def test_all_clients_together_have_a_budget_of_wakeups(served):
    sock = served.connect()
    other = served.connect()
    answered = 0
    for _ in range(1000):
        sock.send(b"{}\n")
        served.turn()
        try:
            answered += sock.recv(1000).count(b"\n")
        except BlockingIOError:
            break
    assert answered <= WAKEUPS_BURST
    served.wakeups = 0
    other.send(b"{}\n")
    served.turn(50)
    assert served.wakeups == 0  # nobody is heard, so nobody can keep us awake
    assert served.server.next_due_s() == pytest.approx(served.now_s + PAUSE_S)
    served.wait(PAUSE_S)
    served.turn(3)
    assert other.recv(100) == b'{"fine":true}\n'


def test_a_pause_is_not_held_against_the_clients(served):
    sock = served.connect()
    flooder = served.connect()
    served.wait(CLIENT_IDLE_S - PAUSE_S / 2)
    for _ in range(200):
        flooder.send(b"{}\n")
        served.turn()
    served.wait(PAUSE_S)
    assert not is_dropped(sock)
    served.wait(PAUSE_S)
    assert is_dropped(sock)


# Any bytes


MESSAGES = [
    Attach(1, GRANTS),
    PeerDied("work", 3, 7, 9, None),
    PeerStarted("work", 0, 2),
    SetLogLevel("debug"),
    Stop(1500),
    Ready(),
    Fatal("the disk is full", 2),
    Info("ein Gruß"),
]


@settings(max_examples=200)
@given(
    st.sampled_from(MESSAGES).flatmap(lambda message: damaged(msgspec.msgpack.encode(message)))
    | st.binary(max_size=50)
)
@example(msgspec.msgpack.encode(Info("x")).replace(b"\xa1x", b"\xa1\xff"))
@example(b"\x82\xa4type\xa4stop\xa1x" + b"\x91" * 20_000)
def test_any_message_is_taken_or_is_an_error_and_leaves_no_descriptor(data):
    before = open_fds()
    parent, sock = Channel.pair()
    child = Channel(sock)
    raw = socket.socket(fileno=os.dup(parent.fileno()))
    socket.send_fds(raw, [data], [0, 0])
    try:
        message, fds = child.receive()
    except ControlError:  # an empty one is an end
        pass
    else:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Message) == message
        assert len(fds) == 2
        for fd in fds:
            os.close(fd)
    for each in (raw, parent, child):
        each.close()
    assert open_fds() == before


@settings(max_examples=200)
@given(damaged_json(b'{"ask": "logging", "set": {"net": "debug"}}'))
def test_any_line_is_a_request_or_is_answered_with_an_error(data):
    line = data.replace(b"\n", b"")[: MAX_REQUEST_BYTES - 1] + b"\n"
    with TemporaryDirectory() as directory:
        served = Served(directory)
        sock = served.connect()
        sock.send(line)
        served.turn(3)
        reply = json.loads(sock.recv(1000))
        served.close()
    assert reply == ({"fine": True} if served.asked else {"error": ONE_OBJECT})
    assert len(served.asked) <= 1
