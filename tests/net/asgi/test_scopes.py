"""Each request has a scope of its own, whatever the application does with those before.

The native engine uses a scope again that nobody has changed or kept.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest

from silly.net import asgi, tcp
from silly.net.asgi.types import Receive, Scope, Send
from tests.net.asgi.applications import ANY, Server, respond

Deed = Callable[[Scope], object]

DEEDS: dict[str, Deed] = {
    "nothing": lambda scope: None,
    "keep it": lambda scope: scope,
    "keep a view of it": lambda scope: scope.items(),
    "keep its headers": lambda scope: scope["headers"],
    "keep its extensions": lambda scope: scope["extensions"],
    "keep its state": lambda scope: scope["state"],
    "add to it": lambda scope: scope.update(app="mine"),
    "change its path": lambda scope: scope.update(path="/mine", raw_path=b"/mine"),
    "change its type": lambda scope: scope.update(type="mine"),
    "change its client": lambda scope: scope.update(client=("192.0.2.1", 1)),
    "add and remove": lambda scope: scope.pop("mine", scope.update(mine=1)),
    "remove a part": lambda scope: scope.pop("query_string"),
    "empty it": lambda scope: scope.clear(),
    "add to its headers": lambda scope: scope["headers"].append((b"mine", b"1")),
    "empty its headers": lambda scope: scope["headers"].clear(),
    "add to its extensions": lambda scope: scope["extensions"].update(mine={}),
    "replace its extensions": lambda scope: scope.update(extensions={}),
    "add to its state": lambda scope: scope["state"].update(mine=1),
    "replace its state": lambda scope: scope.update(state={"mine": 1}),
    "change and keep": lambda scope: scope.update(mine=scope["headers"]) or scope,
}

REQUESTS = [  # method, target, fields
    (b"GET", b"/", b"Host: x\r\n"),
    (b"GET", b"/", b"Host: x\r\n"),
    (b"GET", b"/?", b"Host: x\r\n"),
    (b"GET", b"/?a=1", b"Host: x\r\n"),
    (b"GET", b"/?a=%20", b"Host: x\r\n"),
    (b"GET", b"/", b"Host: x\r\n"),
    (b"HEAD", b"/", b"Host: x\r\n"),
    (b"GET", b"/", b"Host: y\r\n"),
    (b"GET", b"/other", b"Host: y\r\nCookie: a\r\n"),
    (b"GET", b"/a%20b", b"Host: y\r\nCookie: b\r\n"),
    (b"GET", b"/other", b"Host: y\r\nCookie: b\r\n"),
    (b"POST", b"/other", b"Host: y\r\nContent-Length: 1\r\n"),
    (b"GET", b"/other", b"Host: y\r\nX-Forwarded-For: 192.0.2.7\r\n"),
    (b"GET", b"/other", b"Host: y\r\n"),
]


def expected(method: bytes, target: bytes, fields: bytes, conn: tcp.Conn) -> dict[str, Any]:
    path, _, query = target.partition(b"?")
    host, port = conn.local_addr.rsplit(":", 1)
    pairs = [line.split(b": ") for line in fields.splitlines()]
    is_reported = b"192.0.2.7" in fields
    return {
        "method": method.decode(),
        "path": path.replace(b"%20", b" ").decode(),
        "raw_path": path,
        "query_string": query,
        "headers": [(name.lower(), value) for name, value in pairs],
        "client": ("192.0.2.7", 0) if is_reported else (host, int(port)),
        "state": {},
    }


async def ask(conn: tcp.Conn, method: bytes, target: bytes, fields: bytes) -> None:
    body = b"1" if method == b"POST" else b""
    await conn.write(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, fields, body))
    assert (await conn.read(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    if method != b"HEAD":
        assert await conn.read(2) == b"ok"


@pytest.mark.parametrize("name", DEEDS)
async def test_a_scope_is_new_whatever_was_done_with_the_last(name: str) -> None:
    scopes: list[Scope] = []  # as they came ...
    kept: list[tuple[Any, Any]] = []  # ... what was kept of them, and what that was

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(copy.deepcopy(scope))
        found = DEEDS[name](scope)
        kept.append((found, copied(found)))
        await respond(send, b"ok", headers=[(b"content-length", b"2")])

    def copied(found: object) -> object:
        return copy.deepcopy(list(found) if isinstance(found, type({}.items())) else found)

    async with Server(part) as server:
        other = await tcp.connect(server.listener.local_addr)
        wanted = []
        for request in REQUESTS:
            for conn in (server.conn, server.conn, other):
                await ask(conn, *request)
                wanted.append(expected(*request, conn))
        other.abort()
    for scope, parts in zip(scopes, wanted, strict=True):
        assert {key: scope[key] for key in parts} == parts
        assert scope.keys() == scopes[0].keys()
        for key in ("type", "asgi", "http_version", "scheme", "server", "extensions"):
            assert scope[key] == scopes[0][key]
    for found, before in kept:
        assert copied(found) == before
    if name.startswith("keep"):
        assert len({id(found) for found, _ in kept}) == len(kept)


async def test_scopes_of_requests_at_the_same_time() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/one":
            begun.set()
            await go_on.wait()
        await respond(send, b"%b %b" % (scope["raw_path"], scope["headers"][0][1]), headers=[])

    other = Server(part)
    async with Server(part) as server:
        other.conn = await tcp.connect(server.listener.local_addr)
        for _ in range(3):
            begun, go_on = asyncio.Event(), asyncio.Event()
            await server.conn.write(b"GET /one HTTP/1.1\r\nHost: 1\r\n\r\n")
            await begun.wait()
            for _ in range(2):
                _, body = await other.ask(b"GET /two HTTP/1.1\r\nHost: 2\r\n\r\n")
                assert body == b"/two 2"
            go_on.set()
            assert (await server.reply())[1] == b"/one 1"
        other.conn.abort()


async def test_a_state_of_the_lifespan() -> None:
    """Each scope has a copy of what the state is then."""
    seen: list[dict[str, Any]] = []
    state: dict[str, Any] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            nonlocal state
            state = scope["state"]
            state["one"] = 1
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        seen.append(scope["state"].copy())
        if len(seen) == 3:
            state["two"] = 2
        await respond(send, b"ok", headers=[(b"content-length", b"2")])

    async with (
        await asgi.listen(ANY, app, lifespan="on") as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        for _ in range(5):
            await ask(conn, *REQUESTS[0])
    assert seen == [{"one": 1}] * 3 + [{"one": 1, "two": 2}] * 2
