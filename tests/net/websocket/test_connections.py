"""WebSockets over real connections: messages, and how they end, on either end."""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from typing import Any, Self, cast

import pytest

from silly.errors import ConcurrentRead, EndOfStream, WriteQueueFull
from silly.net import http, tcp, websocket
from silly.net.conn import Conn, StreamConn
from silly.net.limits import Limits
from silly.net.listener import Listener
from silly.net.websocket.codes import BINARY, CLOSE, PING, PONG, TEXT
from silly.net.websocket.opening import OpeningHandshake, WebSocketURL
from silly.testing import memory_pair
from tests.net.http.wire import ANY, TIME, reply
from tests.net.tls import certificates
from tests.net.websocket.frames import frame, from_client

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def echo(ws: websocket.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def url_of(listener: Listener, path: str = "/") -> str:
    return f"ws://{listener.local_addr}{path}"


async def bare(listener: Listener, data: bytes = b"") -> Conn:
    """Return a connection that has opened a WebSocket, and has sent *data*."""
    conn = await tcp.connect(listener.local_addr)
    conn.write(UPGRADE + data)
    assert (await conn.read(b"\r\n\r\n", timeout=TIME)).startswith(b"HTTP/1.1 101 ")
    return conn


async def rest(conn: Conn) -> bytes:
    received = b""
    async with asyncio.timeout(TIME):
        while True:
            try:
                received += await conn.read()
            except (EOFError, OSError):
                conn.close()
                return received


class Server:
    """A listener whose handler is the test itself: it gets the server's end."""

    def __init__(self, **options: Any) -> None:
        self._ends: asyncio.Queue[websocket.WebSocket] = asyncio.Queue()
        self._over = asyncio.Event()
        self.listener = websocket.listen(ANY, self._handle, **options)

    async def _handle(self, ws: websocket.WebSocket) -> None:
        self._ends.put_nowait(ws)
        await self._over.wait()

    async def pair(self, **options: Any) -> tuple[websocket.WebSocket, websocket.WebSocket]:
        client = await websocket.connect(url_of(self.listener), **options)
        return client, await self._ends.get()

    async def accepted(self) -> websocket.WebSocket:
        return await asyncio.wait_for(self._ends.get(), TIME)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await self.listener.close()


async def all_of(ws: websocket.WebSocket) -> list[str | bytes]:
    async with asyncio.timeout(TIME):
        return [message async for message in ws]


# --------------------------------------------------------------------------- messages


async def test_messages_of_all_kinds_and_sizes() -> None:
    messages: list[str | bytes] = ["", b"", "é€😀", bytes(range(256)), "x" * 70_000, b"y" * 300_000]
    async with websocket.listen(ANY, echo) as listener:
        for compression in (True, False):
            async with websocket.connect(url_of(listener), compression=compression) as ws:
                for message in messages:
                    await ws.send(message)
                assert [await ws.recv(TIME) for _ in messages] == messages
                assert ws.is_open
            assert (ws.close_code, ws.close_reason, ws.is_open) == (1000, "", False)


async def test_replies_of_one_turn_are_sent_together() -> None:
    async with websocket.listen(ANY, echo) as listener:
        conn = await bare(listener)
        await conn.write(b"".join(from_client(TEXT, b"%d" % n) for n in range(10)))
        assert await conn.read(timeout=TIME) == b"".join(frame(TEXT, b"%d" % n) for n in range(10))
        conn.abort()


async def test_frames_that_follow_the_handshake_at_once() -> None:
    async with websocket.listen(ANY, echo) as listener:
        conn = await bare(listener, from_client(TEXT, b"early"))
        assert await conn.read(7, timeout=TIME) == frame(TEXT, b"early")
        conn.abort()


async def test_http_and_websockets_on_one_port() -> None:
    routes = http.Router()

    @routes.get("/")
    async def page(request: http.Request) -> str:
        return "page"

    @routes.get("/chat/{room}")
    async def chat(request: http.Request) -> None:
        fields = request.headers.raw
        ws = await websocket.accept(request, subprotocols=["b", "a"], headers={"x-a": "1"})
        assert ws.request is request
        assert request.headers.raw == fields
        await ws.send(f"{request.route_params['room']} {ws.subprotocol}")
        await ws.close(4000, "bye")

    async with http.listen(ANY, routes) as listener:
        async with http.Client(base_url=f"http://{listener.local_addr}") as client:
            assert await (await client.get("/")).text() == "page"
            refused = await client.get("/chat/x")
            assert refused.status == 426
            assert refused.headers["upgrade"] == "websocket"
        ws = await websocket.connect(url_of(listener, "/chat/x"), subprotocols=["a", "b"])
        async with ws:
            assert ws.subprotocol == "b"
            assert await ws.recv(TIME) == "x b"
            with pytest.raises(websocket.WebSocketClosed, match=r"closed: 4000, bye") as caught:
                await all_of(ws)
        assert (caught.value.code, caught.value.reason) == (4000, "bye")
        assert http.service_of(listener).responses[("GET", 101)] == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"GET / ", b"GET /x "), 404),
        ((b"Version: 13", b"Version: 12"), 426),
        ((b"Upgrade: websocket", b"Upgrade: h2c"), 426),
        ((b"Key: dGhl", b"Key: "), 400),
        ((b"Host: a", b"Host: a\r\nOrigin: http://evil.org"), 403),
    ],
)
async def test_refusals(change: tuple[bytes, bytes], status: int) -> None:
    async with websocket.listen(ANY, echo, origins=["http://a", None]) as listener:
        async with tcp.connect(listener.local_addr) as conn:
            conn.write(UPGRADE.replace(*change))
            got = await reply(conn)
            assert got.status == status
            assert ("sec-websocket-version" in got.headers) == (status == 426)


async def test_a_client_is_told_why_it_was_refused() -> None:
    async with websocket.listen(ANY, echo, "/chat") as listener:
        with pytest.raises(websocket.HandshakeFailed, match="answered 404, not 101") as caught:
            await websocket.connect(url_of(listener))
        assert (caught.value.status, caught.value.body) == (404, b"Not Found\n")
        assert str(caught.value).startswith(url_of(listener))


def answering(answer: bytes) -> Listener:
    """Return a server that answers each request with *answer*, and finishes."""

    async def handler(conn: Conn) -> None:
        await conn.read(b"\r\n\r\n")
        conn.write(answer)

    return tcp.listen(ANY, handler)


SWITCHED = b"HTTP/1.1 101 x\r\n"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"SSH-2.0-x\r\n\r\n", "not a response of HTTP/1.1"),
        (SWITCHED + b"\r\n", "the server's response is wrong"),
        (SWITCHED + b"bad\r\n\r\n", "an invalid header field"),
        (SWITCHED + b"a: 1\nb: 2\r\n\r\n", "an invalid header field"),
        (SWITCHED + b"a: b\r\n" * 3 + b"\r\n", "more than 2 header fields"),
        (SWITCHED + b"a: " + b"b" * 100, "more than 100 bytes"),
        (b"HTTP", "without a whole response"),
        (b"", "without a whole response"),
    ],
)
async def test_servers_that_are_none(answer: bytes, why: str) -> None:
    limits = Limits(max_headers=2, max_head_bytes=100)
    async with answering(answer) as listener:
        with pytest.raises(websocket.HandshakeFailed, match=why):
            await websocket.connect(url_of(listener), limits=limits)


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (b"Content-Length: 3\r\n\r\nbad", b"bad"),
        (b"Content-Length: 9\r\n\r\nbad", b"bad"),  # it is cut
        (b"Content-Length: 9\r\n\r\n", b""),
        (b"Content-Length: 9000\r\n\r\n" + bytes(9000), bytes(1024)),
        (b"\r\nbad", b""),  # its length is unknown
    ],
)
async def test_what_the_error_keeps_of_a_refusal(fields: bytes, body: bytes) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    async with answering(hint + b"HTTP/1.1 403 No\r\nX-Why: so\r\n" + fields) as listener:
        with pytest.raises(websocket.HandshakeFailed, match="answered 403") as caught:
            await websocket.connect(url_of(listener))
        assert caught.value.body == body
        assert caught.value.headers["x-why"] == "so"


async def test_a_refusal_that_is_cut_by_a_reset() -> None:
    ours, theirs = memory_pair()
    opening = OpeningHandshake(WebSocketURL("ws://a/"), (), None, None, Limits(), compression=False)
    receiving = asyncio.create_task(opening.receive(cast(StreamConn, ours)))
    theirs.write(b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\n")
    for _ in range(10):
        await asyncio.sleep(0)
    theirs.abort()
    with pytest.raises(websocket.HandshakeFailed, match="answered 403") as caught:
        await receiving
    assert caught.value.body == b""


async def test_servers_that_say_nothing() -> None:
    over = asyncio.Event()

    async def handler(conn: Conn) -> None:
        await conn.read(b"\r\n\r\n")
        await over.wait()

    async with tcp.listen(ANY, handler) as listener:
        with pytest.raises(TimeoutError, match=r"no WebSocket within 0\.01 seconds") as caught:
            await websocket.connect(url_of(listener), timeout=0.01)
        assert caught.value.filename == url_of(listener)
        over.set()


async def test_what_the_operating_system_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(addr: str, **_: object) -> Conn:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out", addr)

    monkeypatch.setattr(tcp, "connect", connect)
    with pytest.raises(TimeoutError, match=r"timed out: '192\.0\.2\.1:80'"):
        await websocket.connect("ws://192.0.2.1/")


async def test_what_a_client_sends() -> None:
    async def handler(ws: websocket.WebSocket) -> None:
        assert ws.request is not None
        fields, asked = ws.request.headers, await ws.recv()
        assert isinstance(asked, str)
        await ws.send("|".join(fields.get(name, "-") for name in asked.split()))

    asked = "host origin authorization x-a"
    async with websocket.listen(ANY, handler) as listener:
        url = url_of(listener).replace("//", "//user:secret@")
        async with websocket.connect(url, origin="http://a", headers={"x-a": "1"}) as ws:
            await ws.send(asked)
            got = await ws.recv(TIME)
            assert got == f"{listener.local_addr}|http://a|Basic dXNlcjpzZWNyZXQ=|1"
        given = {"Host": "example.com", "Authorization": "Bearer x"}
        async with websocket.connect(url, headers=given) as ws:
            await ws.send(asked)
            assert await ws.recv(TIME) == "example.com|-|Bearer x|-"


async def test_a_request_opens_one_websocket() -> None:
    errors = []

    async def handler(request: http.Request) -> None:
        ws = await websocket.accept(request)
        try:
            await websocket.accept(request)
        except RuntimeError as error:
            errors.append(str(error))
        await ws.send("still there")

    async with http.listen(ANY, handler) as listener:
        async with websocket.connect(url_of(listener)) as ws:
            assert await ws.recv(TIME) == "still there"
    assert errors == ["the WebSocket of this request was opened before"]


async def test_encrypted() -> None:
    async with websocket.listen(ANY, echo, tls=certificates.server()) as listener:
        host = listener.local_addr.replace("127.0.0.1", "localhost")
        with pytest.raises(OSError, match="certificate"):
            await websocket.connect(f"wss://{host}/")
        async with websocket.connect(f"wss://{host}/", tls=certificates.client()) as ws:
            await ws.send("secret")
            assert await ws.recv(TIME) == "secret"
            assert ws.tls is not None
        # By another way to the server: the certificate is still that of the URL's host.
        for name, works in (("localhost", True), ("example.com", False)):
            opening = websocket.connect(
                f"wss://{name}/", tls=certificates.client(), connect_to=listener.local_addr
            )
            if works:
                async with opening as ws:
                    await ws.send("secret")
                    assert await ws.recv(TIME) == "secret"
            else:
                with pytest.raises(ssl.SSLCertVerificationError, match=name):
                    await opening


async def test_another_protocol_that_tls_has_agreed_on_is_refused() -> None:
    async def handler(conn: Conn) -> None:
        with pytest.raises((EOFError, OSError)):
            await conn.read()

    async with tcp.listen(ANY, handler, tls=certificates.server(alpn=["h2"])) as listener:
        url = f"wss://{listener.local_addr.replace('127.0.0.1', 'localhost')}/"
        with pytest.raises(ConnectionError, match=r"has chosen h2, not http/1\.1"):
            await websocket.connect(url, tls=certificates.client(alpn=["h2"]))


# ----------------------------------------------------------------------------- closing


@pytest.mark.parametrize("code", [1000, 1001])
async def test_normal_ends_end_the_iteration(code: int) -> None:
    async with Server() as server:
        for closes in (0, 1):
            ends = await server.pair()
            receiving = asyncio.create_task(all_of(ends[1 - closes]))
            await ends[closes].send("last")
            await ends[closes].close(code, "reason")
            assert await receiving == ["last"]
            for ws in ends:
                assert (ws.close_code, ws.close_reason) == (code, "reason")
            with pytest.raises(websocket.WebSocketClosed) as caught:
                await ends[1 - closes].recv()
            assert (caught.value.code, caught.value.reason) == (code, "reason")


@pytest.mark.parametrize("code", [1002, 1011, 1012, 3000, 4999])
async def test_other_ends_raise(code: int) -> None:
    async with Server() as server:
        for closes in (0, 1):
            ends = await server.pair()
            receiving = asyncio.create_task(all_of(ends[1 - closes]))
            await ends[closes].close(code, "why")
            with pytest.raises(websocket.WebSocketClosed) as caught:
                await receiving
            assert (caught.value.code, caught.value.reason) == (code, "why")
            assert caught.value.address == ends[1 - closes].remote_addr
            with pytest.raises(websocket.WebSocketClosed):
                ends[1 - closes].send("more")
            with pytest.raises(websocket.WebSocketClosed):
                await ends[closes].ping()


async def test_messages_before_an_end_are_answered() -> None:
    async with websocket.listen(ANY, echo) as listener:
        for last, code in ((from_client(CLOSE, b"\x03\xe8"), 1000), (from_client(3), 1002)):
            conn = await bare(listener, from_client(TEXT, b"a") + last)
            got = await rest(conn)
            assert got.startswith(frame(TEXT, b"a") + b"\x88")
            assert got[5:7] == code.to_bytes(2, "big")


async def test_an_end_is_answered_while_the_messages_before_it_wait() -> None:
    async def handler(ws: websocket.WebSocket) -> None:
        async for _ in ws:
            await asyncio.Event().wait()

    async with websocket.listen(ANY, handler) as listener:
        conn = await bare(listener)
        conn.write(from_client(TEXT, b"a") + from_client(TEXT, b"b") + from_client(CLOSE))
        assert await rest(conn) == frame(CLOSE)
        await listener.close(0)


async def test_an_abort_before_the_answer_to_an_end() -> None:
    ended = asyncio.Event()

    async def handler(ws: websocket.WebSocket) -> None:
        assert await ws.recv() == "a"
        ws.abort()
        with pytest.raises(websocket.WebSocketClosed, match="1005"):
            await ws.recv()
        ended.set()

    async with websocket.listen(ANY, handler) as listener:
        conn = await bare(listener)
        await asyncio.sleep(0)
        conn.write(from_client(TEXT, b"a") + from_client(CLOSE))
        assert await rest(conn) == b""
        await ended.wait()


async def test_a_close_frame_without_a_code_is_1005() -> None:
    async with Server() as server:
        conn = await bare(server.listener, from_client(CLOSE))
        with pytest.raises(websocket.WebSocketClosed, match="1005"):
            await all_of(await server.accepted())
        assert await rest(conn) == frame(CLOSE)


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_a_lost_connection_is_1006(how: str) -> None:
    async with Server() as server:
        conn = await bare(server.listener)
        ws = await server.accepted()
        getattr(conn, how)()
        with pytest.raises(websocket.WebSocketClosed, match="1006") as caught:
            await all_of(ws)
        assert isinstance(caught.value, OSError)
        await ws.wait_closed()
        with pytest.raises(websocket.WebSocketClosed, match="1006"):
            ws.send("more")


async def test_what_a_handler_leaves_open_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def returns(ws: websocket.WebSocket) -> None: ...

    async def fails(ws: websocket.WebSocket) -> None:
        raise ZeroDivisionError

    async def raises_http(ws: websocket.WebSocket) -> None:
        raise http.HTTPError(404)

    for handler, code, crashes in ((returns, 1000, 0), (fails, 1011, 1), (raises_http, 1011, 1)):
        async with websocket.listen(ANY, handler) as listener:
            ws = await websocket.connect(url_of(listener))
            with pytest.raises(websocket.WebSocketClosed) as caught:
                await ws.recv(TIME)
            assert caught.value.code == code
            await ws.wait_closed()
            assert http.service_of(listener).crashes == crashes
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


async def test_the_end_of_its_own_websocket_is_no_fault_of_a_handler() -> None:
    async def handler(ws: websocket.WebSocket) -> None:
        while True:
            await ws.send(await ws.recv())

    async with websocket.listen(ANY, handler) as listener:
        async with websocket.connect(url_of(listener)) as ws:
            await ws.send("a")
            assert await ws.recv(TIME) == "a"
        ws = await websocket.connect(url_of(listener))
        ws.abort()
        await ws.wait_closed()
    assert http.service_of(listener).crashes == 0
    assert listener.stats.handler_errors == 0


async def test_draining_closes_with_1001() -> None:
    async with websocket.listen(ANY, echo) as listener:
        busy = await websocket.connect(url_of(listener))
        idle = await websocket.connect(url_of(listener))
        await busy.send("a")
        assert await busy.recv(TIME) == "a"
        closing = listener.close()
        for ws in (busy, idle):
            assert await all_of(ws) == []
            assert ws.close_code == 1001
        await closing
    assert listener.stats.ended == {}


async def test_a_peer_that_does_not_answer_a_close_frame_is_reset() -> None:
    async with Server(limits=Limits(close_timeout=0.01)) as server:
        conn = await bare(server.listener)
        ws = await server.accepted()
        await ws.close(1000)
        assert ws.close_code == 1006
        assert (await rest(conn))[:2] in (b"", b"\x88\x02")
        assert server.listener.stats.ended == {"close_timeout": 1}
        with pytest.raises(websocket.WebSocketClosed, match="1006"):
            await ws.recv()


async def test_a_block_that_fails_closes_with_1011_and_a_cancelled_one_aborts() -> None:
    async with Server() as server:
        with pytest.raises(ZeroDivisionError):
            async with websocket.connect(url_of(server.listener)):
                raise ZeroDivisionError
        ws = await server.accepted()
        with pytest.raises(websocket.WebSocketClosed, match="1011"):
            await all_of(ws)
        with pytest.raises(asyncio.CancelledError):
            async with websocket.connect(url_of(server.listener)):
                raise asyncio.CancelledError
        with pytest.raises(websocket.WebSocketClosed, match="1006"):
            await all_of(await server.accepted())


# ------------------------------------------------------- while the program does not read


async def test_pings_are_answered_while_a_handler_does_something_else() -> None:
    async with Server() as server:
        client, ws = await server.pair()
        assert 0 < await client.ping(timeout=TIME) < TIME  # neither end reads
        assert 0 < await ws.ping(b"data", timeout=TIME) < TIME
        await asyncio.gather(*(client.ping(timeout=TIME) for _ in range(10)))
        with pytest.raises(ValueError, match="125 bytes"):
            await ws.ping(bytes(126))
        with pytest.raises(TypeError, match="data must be bytes, not str"):
            await ws.ping("data")  # type: ignore[arg-type]
        await client.close()


async def test_a_pong_answers_the_pings_before_it() -> None:
    async with Server() as server:
        conn = await bare(server.listener)
        ws = await server.accepted()
        sent = [b"1", b"2", b"3", b"4"]
        pings = [asyncio.create_task(ws.ping(data, TIME)) for data in sent]
        assert await conn.read(12, timeout=TIME) == b"".join(frame(PING, data) for data in sent)
        with pytest.raises(ValueError, match="a ping with the same data is waiting"):
            await ws.ping(b"2")
        pings[1].cancel()
        await asyncio.wait([pings[1]])
        conn.write(from_client(PONG, b"unasked") + from_client(PONG, b"3"))
        await asyncio.gather(pings[0], pings[2])
        assert not pings[3].done()
        conn.write(from_client(PONG, b"4"))
        await pings[3]
        conn.abort()


async def test_many_frames_while_nobody_reads() -> None:
    """More than a task may read without waiting."""
    async with Server(limits=Limits(max_control_rate=1_000_000)) as server:
        conn = await bare(server.listener)
        await server.accepted()
        for _ in range(1100):
            conn.write(from_client(PING))
            assert await conn.read(2, timeout=TIME) == frame(PONG)
        conn.abort()


async def test_messages_that_come_meanwhile_are_kept_in_their_order() -> None:
    async with Server() as server:
        client, ws = await server.pair()
        for number in range(100):
            await client.send(f"{number}")
            if number % 7 == 0:
                await client.ping(timeout=TIME)  # so they arrive in many pieces
        await client.close(1000)
        assert await all_of(ws) == [f"{number}" for number in range(100)]


async def test_a_peer_is_held_up_while_nobody_reads() -> None:
    async with Server(limits=Limits(read_limit=100_000, max_message_bytes=10_000)) as server:
        client, ws = await server.pair(compression=False)
        sent = 0
        while client.unsent_bytes < 1_000_000:
            client.send(bytes(10_000))
            sent += 1
            await asyncio.sleep(0)
        assert ws._held < 65536 + 300_000
        got = 0
        async with asyncio.timeout(TIME):
            while got < sent:
                assert len(await ws.recv()) == 10_000
                got += 1
        await client.close()


async def test_an_end_that_comes_meanwhile_is_noticed() -> None:
    async with Server() as server:
        client, ws = await server.pair()
        await client.send("last")
        await client.close(4000, "bye")
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (4000, "bye")
        assert await ws.recv() == "last"
        client, ws = await server.pair()
        client.abort()
        await ws.wait_closed()
        assert ws.close_code == 1006


async def test_pings_that_wait_end_with_the_connection() -> None:
    async with Server() as server:
        conn = await bare(server.listener)
        ws = await server.accepted()
        pinging = asyncio.create_task(ws.ping())
        assert (await conn.read(2, timeout=TIME))[0] == 0x89
        conn.write(from_client(CLOSE, b"\x0f\xa0"))
        with pytest.raises(websocket.WebSocketClosed, match="4000"):
            await pinging
        assert (await rest(conn)).endswith(frame(CLOSE, b"\x0f\xa0"))
        client, ws = await server.pair()
        client._conn._consumer = None  # it answers nothing
        with pytest.raises(TimeoutError, match=r"No pong within 0\.001 seconds") as late:
            await ws.ping(timeout=0.001)
        assert late.value.filename == ws.remote_addr
        client.abort()


async def test_reads_that_end_early_lose_nothing() -> None:
    async with Server() as server:
        client, ws = await server.pair()
        with pytest.raises(TimeoutError, match=r"No message within 0\.001 seconds") as late:
            await ws.recv(timeout=0.001)
        assert late.value.filename == ws.remote_addr
        receiving = asyncio.create_task(ws.recv())
        await asyncio.sleep(0)
        with pytest.raises(ConcurrentRead, match="already receiving"):
            await ws.recv()
        receiving.cancel()
        await asyncio.wait([receiving])
        await client.send("a")
        await client.ping(timeout=TIME)
        await client.send("b")
        assert [await ws.recv(TIME), await ws.recv(TIME)] == ["a", "b"]
        await client.close()


async def test_one_task_reads_while_another_closes() -> None:
    async with Server() as server:
        client, ws = await server.pair()
        receiving = asyncio.create_task(all_of(ws))
        await asyncio.sleep(0)
        await ws.close(1000)
        assert await receiving == []
        assert client.close_code == 1000


# ------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("data", "code", "limit"),
    [
        (from_client(BINARY, bytes(101)), 1009, "max_message_bytes"),
        (from_client(TEXT, fin=False) + from_client(0, fin=False) * 3, 1009, "max_fragments"),
        (from_client(PING) * 100_000, 1008, "max_control_rate"),
        (from_client(TEXT, b"\xff"), 1007, None),
        (frame(TEXT), 1002, None),
    ],
)
async def test_what_a_peer_must_not_do(data: bytes, code: int, limit: str | None) -> None:
    limits = Limits(max_message_bytes=100, max_fragments=3, max_control_rate=50)
    async with Server(limits=limits) as server:
        conn = await bare(server.listener)
        ws = await server.accepted()
        conn.write(data)
        with pytest.raises(websocket.WebSocketClosed) as caught:
            await all_of(ws)
        assert caught.value.code == code
        got = await rest(conn)
        assert got == b"" or got[got.index(b"\x88") + 2 :][:2] == code.to_bytes(2, "big")
        await ws.wait_closed()
        assert server.listener.stats.ended == ({limit: 1} if limit else {})


async def test_a_peer_that_takes_nothing() -> None:
    async with Server(limits=Limits(max_unsent=100_000)) as server:
        conn = await bare(server.listener)
        ws = await server.accepted()
        for size in (10_000, 1000, 100, 10, 1):
            with pytest.raises(WriteQueueFull):
                while True:
                    ws.send(bytes(size))
        assert websocket.broadcast([ws], "a", limit=1 << 30) == 0
        assert ws.is_open
        assert server.listener.stats.ended == {}
        await ws.close()  # there is no room for a close frame
        assert server.listener.stats.ended == {"max_unsent": 1}
        conn.abort()


async def test_a_peer_that_asks_and_takes_no_answers() -> None:
    limits = Limits(max_unsent=100_000, max_control_rate=1_000_000)
    async with Server(limits=limits) as server:
        conn = await bare(server.listener)
        ws = await server.accepted()
        with pytest.raises((ConnectionError, EndOfStream)):
            while True:
                await conn.write(from_client(PING, bytes(125)) * 1000)
        await ws.wait_closed()
        assert server.listener.stats.ended == {"max_unsent": 1}


async def test_a_lost_connection() -> None:
    async with Server() as server:
        client, ws = await server.pair()
        assert repr(ws) == f"<WebSocket with {ws.remote_addr}, open>"
        assert (ws.local_addr, ws.remote_addr) == (client.remote_addr, client.local_addr)
        receiving = asyncio.create_task(ws.recv())
        await asyncio.sleep(0)
        ws.abort()
        for act in (ws.ping, lambda: ws.send("a")):
            with pytest.raises(websocket.WebSocketClosed, match="1006"):
                await act()
        with pytest.raises(websocket.WebSocketClosed, match="1006"):
            await receiving
        await ws.close()
        assert repr(ws) == f"<WebSocket with {ws.remote_addr}, closed>"
        client.abort()


async def test_wrong_arguments() -> None:
    async with Server() as server:
        client, ws = await server.pair()
        wrong: Any = 1
        with pytest.raises(TypeError, match="a message is a str, or bytes-like, not int"):
            ws.send(wrong)
        for code in (0, 999, 1004, 1005, 1006, 1015, 5000):
            with pytest.raises(ValueError, match="code must be"):
                await ws.close(code)
        with pytest.raises(ValueError, match="123 bytes"):
            await ws.close(1000, "é" * 62)
        with pytest.raises(TypeError, match="reason must be a str, not int"):
            await ws.close(1000, wrong)
        for other in ("1000", True):
            with pytest.raises(TypeError, match="code must be an int"):
                await ws.close(other)  # type: ignore[arg-type]
        assert ws.is_open
        await client.close()
    with pytest.raises(TypeError, match="url must be a str such as"):
        websocket.connect(wrong)
    with pytest.raises(ValueError, match="ws:// or wss://"):
        websocket.connect("http://a/")
    with pytest.raises(ValueError, match="fragment"):
        websocket.connect("ws://a/#x")
    with pytest.raises(TypeError, match="not a str"):
        websocket.connect("ws://a/", subprotocols="chat")
    with pytest.raises(ValueError, match="set by the client"):
        websocket.connect("ws://a/", headers={"Sec-WebSocket-Key": "x"})
    with pytest.raises(ValueError, match="path must begin"):
        websocket.listen(ANY, echo, "chat")
    with pytest.raises(TypeError, match="handler must be"):
        websocket.listen(ANY, wrong)
