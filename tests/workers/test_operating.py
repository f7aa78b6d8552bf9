"""`silly top` and the admin verbs that act, on several workers, under load and while draining."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from silly._values import processors
from silly.workers.process import describe_exit, exit_reason, working_directory
from tests.cli.terminal import python_path
from tests.workers.harness import Load, ask, dial, environment, running, script, who

pytestmark = pytest.mark.no_engine

SILLY = [sys.executable, "-m", "silly"]
LISTENING = r"listening \S+ \d+ (\S+)"


def command(path: Path, text: str) -> Any:
    return json.loads(ask(f"unix:{path}", text.encode() + b"\n"))


def top(path: Path) -> dict[str, Any]:
    done = subprocess.run(
        [*SILLY, "top", f"unix:{path}", "--once", "--json", "--interval", "100ms"],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.heavy
def test_workers_are_watched_and_acted_on(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    options = ["--workers", "2", "--admin", f"unix:{path}"]
    with running("-m", "silly", *options, script(tmp_path)) as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("is ready", times=2 - silly.output.count("is ready"))
        with Load(addr) as load:
            load.more(20)
            found = top(path)
            load.more(1)
        assert load.failures == []
        assert found["health"] == {"state": "ready", "detail": "2 of 2 workers"}
        assert [each["worker"] for each in found["processes"]] == [1, 2]
        assert {each["state"] for each in found["processes"]} == {"ready"}
        assert found["listeners"][0]["listener"] == addr
        assert found["listeners"][0]["accepted_rate"] > 0

        with dial(addr) as first, dial(addr) as second:
            for sock in (first, second):
                sock.sendall(b"x\n")
                assert sock.recv(10) == b"x\n"
            host, port = first.getsockname()
            workers = command(path, "connections 5")
            listed = [each for worker in workers for each in worker["listeners"][0]["connections"]]
            (number,) = [each["id"] for each in listed if each["peer"] == f"{host}:{port}"]
            assert command(path, f"close {number}") == {"closed": 1}
            assert first.recv(10) == b""
            assert "no connection has" in command(path, f"close {number}")["error"]
            assert command(path, f"abort {host}") == {"closed": 1}
            with pytest.raises(ConnectionResetError):
                second.recv(10)

        assert command(path, "log-level silly.net debug")["silly.net"] == "debug"
        killed = who(addr)[1]
        os.kill(killed, signal.SIGKILL)
        silly.until("was killed by SIGKILL")
        silly.until("is ready")
        workers = command(path, "stats")["workers"]
        assert (workers["starts"], workers["deaths"]["SIGKILL"]) == (3, 1)

        with dial(addr) as sock:
            sock.sendall(b"x\n")
            assert sock.recv(10) == b"x\n"
            assert command(path, "drain 30s") == {"draining": True}
            silly.until("stopping; waiting up to 5 s")
            while len(command(path, "processes")) > 1:
                pass  # the other worker ends
            found = top(path)
            assert found["health"]["state"] == "draining"
            assert [each["state"] for each in found["processes"]] == ["stopping"]
            assert found["processes"][0]["connections"] == 1
            sock.sendall(b"y\n")
            assert sock.recv(10) == b"y\n"
        silly.rest()
        assert silly.process.returncode == 0


@pytest.mark.parametrize("code", [-999, -9, 3])
def test_ends_of_processes_have_names(code: int) -> None:
    texts = {
        -999: ("was killed by signal 999", "signal 999"),  # none that Python knows
        -9: ("was killed by SIGKILL", "SIGKILL"),
        3: ("ended with exit code 3", "exit 3"),
    }
    assert (describe_exit(code), exit_reason(code)) == texts[code]


def test_a_directory_that_is_gone_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setenv("PWD", str(gone))
    assert working_directory() == str(gone)
    gone.rmdir()
    assert working_directory() is None


@pytest.mark.skipif(sys.platform != "linux", reason="the short name is Linux's")
def test_processes_have_names(tmp_path: Path) -> None:
    def name(pid: int) -> str:
        return Path(f"/proc/{pid}/comm").read_text().strip()

    # What stands for setproctitle prints the title.
    (tmp_path / "setproctitle.py").write_text(
        "import sys\ndef setproctitle(title): print(title, file=sys.stderr, flush=True)\n"
    )
    env = environment(PYTHONPATH=python_path(tmp_path))
    with running(
        "-m", "silly", "--workers", "1", script(tmp_path, name="app.py"), env=env
    ) as silly:
        silly.until("^silly: supervisor of .*app.py$")
        silly.until("^silly: worker 1 of .*app.py$")
        worker = int(silly.until(r"listening \S+ (\d+)")[0])
        assert name(silly.process.pid) == "silly app.py"
        assert name(worker) == "silly 1 app.py"
        silly.stop()


def test_workers_auto_is_what_the_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = len(os.sched_getaffinity(0))
    with monkeypatch.context() as other_system:
        other_system.delattr(os, "sched_getaffinity")
        other_system.setattr(os, "cpu_count", lambda: 7)
        assert processors.usable(tmp_path) == 7
    assert processors.usable(tmp_path) == available
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert processors.usable(tmp_path) == available
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    assert processors.usable(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert processors.usable(tmp_path) == available
    (tmp_path / "cpu.max").write_text("100001 100000\n")
    assert processors.usable(tmp_path) == min(available, 2)


def test_workers_auto_starts_them(tmp_path: Path) -> None:
    env = {**os.environ, "SILLY_WORKERS": "auto"}
    with running("-m", "silly", script(tmp_path), env=env) as silly:
        count = processors.usable()
        assert sorted(silly.until(r"listening (\d)", times=count)) == sorted(
            map(str, range(1, count + 1))
        )
        silly.stop()
