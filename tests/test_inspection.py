"""SIGUSR1 and the admin socket show where each connection and task waits, and for what."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from silly import task
from silly.net import tcp
from silly.net.tcp import Conn
from silly.runtime import inspection

ANY = "127.0.0.1:0"
HERE = re.escape(__file__)


async def reads_a_line(conn: Conn) -> None:
    conn.write(b"+")
    async for _ in conn:
        pass


async def reads_deeper(conn: Conn) -> None:
    conn.write(b"+")
    await helper(conn)


async def helper(conn: Conn) -> None:
    await conn.read(500)


async def reads_anything(conn: Conn) -> None:
    await conn.read(1)  # from here on, the engine may step the handler
    conn.write(b"+")
    await conn.read()


async def reads_to_a_delimiter(conn: Conn) -> None:
    await conn.read(1)
    conn.write(b"+")
    await conn.read(b"\r\n", timeout=60)


async def sleeps(conn: Conn) -> None:
    await conn.read(1)
    conn.write(b"+")
    await asyncio.sleep(3600)


async def floods(conn: Conn) -> None:
    conn.write(b"+")
    while True:
        await conn.write(b"x" * 100_000)


def only_conn(groups: list[dict[str, Any]]) -> Any:
    (group,) = groups
    (conn,) = group["connections"]
    return conn


@pytest.mark.parametrize(
    ("handler", "place", "waits_for"),
    [
        (reads_a_line, "reads_a_line", re.escape(r"read of b'\n'")),
        (reads_deeper, "helper", "read of 500 bytes"),
        (reads_anything, "reads_anything", "read of a byte"),
        (reads_to_a_delimiter, "reads_to_a_delimiter", re.escape(r"read of b'\r\n'")),
        (sleeps, "sleeps", "asyncio.tasks.sleep"),
        (floods, "floods", r"room to write, \d+ bytes unsent"),
    ],
)
async def test_where_a_handler_waits(handler: Any, place: str, waits_for: str) -> None:
    loop = asyncio.get_running_loop()
    listener = tcp.listen(ANY, handler)
    async with await tcp.connect(listener.local_addr) as client:
        await client.write(b"x")
        await client.read(1)
        while listener._course.handling:  # until the handler waits
            conn = only_conn([g for g in inspection.connections(loop) if g["listener"]])
            if re.fullmatch(waits_for, str(conn["waits_for"])):
                break
            await asyncio.sleep(0)
        assert re.fullmatch(rf"{HERE}:\d+ in {place}", conn["at"])
        assert conn["peer"] == client.local_addr
        assert conn["local"] == client.remote_addr
        assert conn["age"] >= conn["idle"] >= 0
        assert conn["bytes_in"] <= 1
        text = inspection.report(loop)
        assert re.search(
            rf"\n  from {client.local_addr}: .*; at {HERE}:\d+ in {place}, waits for {waits_for}\n",
            text,
        )
        await listener.close(0)


async def test_a_name_that_a_peer_chose_cannot_add_lines(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    listener = tcp.listen(f"unix:{tmp_path}/x", reads_a_line)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        sock.bind(f"{tmp_path}/a\n\x1b[2Jforged")
        await loop.sock_connect(sock, f"{tmp_path}/x")
        assert await loop.sock_recv(sock, 1) == b"+"
        text = inspection.report(loop)
    assert "a\\x0a\\x1b[2Jforged" in text
    assert "\x1b" not in text
    await listener.close(0)


async def test_where_tasks_wait() -> None:
    loop = asyncio.get_running_loop()

    async def waits_for_an_event() -> None:
        await asyncio.Event().wait()

    async def waits_for_a_task() -> None:
        await first

    async def gathers() -> None:
        await asyncio.gather(waits_for_an_event())

    async def reads() -> None:
        await helper(client)

    async with tcp.listen(ANY, reads_a_line) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            await client.read(1)
            first = asyncio.create_task(waits_for_an_event(), name="first")
            started = [
                first,
                asyncio.create_task(waits_for_a_task(), name="second"),
                asyncio.create_task(gathers(), name="third"),
                asyncio.create_task(reads(), name="fourth"),
                task.fork(asyncio.Event().wait),
            ]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            found = inspection.tasks(loop)
            by_name = {each["name"]: each for each in found["tasks"]}
            assert found["handlers"] == 1
            assert found["total"] == len(found["tasks"]) == len(asyncio.all_tasks()) - 1
            places = {
                "first": ("waits_for_an_event", "asyncio.locks.Event.wait"),
                "second": ("waits_for_a_task", "task first"),
                "third": ("gathers", "a GatheringFuture"),
                "fourth": ("helper", f"read of 500 bytes ({listener.local_addr})"),
            }
            for name, (where, what) in places.items():
                assert re.fullmatch(rf"{HERE}:\d+ in .*{where}", by_name[name]["at"])
                assert by_name[name]["waits_for"] == what
            current = asyncio.current_task()
            assert current is not None
            assert by_name[current.get_name()]["waits_for"] is None
            (own,) = [g for g in inspection.connections(loop) if g["listener"] is None]
            assert own["connections"][0]["waits_for"] == "read of 500 bytes"
            text = inspection.report(loop)
            assert f"  to {listener.local_addr}: " in text
            assert "\n  first: test_where_tasks_wait.<locals>.waits_for_an_event, at " in text
            assert json.loads(json.dumps([found, own])) == [found, own]
            for each in started:
                each.cancel()
            await asyncio.wait(started)


async def test_connections_above_the_limit_are_counted_by_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inspection, "_COUNTED", 10)
    loop = asyncio.get_running_loop()
    async with tcp.listen(ANY, reads_a_line) as listener:
        clients = [await tcp.connect(listener.local_addr) for _ in range(20)]
        for client in clients:
            await client.read(1)
        (group,) = [g for g in inspection.connections(loop, 3) if g["listener"]]
        assert (group["total"], len(group["connections"]), group["uncounted"]) == (20, 3, 7)
        (others,) = group["others"]
        assert (others["count"], others["waits_for"]) == (10, r"read of b'\n'")
        waiting = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(5)]
        with monkeypatch.context() as fewer:
            for name in ("connections", "tasks"):
                function = getattr(inspection, name)
                fewer.setattr(inspection, name, functools.partial(function, listed=3))
            text = inspection.report(loop)
        assert "\n  and 7 more\n" in text  # connections that are not even looked at
        assert re.search(r"\ntasks other than handlers:\n(  .*, at .*\n)+  and \d+ more\n", text)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        monkeypatch.setattr(inspection, "LISTED", 3)
        tasks = inspection.tasks(loop, 0)
        assert (tasks["tasks"], tasks["uncounted"]) == ([], tasks["total"])
        for client in clients:
            client.close()


@pytest.mark.heavy
async def test_thousands_of_connections_are_shown_in_few_lines() -> None:
    loop = asyncio.get_running_loop()
    count = 2000
    async with tcp.listen(ANY, reads_a_line, 1024) as listener:
        clients = []
        for _ in range(count // 100):
            clients += await asyncio.gather(*(tcp.connect(listener.local_addr) for _ in range(100)))
        for client in clients:
            await client.read(1)
        text = inspection.report(loop)
        assert len(text.splitlines()) < 500
        assert f"{count - 100} more: at " in text
        for client in clients:
            client.abort()


# ----------------------------------------------------------------------- SIGUSR1

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no SIGUSR1 on this system")


@contextmanager
def running(tmp_path: Path, text: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "silly", *options, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(30, process.kill)  # do not wait forever for a missing line
    watchdog.start()
    with process:
        try:
            yield process
        finally:
            process.kill()
            watchdog.cancel()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"no {text!r} on standard error")


@pytest.mark.parametrize("options", [[], ["--uvloop"]])
def test_the_signal_prints_and_the_program_continues(tmp_path: Path, options: list[str]) -> None:
    text = """
        import asyncio
        from silly.net import tcp

        async def handler(conn):
            async for line in conn:
                await conn.write(line)

        listener = tcp.listen("127.0.0.1:0", handler)
        client = await tcp.connect(listener.local_addr)
        client.write(b"hello\\n")
        await client.read(b"\\n")
        asyncio.get_running_loop().call_soon(print, "ready")  # after this code has suspended
        await listener.serve_forever()
    """
    with running(tmp_path, text, *options) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(2):
            process.send_signal(signal.SIGUSR1)
            assert "engine: 1 listener, 2 connections" in line_with(process, "silly: process")
            assert "accepting, 1 connection, 1 accepted" in line_with(
                process, "listener 127.0.0.1:"
            )
            assert "script.py:6 in handler, waits for read of b'\\n'" in line_with(process, "from ")
            assert "script.py:14 in <module>" in line_with(process, "in <module>")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_the_signal_shows_what_blocks_the_loop(tmp_path: Path) -> None:
    text = """
        def spin():
            print("ready")
            while True:
                pass

        spin()
    """
    with running(tmp_path, text) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert re.search(r"script\.py:[345] in spin", line_with(process, "running now: "))


def test_a_program_may_handle_the_signal_itself(tmp_path: Path) -> None:
    text = """
        import asyncio, signal
        got = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.set)
        print("ready")
        await got.wait()
        print("got it")
    """
    with running(tmp_path, text) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "got it\n"
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_only_the_programs_own_tasks_are_shown(tmp_path: Path) -> None:
    text = f"""
        import asyncio, os, signal, sys
        from silly import admin, task
        from silly.net import tcp

        listener = tcp.listen("127.0.0.1:0", print)
        admin.serve("unix:{tmp_path}/admin.sock")
        task.fork(asyncio.Event().wait).set_name("forked")
        await asyncio.sleep(0)
        async with tcp.connect("unix:{tmp_path}/admin.sock") as conn:
            await conn.write(b"tasks\\n")
            print((await conn.read(b"\\n")).decode(), end="", flush=True)
        sys.exit()
    """
    with running(tmp_path, text) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        assert sorted(each["name"] for each in found["tasks"]) == ["forked", "main"]
        assert process.wait(20) == 0
