"""What docs/howto/other-tools.md says; test_docs.py runs its blocks of code."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog

from silly.net import tcp
from silly.net.tcp import Conn
from tests.workers.harness import ask, running, script

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/howto/other-tools.md").read_text()
ANY = "127.0.0.1:0"


def needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


@pytest.mark.no_engine
@needs("pytest_asyncio")
def test_pytest_asyncio(tmp_path: Path) -> None:
    (block,) = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    block = block.replace("mark.anyio", "mark.asyncio").partition("@pytest.fixture")[0]
    path = tmp_path / "test_block.py"
    path.write_text(block)
    options = ["-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *options, str(path)],
        capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


async def test_anyio_in_a_handler() -> None:
    seen: list[object] = []

    async def handler(conn: Conn) -> None:
        with anyio.move_on_after(0.01) as scope:
            await conn.read(b"\n")
        seen.append(scope.cancelled_caught)

        async def reply(number: int) -> None:
            await anyio.lowlevel.checkpoint()
            seen.append(number)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(reply, number)
        conn.write(b"ready\n")
        await conn.write(await conn.read(b"\n"))

    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        await conn.write(b"un")  # a cancelled read leaves it
        assert await conn.read(b"\n") == b"ready\n"
        await conn.write(b"broken\n")
        assert await conn.read(b"\n") == b"unbroken\n"
    assert seen == [True, 0, 1, 2]


async def test_structlog_binds_to_one_connection() -> None:
    found: list[dict[str, object]] = []

    async def later() -> None:
        await asyncio.sleep(0)
        found.append(dict(structlog.contextvars.get_contextvars()))

    async def handler(conn: Conn) -> None:
        async for line in conn:
            structlog.contextvars.bind_contextvars(name=line.decode().strip())
            await asyncio.create_task(later())
            await conn.write(line)

    async with (
        tcp.listen(ANY, handler) as listener,
        tcp.connect(listener.local_addr) as one,
        tcp.connect(listener.local_addr) as other,
    ):
        for conn, name in ((one, b"one\n"), (other, b"other\n")):
            await conn.write(name)
            await conn.read(b"\n")
    assert found == [{"name": "one"}, {"name": "other"}]
    assert not structlog.contextvars.get_contextvars()


async def test_a_task_factory_sees_the_errors_of_handlers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As error trackers do it: each coroutine is wrapped in another one, which reports."""
    loop = asyncio.get_running_loop()
    caught: list[BaseException] = []
    before = loop.get_task_factory()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        async def reporting(inner: Coroutine[Any, Any, Any]) -> Any:
            try:
                return await inner
            except Exception as error:
                caught.append(error)
                raise

        return asyncio.Task(reporting(coro), loop=loop, **options)

    async def handler(conn: Conn) -> None:
        await conn.write(await conn.read(b"\n"))
        raise LookupError(await conn.read(b"\n"))

    loop.set_task_factory(factory)
    try:
        async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
            await conn.write(b"first\n")
            assert await conn.read(b"\n") == b"first\n"
            with caplog.at_level(logging.ERROR, "silly"):
                await conn.write(b"second\n")
                with pytest.raises((EOFError, OSError)):
                    await conn.read()
            while not listener.stats.handler_errors:
                await asyncio.sleep(0)
    finally:
        loop.set_task_factory(before)
    assert [str(error) for error in caught if isinstance(error, LookupError)] == [r"b'second\n'"]
    assert "LookupError" in caplog.text


@needs("debugpy")
def test_debugpy(tmp_path: Path, port: int) -> None:
    command = ["-X", "frozen_modules=off", "-m", "debugpy", "--listen", f"127.0.0.1:{port}"]
    with running(*command, "-m", "silly", script(tmp_path)) as silly:
        (addr,) = silly.until(r"listening \S+ \d+ (\S+)")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            assert b"Content-Length" in sock.recv(100)  # the adapter's greeting
        assert ask(addr, b"hello\n") == b"hello\n"
        silly.send(signal.SIGTERM)
        silly.rest()
        assert silly.process.returncode == 0


PY_SPY = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.skipif(PY_SPY is None, reason="py-spy is not installed")
def test_py_spy(tmp_path: Path) -> None:
    text = """
        import time
        from silly.net import tcp

        async def stuck(conn):
            print("stuck", flush=True)
            time.sleep(100)

        listener = tcp.listen("127.0.0.1:0", stuck)
        print("listening", listener.local_addr, flush=True)
    """
    with running("-m", "silly", script(tmp_path, text)) as silly:
        host, port = silly.until(r"listening (127\S+)")[0].split(":")
        with socket.create_connection((host, int(port)), timeout=20):
            silly.until("^stuck")
            done = subprocess.run(
                [str(PY_SPY), "dump", "--pid", str(silly.process.pid)],
                capture_output=True, text=True, timeout=50, check=False,
            )  # fmt: skip
            if done.returncode and "ermission" in done.stderr:
                pytest.skip("py-spy may not trace other processes")
            assert "stuck (script.py:" in done.stdout, done


@needs("nbclient")
@needs("ipykernel")
def test_jupyter(tmp_path: Path) -> None:
    (cell,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    program = """
import json, sys, nbclient, nbformat
from nbformat.v4 import new_code_cell, new_notebook
notebook = new_notebook(cells=[new_code_cell(each) for each in json.load(sys.stdin)])
nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
print(json.dumps([[each.get("text") for each in cell.outputs] for cell in notebook.cells]))
"""
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "Python", "language": "python"})
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([cell, "print(listener.state)"]),
        capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path,
        env={**os.environ, "JUPYTER_PATH": str(tmp_path), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [["b'hello\\n'\n"], ["closed\n"]]
