"""Notifications to systemd and sockets from it; with the real systemd where it is installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from silly import systemd
from tests.workers.harness import ECHO, ask, environment, running, script

UNITS = Path(__file__).parent.parent / "examples" / "systemd"
LISTENING = r"listening \S+ \d+ (\S+)"


class Manager:
    """The service manager: a datagram socket that receives the notifications."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(20)
        self._sock.bind("\0" + name[1:] if name.startswith("@") else name)

    def receive(self) -> list[str]:
        return self._sock.recv(1 << 16).decode().split("\n")

    def until(self, first: str) -> list[str]:
        """Return the next datagram that begins with *first*; skip others."""
        while not (assignments := self.receive())[0].startswith(first):
            pass
        return assignments

    def close(self) -> None:
        self._sock.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = tmp_path / "notify"
    manager = Manager(str(path) if request.param == "path" else f"@silly-{os.getpid()}-notify")
    yield manager
    manager.close()


# ---------------------------------------------------------------- notifications


@pytest.mark.no_engine
def test_notify_is_one_datagram(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    assert systemd.notify("READY=1", "STATUS=fine: é")
    assert manager.receive() == ["READY=1", "STATUS=fine: é"]
    for wrong in ("READY", "=1", "STATUS=two\nlines"):
        with pytest.raises(ValueError, match="assignment must be 'NAME=value'"):
            systemd.notify(wrong)


@pytest.mark.no_engine
def test_notify_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    with pytest.raises(FileNotFoundError):
        systemd.notify("READY=1")


@pytest.mark.no_engine
def test_watchdog_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    for text, period in (("3000000", 3.0), ("0", None), ("soon", None), ("", None)):
        monkeypatch.setenv("WATCHDOG_USEC", text)
        assert systemd.watchdog_period() == period
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert systemd.watchdog_period() == 1.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd.watchdog_period() is None


def test_a_process_notifies(tmp_path: Path, manager: Manager) -> None:
    environ = environment(NOTIFY_SOCKET=manager.name)
    with running("-m", "silly", script(tmp_path), env=environ) as silly:
        addr = silly.until(LISTENING)[0]
        assert manager.receive() == ["READY=1"]
        assert ask(addr, b"x\n") == b"x\n"
        silly.send(signal.SIGTERM)
        assert manager.receive() == ["STOPPING=1"]
        silly.rest()
        assert silly.process.returncode == 0


def test_a_script_whose_top_level_waits_is_ready_when_it_listens(
    tmp_path: Path, manager: Manager
) -> None:
    text = ECHO + "await listener.serve_forever()\n"
    environ = environment(NOTIFY_SOCKET=manager.name)
    with running("-m", "silly", script(tmp_path, text), env=environ) as silly:
        silly.until(LISTENING)
        assert manager.receive() == ["READY=1"]
        silly.stop()


def test_the_watchdog_gets_heartbeats_while_the_loop_runs(tmp_path: Path, manager: Manager) -> None:
    environ = environment(NOTIFY_SOCKET=manager.name, WATCHDOG_USEC="1000000")
    for options in ([], ["--workers", "1"]):
        with running("-m", "silly", *options, script(tmp_path), env=environ) as silly:
            for _ in range(2):
                assert manager.until("WATCHDOG=1") == ["WATCHDOG=1"]
            silly.stop()


@pytest.mark.no_engine
def test_the_supervisor_notifies_for_all_workers(tmp_path: Path, manager: Manager) -> None:
    environ = environment(NOTIFY_SOCKET=manager.name)
    with running("-m", "silly", "--workers", "2", script(tmp_path), env=environ) as silly:
        assert manager.until("READY=1") == ["READY=1"]
        assert manager.until("STATUS=2 of 2 workers ready")
        assert silly.until("is ready", times=2)
        silly.send(signal.SIGHUP)
        reloading = manager.until("RELOADING=1")
        assert reloading[1].startswith("MONOTONIC_USEC=")
        assert reloading[1].partition("=")[2].isdigit()
        assert manager.until("READY=1") == ["READY=1"]
        silly.send(signal.SIGTERM)
        assert manager.until("STOPPING=1") == ["STOPPING=1"]
        silly.rest()
        assert silly.process.returncode == 0


@pytest.mark.no_engine
def test_a_manager_that_does_not_listen_stops_nothing(tmp_path: Path) -> None:
    environ = environment(NOTIFY_SOCKET=str(tmp_path / "nobody"))
    with running("-m", "silly", script(tmp_path), env=environ) as silly:
        addr = silly.until(LISTENING)[0]
        assert ask(addr, b"x\n") == b"x\n"
        silly.stop()
        assert "cannot notify systemd of READY=1" in silly.output


# ---------------------------------------------------------------------- sockets

ACTIVATE = """
import os, sys
for number in range(int(sys.argv[1])):
    os.dup2(100 + number, 3 + number)
    os.close(100 + number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[1], LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


@contextmanager
def activation(*sockets: socket.socket, names: str = "a:b") -> Iterator[list[str]]:
    """Return the start of a command that passes *sockets* like systemd: as 3, 4, ..."""
    moved: list[int] = []
    try:
        for sock in sockets:
            moved.append(os.dup2(sock.fileno(), 100 + len(moved)))
        yield [sys.executable, "-u", "-c", ACTIVATE, str(len(moved)), names]
    finally:
        for fd in moved:
            os.close(fd)


def start(*command: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        close_fds=False,
    )


@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["alone", "workers"])
@pytest.mark.parametrize("family", ["ipv4", "dual", "unix", "unix via a link", "abstract"])
def test_passed_sockets_are_used(tmp_path: Path, options: list[str], family: str) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    if family.startswith("unix"):
        path = tmp_path / "passed.sock"
        passed = socket.socket(socket.AF_UNIX)
        passed.bind(str(path))
        passed.listen()
        addr = wanted = f"unix:{path}"
        if family != "unix":
            (tmp_path / "link").symlink_to(".")
            wanted = f"unix:{tmp_path}/link/passed.sock"
    elif family == "abstract":
        passed = socket.socket(socket.AF_UNIX)
        passed.bind(f"\0silly {os.getpid()}\n")
        passed.listen()
        wanted = f"unix:@silly {os.getpid()}\n"
        addr = f"unix:\0{wanted[6:]}"  # the name as in the socket module
    elif family == "dual":
        passed = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        wanted = f":{passed.getsockname()[1]}"
        addr = f"127.0.0.1{wanted}"
    else:
        passed = socket.create_server(("127.0.0.1", 0))
        addr = wanted = f"127.0.0.1:{passed.getsockname()[1]}"
    with passed, other, activation(other, passed) as command:
        process = start(*command, "-m", "silly", *options, script(tmp_path), wanted)
        with process:
            assert process.stdout is not None
            try:
                assert (
                    ask(addr, b"x\n") == b"x\n"
                )  # it waits in the backlog until the program serves
                process.terminate()
                output = process.stdout.read()
                assert process.wait() == 0, output
            finally:
                process.kill()
        # It is still open here, as in systemd.
        assert passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if family.startswith("unix"):
            assert path.exists()


@pytest.mark.no_engine
def test_passed_sockets_are_found_once_and_not_inherited(tmp_path: Path) -> None:
    text = """
        import os, subprocess, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork, as there are threads
        from silly import systemd
        print([(each.name, each.sockaddr[1], each.type.name) for each in systemd.activated()])
        print([name for name in os.environ if name.startswith("LISTEN_")], flush=True)
        check = "import os; print(os.path.exists('/proc/self/fd/4'))"
        subprocess.run([sys.executable, "-c", check], close_fds=False)
        if (child := os.fork()) == 0:
            os._exit(os.path.exists('/proc/self/fd/4'))
        print(os.waitpid(child, 0)[1])
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as passed,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket() as not_listening,
        activation(datagrams, passed, not_listening, names="d:web:other") as command,
    ):
        process = start(*command, "-m", "silly", script(tmp_path, text))
        output, _ = process.communicate()
        port = passed.getsockname()[1]
        assert output == f"[('d', 0, 'SOCK_DGRAM'), ('web', {port}, 'SOCK_STREAM')]\n[]\nFalse\n0\n"


@pytest.mark.parametrize("family", ["ipv4", "dual"])
def test_passed_datagram_sockets_are_used(tmp_path: Path, family: str) -> None:
    text = """
        import sys
        from silly.net import udp
        sock = udp.bind(sys.argv[1], broadcast=True)
        async for data, peer in sock:
            sock.send(data, peer)
            break
        sock.close()
    """
    with (
        socket.socket(
            socket.AF_INET6 if family == "dual" else socket.AF_INET, socket.SOCK_DGRAM
        ) as passed,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.create_server(("127.0.0.1", 0)) as listening,
    ):
        client.settimeout(20)
        if family == "dual":
            passed.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        passed.bind(("::" if family == "dual" else "127.0.0.1", 0))
        port = passed.getsockname()[1]
        wanted = f":{port}" if family == "dual" else f"127.0.0.1:{port}"
        client.sendto(b"early", ("127.0.0.1", port))  # waits in the socket
        with activation(listening, passed) as command:
            with start(*command, "-m", "silly", script(tmp_path, text), wanted) as process:
                try:
                    output, _ = process.communicate(timeout=60)
                finally:
                    process.kill()
        assert process.returncode == 0, output
        assert client.recv(100) == b"early"
        # It is still open here, as in systemd.
        assert passed.getsockname()[1] == port


@pytest.mark.no_engine
def test_sockets_for_another_process_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = environment(LISTEN_PID="1", LISTEN_FDS="1")
    text = "from silly import systemd\nprint(systemd.activated())\n"
    with running("-m", "silly", script(tmp_path, text), env=environ) as silly:
        assert silly.rest() == "[]\n"


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is missing"
)
@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_real_socket_activation(port: int, tmp_path: Path, options: list[str]) -> None:
    addr = f"127.0.0.1:{port}"
    process = start(
        "systemd-socket-activate",
        f"--listen={addr}",
        sys.executable,
        "-u",
        "-m",
        "silly",
        *options,
        script(tmp_path),
        addr,
    )
    with process:
        assert process.stdout is not None
        try:
            assert "Listening on" in process.stdout.readline()
            assert ask(addr, b"x\n") == b"x\n"  # this starts the program
            process.terminate()
            assert "listening" in process.stdout.read()
            assert process.wait() == 0
        finally:
            process.kill()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")
@pytest.mark.no_engine
def test_units_are_valid(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/srv/echo/.venv/bin/silly", sys.executable)
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Failed to" in done.stderr and "initialize manager" in done.stderr:
        pytest.skip(f"systemd-analyze cannot run here: {done.stderr.strip()}")
    assert str(tmp_path) not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
