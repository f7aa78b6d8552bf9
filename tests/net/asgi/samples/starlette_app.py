"""Starlette: pages, uploads, streams, sessions, files, background tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

events: list[str] = []
disconnected = asyncio.Event()


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    events.append("started")
    yield {"database": "open"}
    events.append("ended")


class Guard:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/guarded"):
            raise RuntimeError("the middleware failed")

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-guard"] = "passed"
            await send(message)

        await self.app(scope, receive, send_marked)


async def page(request: Request) -> Response:
    return JSONResponse(
        {
            "path": request.url.path,
            "raw_path": request.scope["raw_path"].decode("latin-1"),
            "root_path": request.scope["root_path"],
            "query": dict(request.query_params),
            "database": request.state.database,
            "url": str(request.url_for("page", name="x")),
        }
    )


async def count(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return PlainTextResponse(str(request.session["visits"]))


async def upload(request: Request) -> Response:
    async with request.form() as form:
        file: Any = form["file"]
        return JSONResponse(
            {"name": file.filename, "size": len(await file.read()), "text": form["text"]}
        )


async def echo(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        async for piece in request.stream():
            yield piece

    return StreamingResponse(pieces())


async def numbers(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        for number in range(int(request.query_params["count"])):
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")


async def endless(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 65536
        finally:
            events.append("stream closed")

    return StreamingResponse(lines())


async def later(request: Request) -> Response:
    async def work() -> None:
        await asyncio.sleep(0)
        events.append("worked")

    return PlainTextResponse("soon", background=BackgroundTask(work))


async def wait(request: Request) -> Response:
    """Wait for the client to leave."""
    with contextlib.suppress(ClientDisconnect):
        await request.body()
    while not await request.is_disconnected():
        await asyncio.sleep(0.001)
    events.append("client left")
    disconnected.set()
    return PlainTextResponse("nobody gets it")


async def ignore(request: Request) -> Response:
    return PlainTextResponse("the body was not read")


async def fail(request: Request) -> Response:
    raise HTTPException(418, "short and stout")


async def crash(request: Request) -> Response:
    raise ValueError("a defect of the sample")


async def break_off(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a part"
        raise ValueError("a defect of the sample")

    return StreamingResponse(pieces())


async def file(request: Request) -> Response:
    return FileResponse(Path(__file__), filename="sample.py")


def make(static: Path) -> Starlette:
    return Starlette(
        routes=[
            Route("/page/{name}", page, name="page"),
            Route("/count", count),
            Route("/upload", upload, methods=["POST"]),
            Route("/echo", echo, methods=["POST"]),
            Route("/numbers", numbers),
            Route("/endless", endless),
            Route("/later", later),
            Route("/wait", wait, methods=["GET", "POST"]),
            Route("/ignore", ignore, methods=["POST"]),
            Route("/guarded", ignore),
            Route("/fail", fail),
            Route("/crash", crash),
            Route("/break", break_off),
            Route("/file", file),
            Mount("/static", StaticFiles(directory=static, html=True)),
        ],
        middleware=[
            Middleware(SessionMiddleware, secret_key="of the tests"),
            Middleware(Guard),
        ],
        lifespan=lifespan,
    )
