"""The HTTP client against our own server, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import runpy
import ssl
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from silly.net import http, tcp
from silly.net.http import codings
from silly.net.http.url import URL
from tests.net.tls import certificates

OK = b"HTTP/1.1 200 OK\r\n"
RESET = b"RESET"
EMPTY = OK + b"content-length: 0\r\n\r\n"


@contextlib.asynccontextmanager
async def serving(handler: Any, **options: Any) -> AsyncIterator[str]:
    """Serve HTTP; yield the URL."""
    listener = http.listen("127.0.0.1:0", handler, **options)
    try:
        yield f"http{'s' if options.get('tls') else ''}://{listener.local_addr}"
    finally:
        await listener.close(grace=0)


class Raw:
    """A server without HTTP: *script* gets each connection, and the head of each request.

    It returns what is to be sent; None to close the connection, or RESET.
    """

    def __init__(self, script: Callable[[int, bytes], Any], **options: Any) -> None:
        self._script = script
        self.heads: list[bytes] = []
        self.connections = 0
        self.ended = asyncio.Event()  # the client has closed a connection
        self._listener = tcp.listen("127.0.0.1:0", self._serve, **options)
        self.url = f"http://{self._listener.local_addr}"

    async def _serve(self, conn: tcp.Conn) -> None:
        number, self.connections = self.connections, self.connections + 1
        while True:
            try:
                head = await conn.read(b"\r\n\r\n")
                if b"content-length: 1" in head:
                    await conn.read(1)
            except (EOFError, OSError):
                self.ended.set()
                return
            self.heads.append(head)
            answer = self._script(number, head)
            if answer is None:
                return
            if answer == RESET:
                conn.abort()
                return
            for piece in [answer] if isinstance(answer, bytes) else answer:
                if isinstance(piece, asyncio.Event):
                    await piece.wait()
                else:
                    await conn.write(piece)
                    await asyncio.sleep(0)
            if isinstance(answer, list):  # the connection ends with it
                return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listener.close(grace=0)


async def anything(request: http.Request) -> http.Response:
    """Answer with what was asked."""
    return http.json(
        {
            "method": request.method,
            "target": request.target,
            "query": request.query.pairs,
            "headers": dict(request.headers),
            "body": (await request.body()).decode("latin-1"),
            "peer": request.remote_addr,
        }
    )


# ------------------------------------------------------------------------------ requests


async def test_a_get_and_what_a_reply_has() -> None:
    async with serving(anything) as url, http.Client() as client:
        reply = await client.get(
            f"{url}/a b/\u00e9?x=1#fragment", params={"y": [1, "\u00fc"], "z": None}
        )
        assert (reply.status, reply.reason, reply.version, reply.ok) == (200, "OK", "1.1", True)
        assert reply.headers["Content-Type"] == "application/json"
        assert reply.url == f"{url}/a%20b/%C3%A9?x=1&y=1&y=%C3%BC"
        assert repr(reply) == f"<Reply 200 of GET {reply.url}>"
        seen = await reply.json()
        assert seen["method"] == "GET"
        assert seen["query"] == [["x", "1"], ["y", "1"], ["y", "\u00fc"]]
        assert seen["headers"]["host"] == url.removeprefix("http://")
        assert seen["headers"]["user-agent"] == "silly"
        assert "content-length" not in seen["headers"]
        assert json.loads(await reply.text()) == seen
        assert [piece async for piece in reply] == [await reply.body()]
        assert reply.raise_for_status() is reply


async def test_a_reply_in_a_block() -> None:
    answer = OK + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"
    async with Raw(lambda number, head: answer) as raw, http.Client() as client:
        reply = await client.get(raw.url)
        async with reply:
            assert [piece async for piece in reply] == [b"a"]
            assert reply.trailers.raw == [(b"x-sum", b"1")]


async def test_bodies_of_requests() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one, "
        yield b""
        yield b"two"

    async with serving(anything) as url, http.Client(base_url=url) as client:

        async def post(**options: Any) -> tuple[str | None, str | None, str]:
            seen = await (await client.post("/x", **options)).json()
            headers = seen["headers"]
            return headers.get("content-type"), headers.get("content-length"), seen["body"]

        assert await post() == (None, "0", "")
        assert await post(data=b"\xff") == (None, "1", "\xff")
        assert await post(data="\u00e9") == ("text/plain; charset=utf-8", "2", "\xc3\xa9")
        form = "application/x-www-form-urlencoded"
        assert await post(data={"a": "b c", "d": [1, 2]}) == (form, "13", "a=b+c&d=1&d=2")
        assert await post(data=[("a", True)]) == (form, "6", "a=true")
        assert await post(json={"a": "\u00e9"}) == ("application/json", "10", '{"a":"\xc3\xa9"}')
        assert await post(json=[], headers={"Content-Type": "x/y"}) == ("x/y", "2", "[]")
        assert await post(data=pieces()) == (None, None, "one, two")
        assert (await (await client.get("")).json())["target"] == "/"


async def test_each_method() -> None:
    async with serving(anything) as url, http.Client() as client:
        for name in ("get", "head", "options", "post", "put", "patch", "delete"):
            reply = await getattr(client, name)(url)
            assert reply.ok
            if name != "head":
                assert (await reply.json())["method"] == name.upper()
            else:
                assert await reply.body() == b""
        assert (await (await client.request("report", url)).json())["method"] == "REPORT"


async def test_a_single_request() -> None:
    async with serving(anything) as url:
        assert (await (await http.get(url, params={"a": 1})).json())["target"] == "/?a=1"
        assert (await (await http.post(url, json=1)).json())["body"] == "1"
        assert (await http.request("PUT", url, data=b"x")).ok
        async with http.get(url) as reply:
            assert reply.ok
    with pytest.raises(ValueError, match="stream=True needs a client"):
        http.get(url, stream=True)


async def test_headers_of_the_client_and_of_a_request() -> None:
    async with (
        serving(anything) as url,
        http.Client(headers={"X-A": "1", "User-Agent": "me"}) as client,
    ):
        reply = await client.get(url, headers=[("x-a", "2"), ("X-B", "3"), ("X-B", "4")])
        headers = (await reply.json())["headers"]
        assert (headers["x-a"], headers["x-b"], headers["user-agent"]) == ("2", "3, 4", "me")


async def test_credentials_in_a_url() -> None:
    async with serving(anything) as url, http.Client() as client:
        host = url.removeprefix("http://")
        reply = await client.get(f"http://ann:p%40ss@{host}/")
        assert (await reply.json())["headers"]["authorization"] == "Basic YW5uOnBAc3M="
        assert reply.url == f"{url}/"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"data": 5}, TypeError, "data must be bytes, a str, a mapping"),
        ({"data": b"", "json": 1}, TypeError, "data= or json=, not both"),
        ({"json": float("nan")}, ValueError, "JSON"),
        ({"params": "a=b"}, TypeError, "params must be a mapping, or pairs"),
        ({"params": {"a": object()}}, TypeError, r"params\['a'\] must be text, a number"),
        ({"headers": {"a": 1}}, TypeError, "a header field has a str"),
        ({"headers": [1]}, TypeError, "headers must be a mapping, or pairs"),
        ({"headers": "a: b"}, TypeError, "headers must be a mapping, or pairs"),
        ({"headers": {"a": "b\r\nc: d"}}, ValueError, "not the value of a header field"),
        ({"headers": {"a\n": "b"}}, ValueError, "not a name of a header field"),
        ({"headers": {"Content-Length": "1"}}, ValueError, "set by the client"),
        ({"timeout": -1}, ValueError, "timeout must be zero or more"),
        ({"follow_redirects": -1}, ValueError, "follow_redirects must be 0 or more"),
    ],
)
async def test_wrong_arguments_raise_at_the_call(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    async with http.Client() as client:
        with pytest.raises(error, match=text):
            client.get("http://127.0.0.1/", **options)


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "must begin with http://"),
        ("example.com", "must begin with http://"),
        ("ftp://a/", "must begin with http://"),
        ("http://", "must begin with http://"),
        ("http://a:b/", "[Pp]ort"),
        ("http://a:0/", "port 0"),
        ("http://a:99999/", "[Pp]ort"),
        ("http://a b/", "not a host"),
        ("http://[::1/", "IPv6"),
        ("http://[nonsense]/", "."),
        ("http://a/\r\nX: y", "control characters"),
    ],
)
def test_urls_that_are_refused(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        URL.parse(url)


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("text", "host", "port", "target", "authority"),
    [
        ("http://example.com", "example.com", 80, "/", "example.com"),
        ("HTTPS://Example.COM:443?a#b", "example.com", 443, "/?a", "example.com"),
        ("https://a:80/", "a", 80, "/", "a:80"),
        ("http://[::1]:8080/x", "::1", 8080, "/x", "[::1]:8080"),
        ("http://[fe80::1%25eth0]/", "fe80::1%eth0", 80, "/", "[fe80::1]"),
        ("http://b\u00fccher.example/", "xn--bcher-kva.example", 80, "/", "xn--bcher-kva.example"),
        ("http://a/%C3%A9%/%zz", "a", 80, "/%C3%A9%25/%25zz", "a"),
        ("http://a/?q=a b&c=[d]", "a", 80, "/?q=a%20b&c=[d]", "a"),
        ("http://a_b/", "a_b", 80, "/", "a_b"),
    ],
)
def test_urls(text: str, host: str, port: int, target: str, authority: str) -> None:
    url = URL.parse(text)
    assert (url.host, url.port, url.target, url.authority) == (host, port, target, authority)


async def test_a_url_of_another_type() -> None:
    with pytest.raises(TypeError, match="url must be a str such as 'https://example"):
        http.get(b"http://127.0.0.1/")  # type: ignore[arg-type]


async def test_a_request_that_is_not_awaited_says_so() -> None:
    async with http.Client() as client:
        requesting = client.get("http://127.0.0.1/")
        with pytest.raises(AttributeError, match="`await` is missing"):
            requesting.status  # noqa: B018
        requesting.close()


# -------------------------------------------------------------------------------- replies


async def test_a_status_of_an_error() -> None:
    async def handler(request: http.Request) -> http.Response:
        raise http.HTTPError(404, "no such thing")

    async with serving(handler) as url, http.Client() as client:
        reply = await client.get(f"{url}/x")
        assert not reply.ok
        with pytest.raises(http.HTTPStatusError, match=f"GET {url}/x: 404 Not Found") as caught:
            reply.raise_for_status()
        assert caught.value.status == 404
        assert await caught.value.reply.text() == "no such thing\n"
        with pytest.raises(ValueError, match="Expecting value"):
            await reply.json()


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain", "\u00e9".encode(), "\u00e9"),
        ("text/plain; charset=iso-8859-1", b"\xe9", "\u00e9"),
        ('text/plain; charset="latin-1"', b"\xe9", "\u00e9"),
        ("text/plain; charset=nonsense", b"a\xff", "a\ufffd"),
        ("text/plain; charset=hex", b"61", "61"),
    ],
)
async def test_text(content_type: str, body: bytes, text: str) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(body, content_type=content_type)

    async with serving(handler) as url, http.Client() as client:
        assert await (await client.get(url)).text() == text


def compressed(body: bytes, wbits: int) -> bytes:
    made = zlib.compressobj(wbits=wbits)
    return made.compress(body) + made.flush()


BODY = b"".join(b"%d\n" % number for number in range(200_000))
GZIPPED = gzip.compress(BODY, compresslevel=1)


@pytest.mark.parametrize(
    ("coding", "data", "body"),
    [
        ("gzip", GZIPPED, BODY),
        ("x-gzip", GZIPPED, BODY),
        ("GZIP", gzip.compress(b"a") + gzip.compress(b"b") + b"\0\0", b"ab"),
        ("deflate", compressed(BODY, 15), BODY),
        ("deflate", compressed(BODY, -15), BODY),
        ("gzip", gzip.compress(b""), b""),
        ("gzip", gzip.compress(bytes(512 * 1024)), bytes(512 * 1024)),
        ("gzip", b"", b""),
        ("unknown", b"abc", b"abc"),
        ("identity", b"abc", b"abc"),
    ],
    ids=range(10),
)
async def test_compressed_bodies(coding: str, data: bytes, body: bytes) -> None:
    async def handler(request: http.Request) -> http.Response:
        assert request.headers["accept-encoding"].startswith("gzip, deflate")
        pieces = [data[at : at + 997] for at in range(0, len(data), 997)] or [b""]
        whole: Any = data if request.target == "/whole" else pieces
        return http.Response(whole, headers={"content-encoding": coding})

    async with serving(handler) as url, http.Client() as client:
        for path in ("/whole", "/pieces"):
            assert await (await client.get(url + path)).body() == body
            async with client.get(url + path, stream=True) as reply:
                assert b"".join([piece async for piece in reply]) == body


@pytest.mark.parametrize(("coding", "library"), [("br", "brotli"), ("zstd", "backports.zstd")])
async def test_compressed_bodies_with_other_libraries(coding: str, library: str) -> None:
    compress = pytest.importorskip(library).compress
    text, zeros = compress(BODY[:100_000]), compress(bytes(3_000_000))

    async def handler(request: http.Request) -> http.Response:
        assert coding in request.headers["accept-encoding"].split(", ")
        data = zeros if request.path == "/zeros" else text
        data = data[:-3] if request.path == "/cut" else data
        pieces = [data[at : at + 997] for at in range(0, len(data), 997)]
        return http.Response(pieces, headers={"content-encoding": coding})

    async with serving(handler) as url, http.Client(max_body_bytes=1_000_000) as client:
        assert await (await client.get(url)).body() == BODY[:100_000]
        with pytest.raises(http.ReplyError, match="the compressed body is incomplete"):
            await client.get(f"{url}/cut")
        with pytest.raises(http.ReplyError, match="the body has more than"):
            await client.get(f"{url}/zeros")
        async with client.get(f"{url}/zeros", stream=True) as reply:
            sizes = [len(piece) async for piece in reply]
        assert sum(sizes) == 3_000_000
        assert max(sizes) <= 1_000_000


@pytest.mark.no_engine
def test_codings_of_libraries_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def accepted() -> str:
        return str(runpy.run_path(str(codings.__file__))["accepted"])

    assert accepted() == codings.accepted
    for library in ("brotli", "compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, library, None)
    assert accepted() == "gzip, deflate"


@pytest.mark.parametrize(
    "data",
    [GZIPPED[:-1], GZIPPED[:100], b"nonsense", b"\x1f"],
    ids=["almost", "begun", "nonsense", "a byte"],
)
async def test_compressed_bodies_that_are_broken(data: bytes) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(data, headers={"content-encoding": "gzip"})

    async with serving(handler) as url, http.Client() as client:
        with pytest.raises(http.ReplyError, match=f"GET {url}/: the compressed body is in"):
            await client.get(url)


async def test_a_body_that_is_too_long_is_refused_before_it_is_in_memory() -> None:
    bomb = gzip.compress(bytes(50_000_000), compresslevel=1)

    async def handler(request: http.Request) -> http.Response:
        if request.path == "/bomb":
            return http.Response(bomb, headers={"content-encoding": "gzip"})
        return http.Response(b"x" * int(request.path[1:]))

    async with serving(handler) as url, http.Client(max_body_bytes=1000) as client:
        assert len(await (await client.get(f"{url}/1000")).body()) == 1000
        for path in ("/1001", "/bomb"):
            with pytest.raises(http.ReplyError, match=f"GET {url}{path}: the body has more than"):
                await client.get(url + path)
        async with client.get(f"{url}/bomb", stream=True) as reply:
            sizes = [len(piece) async for piece in reply]
        assert sum(sizes) == 50_000_000
        assert max(sizes) <= 256 * 1024


# ------------------------------------------------------------------- streams and the pool


async def test_a_streamed_body_comes_as_it_is_sent() -> None:
    taken = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        await taken.wait()
        yield b"two"

    async def handler(request: http.Request) -> http.Response:
        return http.Response(pieces())

    async with serving(handler) as url, http.Client() as client:
        async with client.get(url, stream=True) as reply:
            async for piece in reply:
                assert piece == b"one"
                break
            taken.set()
            assert b"".join([piece async for piece in reply]) == b"two"
            assert [piece async for piece in reply] == []
            with pytest.raises(RuntimeError, match="taken by an iteration"):
                await reply.body()
        async with client.get(url, stream=True) as reply:
            assert await reply.body() == b"onetwo"


async def test_the_connection_is_used_again() -> None:
    async with serving(anything) as url, http.Client() as client:
        peers = {(await (await client.get(url)).json())["peer"] for _ in range(5)}
        assert len(peers) == 1
        async with client.get(url, stream=True) as reply:
            peers.add((await reply.json())["peer"])
        assert len(peers) == 1


async def test_a_streamed_reply_that_is_closed_gives_its_place_back() -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(b"x" * 10_000_000)

    async with serving(handler) as url, http.Client(max_per_host=1) as client:
        async with client.get(url, stream=True) as reply:
            assert reply.ok
        reply = await client.get(url, stream=True)
        await reply.close()
        await reply.close()
        with pytest.raises(OSError, match="this reply was closed"):
            await reply.body()
        reply = await client.get(url, stream=True)
        del reply  # nobody has closed it
        assert len(await (await client.get(url)).body()) == 10_000_000


async def test_requests_wait_for_a_connection_in_their_order() -> None:
    order: list[str] = []
    go_on = asyncio.Event()

    async def handler(request: http.Request) -> http.Response:
        order.append(request.path)
        await go_on.wait()
        return http.Response(request.path)

    async with serving(handler) as url, http.Client(max_per_host=1) as client:
        async with asyncio.TaskGroup() as group:
            tasks = []
            for number in range(5):
                tasks.append(group.create_task(client.get(f"{url}/{number}")))
                await asyncio.sleep(0)
            while not order:
                await asyncio.sleep(0)
            tasks[2].cancel()
            go_on.set()
        assert order == ["/0", "/1", "/3", "/4"]


async def test_a_place_is_not_given_to_a_request_that_was_cancelled_just_now() -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(b"x" * 10_000_000)

    async with serving(handler) as url, http.Client(max_per_host=1) as client:
        for is_given_first in (False, True):
            reply = await client.get(url, stream=True)
            waiting = [asyncio.create_task(client.get(url)) for _ in range(3)]
            while len(client._pool._waiting) < 3:
                await asyncio.sleep(0)
            if is_given_first:
                await reply.close()
            waiting[0].cancel()
            await reply.close()
            with pytest.raises(asyncio.CancelledError):
                await waiting[0]
            for task in waiting[1:]:
                assert (await task).ok
            assert not client._pool._used


async def test_connections_are_bounded_in_total() -> None:
    running = most = 0

    async def handler(request: http.Request) -> http.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1
        return http.Response("")

    async with (
        serving(handler) as first,
        serving(handler) as second,
        http.Client(max_connections=3) as client,
    ):
        await asyncio.gather(*(client.get(url) for url in (first, second) * 10))
        assert most <= 3
        assert len(client._pool._open) <= 3


async def test_a_connection_that_was_closed_while_idle_is_not_used() -> None:
    """Also for a POST, which must not be sent twice."""
    async with Raw(lambda number, head: [EMPTY]) as raw, http.Client() as client:
        for number in range(3):
            assert (await client.post(raw.url, data=b"")).ok
            conn = next(iter(client._pool._idle.values()))[0].conn
            with contextlib.suppress(EOFError):
                await conn.read()  # until its end is here
            assert raw.connections == number + 1


@pytest.mark.parametrize("end", [None, RESET], ids=["close", "reset"])
async def test_a_request_on_a_connection_that_ends_meanwhile_is_sent_again(
    end: bytes | None,
) -> None:
    def script(number: int, head: bytes) -> bytes | None:
        return end if len(raw.heads) in (2, 4) else EMPTY

    async with Raw(script) as raw, http.Client() as client:
        for _ in range(3):
            assert (await client.put(raw.url, data=b"x")).ok
        assert raw.connections == 3
        assert len(raw.heads) == 5


async def test_a_post_is_not_sent_again() -> None:
    def script(number: int, head: bytes) -> bytes | None:
        return None if len(raw.heads) == 2 else EMPTY

    async with Raw(script) as raw, http.Client() as client:
        assert (await client.get(raw.url)).ok
        with pytest.raises(ConnectionError, match=f"POST {raw.url}/: .*without a reply"):
            await client.post(raw.url)
        assert len(raw.heads) == 2


async def test_a_request_is_sent_again_only_once_and_only_if_there_was_no_answer() -> None:
    answers: list[Any] = [EMPTY, None, None]

    async with (
        Raw(lambda number, head: answers[len(raw.heads) - 1]) as raw,
        http.Client() as client,
    ):
        assert (await client.get(raw.url)).ok
        with pytest.raises(http.ReplyError, match="without a reply"):
            await client.get(raw.url)
        assert len(raw.heads) == 3
        answers[:] = [*answers, EMPTY, [OK]]
        assert (await client.get(raw.url)).ok
        with pytest.raises(http.ReplyError, match="within the head"):
            await client.get(raw.url)
        assert len(raw.heads) == 5


async def test_a_request_that_could_not_be_sent_is_sent_on_another_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    async with serving(anything) as url, http.Client() as client:
        pool: Any = client._pool

        async def is_usable(conn: Any) -> bool:
            conn.abort()  # just after it was checked
            return True

        async def connect(key: Any) -> Any:
            conn = await connects(key)
            conn.abort()
            return conn

        connects = pool._connect
        await client.get(url)
        monkeypatch.setattr(pool, "_is_usable", is_usable)
        reply = await client.post(url, data=pieces())
        assert (await reply.json())["body"] == "x"
        monkeypatch.setattr(pool, "_connect", connect)
        with pytest.raises(ConnectionError, match=f"POST {url}/: .*closed"):
            await client.post(url, data=b"x")  # once
        assert not pool._used


async def test_an_idle_connection_is_closed_after_a_while() -> None:
    async with (
        Raw(lambda number, head: EMPTY) as raw,
        http.Client(idle_timeout=0.01) as client,
    ):
        assert (await client.get(raw.url)).ok
        await raw.ended.wait()
        assert not client._pool._idle
        assert not client._pool._open


async def test_what_follows_a_reply_is_not_taken_for_the_next() -> None:
    async with Raw(lambda number, head: EMPTY + OK + b"\r\nevil") as raw, http.Client() as client:
        for _ in range(3):
            assert await (await client.get(raw.url)).body() == b""
        assert raw.connections == 3


async def test_a_reply_before_the_end_of_the_request() -> None:
    """As of a server that refuses a body: the reply counts, and the body ends."""
    running = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal running
        running += 1
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0)
        finally:
            running -= 1

    async def handler(request: http.Request) -> http.Response:
        raise http.HTTPError(403)

    async with serving(handler) as url, http.Client() as client:
        assert (await client.post(url, data=pieces())).status == 403
        assert not running
        assert (await client.post(url, data=b"x" * 3_000_000)).status == 403


async def test_what_the_pieces_of_a_body_raise_is_raised() -> None:
    async def pieces() -> AsyncIterator[Any]:
        yield b"x"
        raise LookupError("no more")

    async def text() -> AsyncIterator[Any]:
        yield "text"

    async with serving(anything) as url, http.Client() as client:
        with pytest.raises(LookupError, match="no more"):
            await client.post(url, data=pieces())
        with pytest.raises(TypeError, match="data must yield bytes, not str"):
            await client.post(url, data=text())
        assert (await client.get(url)).ok


async def test_a_body_echoed_while_it_is_sent() -> None:
    step = asyncio.Event()

    async def handler(request: http.Request) -> http.Response:
        return http.Response(piece async for piece in request)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        await step.wait()
        yield b"two"

    async with serving(handler) as url, http.Client() as client:
        async with client.post(url, data=pieces(), stream=True) as reply:
            async for piece in reply:
                assert piece == b"one"
                break
            step.set()
            assert b"".join([piece async for piece in reply]) == b"two"


# ------------------------------------------------------------------------------- the ends


async def test_a_cancelled_request_closes_its_connection() -> None:
    silent = asyncio.Event()
    async with Raw(lambda number, head: [silent]) as raw, http.Client(max_per_host=1) as client:
        task = asyncio.create_task(client.get(raw.url))
        while not raw.heads:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not client._pool._open
        assert not client._pool._used
        silent.set()


@pytest.mark.parametrize("option", ["timeout", "read_timeout"])
async def test_timeouts(option: str) -> None:
    silent = asyncio.Event()
    options: dict[str, Any] = {option: 0.01}
    async with Raw(lambda number, head: [OK, silent]) as raw, http.Client(**options) as client:
        with pytest.raises(TimeoutError, match=f"within 0.01 s.*GET {raw.url}/"):
            await client.get(raw.url)
        assert not client._pool._open
        silent.set()


async def test_a_timeout_of_one_request_and_of_connecting() -> None:
    silent = asyncio.Event()
    async with (
        Raw(lambda number, head: [silent]) as raw,
        http.Client(timeout=None, connect_timeout=0.01, max_per_host=1) as client,
    ):
        with pytest.raises(TimeoutError, match=f"GET {raw.url}/"):
            await client.get(raw.url, timeout=0.01)
        with pytest.raises(TimeoutError, match=r"(Not connected|no TLS) within 0.01 s.*GET https"):
            await client.get(raw.url.replace("http", "https"))
        silent.set()


async def test_a_total_timeout_covers_the_body_unless_it_is_streamed() -> None:
    go_on = asyncio.Event()
    answer = [OK + b"content-length: 4\r\n\r\nab", go_on, b"cd"]
    async with Raw(lambda number, head: answer) as raw, http.Client(timeout=0.01) as client:
        with pytest.raises(TimeoutError, match="no whole reply"):
            await client.get(raw.url)
        async with client.get(raw.url, stream=True, timeout=20) as reply:
            go_on.set()
            assert await reply.body() == b"abcd"


async def test_errors_name_the_request() -> None:
    async with http.Client() as client:
        with pytest.raises(ConnectionRefusedError, match=r"GET http://127.0.0.1:1/x"):
            await client.get("http://ann:secret@127.0.0.1:1/x#y")
        with pytest.raises(OSError, match=r"GET http://nowhere.invalid/") as caught:
            await client.get("http://nowhere.invalid/")
        assert "secret" not in str(caught.value)
    async with Raw(lambda number, head: [b"HTTP/1.1 200 OK\nbad"]) as raw, http.Client() as client:
        with pytest.raises(http.ReplyError, match=f"GET {raw.url}/: not a valid HTTP reply"):
            await client.get(raw.url)


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (OK + b"content-length: 5\r\n\r\nhello", b"hello"),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"\r\nhello", b"hello"),
        (OK + b"content-length: 6\r\n\r\nhello", None),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", None),
    ],
)
async def test_replies_at_each_split(reply: bytes, body: bytes | None) -> None:
    """Also over a socket; all splits in two at the same time."""
    splits = {str(at): [reply[:at], reply[at:]] for at in range(1, len(reply))}

    def script(number: int, head: bytes) -> list[bytes]:
        return splits[head.split()[1].decode()[1:]]

    async with Raw(script) as raw, http.Client(max_per_host=100) as client:
        requests = [client.get(f"{raw.url}/{at}") for at in splits]
        for result in await asyncio.gather(*requests, return_exceptions=True):
            if body is None:
                assert isinstance(result, http.ReplyError)
            else:
                assert isinstance(result, http.Reply)
                assert await result.body() == body


async def test_a_client_that_is_closed() -> None:
    silent = asyncio.Event()
    async with Raw(lambda number, head: [silent]) as raw:
        client = http.Client(max_per_host=1)
        running = asyncio.create_task(client.get(raw.url))
        waiting = asyncio.create_task(client.get(raw.url))
        while not raw.heads:
            await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ConnectionError, match=f"GET {raw.url}/: .*active closed"):
            await running
        with pytest.raises(RuntimeError, match="the client is closed"):
            await waiting
        with pytest.raises(RuntimeError, match="the client is closed"):
            await client.get(raw.url)
        await client.close()
        silent.set()


async def test_a_client_that_is_closed_while_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(anything) as url:
        client = http.Client()
        pool: Any = client._pool
        begun, proceed, conns = asyncio.Event(), asyncio.Event(), []

        async def connect(key: Any) -> Any:
            conns.append(await connects(key))
            begun.set()
            await proceed.wait()
            return conns[0]

        connects = pool._connect
        monkeypatch.setattr(pool, "_connect", connect)
        asking = asyncio.create_task(client.get(url))
        await begun.wait()
        await client.close()
        proceed.set()
        with pytest.raises(RuntimeError, match="the client is closed"):
            await asking
        assert not conns[0].is_alive
        assert not pool._used


@pytest.mark.heavy
async def test_the_pool_keeps_count_whatever_happens() -> None:
    """Random cancellations and timeouts, and a server that does all that is wrong."""
    dice = random.Random(7)
    hello = OK + b"content-length: 3\r\n\r\n"
    answers: list[Any] = [None, RESET, [hello, b"a"], [b"nonsense\r\n"], hello + b"abcd"]

    def script(number: int, head: bytes) -> Any:
        return dice.choice(answers) if dice.random() < 0.4 else hello + b"abc"

    async with Raw(script) as raw, http.Client(max_per_host=4) as client:

        async def request() -> None:
            with contextlib.suppress(OSError):
                if dice.random() < 0.3:
                    async with client.get(raw.url, stream=True) as reply:
                        if dice.random() < 0.5:
                            await reply.body()
                else:
                    reply = await client.get(raw.url, timeout=dice.choice([0.001, 0.01, 10]))
                    assert await reply.body() == b"abc"

        for _ in range(10):
            tasks = [asyncio.create_task(request()) for _ in range(40)]
            for task in tasks:
                if dice.random() < 0.3:
                    for _ in range(dice.randrange(20)):
                        await asyncio.sleep(0)
                    task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(
                each is None or isinstance(each, asyncio.CancelledError) for each in results
            ), results
        pool = client._pool
        idle = {each.conn for kept in pool._idle.values() for each in kept}
        assert (pool._used, pool._all_used, len(pool._waiting)) == ({}, 0, 0)
        assert pool._open == idle
        assert len(idle) <= 4


# ------------------------------------------------------------------------------ redirects


async def redirecting(request: http.Request) -> http.Response:
    """Redirect ``/303/307/rest`` by 303 to ``/307/rest``, and so on."""
    _, status, *rest = request.path.split("/")
    if status.isdigit():
        await request.body()
        return http.redirect("/" + "/".join(rest), int(status))
    if status == "loop":
        return http.redirect("/loop")
    if status == "to":
        return http.Response("", 302, {"location": request.query["url"]})
    return await anything(request)


async def test_redirects_are_followed_on_request() -> None:
    async with serving(redirecting) as url, http.Client() as client:
        reply = await client.get(f"{url}/302/x")
        assert (reply.status, reply.headers["location"]) == (302, "/x")
        reply = await client.get(f"{url}/302/301/303/307/308/x?a=b", follow_redirects=True)
        assert (reply.status, reply.url) == (200, f"{url}/x")
        for status, method in (
            (301, "GET"),
            (302, "GET"),
            (303, "GET"),
            (307, "POST"),
            (308, "POST"),
        ):
            reply = await client.post(f"{url}/{status}/x", json=1, follow_redirects=1)
            seen = await reply.json()
            assert (seen["method"], seen["body"]) == (method, "1" if method == "POST" else "")
            assert ("content-type" in seen["headers"]) == (method == "POST")
        reply = await client.head(f"{url}/303/x", follow_redirects=True)
        assert (reply.method, reply.status) == ("HEAD", 200)


async def test_a_redirect_with_a_long_body_is_followed_on_another_connection() -> None:
    hint = b"HTTP/1.1 302 Found\r\nlocation: /next\r\ncontent-length: 1000000\r\n\r\n"

    def script(number: int, head: bytes) -> Any:
        return EMPTY if head.startswith(b"GET /next") else [hint, bytes(100_000), asyncio.Event()]

    async with Raw(script) as raw, http.Client() as client:
        assert (await client.get(raw.url, follow_redirects=True)).status == 200
        assert raw.connections == 2


async def test_redirects_that_cannot_be_followed() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    async with serving(redirecting) as url, http.Client(follow_redirects=3) as client:
        with pytest.raises(http.ReplyError, match=f"GET {url}/loop: more than 3 redirects"):
            await client.get(f"{url}/loop")
        for target, why in (("ftp://a/", "http://"), ("http://a:b/", "[Pp]ort")):
            with pytest.raises(http.ReplyError, match=f"redirect: .*{why}"):
                await client.get(f"{url}/to", params={"url": target})
        with pytest.raises(http.ReplyError, match="cannot be sent again"):
            await client.post(f"{url}/307/x", data=pieces())
        assert (await client.get(f"{url}/302/x", follow_redirects=False)).status == 302


async def test_another_origin_gets_no_credentials() -> None:
    secrets = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Other": "1"}
    async with (
        serving(redirecting) as url,
        serving(anything) as other,
        http.Client(follow_redirects=True) as client,
    ):
        for target, is_kept in ((f"{url}/x", True), (f"{other}/x", False)):
            options = {"params": {"url": target}, "headers": secrets}
            headers = (await (await client.get(f"{url}/to", **options)).json())["headers"]  # type: ignore[arg-type]
            assert ("authorization" in headers) == ("cookie" in headers) == is_kept
            assert headers["x-other"] == "1"
            assert headers["host"] in target
            with_user = url.replace("//", "//ann:secret@")
            reply = await client.get(f"{with_user}/to", params={"url": target})
            assert ("authorization" in (await reply.json())["headers"]) == is_kept


# ------------------------------------------------------------------- TLS and Unix sockets


async def test_tls_is_verified() -> None:
    async with serving(anything, tls=certificates.server()) as url:
        async with http.Client(tls=certificates.client()) as client:
            peers = {(await (await client.get(url)).json())["peer"] for _ in range(3)}
            assert len(peers) == 1
        async with http.Client() as client:
            with pytest.raises(ssl.SSLCertVerificationError, match=f"GET {url}/"):
                await client.get(url)


async def test_a_body_that_ends_with_the_connection_may_be_cut_off_over_tls() -> None:
    async def cut(conn: tcp.Conn) -> None:
        await conn.read(b"\r\n\r\n")
        await conn.write(OK + b"\r\nabc")
        if ends_well:
            conn.close()
        else:
            conn.abort()

    listener = tcp.listen("127.0.0.1:0", cut, tls=certificates.server())
    async with http.Client(tls=certificates.client()) as client:
        ends_well = True
        url = f"https://{listener.local_addr}"
        assert await (await client.get(url)).body() == b"abc"
        ends_well = False
        with pytest.raises(ConnectionError):
            await client.get(url)
    await listener.close(grace=0)


async def test_a_protocol_that_is_not_http_1() -> None:
    async with (
        serving(anything, tls=certificates.server(alpn=("h2",))) as url,
        http.Client(tls=certificates.client(alpn=("h2", "http/1.1"))) as client,
    ):
        with pytest.raises(ConnectionError, match="the server has chosen h2"):
            await client.get(url)


async def test_another_address_than_the_url_names(tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/s"
    listener = http.listen(path, anything)
    async with http.Client(connect_to=path) as client:
        headers = (await (await client.get("http://api.example/v1")).json())["headers"]
        assert headers["host"] == "api.example"
    await listener.close(grace=0)
    listener = http.listen("127.0.0.1:0", anything, tls=certificates.server())
    options = {"tls": certificates.client(), "connect_to": listener.local_addr}
    async with http.Client(**options) as client:  # type: ignore[arg-type]
        assert (await client.get(f"https://{certificates.NAME}/")).ok
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.get("https://other.test/")
    await listener.close(grace=0)


def test_arguments_of_a_client() -> None:
    with pytest.raises(ValueError, match="max_per_host must be 1 or more"):
        http.Client(max_per_host=0)
    with pytest.raises(ValueError, match="must begin with http://"):
        http.Client(base_url="example.com")
    with pytest.raises(ValueError, match="connect_to"):
        http.Client(connect_to="nonsense")
    with pytest.raises(TypeError, match="tls must be True"):
        http.Client(tls="ca.pem")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="idle_timeout"):
        http.Client(idle_timeout=None)  # type: ignore[arg-type]
