"""The extensions of ASGI."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from silly.net import asgi, tcp, tls, websocket
from silly.net.asgi.types import Receive, Scope, Send
from tests.net.asgi.applications import ANY, GET, Server, application, respond
from tests.net.tls import certificates


async def test_early_hints() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["http_version"] == "1.1":
            assert scope["extensions"]["http.response.early_hint"] == {}
            links = [b"</a.css>; rel=preload", b"</b.css>; rel=preload"]
            await send({"type": "http.response.early_hint", "links": links})
            with pytest.raises(ValueError, match="line break"):
                await send({"type": "http.response.early_hint", "links": [b"x\r\n\r\n"]})
        else:
            assert "http.response.early_hint" not in scope["extensions"]
        await respond(send, b"page")
        with pytest.raises(RuntimeError, match="early_hint after"):
            await send({"type": "http.response.early_hint", "links": []})

    async with Server(part) as server:
        await server.conn.write(GET)
        assert await server.conn.read(b"\r\n\r\n") == (
            b"HTTP/1.1 103 Early Hints\r\n"
            b"link: </a.css>; rel=preload\r\nlink: </b.css>; rel=preload\r\n\r\n"
        )
        head, body = await server.reply()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == b"page"
        head, body = await server.ask(GET.replace(b"1.1", b"1.0"))
        assert head.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_a_file_by_its_path(tmp_path: Path, method: bytes) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    ends = []

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["extensions"]["http.response.pathsend"] == {}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": str(tmp_path / "file")})
        await receive()
        ends.append((await receive())["type"])

    async with Server(part) as server:
        await server.conn.write(GET.replace(b"GET", method))
        head = await server.conn.read(b"\r\n\r\n")
        assert b"content-length: %d\r\n" % len(content) in head
        if method == b"GET":
            assert await server.conn.read(len(content)) == content
        (tmp_path / "file").write_bytes(b"x")
        await server.conn.write(GET)
        await server.conn.read(b"\r\n\r\nx")
    assert ends == ["http.disconnect"] * 2


@pytest.mark.no_engine
async def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"7")] if scope["path"] == "/size" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.pathsend", "path": paths[scope["path"]]})

    (tmp_path / "file").write_bytes(b"12345678")
    paths = {
        "/none": str(tmp_path / "none"),
        "/directory": str(tmp_path),
        "/relative": "file",
        "/size": str(tmp_path / "file"),
    }
    async with Server(part) as server:
        for path in paths:
            head, _ = await server.ask(GET.replace(b"/a%20b", path.encode()))
            assert head.startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize("te", [b"trailers", b"deflate, Trailers", b"gzip"])
async def test_trailers(te: bytes) -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["extensions"]["http.response.trailers"] == {}
        await send({"type": "http.response.start", "status": 200, "trailers": True})
        await send({"type": "http.response.body", "body": b"body"})
        kind = "http.response.trailers"
        await send({"type": kind, "headers": [(b"digest", b"1")], "more_trailers": True})
        await send({"type": kind, "headers": [(b"x", b"2")]})
        with pytest.raises(RuntimeError, match="after the last one"):
            await send({"type": kind, "headers": []})

    async with Server(part) as server:
        for _ in range(2):
            await server.conn.write(GET[:-2] + b"TE: " + te + b"\r\n\r\n")
            await server.conn.read(b"\r\n\r\n")
            end = b"0\r\n\r\n" if te == b"gzip" else b"0\r\ndigest: 1\r\nx: 2\r\n\r\n"
            expected = b"4\r\nbody\r\n" + end
            assert await server.conn.read(len(expected)) == expected


async def test_what_tls_has_negotiated() -> None:
    scopes: list[Any] = []

    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await respond(send, b"")

    server = tls.Server(
        *certificates.pair(), client_ca=certificates.ca_file(), client_cert="optional"
    )
    listener = await asgi.listen(ANY, application(part), lifespan="off", tls=server)
    cert, key = certificates.pair()
    ca = certificates.ca_file()
    for client in (tls.Client(ca=ca), tls.Client(ca=ca, cert=cert, key=key)):
        addr = listener.local_addr.replace("127.0.0.1", "localhost")
        async with tcp.connect(addr, tls=client) as conn:
            await conn.write(GET)
            await conn.read(b"\r\n\r\n")
    websocket_scope: Scope = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        websocket_scope.update(scope)
        await receive()
        await send({"type": "websocket.close"})

    await listener.close()
    listener = await asgi.listen(ANY, app, lifespan="off", tls=server)
    addr = listener.local_addr.replace("127.0.0.1", "localhost")
    with pytest.raises(websocket.HandshakeFailed):
        await websocket.connect(f"wss://{addr}/", tls=tls.Client(ca=ca))
    await listener.close()
    assert websocket_scope["scheme"] == "wss"
    assert websocket_scope["extensions"]["tls"]["tls_version"] == 0x0304
    assert [scope["scheme"] for scope in scopes] == ["https"] * len(scopes)
    anonymous, known = scopes[0]["extensions"]["tls"], scopes[-1]["extensions"]["tls"]
    assert (anonymous["client_cert_name"], anonymous["client_cert_chain"]) == (None, [])
    assert (anonymous["client_cert_error"], anonymous["server_cert"]) == (None, None)
    for each in (anonymous, known):
        assert each["tls_version"] == 0x0304
        assert each["cipher_suite"] in {0x1301, 0x1302, 0x1303}
    (pem,) = known["client_cert_chain"]
    assert ssl.PEM_cert_to_DER_cert(pem) == ssl.PEM_cert_to_DER_cert(
        Path(cert).read_text().partition("-----END")[0] + "-----END CERTIFICATE-----\n"
    )
    name = known["client_cert_name"]
    assert name.startswith("OU=Testing cert #")
    assert name.endswith(",O=trustme v" + name.rpartition("v")[2])


async def test_invalid_requests_for_websockets_are_refused_cleanly() -> None:
    async def part(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, b"hello")

    async with Server(part) as server:
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        head, _ = await server.ask(GET[:-2] + upgrade)
        assert head.startswith(b"HTTP/1.1 400 ")
        assert (await server.ask())[1] == b"hello"
