"""Every Python block in the documentation runs: as a program, or (```py) as a test file.

Blocks that are an example file are tested with the examples.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest

from silly.net import tcp, websocket
from tests.cli.terminal import Echo
from tests.net.tls import certificates

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = {
    path.read_text(): path.relative_to(ROOT / "examples").as_posix()
    for path in (ROOT / "examples").rglob("*.py")
}
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    if block not in EXAMPLES  # tested in test_examples.py
]


TESTS = {
    f"test_{page.stem.replace('-', '_')}_{number}.py": block
    for page in PAGES
    for number, block in enumerate(re.findall(r"```py\n(.*?)```", page.read_text(), re.DOTALL))
}


def dial(port: int, *, encrypted: bool) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    if not encrypted:
        return sock
    context = ssl.create_default_context(cafile=certificates.ca_file())
    return context.wrap_socket(sock, server_hostname="localhost")


def ask_with_stream(port: int, block: str, output: IO[str]) -> None:
    echoes = "write(line)" in block or "write(lines)" in block
    with dial(port, encrypted="tls=" in block) as sock:
        address = "{}:{}".format(*sock.getsockname())
        echoed = b""
        # A handler that returns at once may have reset the connection before "hello" arrived.
        with contextlib.suppress(*[] if echoes else [OSError]):
            sock.sendall(b"hello\n")
            if isinstance(sock, ssl.SSLSocket):
                echoed = sock.recv(100)
                sock.unwrap()
            else:
                sock.shutdown(socket.SHUT_WR)
                with sock.makefile("rb") as file:
                    echoed = file.read()
    assert echoed == (b"hello\n" if echoes else b"")
    if "print" in block:
        assert address in output.readline()


def ask_with_datagram(port: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(("127.0.0.1", port))
        sock.send(b"hello\n")
        return sock.recv(100)


def ask_over_http(port: int, block: str) -> None:
    with dial(port, encrypted="tls=" in block) as sock, sock.makefile("rb") as file:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        status = file.readline().split()[1]
    assert status == (b"200" if 'get("/")' in block or "Router" not in block else b"404")


def ask_over_websocket(port: int) -> None:
    async def ask() -> str | bytes:
        async with websocket.connect(f"ws://127.0.0.1:{port}/") as ws:
            await ws.send("hello")
            return await ws.recv(timeout=10)

    assert asyncio.run(ask()) == "hello"


@pytest.mark.no_engine
@pytest.mark.parametrize("block", BLOCKS)
def test_block_serves(block: str, port: int, tmp_path: Path) -> None:
    path = tmp_path / "block.py"
    text = block.replace("9999", str(port)).replace("8080", str(port))
    path.write_text(text + "\nprint('ready', flush=True)\n")
    if "tls=" in block:
        for source, name in zip(certificates.pair(), ("cert.pem", "key.pem"), strict=True):
            shutil.copy(source, tmp_path / name)
    # Not "warning": a busy machine may stop the program for a second, which that would tell.
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "silly", "--log-level", "error", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if "udp.bind" in block or "udp.listen" in block:
            assert ask_with_datagram(port) == b"hello\n"
        elif "http.listen" in block or "asgi.listen" in block:
            ask_over_http(port, block)
        elif "websocket.listen" in block:
            ask_over_websocket(port)
        else:
            ask_with_stream(port, block, process.stdout)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == ""
        assert process.wait() == 0
    watchdog.cancel()


@pytest.mark.no_engine
def test_blocks_of_tests_pass(tmp_path: Path) -> None:
    for name, block in TESTS.items():
        (tmp_path / name).write_text(block)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:asyncio", *TESTS]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.no_engine
def test_the_tutorials_contain_the_examples_word_for_word() -> None:
    pages = {path.stem: path.read_text() for path in (ROOT / "docs" / "tutorial").glob("*.md")}
    starts = {"hello.py", "fork_order.py", "timer_demo.py"}
    for text, name in EXAMPLES.items():
        if name not in {
            "dns_like.py",
            "echo.py",
            "multicast.py",
            "redis_like.py",
            "rooms.py",
            "starttls.py",
        }:
            page = "getting-started" if name in starts else "echo-server"
            page = "http-server" if name.startswith("http_") else page
            page = "database-app" if name.startswith("user_api/") else page
            page = "websocket-chat" if name.startswith("chat/") else page
            assert f"```python\n{text}```" in pages[page], f"{name} differs from the tutorial"
    schema = (ROOT / "examples" / "user_api" / "schema.sql").read_text()
    assert f"```sql\n{schema}```" in pages["database-app"]


@pytest.mark.no_engine
def test_the_course_leads_from_the_first_page_to_the_last() -> None:
    pages = ["getting-started", "echo-server", "http-server", "database-app", "websocket-chat"]
    texts = [(ROOT / "docs" / "tutorial" / f"{page}.md").read_text() for page in pages]
    for number, text in enumerate(texts):
        assert "## What you can explain now" in text, pages[number]
        assert "## Coming from Silly (Lua)" in text, pages[number]
        if number:
            assert f"({pages[number - 1]}.md" in text, f"{pages[number]} has no link back"
        if number + 1 < len(pages):
            assert f"({pages[number + 1]}.md" in text, f"{pages[number]} has no link forward"
    readme = (ROOT / "README.md").read_text()
    assert all(f"(docs/tutorial/{page}.md)" in readme for page in pages)


@pytest.mark.no_engine
@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda page: page.name)
def test_links_have_targets(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.no_engine
def test_security_names_limits_and_modules_that_there_are() -> None:
    page = (ROOT / "docs" / "explanation" / "security.md").read_text()
    for path in re.findall(r"`(silly/[\w/]*(?:\.py)?)`", page):
        assert (ROOT / "src" / path).exists(), path
    for each in tcp.Limits.fields():
        assert each.name in page or each.name in {"exempt_networks", "linger"}, each.name


COMMANDS = [
    command
    for page in PAGES
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    for command in block.splitlines()
    if command.startswith("silly bench ")
]


def service_of(command: str) -> str:
    """Return the option of `silly echo` for the server that *command* loads."""
    options = {"--tls ": "--tls-cert", "ws://": "--websocket", "http://": "--http"}
    return next((option for part, option in options.items() if part in command), "")


@pytest.mark.no_engine
@pytest.mark.parametrize("service", ["", "--tls-cert", "--http", "--websocket"])
def test_commands_of_silly_bench_are_run(tmp_path: Path, service: str) -> None:
    commands = [command for command in COMMANDS if service_of(command) == service]
    assert len(commands) > 1
    cert, key = certificates.pair()
    shutil.copy(certificates.ca_file(), tmp_path / "ca.pem")
    encryption = (cert, "--tls-key", key) if service == "--tls-cert" else ()
    more = (*filter(None, (service,)), *encryption)
    with Echo("127.0.0.1:0", *more, deadline=50.0 * len(commands)) as server:
        for command in commands:
            # The same command, but each second is 10 ms, and the address is the server's.
            quick = re.sub(r"\b(\d+)s\b", r"\g<1>0ms", command).replace("250ms", "4ms")
            quick = re.sub(r"(localhost|127\.0\.0\.1):(9999|8080)", server.addr, quick)
            done = subprocess.run(
                [sys.executable, "-m", *shlex.split(quick)],
                cwd=tmp_path, capture_output=True, text=True, check=False, timeout=50,
            )  # fmt: skip
            # The machine decides whether an assertion holds or the client is the limit.
            codes = (0, 1, 5) if re.search(" --(slo|assert) ", quick) else (0,)
            assert done.returncode in codes, (quick, done)
            assert "Traceback" not in done.stderr, (quick, done)


@pytest.mark.no_engine
def test_every_public_name_is_in_the_reference() -> None:
    import silly
    from silly import (
        admin,
        errors,
        health,
        log,
        metrics,
        otel,
        pubsub,
        stdio,
        systemd,
        task,
        testing,
        text,
        workers,
    )
    from silly import time as silly_time
    from silly.crypto import utils
    from silly.net import access_log, addr, asgi, http, observer, tcp, tls, udp, websocket
    from silly.testing import faults

    reference = (ROOT / "docs" / "reference.md").read_text()
    modules = (
        silly,
        errors,
        log,
        task,
        silly_time,
        utils,
        tcp,
        tls,
        udp,
        http,
        websocket,
        addr,
        testing,
        faults,
        systemd,
        pubsub,
    )
    watching = (access_log, admin, health, metrics, observer, otel, stdio, text, workers)
    for module in (*modules, *watching, testing, faults, systemd):
        for name in module.__all__:
            if not name.startswith("_"):
                assert name in reference, f"{name} is not in the reference"
    functions = (silly.run, asgi.listen, tcp.listen, tcp.connect, tls.Server, tls.Client)
    opened = (websocket.listen, websocket.accept, websocket.connect, websocket.broadcast)
    made = (*opened, pubsub.connect, http.Response, http.file, http.files, http.event, http.events)
    for function in (
        *functions,
        *made,
        asgi.listen,
        udp.bind,
        udp.connect,
        workers.Supervisor,
        faults.Faults,
    ):
        for name in inspect.signature(function).parameters:
            assert name in reference, f"{name} of {function.__name__} is not in the reference"
    spoken = (http.Request, http.Response, http.Router, http.Form, http.Upload, http.Service)
    buses = (pubsub.Bus, pubsub.BusStats, pubsub.Limits, pubsub.Subscription, pubsub.Message)
    for kind in (
        tcp.Conn,
        tcp.Listener,
        udp.Socket,
        workers.Supervisor,
        websocket.WebSocket,
        *spoken,
        *buses,
    ):
        for name in vars(kind):
            if not name.startswith("_") and name != "lost":
                assert name in reference, f"{kind.__name__}.{name} is not in the reference"


@pytest.mark.no_engine
def test_what_to_watch_has_every_metric_field_and_command() -> None:
    from silly import admin, metrics
    from silly.net import access_log, observer
    from silly.net.http import access_log as of_requests

    page = (ROOT / "docs" / "howto" / "what-to-watch.md").read_text()
    for metric in metrics.METRICS:
        name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
        labels = ["listener"] if metric.where == "listener" else []
        labels += [metric.label] if metric.label else metric.labels
        row = f"| `{name}` | {metric.kind} | {', '.join(labels)} | {metric.help} |"
        assert row in page, f"the page needs: {row}"
    for name, meaning in (*access_log.FIELDS.items(), *of_requests.FIELDS.items()):
        assert f"| `{name}` | {meaning} |" in page
    for name, meaning in admin.COMMANDS.items():
        assert f"| `{name}` | {meaning} |" in page
    for ending in observer.ENDINGS:
        assert f"| `{ending}` |" in page
