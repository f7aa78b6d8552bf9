"""``silly serve``."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_engine

APP = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("started", flush=True)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("ended", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = f"{scope['root_path']} {scope['path']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})

def make():
    return app
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text(APP)
    return tmp_path


def run(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "silly", "serve", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def listening(process: subprocess.Popen[str]) -> str:
    """Wait until it listens; return the address."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"listening on (\S+:\d+)", line):
            return found[1]
    raise AssertionError("it ended")


@pytest.mark.parametrize(
    "options", [("main:app",), ("main:make", "--factory"), ("--workers", "1", "main:app")]
)
def test_an_application_is_served(folder: Path, options: tuple[str, ...]) -> None:
    process = run(folder, *options, "127.0.0.1:0", "--access-log", "--root-path", "/shop/")
    addr = listening(process)
    with urllib.request.urlopen(f"http://{addr}/a%20b", timeout=30) as reply:
        assert reply.read() == b"/shop /shop/a b"
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == "started\nended\n"
    assert '"GET /a%20b HTTP/1.1" 200 15 ' in err


@pytest.mark.parametrize(
    ("app", "text"),
    [
        ("main", "expected MODULE:APP, such as main:app, not 'main'"),
        ("nothing:app", "there is no module 'nothing' here"),
        ("main:nothing", "main has no 'nothing'"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(folder: Path, app: str, text: str) -> None:
    process = run(folder, app, "127.0.0.1:0")
    assert process.communicate(timeout=30)[1] == f"silly serve: {text}\n"
    assert process.returncode == 2


def test_help(folder: Path) -> None:
    process = run(folder, "--help")
    out, _ = process.communicate(timeout=30)
    assert "silly serve main:app :8000 --workers 4" in out
    assert process.returncode == 0
