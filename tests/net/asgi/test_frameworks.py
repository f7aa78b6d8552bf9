"""Applications of Starlette, FastAPI and Django, as their users meet them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import silly
from silly.net import asgi, tcp
from silly.net.conn import Conn
from silly.net.listener import Listener
from tests.net.http.wire import ANY, Reply, reply, rest

TIME = 60.0  # seconds, for what must happen
FORM = b"""\
--edge\r
Content-Disposition: form-data; name="text"\r
\r
some text\r
--edge\r
Content-Disposition: form-data; name="file"; filename="a.bin"\r
Content-Type: application/octet-stream\r
\r
%b\r
--edge--\r
"""


def run(test: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
    """Run *test* on the loop that `silly.run` uses."""

    async def limited() -> None:
        async with asyncio.timeout(TIME):
            await test(*args)

    with asyncio.Runner(loop_factory=silly.loop_factory) as runner:
        runner.run(limited())


class Client:
    """One connection, for all requests: the server must keep it in order."""

    def __init__(self, conn: Conn) -> None:
        self.conn = conn

    async def ask(
        self,
        target: str,
        method: str = "GET",
        headers: str = "",
        body: bytes | None = None,
    ) -> Reply:
        await self.send(target, method, headers, body)
        return await reply(self.conn, method)

    async def send(
        self, target: str, method: str = "GET", headers: str = "", body: bytes | None = None
    ) -> None:
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = f"{method} {target} HTTP/1.1\r\nHost: test.example\r\n{headers}{length}\r\n"
        await self.conn.write(head.encode("ascii") + (body or b""))

    async def json(self, *args: Any, **options: Any) -> Any:
        got = await self.ask(*args, **options)
        assert got.status < 300, got
        return json.loads(got.body)

    async def upload(self, target: str, size: int) -> Any:
        kind = "Content-Type: multipart/form-data; boundary=edge\r\n"
        return await self.json(target, "POST", kind, FORM % (b"x" * size))


@contextlib.asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[tuple[Client, Listener]]:
    listener = await asgi.listen(ANY, app, **options)
    async with listener, tcp.connect(listener.local_addr) as conn:
        yield Client(conn), listener


def sample(name: str) -> Any:
    pytest.importorskip(name)
    return importlib.import_module(f"tests.net.asgi.samples.{name}_app")


async def check_numbers(client: Client) -> None:
    expected = "".join(f"{number}\n" for number in range(3000)).encode()
    got = await client.ask("/numbers?count=3000")
    assert got.headers["transfer-encoding"] == "chunked"
    assert got.body == expected


async def check_an_endless_stream(listener: Listener) -> None:
    """A client that stops reading, and then leaves, holds nothing up."""
    before = listener._running()
    async with tcp.connect(listener.local_addr, read_limit=1024) as conn:
        await Client(conn).send("/endless")
        await conn.read(b"\r\n\r\n")
        tasks = listener._running() - before
        unsent = 0
        while unsent != (unsent := listener.stats.unsent_bytes) or not unsent:
            await asyncio.sleep(0.01)  # until the application waits
        assert unsent < 1024 * 1024
        assert not any(task.done() for task in tasks)
        conn.abort()
    await asyncio.wait(tasks)


# ------------------------------------------------------------------------------ Starlette


def test_starlette(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "index.html").write_text("a page")
    (tmp_path / "big.bin").write_bytes(b"0123456789" * 100_000)
    run(starlette, sample("starlette"), tmp_path)
    crashes = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(crashes) == 3  # /guarded, /crash and /break


async def starlette(app: Any, static: Path) -> None:
    app.events.clear()
    app.disconnected = asyncio.Event()
    async with serving(app.make(static)) as (client, listener):
        assert app.events == ["started"]
        got = await client.json("/page/caf%C3%A9?a=1&b=%20")
        assert got == {
            "path": "/page/café",
            "raw_path": "/page/caf%C3%A9",
            "root_path": "",
            "query": {"a": "1", "b": " "},
            "database": "open",
            "url": "http://test.example/page/x",
        }
        got = await client.ask("/count")
        cookie = got.headers["set-cookie"].partition(";")[0]
        assert (got.body, got.headers["x-guard"]) == (b"1", "passed")
        assert (await client.ask("/count", headers=f"Cookie: {cookie}\r\n")).body == b"2"
        assert await client.upload("/upload", 300_000) == {
            "name": "a.bin",
            "size": 300_000,
            "text": "some text",
        }
        data = bytes(range(256)) * 800
        assert (await client.ask("/echo", "POST", body=data)).body == data
        chunks = "Transfer-Encoding: chunked\r\n"
        await client.send("/echo", "POST", chunks)
        await client.conn.write(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nt: 1\r\n\r\n")
        assert (await reply(client.conn)).body == b"abcde"
        await check_numbers(client)
        assert (await client.ask("/later")).body == b"soon"
        assert (
            await client.ask("/ignore", "POST", body=data[:1000])
        ).body == b"the body was not read"
        assert "worked" in app.events
        # Files
        got = await client.ask("/static/big.bin")
        assert got.body == (static / "big.bin").read_bytes()
        etag = got.headers["etag"]
        got = await client.ask("/static/big.bin", headers=f"If-None-Match: {etag}\r\n")
        assert (got.status, got.body) == (304, b"")
        got = await client.ask("/static/big.bin", headers="Range: bytes=5-8\r\n")
        assert (got.status, got.body) == (206, b"5678")
        got = await client.ask("/static/big.bin", "HEAD")
        assert got.headers["content-length"] == "1000000"
        assert (await client.ask("/static/")).body == b"a page"
        assert (await client.ask("/static/none")).status == 404
        got = await client.ask("/file")
        assert got.body == Path(app.__file__).read_bytes()
        assert "sample.py" in got.headers["content-disposition"]
        # HEAD of a stream; what is wrong
        assert (await client.ask("/numbers?count=10", "HEAD")).body == b""
        assert (await client.ask("/page/x", "HEAD")).status == 200
        assert (await client.ask("/page/x", "POST", body=b"")).status == 405
        assert (await client.ask("/nowhere")).status == 404
        assert (await client.ask("/fail")).status == 418
        for target in ("/guarded", "/crash"):
            got = await client.ask(target)
            assert (got.status, got.body) == (500, b"Internal Server Error")
        async with tcp.connect(listener.local_addr) as conn:
            await Client(conn).send("/break")
            await conn.read(b"6\r\na part\r\n")
            with pytest.raises(ConnectionResetError):
                await rest(conn)
        # Clients that leave: while it waits, in the middle of their request, of a response
        for headers in ("", "Content-Length: 10\r\n"):
            async with tcp.connect(listener.local_addr) as conn:
                await Client(conn).send("/wait", "POST", headers)
            await app.disconnected.wait()
            app.disconnected.clear()
        await check_an_endless_stream(listener)
        assert app.events[-1] == "stream closed"
        assert (await client.ask("/ignore", "POST", body=b"")).status == 200
    assert app.events[-1] == "ended"
    async with serving(app.make(static), root_path="/site") as (client, _):
        got = await client.json("/page/x")
        assert (got["path"], got["root_path"]) == ("/site/page/x", "/site")
        assert got["url"] == "http://test.example/site/page/x"
        assert (await client.ask("/static/")).body == b"a page"
    with pytest.raises(asgi.StartupError, match="no such secret"):
        await asgi.listen(ANY, broken_starlette())


def broken_starlette() -> Any:
    from starlette.applications import Starlette

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        raise RuntimeError("no such secret")
        yield

    return Starlette(lifespan=lifespan)


# -------------------------------------------------------------------------------- FastAPI


@pytest.mark.no_engine
def test_fastapi(caplog: pytest.LogCaptureFixture) -> None:
    run(fastapi, sample("fastapi"))
    crashes = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(crashes) == 1


async def fastapi(app: Any) -> None:
    app.events.clear()
    async with serving(app.app) as (client, _):
        assert await client.json("/") == {"hello": "world"}
        assert await client.json("/blocking") == "a connection"
        kind = "Content-Type: application/json\r\n"
        item = {"name": "tea", "price": 2.5}
        got = await client.ask("/items/7", "PUT", kind, json.dumps(item).encode())
        assert (got.status, json.loads(got.body), got.headers["x-timing"]) == (201, item, "0")
        assert await client.json("/items/7") == item
        assert (await client.ask("/items/8")).status == 404
        assert (await client.ask("/items/x")).status == 422
        assert (await client.ask("/items/7", "PUT", kind, b"{")).status == 422
        form = FORM.replace(b'name="text"', b'name="files"; filename="b"').replace(
            b'"file"', b'"files"'
        )
        kind = "Content-Type: multipart/form-data; boundary=edge\r\n"
        got = await client.json("/files", "POST", kind, form % (b"x" * 2_000_000))
        assert got == {"b": 9, "a.bin": 2_000_000}
        await check_numbers(client)
        assert await client.json("/mail", "POST", "", b"") == "accepted"
        assert "openapi" in await client.json("/openapi.json")
        assert (await client.ask("/docs")).status == 200
        assert (await client.ask("/crash")).status == 500
        assert await client.json("/") == {"hello": "world"}
    assert (app.events[0], app.events[-1]) == ("started", "ended")
    # A request does not wait for what an earlier one still does after its response.
    assert sorted(app.events[1:-1]) == ["closed", "closed", "mail sent", "opened", "opened"]


# --------------------------------------------------------------------------------- Django


@pytest.mark.no_engine
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")  # of its FileResponse
# It does not close the file with the request's body when `send` raises.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_django(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "django")
    run(django, sample("django"))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def django(app: Any) -> None:
    async with serving(app.application) as (client, listener):
        forwarded = "X-Forwarded-For: 203.0.113.9\r\n"
        got = await client.json("/page/caf%C3%A9?a=1", headers=forwarded)
        assert got == {
            "path": "/page/café",
            "name": "café",
            "query": {"a": "1"},
            "secure": False,
            "host": "test.example",
            "address": "203.0.113.9",
        }
        got = await client.ask("/count")
        cookie = got.headers["set-cookie"].partition(";")[0]
        assert (got.body, got.headers["x-guard"]) == (b"1", "passed")
        assert (await client.ask("/count", headers=f"Cookie: {cookie}\r\n")).body == b"2"
        assert (await client.ask("/later")).body == b"asynchronous"
        assert await client.upload("/upload", 3_000_000) == {
            "name": "a.bin",
            "size": 3_000_000,
            "text": "some text",
        }
        data = bytes(range(256)) * 2000
        assert (await client.ask("/body", "POST", body=data)).body == data
        assert (await client.ask("/later", "POST", body=data[:1000])).status == 200
        await check_numbers(client)
        got = await client.ask("/file")
        assert got.body == Path(app.__file__).read_bytes()
        assert (await client.ask("/file", "HEAD")).status == 200
        for target, status in (("/nowhere", 404), ("/guarded", 500), ("/crash", 500)):
            assert (await client.ask(target)).status == status
        await check_an_endless_stream(listener)
        async with tcp.connect(listener.local_addr) as conn:
            await Client(conn).send("/body", "POST", "Content-Length: 10\r\n")
        assert (await client.ask("/later")).body == b"asynchronous"
    async with serving(app.application, root_path="/site", lifespan="off") as (client, _):
        assert (await client.json("/page/x"))["path"] == "/site/page/x"
    gc.collect()
