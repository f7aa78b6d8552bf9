"""A name server that does not answer does not block the program or its exit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import silly
from silly.net import resolving, tcp
from tests.cli.terminal import python_path

DEADLINE = 30.0

# Imported at the start of every Python process that has it on its path.
SITECUSTOMIZE = """
import socket, sys, threading

ask = socket.getaddrinfo

def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    if str(host).endswith(".silent") and not flags & socket.AI_NUMERICHOST:
        print("asked for", host, file=sys.stderr, flush=True)
        threading.Event().wait()
    return ask(host, port, family, type, proto, flags)

socket.getaddrinfo = getaddrinfo
"""


class Silence:
    """Name servers that do not answer until `end` is called."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._arrived = threading.Semaphore(0)
        self._over = threading.Event()
        self._ask = socket.getaddrinfo

    def getaddrinfo(self, host: Any, port: Any, *others: int, **named: int) -> list[Any]:
        flags = others[3] if len(others) > 3 else named.get("flags", 0)
        if flags & socket.AI_NUMERICHOST:
            return self._ask(host, port, *others, **named)
        self.asked.append(host)
        self._arrived.release()
        assert self._over.wait(DEADLINE)
        if host.startswith("no"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self._ask("127.0.0.1", port, *others, **named)

    async def was_asked(self, times: int = 1) -> None:
        for _ in range(times):
            while not self._arrived.acquire(blocking=False):
                await asyncio.sleep(0.001)

    def end(self) -> None:
        self._over.set()


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silence]:
    silence = Silence()
    monkeypatch.setattr("socket.getaddrinfo", silence.getaddrinfo)
    yield silence
    silence.end()
    for thread in threading.enumerate():
        if thread.name == "resolver":
            thread.join(DEADLINE)


async def echo(conn: tcp.Conn) -> None:
    async for line in conn:
        await conn.write(line)


def test_the_end_of_a_loop_does_not_wait_for_resolving_and_late_answers_are_dropped(
    silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[Any] = []
    monkeypatch.setattr("threading.excepthook", failed.append)

    async def main() -> None:
        with pytest.raises(TimeoutError, match="Not connected within"):
            await tcp.connect("slow.silent:80", timeout=0.01)
        waiting = asyncio.create_task(tcp.connect("slow.silent:80"))
        await silence.was_asked()
        waiting.cancel()

    asyncio.run(main())
    assert any(thread.name == "resolver" for thread in threading.enumerate())
    silence.end()
    for thread in threading.enumerate():
        if thread.name == "resolver":
            thread.join(DEADLINE)
            assert not thread.is_alive()
    assert not failed


def test_exit_does_not_wait_for_names_that_libraries_resolve(silence: Silence) -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(loop.getaddrinfo("slow.silent", 80))
        await silence.was_asked()
        waiting.cancel()
        return "over"

    assert silly.run(main()) == "over"


async def test_answers_and_errors_arrive(silence: Silence) -> None:
    silence.end()
    async with tcp.listen("127.0.0.1:0", echo) as listener:
        port = int(listener.local_addr.rpartition(":")[2])
        async with await tcp.connect(f"some.name:{port}") as conn:
            assert conn.remote_addr == listener.local_addr
        async with await tcp.connect(f"127.0.0.1:{port}", bind="own.name:0") as conn:
            assert conn.local_addr.startswith("127.0.0.1:")
    with pytest.raises(socket.gaierror, match=r"no\.name:80"):
        await tcp.connect("no.name:80")
    with pytest.raises(socket.gaierror, match=r"no\.name:80"):
        tcp.listen("no.name:80", echo)
    async with tcp.listen("some.name:0", echo) as listener:
        assert listener.local_addr.startswith("127.0.0.1:")


async def test_threads_are_limited_and_abandoned_queries_are_skipped(silence: Silence) -> None:
    names = [f"{number}.name" for number in range(resolving.THREADS + 5)]
    waiting = [asyncio.create_task(resolving.getaddrinfo(name, 80)) for name in names]
    await silence.was_asked(resolving.THREADS)
    assert sum(thread.name == "resolver" for thread in threading.enumerate()) == resolving.THREADS
    for task in waiting[1:]:
        task.cancel()
    await asyncio.wait(waiting[1:])
    silence.end()
    assert (await waiting[0])[0][4] == ("127.0.0.1", 80)
    assert sorted(silence.asked) == sorted(names[: resolving.THREADS])


async def test_one_dead_name_does_not_block_other_names(
    silence: Silence,
) -> None:
    dead = [
        asyncio.create_task(resolving.getaddrinfo("dead.name", 80))
        for _ in range(3 * resolving.THREADS)
    ]
    other = asyncio.create_task(resolving.getaddrinfo("no.name", 80))
    await silence.was_asked(2)
    assert sorted(silence.asked) == ["dead.name", "no.name"]
    dead[0].cancel()
    silence.end()
    with pytest.raises(socket.gaierror):
        await other
    found = await asyncio.gather(*dead[1:])
    assert {each[0][4] for each in found} == {("127.0.0.1", 80)}


async def test_numeric_addresses_and_this_machine_are_not_resolved(silence: Silence) -> None:
    for addr in ("127.0.0.1:0", "[::1]:0", ":0"):
        async with tcp.listen(addr, echo) as listener:
            for local in listener.local_addrs:
                port = local.rpartition(":")[2]
                wanted = f":{port}" if addr == ":0" else local
                async with await tcp.connect(wanted) as conn:
                    conn.write(b"x\n")
                    assert await conn.read(b"\n") == b"x\n"
    assert silence.asked == []


async def test_an_error_if_no_thread_can_be_started(
    silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", fail)
        with pytest.raises(OSError, match=r"some\.name:80"):
            await tcp.connect("some.name:80")
    silence.end()
    assert await resolving.getaddrinfo("some.name", 80)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_uses_its_own_threads(silence: Silence) -> None:
    async def main() -> int:
        names = [f"{number}.name" for number in range(resolving.THREADS)]
        waiting = [asyncio.create_task(resolving.getaddrinfo(name, 80)) for name in names]
        await silence.was_asked(resolving.THREADS)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                silence.end()
                found = asyncio.run(resolving.getaddrinfo("0.name", 80))
                code = 0 if found[0][4] == ("127.0.0.1", 80) else 2
            finally:
                os._exit(code)
        for task in waiting:
            task.cancel()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert asyncio.run(main()) == 0


# --------------------------------------------------------------------- in processes


@contextlib.contextmanager
def started(tmp_path: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command for which names ending in ``.silent`` are never resolved."""
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    with subprocess.Popen(
        [sys.executable, "-m", "silly", *args],
        env={**os.environ, "PYTHONPATH": python_path(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def until_asked(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("asked for"):
            return
    raise AssertionError("it has ended before")


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("connect", "x.silent:80"), 130),
        (("connect", "--listen", "x.silent:80"), 130),
        (("echo", "x.silent:80"), 130),
        (("bench", "x.silent:80", "-q"), 130),
    ],
    ids=lambda args: " ".join(args[:2]) if isinstance(args, tuple) else "",
)
def test_ctrl_c_ends_a_command(tmp_path: Path, args: tuple[str, ...], code: int) -> None:
    with started(tmp_path, *args) as process:
        until_asked(process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == code, errors
    assert "Traceback" not in errors


@pytest.mark.no_engine
@pytest.mark.parametrize("verb", ["connect", "bench"])
def test_a_timeout_ends_a_command(tmp_path: Path, verb: str) -> None:
    with started(tmp_path, verb, "x.silent:80", "--timeout", "20ms") as process:
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == (3 if verb == "bench" else 1)
    assert "Not connected within 0.02 seconds" in errors


UPSTREAM = """
import asyncio
from silly.net import tcp

async def handler(conn):
    await tcp.connect("x.silent:80")

listener = tcp.listen("127.0.0.1:0", handler)
client = await tcp.connect(listener.local_addr)
await client.wait_closed()
"""
LISTENING = """
from silly.net import tcp
tcp.listen("x.silent:80", print)
"""
LATE = """
from silly.net import tcp

async def handler(conn):
    tcp.listen("x.silent:80", print)

listener = tcp.listen("127.0.0.1:0", handler)
client = await tcp.connect(listener.local_addr)
await client.wait_closed()
"""


@pytest.mark.no_engine
@pytest.mark.parametrize("options", [(), ("--workers", "1"), ("--uvloop",)], ids=" ".join)
@pytest.mark.parametrize("text", [UPSTREAM, LISTENING, LATE], ids=["upstream", "listen", "later"])
def test_sigterm_ends_a_service(tmp_path: Path, text: str, options: tuple[str, ...]) -> None:
    path = tmp_path / "service.py"
    path.write_text(text)
    with started(tmp_path, *options, "--grace", "0.01", str(path)) as process:
        until_asked(process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    assert "killing it" not in errors
