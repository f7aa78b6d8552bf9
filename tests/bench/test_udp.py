"""``silly bench --udp``: every figure is checked against the counts of the other side."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from silly.net import udp
from silly.testing import faults
from silly.testing.faults import DatagramFaults
from tests.bench.test_figures import Run
from tests.cli.terminal import Echo, refused

pytestmark = pytest.mark.no_engine

ANY = "127.0.0.1:0"


class Server:
    """An echo server behind a proxy with faults, in a thread of its own."""

    def __init__(self, up: DatagramFaults, down: DatagramFaults) -> None:
        self._up, self._down = up, down
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self.addr = ""
        self.received = 0
        self.sessions: list[faults.DatagramSession] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with (
            udp.bind(ANY) as server,
            faults.udp_proxy(ANY, server.local_addr, up=self._up, down=self._down) as proxy,
        ):
            self.addr, self.sessions = proxy.local_addr, proxy.sessions
            serving = asyncio.create_task(self._echo(server))
            self._started.set()
            await self._stop.wait()
            server.close()
            await serving

    async def _echo(self, server: udp.Socket) -> None:
        async for data, peer in server:
            self.received += 1
            server.send(data, peer)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def count(self, way: str, name: str) -> int:
        return sum(getattr(getattr(session, way), name) for session in self.sessions)


def consistent(result: dict[str, Any]) -> dict[str, Any]:
    """Check the figures of datagrams against each other, and return them."""
    figures: dict[str, Any] = result["udp"]
    kinds = result["errors"]["kinds"]
    wrong = kinds.get("corrupt", 0) + kinds.get("misdelivered", 0)
    assert figures["sent"] == figures["answered"] + figures["lost"]
    assert figures["received"] == (
        figures["answered"] + figures["duplicates"] + figures["late"] + wrong
    )
    assert figures["loss"] == pytest.approx(figures["lost"] / figures["sent"])
    assert figures["dropped_by_client"] == 0
    assert result["unanswered"] == figures["lost"] + (
        0 if result["open_loop"] is None else result["open_loop"]["unsent"]
    )
    return figures


@pytest.mark.parametrize("rate", [None, 500])
def test_figures_agree_with_the_server(tmp_path: Path, rate: int | None) -> None:
    options = ["-t", "0.5s"] if rate is None else ["-t", "0.5s", "-r", rate]
    with Echo(ANY, "--udp") as echo:
        run = Run(tmp_path, echo.addr, "--udp", "-c", 5, *options)
        server = echo.stop()["datagrams"]
    assert run.done.returncode == 0, run.done.stderr
    run.check()
    figures = consistent(run.result)
    assert figures["lost"] == figures["duplicates"] == figures["reordered"] == 0
    assert figures["sent"] == server["received"]
    assert figures["received"] == server["sent"]
    assert run.result["requests"] == figures["answered"]
    unsent = 0 if rate is None else run.result["open_loop"]["unsent"]
    assert run.result["latency"]["count"] == figures["sent"] + unsent
    assert "0 lost (0.00%)" in run.done.stdout
    assert "UDP, " in run.done.stdout


def test_losses_and_duplicates_are_those_that_the_network_made(tmp_path: Path) -> None:
    down = DatagramFaults(loss=0.05, duplicate=0.1, reorder=0.2, reorder_by=0.003, seed=5)
    with Server(DatagramFaults(), down) as server:
        run = Run(tmp_path, server.addr, "--udp", "-n", 300, "-c", 3, "-d", 8, "--timeout", "3s")
        lost, copies = server.count("down", "lost"), server.count("down", "duplicated")
        received, forwarded = server.received, server.count("down", "forwarded")
    assert run.done.returncode == 0, run.done.stderr
    figures = consistent(run.result)
    assert figures["sent"] == received == 300
    assert figures["lost"] == lost > 0
    # A copy may still be on its way when the last request is answered.
    assert 0 < figures["duplicates"] <= copies
    assert figures["received"] <= forwarded
    assert figures["reordered"] > 0
    assert "lost (" in run.done.stdout


def test_requests_that_do_not_arrive_are_lost_too(tmp_path: Path) -> None:
    with Server(DatagramFaults(loss=0.1, seed=2), DatagramFaults()) as server:
        run = Run(
            tmp_path, server.addr, "--udp", "-r", 500, "-t", "1s", "-c", 20, "-d", 4,
            "--timeout", "3s",
        )  # fmt: skip
        lost, taken = server.count("up", "lost"), server.count("up", "received")
    figures = consistent(run.result)
    assert figures["sent"] == taken
    assert figures["lost"] == lost > 0
    assert figures["duplicates"] == 0


def test_late_replies_are_told_from_losses(tmp_path: Path) -> None:
    with Server(DatagramFaults(reorder=0.2, reorder_by=0.5, seed=1), DatagramFaults()) as server:
        run = Run(
            tmp_path, server.addr, "--udp", "-r", 100, "-t", "1.5s", "-c", 10, "-d", 4,
            "--timeout", "0.2s",
        )  # fmt: skip
        delayed = server.count("up", "reordered")
    figures = consistent(run.result)
    assert figures["lost"] > 0
    assert 0 < figures["late"] <= figures["lost"]
    assert delayed > 0


def test_a_changed_reply_is_an_error(tmp_path: Path) -> None:
    with Server(DatagramFaults(), DatagramFaults(corrupt=0.1, seed=1)) as server:
        run = Run(
            tmp_path, server.addr, "--udp", "-n", 100, "-c", 5, "--timeout", "0.2s",
        )  # fmt: skip
        corrupted = server.count("down", "corrupted")
    figures = consistent(run.result)
    errors = run.result["errors"]
    assert errors["total"] == errors["wrong"] == corrupted > 0
    assert figures["lost"] >= corrupted
    assert run.done.returncode == 4
    assert "that no request asked for" in run.done.stdout


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        addr = "{}:{}".format(*sock.getsockname())
        sock.close()
        run = Run(tmp_path, addr, "--udp", "-n", 5, "--timeout", "0.1s", "-c", 1)
    assert run.done.returncode == 4
    assert run.result["errors"]["kinds"]["refused"] > 0
    assert consistent(run.result)["answered"] == 0


@contextlib.contextmanager
def answering() -> Iterator[str]:
    """A server that answers ``q 7`` with ``a 7``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        stop = threading.Event()

        def serve() -> None:
            while True:
                data, peer = sock.recvfrom(100)
                if stop.is_set():
                    return
                sock.sendto(data.replace(b"q", b"a"), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield "{}:{}".format(*sock.getsockname())
        finally:
            stop.set()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"end", sock.getsockname())
            thread.join()


def test_another_protocol(tmp_path: Path) -> None:
    with answering() as addr:
        run = Run(tmp_path, addr, "--udp", "-n", 50, "--send", "q {seq}", "--expect", "a {seq}")
    assert run.done.returncode == 0, run.done.stdout
    assert consistent(run.result)["answered"] == 50


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--mode", "reconnect"), "UDP has no connections"),
        (("--size", "10"), "--udp needs --size 19"),
        (("--send", "q", "--expect", "a"), "needs {seq}"),
        (("--template", "x"), "needs {seq}"),
        (("--size", "65507"), "65503 bytes at most"),
    ],
)
def test_what_udp_cannot_do_is_said(options: tuple[str, ...], text: str) -> None:
    assert text in refused("bench", "127.0.0.1:9", "--udp", *options, code=2)
