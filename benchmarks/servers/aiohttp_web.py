"""aiohttp's server, for web.py."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

FILE = os.environ.get("FILE", "")


async def hello(request: web.Request) -> web.StreamResponse:
    """Answer with a line."""
    return web.Response(text="Hello, World!\n")


async def json(request: web.Request) -> web.StreamResponse:
    """Answer with JSON."""
    return web.json_response({"hello": "world"})


async def file(request: web.Request) -> web.StreamResponse:
    """Send a file."""
    return web.FileResponse(FILE)


async def post(request: web.Request) -> web.StreamResponse:
    """Read JSON."""
    return web.Response(text=f"{len(await request.json())}")


async def main() -> None:
    """Serve until the process ends."""
    app = web.Application()
    app.add_routes([web.get("/", hello), web.get("/json", json), web.get("/file", file)])
    app.add_routes([web.post("/", post)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
