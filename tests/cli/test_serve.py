"""``silly serve``."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.net.tls import certificates

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
    body = f"{scope['root_path']} {scope['path']}{os.environ.get('MARK', '')}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})

def make():
    return app
"""


LOGGING = """{
    "version": 1,
    "formatters": {"short": {"format": "%(name)s> %(message)s"}},
    "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "short"}},
    "loggers": {"silly": {"level": "INFO", "handlers": ["err"]}}
}"""

FAILING = """
class Failure(Exception): ...

async def app(scope, receive, send):
    await receive()
    text = "Traceback of the framework\\nFailure: no database"
    await send({"type": "lifespan.startup.failed", "message": text})
    raise Failure("no database")
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


@pytest.mark.parametrize("options", [("main:app",), ("--workers", "1", "main:app")])
def test_an_application_is_served(folder: Path, options: tuple[str, ...]) -> None:
    process = run(folder, *options, "127.0.0.1:0", "--access-log", "--root-path", "/shop/")
    addr = listening(process)
    headers = {"X-Forwarded-For": "192.0.2.1, 203.0.113.9"}
    request = urllib.request.Request(f"http://{addr}/a%20b", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert reply.read() == b"/shop /shop/a b"
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == "started\nended\n"
    assert re.search(r': 203.0.113.9 - - .*"GET /a%20b HTTP/1.1" 200 15 ', err)


@pytest.mark.parametrize(("app", "text"), [("nothing:app", "there is no module 'nothing' here")])
def test_what_cannot_be_served_is_said_in_a_line(folder: Path, app: str, text: str) -> None:
    process = run(folder, app, "127.0.0.1:0", "--log-level", "error")
    assert process.communicate(timeout=30)[1] == f"silly serve: {text}\n"
    assert process.returncode == 2


def test_options_and_several_addresses(tmp_path: Path) -> None:
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "main.py").write_text(APP)
    cert, key = certificates.pair()
    (tmp_path / "shop.env").write_text("MARK=!\n")
    (tmp_path / "log.json").write_text(LOGGING)
    process = run(
        tmp_path,
        *("main:make", "--factory", "--app-dir", "apps", "--uds", "app.sock", "--port", "0"),
        *("--ssl-certfile", cert, "--ssl-keyfile", key, "--header", "X-A: 1", "--server-header"),
        *("--ssl-ca-certs", certificates.ca_file(), "--ssl-cert-reqs", "1", "--lifespan", "on"),
        *("--timeout-keep-alive", "5", "--limit-concurrency", "10", "--loop", "auto"),
        *("--env-file", "shop.env", "--log-config", "log.json", "--access-log"),
    )
    addr = listening(process)
    context = ssl.create_default_context(cafile=certificates.ca_file())
    url = f"https://localhost:{addr.rpartition(':')[2]}/x"
    with urllib.request.urlopen(url, timeout=30, context=context) as reply:
        assert reply.read() == b" /x!"
        assert (reply.headers["x-a"], reply.headers["server"]) == ("1", "silly")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "app.sock"))
        with context.wrap_socket(sock, server_hostname="localhost") as encrypted:
            encrypted.sendall(b"GET /y HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            with encrypted.makefile("rb") as file:
                assert file.read().endswith(b"\r\n\r\n /y!")
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == "started\nended\n"  # once
    first = next(line for line in err.splitlines() if "GET /x" in line)
    assert first.startswith("silly.access> 127.0.0.1:")


def test_an_application_that_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(FAILING)
    process = run(tmp_path, "main:app", "127.0.0.1:0", "--log-level", "error")
    _, err = process.communicate(timeout=60)
    *traceback, line = err.splitlines()
    assert traceback == ["Traceback of the framework", "Failure: no database"]
    assert line == "silly serve: the application did not start: Failure: no database"
    assert process.returncode == 3


def test_a_server_ends_after_its_requests(folder: Path) -> None:
    with run(folder, "--limit-max-requests", "1", "main:app", "127.0.0.1:0") as process:
        addr = listening(process)
        with urllib.request.urlopen(f"http://{addr}/", timeout=30) as reply:
            assert reply.status == 200
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_an_address_that_is_none(folder: Path) -> None:
    with run(folder, "main:app", "nonsense") as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "'nonsense' is not an address" in errors


def test_an_address_that_is_in_use(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        addr = f"127.0.0.1:{sock.getsockname()[1]}"
        process = run(folder, "main:app", addr, "--log-level", "error")
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "started\nended\n")
    (line,) = err.splitlines()
    assert line.startswith(f"silly serve: cannot listen on {addr}: Address already in use; ")


def test_restarts_under_load_lose_no_request() -> None:
    soak = Path(__file__).parents[2] / "benchmarks" / "soak_restarts.py"
    options = ["--restarts", "5", "--workers", "1", "--clients", "1"]
    command = [sys.executable, str(soak), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed: 0\n" in done.stdout


DEPLOYING = Path(__file__).parents[2] / "docs" / "howto" / "deploy-fastapi.md"


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_the_deployment_of_the_how_to(tmp_path: Path, port: int) -> None:
    pytest.importorskip("fastapi")
    page = DEPLOYING.read_text()
    (program,) = re.findall(r"```python main.py\n(.*?)```", page, re.DOTALL)
    (config,) = re.findall(r"```haproxy\n(.*?)```", page, re.DOTALL)
    (tmp_path / "main.py").write_text(program)
    pem = "".join(Path(path).read_text() for path in certificates.pair())
    (tmp_path / "shop.pem").write_text(pem)
    server = run(tmp_path, "main:app", "127.0.0.1:0")
    addr = listening(server)
    config = config.replace(":443", f"127.0.0.1:{port}").replace("127.0.0.1:8000", addr)
    config = config.replace("/etc/haproxy/shop.pem", str(tmp_path / "shop.pem"))
    (tmp_path / "haproxy.cfg").write_text(config)
    haproxy = subprocess.Popen(
        ["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")], stderr=subprocess.DEVNULL
    )
    context = ssl.create_default_context(cafile=certificates.ca_file())
    request = urllib.request.Request(
        f"https://localhost:{port}/?a=b",
        headers={"Forwarded": "for=192.0.2.1", "X-Forwarded-For": "192.0.2.2", "Host": "shop"},
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30, context=context) as reply:
                    found = json.loads(reply.read())
                break
            except urllib.error.URLError:  # it is starting
                if haproxy.poll() is not None:
                    raise
        assert found == {"client": "127.0.0.1", "url": "https://shop/?a=b"}
    finally:
        haproxy.terminate()
        haproxy.wait()
        server.terminate()
        server.communicate(timeout=30)


def test_help(folder: Path) -> None:
    process = run(folder, "--help")
    out, _ = process.communicate(timeout=30)
    assert "silly serve main:app :8000 --workers 4" in out
    assert process.returncode == 0
