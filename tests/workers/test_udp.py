"""UDP under ``--workers``: each worker has a socket of its own at the same address."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from tests.workers.harness import running, script

pytestmark = pytest.mark.no_engine

ANSWERING = """
import os
from silly.net import udp

sock = udp.bind("127.0.0.1:{port}")
async for data, peer in sock:
    sock.send(b"%d" % os.getpid(), peer)
"""


def answered_by(port: int, count: int) -> set[bytes]:
    """Which processes answer, of *count* clients."""
    found = set()
    for _ in range(count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(2)
            for _attempt in range(10):
                sock.sendto(b"?", ("127.0.0.1", port))
                try:
                    found.add(sock.recv(100))
                except TimeoutError:  # lost with the socket of a worker that just ended
                    continue
                break
    return found


def test_all_workers_answer_and_are_replaced(tmp_path: Path, port: int) -> None:
    path = script(tmp_path, ANSWERING.replace("{port}", str(port)))
    with running("-m", "silly", "--workers", "2", path) as silly:
        silly.until(f"listening on 127.0.0.1:{port} for UDP")
        silly.until("is ready", times=2)
        first = answered_by(port, 60)
        assert len(first) == 2
        silly.send(signal.SIGHUP)
        silly.until(": restarted")
        deadline = time.monotonic() + 20
        while first & (second := answered_by(port, 60)):  # the last one is still draining
            assert time.monotonic() < deadline
        assert len(second) == 2
        silly.stop()
