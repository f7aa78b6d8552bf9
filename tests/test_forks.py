"""A forked child keeps none of its parent's signal handlers, ports, connections or log records."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import silly
from silly import pubsub
from silly._loop import signals
from silly.log import DroppingHandler
from silly.net import tcp
from tests.conftest import open_descriptors
from tests.programs import assert_prints

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    # Only other threads do not survive a fork, and the children need none.
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

DEADLINE = 30.0


async def echo(conn: tcp.Conn) -> None:
    async for line in conn:
        await conn.write(line)


class Child:
    """A forked child that calls *act*, after `end` if it *waits*, and exits."""

    def __init__(self, act: Callable[[], object] = lambda: None, *, waits: bool = False) -> None:
        go, self._go = os.pipe()
        self._begun, begun = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._go)
                os.close(begun)
                if waits:
                    os.read(go, 1)
                act()
                code = 0
            finally:
                os._exit(code)
        os.close(go)
        os.close(begun)
        self._code: int | None = None

    def has_begun(self) -> None:
        """Wait until the child runs."""
        os.read(self._begun, 1)

    def end(self) -> int:
        """Let the child continue and exit; return its exit code."""
        if self._code is None:
            os.close(self._go)
            os.close(self._begun)
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code


@contextlib.contextmanager
def waiting_child() -> Iterator[Child]:
    child = Child(waits=True)
    try:
        child.has_begun()
        yield child
    finally:
        child.end()


# ------------------------------------------------------------------------- descriptors


async def test_a_port_is_free_while_a_child_lives(port: int) -> None:
    listener = tcp.listen(f"127.0.0.1:{port}", echo)
    with waiting_child():
        addr = listener.local_addr
        await listener.close(0)
        with pytest.raises(ConnectionRefusedError):
            await tcp.connect(addr)
        async with tcp.listen(addr, echo):
            pass


async def test_peers_see_the_end_while_a_child_lives() -> None:
    async with tcp.listen("127.0.0.1:0", echo) as listener:
        conn = await tcp.connect(listener.local_addr)
        conn.write(b"x\n")
        assert await conn.read(b"\n") == b"x\n"
        with waiting_child():
            conn.close()  # its handler sees the end of the stream and returns
            while listener.connections:
                await asyncio.sleep(0)
            again = await tcp.connect(listener.local_addr)
            again.write(b"y\n")
            assert await again.read(b"\n") == b"y\n"
            again.close()


async def test_a_bus_is_the_parents() -> None:
    async with pubsub.connect() as bus, bus.subscribe("x") as messages:

        def look() -> None:
            assert bus.is_closed

        assert Child(look).end() == 0
        await bus.publish("x", b"1")
        assert (await anext(messages)).data == b"1"


async def test_a_child_does_not_keep_a_connection_attempt() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        addr = full.getsockname()
        with socket.create_connection(addr), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(addr)  # the backlog is full: another client gets no answer
            connecting = asyncio.create_task(tcp.connect("{}:{}".format(*addr)))
            while len(sockets_to(addr)) < 2:
                await asyncio.sleep(0)

            def look() -> None:
                assert len(sockets_to(addr)) == 1  # only that of `second`

            assert Child(look).end() == 0
            connecting.cancel()
            await asyncio.wait([connecting])


def sockets_to(addr: tuple[str, int]) -> set[str]:
    """Return the sockets of this process that are connecting to *addr*."""
    host = socket.inet_aton(addr[0])[::-1].hex().upper()
    wanted = f"{host}:{addr[1]:04X}"
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2] == wanted and fields[3] == "02":
            found.add(f"socket:[{fields[9]}]")
    return found & {what.partition(" -> ")[2] for what in open_descriptors()}


async def test_a_childs_loop_and_listener_do_not_disturb_the_parent() -> None:
    async with tcp.listen("127.0.0.1:0", echo) as listener:
        conn = await tcp.connect(listener.local_addr)

        async def serve() -> None:
            async with tcp.listen("127.0.0.1:0", echo) as own:
                async with await tcp.connect(own.local_addr) as client:
                    client.write(b"child\n")
                    assert await client.read(b"\n") == b"child\n"
            with pytest.raises(ConnectionAbortedError, match="belongs to the parent process"):
                await conn.read()

        assert Child(lambda: asyncio.run(serve())).end() == 0
        conn.write(b"parent\n")
        assert await conn.read(b"\n") == b"parent\n"
        conn.close()


# ----------------------------------------------------------------------------- signals


GROUP = """
import asyncio, os, socket
from silly.net import tcp

parent = os.getpid()
served = asyncio.Event()

async def handler(conn):
    line = await conn.read(b"\\n")
    if line == b"fork\\n":
        loop = asyncio.get_running_loop()
        pid = os.fork()
        if pid == 0:  # goes on, with the loop
            loop.call_soon(os._exit, 0)
            return
        os.waitpid(pid, 0)
    else:
        os.write(1, b"served by the parent\\n" if os.getpid() == parent else b"by the child\\n")
        served.set()

async def main():
    async with tcp.listen("127.0.0.1:0", handler) as listener:
        host, _, port = listener.local_addr.rpartition(":")
        clients = [socket.create_connection((host, int(port))) for _ in range(2)]
        while listener.stats.accepted < 2:
            await asyncio.sleep(0)
        clients[0].sendall(b"fork\\n")
        clients[1].sendall(b"other\\n")
        async with asyncio.timeout(20):
            await served.wait()
        for client in clients:
            client.close()

asyncio.run(main())
"""


def test_what_others_sent_with_what_made_a_handler_fork_is_the_parents() -> None:
    assert_prints(GROUP, "served by the parent\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_child_has_the_previous_signal_handlers(number: signal.Signals) -> None:
    async def main() -> int:
        # The signal arrives first: it is pending until the child has restored its handlers.
        child = Child(waits=True)
        os.kill(child.pid, number)
        return await asyncio.to_thread(child.end)

    before = signal.signal(signal.SIGINT, lambda *_: os._exit(42))
    try:
        code = silly.run(main())
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == (42 if number == signal.SIGINT else -number)


def test_ctrl_c_in_a_child_is_a_keyboard_interrupt_again() -> None:
    def look() -> None:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.set_wakeup_fd(-1) == -1

    async def main() -> tuple[int, int]:
        # A process pool forks in a thread.
        return Child(look).end(), await asyncio.to_thread(lambda: Child(look).end())

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert silly.run(main()) == (0, 0)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_programs_own_signal_handlers_stay() -> None:
    def own(*_: object) -> None: ...

    def look() -> None:
        assert signal.getsignal(signal.SIGUSR1) is own

    async def main() -> int:
        before = signal.signal(signal.SIGUSR1, own)
        try:
            return Child(look).end()
        finally:
            signal.signal(signal.SIGUSR1, before)

    assert silly.run(main()) == 0


def test_no_signal_stays_blocked() -> None:
    def blocked() -> set[signal.Signals | int]:
        return signal.pthread_sigmask(signal.SIG_BLOCK, ())

    before = blocked()

    def look() -> None:
        assert blocked() == before

    async def main() -> int:
        return Child(look).end()

    assert silly.run(main()) == 0
    assert blocked() == before
    assert not signals._in_force


# ------------------------------------------------------------------------- the program


SERVICE = """
import multiprocessing, os, sys, time
from silly.net import tcp

context = multiprocessing.get_context("fork")

async def handler(conn):
    async for line in conn:
        match line:
            case b"start\\n":
                child = context.Process(target=time.sleep, args=(1000,), daemon=True)
                child.start()
                child.terminate()
                child.join()
                await conn.write(b"%d\\n" % child.exitcode)
            case b"daemon\\n":
                context.Process(target=time.sleep, args=(1000,), daemon=True).start()
                await conn.write(b"started\\n")
            case b"exit\\n":
                child = os.fork()
                if child == 0:
                    sys.exit(7)
                os.waitpid(child, 0)
                await conn.write(b"gone\\n")
            case _:
                await conn.write(line)

listener = tcp.listen(sys.argv[1], handler)
print(listener.local_addr, flush=True)
"""


@contextlib.contextmanager
def service(tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    path = tmp_path / "service.py"
    path.write_text(textwrap.dedent(SERVICE))
    own = tmp_path / "x.sock"
    with subprocess.Popen(
        [sys.executable, "-m", "silly", *options, str(path), f"unix:{own}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(DEADLINE)
                sock.connect(str(own))
                yield process, sock
        finally:
            if process.poll() is None:
                process.kill()


def ask(sock: socket.socket, line: bytes) -> bytes:
    sock.sendall(line)
    return sock.recv(100)


@pytest.mark.parametrize("options", [(), ("--uvloop",), ("--workers", "1")], ids=" ".join)
def test_a_service_with_children(tmp_path: Path, options: tuple[str, ...]) -> None:
    with service(tmp_path, *options) as (process, sock):
        assert ask(sock, b"start\n") == b"-15\n"  # terminated
        if "--uvloop" not in options:  # uvloop in the child shares the epoll set of its parent
            assert ask(sock, b"exit\n") == b"gone\n"  # sys.exit in a child works
        assert ask(sock, b"still there\n") == b"still there\n"
        with socket.socket(socket.AF_UNIX) as again:
            again.settimeout(DEADLINE)
            again.connect(sock.getpeername())
            assert ask(again, b"and for others\n") == b"and for others\n"
            assert ask(again, b"daemon\n") == b"started\n"
        sock.close()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(
            timeout=DEADLINE
        )  # all processes with the pipes have exited
    assert process.returncode == 0
    assert errors.count("stopping") <= 1


# ---------------------------------------------------------------------------- messages


def test_a_child_does_not_write_its_parents_kept_log_records() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(theirs, b"." * 4096)
    with open(theirs, "w", encoding="utf-8", buffering=1) as stream:  # noqa: PTH123
        handler = DroppingHandler(stream)
        handler.handle(logging.makeLogRecord({"msg": "kept"}))

        def log() -> None:
            assert not handler._dropper._kept
            while os.read(ours, 65536)[-1:] == b".":
                handler.handle(logging.makeLogRecord({"msg": "child"}))

        assert Child(log).end() == 0
        handler.close()
    with open(ours, "rb") as rest:  # noqa: PTH123
        assert rest.read().count(b"kept") == 1


def test_a_child_does_not_notify_the_service_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())

        async def main() -> int:
            from silly.systemd import Service

            service = Service(asyncio.get_running_loop())
            return Child(service.stopping).end()

        assert asyncio.run(main()) == 0
        with pytest.raises(BlockingIOError):
            manager.recv(100)
