"""Instructions for each HTTP request, counted by valgrind's callgrind, in the server only.

Ten connections send a short request each, and wait for the replies; only what the server does
meanwhile is counted, without the kernel. So other load makes no difference.

Usage: python experiments/http_requests.py [--pipelined] [--browser] [NAME ...]

Names: ``nginx``, ``tcp`` (a fixed reply from a handler of connections), ``http`` (a handler of
requests), ``json`` and ``parameter`` (JSON from a router, whose pattern is literal, or has a
parameter), ``file`` (of 1 MiB) and ``asgi`` (an application without a framework).
``--pipelined``: 16 at once. ``--browser``: with the header fields that a browser sends.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

REPLY: Final = (
    "HTTP/1.1 200 OK\\r\\ncontent-type: text/plain; charset=utf-8\\r\\n"
    "date: Thu, 26 Nov 2026 16:54:07 GMT\\r\\ncontent-length: 14\\r\\n\\r\\nHello, World!\\n"
)
PROGRAMS: Final = {
    "tcp": f"""
from silly.net import tcp
async def handler(conn):
    while True:
        await conn.read(b"\\r\\n\\r\\n")
        await conn.write(b"{REPLY}")
listener = tcp.listen("127.0.0.1:0", handler)
""",
    "http": """
from silly.net import http
async def handler(request):
    return http.Response("Hello, World!\\n")
listener = http.listen("127.0.0.1:0", handler)
""",
    "json": """
from silly.net import http
routes = http.Router()
@routes.get("/")
async def handler(request):
    return http.json({"hello": "world"})
listener = http.listen("127.0.0.1:0", routes)
""",
    "parameter": """
from silly.net import http
routes = http.Router()
@routes.get("/users/{id:int}")
async def handler(request):
    return http.json({"user": request.route_params["id"]})
listener = http.listen("127.0.0.1:0", routes)
""",
    "file": """
import tempfile
from silly.net import http
file = tempfile.NamedTemporaryFile()
file.write(bytes(1 << 20))
file.flush()
async def handler(request):
    return http.file(file.name)
listener = http.listen("127.0.0.1:0", handler)
""",
    "asgi": """
from silly.net import asgi
async def app(scope, receive, send):
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"14")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, World!\\n"})
listener = await asgi.listen("127.0.0.1:0", app, lifespan="off")
""",
}
MAIN: Final = """
import asyncio, silly
async def main():
    {}
    print(listener.local_addr.rpartition(":")[2], flush=True)
    await listener.wait_closed()
with asyncio.Runner(loop_factory=silly.loop_factory) as runner:
    runner.run(main())
"""
NGINX: Final = """
daemon off; master_process off; pid {0}/pid; error_log {0}/error.log; events {{ }}
http {{ access_log off; keepalive_requests 1000000; server {{ listen 127.0.0.1:{1};
location / {{ default_type text/plain; return 200 "Hello, World!\\n"; }} }} }}
"""
REQUEST: Final = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n%b\r\n"
BROWSER: Final = (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Cookie: session=0123456789abcdef\r\nCache-Control: max-age=0\r\n"
)
PATHS: Final = {"parameter": b"/users/7"}  # of the others: /
CONNECTIONS: Final = 10
WARM_UP: Final = 30  # requests on each connection ...
COUNTED: Final = 100


class Client:
    """Ten connections, with *depth* requests in flight on each."""

    def __init__(self, port: int, path: bytes, depth: int, fields: bytes = b"") -> None:
        request = REQUEST % (path, fields)
        self.request = request * depth
        self.socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
        self.socks[0].sendall(request)
        reply = self.socks[0].recv(1 << 21, socket.MSG_PEEK)
        head = reply[: reply.index(b"\r\n\r\n") + 4]
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(head.decode())
        found = re.search(rb"(?i)content-length: (\d+)", head)
        assert found is not None
        size = len(head) + int(found[1])
        self.socks[0].recv(size, socket.MSG_WAITALL)
        self.size = size * depth

    def run(self, turns: int) -> None:
        for _ in range(turns):
            for sock in self.socks:
                sock.sendall(self.request)
            for sock in self.socks:
                left = self.size
                while left:
                    left -= len(sock.recv(left, socket.MSG_WAITALL))


def started(name: str, folder: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a server under valgrind; return it and its port."""
    out = folder / "callgrind"
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
    valgrind.append(f"--callgrind-out-file={out}")
    port = 0
    if name == "nginx":
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        (folder / "nginx.conf").write_text(NGINX.format(folder, port))
        command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    else:
        lines = "\n    ".join(PROGRAMS[name].strip().splitlines())
        command = [sys.executable, "-c", MAIN.format(lines)]
    process = subprocess.Popen(
        [*valgrind, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    if name != "nginx":
        return process, int(process.stdout.readline())
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            continue
        return process, port


def instructions(name: str, depth: int, fields: bytes) -> float:
    """Return how many instructions the server needs for a request."""
    with tempfile.TemporaryDirectory() as path:
        process, port = started(name, Path(path))
        try:
            client = Client(port, PATHS.get(name, b"/"), depth, fields)
            client.run(WARM_UP)
            control("-i", "on", process.pid)
            client.run(COUNTED)
            control("-d", "", process.pid)
        finally:
            process.kill()
            process.wait()
        (dump,) = (each for each in Path(path).glob("callgrind*.1"))
        totals = next(line for line in dump.read_text().splitlines() if line.startswith("totals:"))
        return int(totals.split()[1]) / COUNTED / CONNECTIONS / depth


def control(option: str, value: str, pid: int) -> None:
    command = ["callgrind_control", option, *([value] if value else []), str(pid)]
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    arguments = sys.argv[1:]
    depth = 16 if "--pipelined" in arguments else 1
    fields = BROWSER if "--browser" in arguments else b""
    for name in [each for each in arguments if each[:2] != "--"] or ["nginx", *PROGRAMS]:
        count = instructions(name, depth, fields)
        print(f"{name}: {count:,.0f} instructions for each request", flush=True)


if __name__ == "__main__":
    main()
