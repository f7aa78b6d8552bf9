"""The handler of web.py: silly's own HTTP server. Run it with ``silly FILE.py``."""

from __future__ import annotations

import os

from silly.net import http

FILE = os.environ.get("FILE", "")
routes = http.Router()


@routes.get("/json")
async def json(request: http.Request) -> http.Response:
    """Answer with JSON."""
    return http.json({"hello": "world"})


@routes.get("/file")
async def file(request: http.Request) -> http.Response:
    """Send a file."""
    return http.file(FILE)


async def handler(request: http.Request) -> http.Response:
    """Answer a request."""
    if request.method == "POST":
        return http.Response(f"{len(await request.json())}")
    if request.target == "/":
        return http.Response("Hello, World!\n")
    return await routes(request)


listener = http.listen("127.0.0.1:0", handler)
print(listener.local_addr.rpartition(":")[2], flush=True)
