"""The least that a question and its answer take here: ZeroMQ over loopback, nobody thinking.

What a client waits for on an idle node is mostly processes being woken. ``p50_ms`` asks a process
that only sends back what it gets, with the pauses that the node is asked with, so that the node's
latency can be read beside what this machine does to a single hop. Run as a module, this is that
process: it prints its port, and ends with its standard input.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Final

import zmq

from tools.bench.errors import BenchError
from tools.bench.process import die_with_parent

PAYLOAD_BYTES: Final = 214  # a transaction of one input
TIMEOUT_MS: Final = 5_000


def p50_ms(count: int, pause_s: float) -> float:
    """Median round trip of ``count`` messages, one at a time, with a pause after each.

    Raises BenchError if the other process does not answer.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.bench.echo"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    taken = []
    with process, zmq.Context() as context, context.socket(zmq.DEALER) as client:
        try:
            assert process.stdout is not None
            client.setsockopt(zmq.LINGER, 0)
            client.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
            client.connect(f"tcp://127.0.0.1:{process.stdout.readline().strip()}")
            for number in range(count):
                frames = [number.to_bytes(8, "little"), bytes(PAYLOAD_BYTES)]
                began = time.perf_counter_ns()
                client.send_multipart(frames)
                client.recv_multipart()
                taken.append(time.perf_counter_ns() - began)
                time.sleep(pause_s)
        except zmq.ZMQError as error:
            raise BenchError(f"loopback does not work ({error})", "mend that first") from None
        finally:
            process.kill()
    return statistics.median(taken) / 1e6


def _main() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as server:
        server.setsockopt(zmq.LINGER, 0)
        print(server.bind_to_random_port("tcp://127.0.0.1"), flush=True)
        poller = zmq.Poller()
        poller.register(server, zmq.POLLIN)
        poller.register(sys.stdin.fileno(), zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if server in ready:
                server.send_multipart(server.recv_multipart())
            if sys.stdin.fileno() in ready:
                return


if __name__ == "__main__":
    _main()
