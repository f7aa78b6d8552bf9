"""Programs in a directory behind a symbolic link, and new releases of them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from silly.workers import Supervisor
from silly.workers.channel import Channel
from silly.workers.process import State, Worker
from tests.workers.harness import ask, dial, environment, running, script

pytestmark = pytest.mark.no_engine

APP = """
import sys
from silly.net import tcp

async def release(conn):
    await conn.read(b"\\n")
    import part
    await conn.write(part.RELEASE)

def main():
    print("listening", tcp.listen("127.0.0.1:0", release).local_addr, flush=True)

if __name__ == "__main__":
    main()
"""


def install(tmp_path: Path, number: int) -> Path:
    """Install a release; return the link to the current one."""
    release = tmp_path / "releases" / str(number)
    release.mkdir(parents=True)
    script(release, APP, "app.py")
    script(release, f"RELEASE = b'{number}'\n", "part.py")
    current = tmp_path / "current"
    (tmp_path / "next").symlink_to(release)
    (tmp_path / "next").rename(current)
    return current


@pytest.mark.parametrize(
    ("inside", "target"),
    [(True, "app.py"), (True, "app:main"), (False, "current/app.py")],
    ids=["script", "function", "path"],
)
def test_a_restart_runs_the_release_that_the_link_points_to(
    tmp_path: Path, inside: bool, target: str
) -> None:
    current = install(tmp_path, 1)
    where = current if inside else tmp_path
    options: dict[str, Any] = {"cwd": where, "env": environment(PWD=str(where))}
    with running("-m", "silly", "--workers", "1", target, **options) as silly:
        addr = silly.until(r"listening (\S+)")[0]
        silly.until("is ready")
        with dial(addr) as early:
            install(tmp_path, 2)
            # Late imports of an old worker come from its own release, too.
            early.sendall(b"\n")
            assert early.recv(10) == b"1"
        shutil.rmtree(tmp_path / "releases" / "1")
        silly.send(signal.SIGHUP)
        silly.until(": restarted$")
        assert ask(addr, b"\n") == b"2"
        silly.stop()


def test_a_link_that_is_missing_leaves_the_old_release_in_service(tmp_path: Path) -> None:
    current = install(tmp_path, 1)
    options: dict[str, Any] = {"cwd": current, "env": environment(PWD=str(current))}
    with running("-m", "silly", "--workers", "1", "app.py", **options) as silly:
        addr = silly.until(r"listening (\S+)")[0]
        silly.until("is ready")
        current.unlink()
        silly.send(signal.SIGHUP)
        silly.until("cannot start worker 1: .*No such file or directory.*current")
        silly.until("the restart was abandoned")
        assert ask(addr, b"\n") == b"1"
        install(tmp_path, 2)
        silly.send(signal.SIGHUP)
        silly.until(": restarted$")
        assert ask(addr, b"\n") == b"2"
        silly.stop()


async def test_a_worker_that_cannot_be_replaced_gets_no_second_one_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BlockingIOError

    fleet = Supervisor(str(script(tmp_path)))._fleet
    (slot,) = fleet.slots
    monkeypatch.setattr(subprocess, "Popen", fail)
    one, other = socket.socketpair()
    with one, other:
        serving: Any = None  # a process
        worker = Worker(slot, serving, Channel(one), 0.0, expected=None)
        worker.state = State.READY
        slot.workers.append(worker)
        assert fleet.start(slot) is None
        assert slot.retry_timer is None
        slot.workers.clear()
        assert fleet.start(slot) is None
        assert slot.retry_timer is not None
        slot.cancel_retry()


def test_reloading_follows_the_link(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    current = install(tmp_path, 1)
    options: dict[str, Any] = {"cwd": current, "env": environment(PWD=str(current))}
    with running("-m", "silly", "--reload", "app.py", **options) as silly:
        addr = silly.until(r"listening (\S+)")[0]
        silly.until("is ready")
        install(tmp_path, 2)
        silly.until(f": {current} changed: restarting")
        silly.until(f"watching {os.path.realpath(current)}$")
        silly.until("is ready")
        assert ask(addr, b"\n") == b"2"
        silly.send(signal.SIGINT)
        silly.rest()
        assert silly.process.returncode == 0


def test_a_supervisor_whose_directory_is_gone_runs_a_program_elsewhere(tmp_path: Path) -> None:
    path = script(tmp_path)
    gone = tmp_path / "gone"
    begin = """if True:
        import os, sys
        os.mkdir(sys.argv[1])
        os.chdir(sys.argv[1])
        os.rmdir(sys.argv[1])
        os.execv(sys.executable, [sys.executable, "-P", "-m", "silly", *sys.argv[2:]])
    """
    with running("-c", begin, gone, "--workers", "1", path) as silly:
        addr = silly.until(r"listening \S+ \d+ (\S+)")[0]
        assert ask(addr, b"fine\n") == b"fine\n"
        silly.stop()


def test_relative_paths_are_relative_to_the_program_not_the_supervisor(tmp_path: Path) -> None:
    text = """
        import os
        from silly.net import tcp
        async def leave(conn): pass
        tcp.listen("unix:first.sock", leave)
        os.chdir("there")
        tcp.listen("unix:second.sock", leave)
        print("up", flush=True)
    """
    (tmp_path / "there").mkdir()
    with running("-m", "silly", "--workers", "2", script(tmp_path, text), cwd=tmp_path) as silly:
        silly.until("is ready", times=2)
        assert (tmp_path / "first.sock").is_socket()
        assert (tmp_path / "there" / "second.sock").is_socket()
        silly.stop()
    assert list(tmp_path.rglob("*.sock")) == []


def test_an_old_supervisor_does_not_remove_the_socket_of_a_new_one(tmp_path: Path) -> None:
    path, program = tmp_path / "x.sock", script(tmp_path)
    with running("-m", "silly", "--workers", "1", program, f"unix:{path}") as old:
        old.until("is ready")
        path.unlink()
        with running("-m", "silly", "--workers", "1", program, f"unix:{path}") as new:
            new.until("is ready")
            old.stop()
            assert ask(f"unix:{path}", b"fine\n") == b"fine\n"
            new.stop()
    assert not path.exists()
