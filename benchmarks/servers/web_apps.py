"""The applications of web.py: what each does for `/`, `/json`, `/file` and a POST."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

HELLO = b"Hello, World!\n"
JSON = b'{"hello":"world"}'
FILE = os.environ.get("FILE", "")


async def raw(scope: Any, receive: Any, send: Any) -> None:
    """ASGI without a framework."""
    if scope["type"] != "http":
        raise RuntimeError(scope["type"])
    body, kind = HELLO, b"text/plain"
    if scope["method"] == "POST":
        while (await receive()).get("more_body"):
            pass
    elif scope["path"] == "/json":
        body, kind = JSON, b"application/json"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def rsgi(scope: Any, protocol: Any) -> None:
    """granian's own interface."""
    if scope.method == "POST":
        await protocol()
    if scope.path == "/json":
        protocol.response_bytes(200, [("content-type", "application/json")], JSON)
    elif scope.path == "/file":
        protocol.response_file(200, [("content-type", "application/octet-stream")], FILE)
    else:
        protocol.response_bytes(200, [("content-type", "text/plain")], HELLO)


if importlib.util.find_spec("starlette"):
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    async def _hello(request: Request) -> Response:
        return PlainTextResponse(HELLO)

    async def _json(request: Request) -> Response:
        return JSONResponse({"hello": "world"})

    async def _file(request: Request) -> Response:
        return FileResponse(FILE)

    async def _post(request: Request) -> Response:
        return PlainTextResponse(f"{len(await request.json())}")

    starlette = Starlette(
        routes=[
            Route("/", _hello),
            Route("/json", _json),
            Route("/file", _file),
            Route("/", _post, methods=["POST"]),
        ]
    )

if importlib.util.find_spec("fastapi"):
    from fastapi import FastAPI

    fastapi = FastAPI()

    @fastapi.get("/json")
    async def _fastapi_json() -> dict[str, str]:
        return {"hello": "world"}
