"""`silly top`: what it computes, what it shows, and what it does when it cannot."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from silly import admin
from silly.cli.topping.samples import sample
from silly.cli.topping.source import Answers, Source
from silly.cli.topping.tables import heading, tables
from silly.net import tcp
from tests.cli.terminal import Terminal
from tests.workers.harness import running, script

pytestmark = pytest.mark.no_engine


def answers(at: float, accepted: int, cpu: float, lags: int, lag: float, **more: Any) -> Answers:
    process = {
        "worker": 1,
        "pid": 7,
        "state": "ready",
        "age": at,
        "connections": 2,
        "accepted": accepted,
        "bytes_in": 0,
        "bytes_out": 10 * accepted,
        "errors": 0,
        "cpu_seconds": cpu,
        "resident_bytes": 1 << 20,
        "descriptors": 9,
        "lag_seconds": {"count": lags, "sum": lag},
        **more,
    }
    counts = {"connections": 2, "accepted": accepted, "bytes_in": 0, "bytes_out": 10 * accepted}
    stats = {"listeners": {"127.0.0.1:9": {**counts, "refused": {"x": 3, "y": 4}}}}
    return Answers(at, [process], stats, {"state": "ready", "detail": "1 of 1 worker"})


def test_rates_are_those_since_the_sample_before() -> None:
    found = sample(answers(12, 30, 3.5, 10, 0.5), answers(10, 10, 3.0, 6, 0.1))
    (process,) = found["processes"]
    assert (process["accepted_rate"], process["out_rate"], process["cpu"]) == (10, 100, 0.25)
    assert process["lag"] == pytest.approx(0.1)
    (listener,) = found["listeners"]
    assert (listener["accepted_rate"], listener["refused"], listener["errors"]) == (10, 7, 0)
    json.dumps(found)


def test_a_new_process_has_no_rates_and_counts_that_fall_are_not_negative() -> None:
    (first,) = sample(answers(12, 30, 3.5, 10, 0.5), None)["processes"]
    assert (first["accepted_rate"], first["cpu"]) == (None, None)
    (other,) = sample(answers(12, 30, 1, 1, 0, pid=8), answers(10, 50, 3, 6, 1))["processes"]
    assert other["accepted_rate"] is None
    (fallen,) = sample(answers(12, 30, 1, 1, 0), answers(10, 50, 3, 6, 1))["processes"]
    assert (fallen["accepted_rate"], fallen["cpu"], fallen["lag"]) == (0, 0, None)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_tables_fit(width: int) -> None:
    found = sample(answers(12, 30, 3.5, 10, 0.5), answers(10, 10, 3.0, 6, 0.1))
    processes, listeners = tables(found, width)
    assert all(len(line) <= width for line in processes + listeners)
    assert processes[0].startswith("worker")
    assert listeners[1].startswith("127.0.0.1:9")
    if width == 120:
        assert processes[0].split()[-1] == "fds"
        assert " 10/s " in processes[1]


def test_one_process_has_no_column_for_workers_and_text_is_escaped() -> None:
    found = sample(answers(12, 30, 3.5, 10, 0.5, worker=None, state="\x1b[31m"), None)
    (names, entry), _ = tables(found, 120)
    assert not names.startswith("worker")
    assert "\x1b" not in entry
    assert heading(found, "unix:\x1b") == r"ready (1 of 1 worker), 2 connections: unix:\x1b"


async def test_an_answer_that_comes_late_is_not_lost(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def answer(command: str) -> Any:
        await release.wait()
        return await admin.act(command)

    async with (
        admin.serve(f"unix:{tmp_path}/s", answer) as socket,
        tcp.connect(socket.local_addr) as conn,
    ):
        source = Source(conn)
        assert await source.ask(0.001) is None
        release.set()
        found = await source.ask(30)
        assert found is not None
        assert found.health == {"state": "starting", "detail": ""}


@pytest.mark.parametrize(
    ("addr", "code", "error"),
    [
        ("unix:/no/such/socket", 1, "cannot reach unix:/no/such/socket: No such file"),
        ("127.0.0.1:9999", 2, "is not the path of a Unix socket such as 'unix:/run/app.sock'"),
    ],
)
def test_an_address_that_is_wrong(addr: str, code: int, error: str) -> None:
    done = top(addr)
    assert (done.returncode, done.stdout) == (code, "")
    assert error in done.stderr


def test_live_on_a_terminal_until_the_program_ends(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with running("-m", "silly", "--admin", f"unix:{path}", script(tmp_path)) as silly:
        (addr,) = silly.until(r"listening \S+ \d+ (\S+)")
        with Terminal("top", f"unix:{path}", "--interval", "50ms") as terminal:
            terminal.wait_for(re.escape(addr))
            terminal.wait_for("ready, 0 connections")
            silly.send(signal.SIGSTOP)
            terminal.wait_for("no answer for ")
            silly.send(signal.SIGCONT)
            silly.stop()
            assert terminal.process.wait(30) == 0


async def test_once_in_a_pipe_is_a_table(tmp_path: Path) -> None:
    async with admin.serve(f"unix:{tmp_path}/s") as socket:
        done = await asyncio.to_thread(top, socket.local_addr, "--once")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"starting, 0 connections: {socket.local_addr}\n\n")
        assert f"\n{os.getpid()}  starting  " in done.stdout
        assert not done.stdout.endswith("\n\n")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", "does not answer: it is closed"),
        (b"220 hello\n", "it does not answer as an admin socket does"),
        (b'{"error": "no such command"}\n', "no such command"),
    ],
)
async def test_what_is_no_admin_socket_is_said(tmp_path: Path, reply: bytes, error: str) -> None:
    async def answer(conn: tcp.Conn) -> None:
        await conn.read(1)
        conn.write(reply)

    async with tcp.listen(f"unix:{tmp_path}/s", answer) as listener:
        done = await asyncio.to_thread(top, listener.local_addr)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"silly top: {listener.local_addr}")
    assert done.stderr.count("\n") == 1
    assert error in done.stderr


def test_without_rich_one_line_says_what_to_install() -> None:
    without = "import sys\nsys.modules['rich'] = None\nfrom silly.cli import main\n"
    code = f"{without}sys.exit(main(['top', 'unix:/s']))"
    with Terminal(command=[sys.executable, "-c", code]) as terminal:
        assert terminal.end() == 2
        assert "silly top: the live view needs rich: " in terminal.text


def top(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "silly", "top", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
