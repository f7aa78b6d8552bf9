"""Brokers that tests start, kill and start again on the same port."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import held_port

__all__ = ["KINDS", "Broker", "running"]

KINDS = {
    "redis": (
        ("redis-server", "--bind", "127.0.0.1", "--save", "", "--port"),
        "eady to accept connections",
    ),
    "nats": (("nats-server", "--addr", "127.0.0.1", "--port"), "Server is ready"),
}
"""By scheme of their URLs: the command, without the port, and what it prints when it is ready."""


class Broker:
    """A program that listens on *port* of 127.0.0.1, which the caller holds."""

    def __init__(self, scheme: str, port: int, directory: Path, *options: str) -> None:
        command, self._is_ready = KINDS[scheme]
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self._command = [*command, str(port), *(each.format(port=port) for each in options)]
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._output = directory / f"{scheme}.log"  # a pipe would stay open

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=subprocess.STDOUT, cwd=self._directory
            )
        while self._is_ready not in (text := self._output.read_text()):
            if self._process.poll() is not None:
                raise RuntimeError(f"{self._command} ended:\n{text}")
            time.sleep(0.002)

    def kill(self) -> None:
        """End it without a chance to tell its clients."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def suspend(self) -> None:
        """Have it answer nothing, with all connections open, until it is resumed or killed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self._process.pid}/task")
        while not all(_is_stopped(task) for task in tasks.iterdir()):
            time.sleep(0.001)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def _is_stopped(task: Path) -> bool:
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextlib.contextmanager
def running(scheme: str, directory: Path, *options: str) -> Iterator[Broker]:
    """Run a broker until the end of the block; skip the test if it is not installed."""
    if not shutil.which(KINDS[scheme][0][0]):
        pytest.skip(f"needs {KINDS[scheme][0][0]}")
    with held_port() as port:
        broker = Broker(scheme, port, directory, *options)
        try:
            broker.start()
            yield broker
        finally:
            broker.kill()
