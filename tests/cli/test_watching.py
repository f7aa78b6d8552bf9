"""``--access-log``, ``--metrics`` and ``--admin``, as used from a shell."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from silly import admin, metrics
from silly._loop.live import Live
from silly.cli import watching
from silly.metrics.meter import Meter
from silly.net import tcp
from silly.net.tcp import Conn
from silly.testing import run_virtual
from silly.workers import answers

SERVER = """
from silly.net import tcp

async def handler(conn):
    async for line in conn:
        await conn.write(line)

listener = tcp.listen("127.0.0.1:0", handler)
print(listener.local_addr, flush=True)
"""


@contextmanager
def serving(tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    path = tmp_path / "app.py"
    path.write_text(SERVER)
    process = subprocess.Popen(
        [sys.executable, "-m", "silly", *options, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    with process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            watchdog.cancel()
            process.kill()


def echo(addr: str) -> str:
    """Send a line to an echo server; return the address that it was sent from."""
    host, _, port = addr.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"hello\n")
        assert sock.recv(100) == b"hello\n"
        return "{}:{}".format(*sock.getsockname())


def test_all_three(port: int, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    options = ["--access-log", "--metrics", f"127.0.0.1:{port}", "--admin", f"unix:{path}"]
    with serving(tmp_path, *options) as (process, addr):
        peer = echo(addr)
        assert process.stderr is not None
        form = rf"\d{{4}}-\d\d-\d\d [\d:,]+ INFO \[{process.pid}\] (\S+): (.*)\n"
        for name, text in (
            ("silly", f"listening on {addr} "),
            ("silly.access", f"{peer} to {addr}: peer_finished, "),
        ):
            found = re.fullmatch(form, process.stderr.readline())
            assert found is not None
            assert found[1] == name
            assert found[2].startswith(text)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            text = response.read().decode()
        assert f'silly_connections_accepted_total{{listener="{addr}"}} 1.0' in text
        with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rw") as file:
            sock.settimeout(10)
            sock.connect(str(path))
            file.write("stats\n")
            file.flush()
            assert json.loads(file.readline())["listeners"][addr]["accepted"] == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""  # neither the scrape nor the admin connection is logged
        assert not path.exists()


def test_metrics_do_not_keep_a_finished_script_running(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text("print('done')\n")
    done = subprocess.run(
        [sys.executable, "-m", "silly", "--metrics", "127.0.0.1:0", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (["--metrics", "9100"], 2, "argument --metrics: '9100' is not an address"),
        (["--metrics", "192.0.2.1:1"], 1, "silly: --metrics: [Errno "),
        (["--admin", "127.0.0.1:1"], 2, "such as 'unix:/run/app.sock'"),
        (["--admin", "unix:@name"], 2, "is not the path of a Unix socket"),
        (["--admin", "unix:/no/such/directory/s"], 1, "silly: --admin: [Errno 2]"),
    ],
)
def test_unusable_addresses_are_reported(
    tmp_path: Path, options: list[str], code: int, error: str
) -> None:
    path = tmp_path / "app.py"
    path.write_text("print('not reached')\n")
    done = subprocess.run(
        [sys.executable, "-m", "silly", *options, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert error in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("prometheus_client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(SystemExit, match=r"--metrics: .*pip install prometheus-client"):
        watching.watch(watching.Addrs(metrics="127.0.0.1:0"))


# ----------------------------------------------------------------------- workers


@pytest.fixture(autouse=True)
def no_providers() -> Iterator[None]:
    before = dict(answers._providers)
    yield
    answers._providers.clear()
    answers._providers.update(before)


class Supervisor:
    """Two workers (both are this process), and the last answer of a third that has ended."""

    counts: ClassVar[dict[str, Any]] = {
        "wanted": 2,
        "ready": 2,
        "starts": 3,
        "deaths": {"SIGKILL": 1},
        "restarts": {},
    }
    is_stopping = False

    @property
    def processes(self) -> list[dict[str, Any]]:
        about = {"worker": 1, "pid": os.getpid(), "state": "ready", "age": 1.5}
        return [{**about, "answers": {"stats": metrics.snapshot()}}, {**about, "answers": {}}]

    def stop(self, grace: float | None = None) -> None:
        self.is_stopping = True

    async def command(self, text: str) -> list[tuple[Any, str | None]]:
        try:
            return [(await admin.act(text), None), (None, "not here")]
        except ValueError as error:
            return [(None, str(error))]

    async def ask(self, name: str) -> list[Any]:
        function, merge = watching.ANSWERS[name]
        answer = json.loads(json.dumps(function()))
        return [answer, answer, merge(None, answer)]


async def handler(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


async def test_a_supervisor_answers_for_all(port: int, tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    watching.watch_workers(Supervisor(), watching.Addrs(f"127.0.0.1:{port}", None, f"unix:{path}"))
    async with tcp.listen("127.0.0.1:0", handler) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            await client.write(b"x\n")
            await client.read(b"\n")
            async with await tcp.connect(f"127.0.0.1:{port}") as conn:
                conn.write(b"GET /metrics HTTP/1.1\r\n\r\n")
                head = await conn.read(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                text = (await conn.read(length)).decode()
            label = f'{{listener="{listener.local_addr}"}}'
            assert f"silly_connections{label} 2.0\n" in text
            assert f"silly_connections_accepted_total{label} 3.0\n" in text
            assert "silly_processes 2.0\n" in text
            assert "silly_workers_ready 2.0\n" in text
            assert 'silly_worker_deaths_total{reason="SIGKILL"} 1.0\n' in text
            async with await tcp.connect(f"unix:{path}") as conn:
                for command in (
                    *("stats", "connections", "tasks", "help", "tasks 5", "nonsense"),
                    *("processes", "health", "close 192.0.2.1", "close 127.0.0.1", "drain 1s"),
                    "health",
                ):
                    conn.write(f"{command}\n".encode())
                answers = [json.loads(await conn.read(b"\n")) for _ in range(12)]
            with pytest.raises(EOFError):
                await client.read()
    assert answers[0]["process"]["processes"] == 2
    assert [each["listeners"][0]["total"] for each in answers[1]] == [1, 1]
    assert len(answers[2]) == 2
    assert "stats" in answers[3]
    assert answers[4][0]["handlers"] == 1
    assert "is not a command" in answers[5]["error"]
    assert [each["accepted"] for each in answers[6]] == [1, 0]
    assert answers[7] == {"state": "ready", "detail": "2 of 2 workers"}
    assert "no connection has the id or the peer '192.0.2.1'" in answers[8]["error"]
    assert answers[9:11] == [{"closed": 1}, {"draining": True}]
    assert answers[11]["state"] == "draining"
    loop = asyncio.get_running_loop()
    for auxiliary in list(Live.of(loop).auxiliaries):
        await auxiliary.close()


async def test_a_worker_is_measured() -> None:
    loop = asyncio.get_running_loop()
    watching.measure_worker()
    meter = Meter.of(loop)
    assert meter._users == 1
    meter.stop()
    assert watching.ANSWERS.keys() <= answers._providers.keys()


def test_the_workers_are_asked_regularly(tmp_path: Path) -> None:
    class Asked(Supervisor):
        asked = 0

        async def ask(self, name: str) -> list[Any]:
            assert name == "stats"
            self.asked += 1
            return []

    supervisor = Asked()

    async def run() -> int:
        await asyncio.sleep(60)
        return 3

    async def main() -> int:
        return await watching.watched(run, supervisor, watching.Addrs(admin=f"unix:{tmp_path}/s"))

    assert run_virtual(main()) == 3
    assert supervisor.asked == 29
    assert not (tmp_path / "s").exists()
