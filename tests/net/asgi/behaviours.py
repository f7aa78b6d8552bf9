"""What applications and clients see in situations that the specification leaves open, or not.

Each case is a row of the table in docs/howto/serve-an-asgi-application.md: an application, what a
client sends, and what both see, here and with uvicorn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from silly.net.asgi.types import Message, Receive, Scope, Send
from silly.net.conn import Conn
from tests.net.asgi.applications import respond
from tests.net.http.wire import reply

AGAIN = b"GET /again HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Seen:
    """What the client and the application have seen."""

    replies: Sequence[Any] = ((200, b""),)
    """Status and body of each; no body if it is an error, "cut" if it was cut off."""
    goes_on: bool = True
    """Whether the connection can be used again."""
    events: Sequence[Any] = ()


Part = Callable[[Scope, Receive, Send, list[Any]], Awaitable[object]]


@dataclass
class Case:
    situation: str
    app: Part
    sent: bytes
    ours: Seen
    uvicorn: Seen | None = None
    """None: the same."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of both servers."""

    @property
    def methods(self) -> list[str]:
        if self.sent.count(b"100-continue"):
            return ["GET", "GET"]
        return ["HEAD"] if self.sent.startswith(b"HEAD") else ["GET"] * self.sent.count(b" HTTP/")

    async def observe(self, conn: Conn, events: list[Any]) -> Seen:
        """Be the client on *conn*."""
        await conn.write(self.sent)
        replies: list[Any] = []
        goes_on = False
        try:
            for method in self.methods:
                got = await reply(conn, method)
                if got.status == 100:
                    await conn.write(b"12345")
                replies.append((got.status, got.body if got.status < 300 else b""))
            await conn.write(AGAIN)
            goes_on = (await reply(conn)).body == b"again"
        except (EOFError, OSError):
            if len(replies) < len(self.methods):
                replies.append("cut")
        return Seen(tuple(replies), goes_on, tuple(events))


class Application:
    """The application of one case after the other."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.case: Case

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].endswith("/again"):
            await respond(send, b"again")
        else:
            await self.case.app(scope, receive, send, self.events)


CASES: list[Case] = []


def case(
    situation: str, sent: bytes | str, ours: Seen, uvicorn: Seen | None = None, **options: Any
) -> Callable[[Part], Part]:
    data = sent.encode() if isinstance(sent, str) else sent

    def add(app: Part) -> Part:
        CASES.append(Case(situation, app, data, ours, uvicorn, options))
        return app

    return add


def request(line: str = "GET /", *fields: str, body: str = "") -> str:
    if body:
        fields = (*fields, f"Content-Length: {len(body)}")
    return "".join(f"{each}\r\n" for each in (f"{line} HTTP/1.1", "Host: x", *fields, "")) + body


def ok(body: bytes = b"", status: int = 200) -> tuple[Any, ...]:
    return ((status, body),)


START: Message = {"type": "http.response.start", "status": 200, "headers": []}


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


# --------------------------------------------------------------------------- the scope


@case(
    "a path with percent-encoding",
    request("GET /caf%C3%A9%2F%20x?a=%20&b"),
    Seen(events=("/café/ x", b"/caf%C3%A9%2F%20x", b"a=%20&b")),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    events += [scope["path"], scope["raw_path"], scope["query_string"]]
    await respond(send, b"")


@case(
    "a path that is not UTF-8",
    request("GET /%FF"),
    Seen(ok(status=400)),
    Seen(events=("/\ufffd",)),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    events += [scope["path"]]
    await respond(send, b"")


@case(
    "a root path",
    request("GET /x%20y"),
    Seen(events=("/site", "/site/x y", b"/site/x%20y")),
    root_path="/site",
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    events += [scope["root_path"], scope["path"], scope["raw_path"]]
    await respond(send, b"")


@case(
    "a target in absolute form",
    request("GET http://other.example/x?y"),
    Seen(events=("/x", b"y", b"other.example")),
    Seen(events=("/x", b"y", b"x")),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    events += [scope["path"], scope["query_string"], dict(scope["headers"])[b"host"]]
    await respond(send, b"")


@case(
    "header fields: names in lower case, repeated ones as they are",
    request("GET /", "X-A: 1", "x-a:  2 ", "Cookie: a=b"),
    Seen(events=((b"host", b"x"), (b"x-a", b"1"), (b"x-a", b"2"), (b"cookie", b"a=b"))),
    Seen(events=((b"host", b"x"), (b"x-a", b"1"), (b"x-a", b"2 "), (b"cookie", b"a=b"))),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    events += scope["headers"]
    await respond(send, b"")


@case(
    "`X-Forwarded-For` and `-Proto` from this machine",
    request("GET /", "X-Forwarded-For: 192.0.2.9, 203.0.113.9", "X-Forwarded-Proto: https"),
    Seen(events=("203.0.113.9", "https")),
)
@case(
    "`Forwarded` (RFC 7239) from this machine",
    request("GET /", "Forwarded: for=192.0.2.9, for=203.0.113.9;proto=https"),
    Seen(events=("203.0.113.9", "https")),
    Seen(events=("127.0.0.1", "http")),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    events += [scope["client"][0], scope["scheme"]]
    await respond(send, b"")


# --------------------------------------------------------------------------- the request


@case(
    "a request without a body",
    request(),
    Seen(events=({"type": "http.request", "body": b"", "more_body": False},)),
)
@case(
    "a short body: one message",
    request("POST /", body="12345"),
    Seen(events=({"type": "http.request", "body": b"12345", "more_body": False},)),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    events += [await receive()]
    await respond(send, b"")


@case(
    "`Expect: 100-continue`, when the body is asked for",
    request("POST /", "Expect: 100-continue", "Content-Length: 5"),
    Seen(((100, b""), (200, b"12345"))),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    await respond(send, (await receive())["body"])


@case("a short body that the application does not read", request("POST /", body="12345"), Seen())
@case(
    "a body of 1 MB that the application does not read",
    request("POST /", body="x" * 1_000_000),
    Seen(goes_on=False),
    Seen(),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    await respond(send, b"")


@case(
    "a body in chunks, with a trailer",
    request("POST /", "Transfer-Encoding: chunked")
    + "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nt: 1\r\n\r\n",
    Seen(ok(b"abcde")),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    data, more = b"", True
    while more:
        message = await receive()
        data += message["body"]
        more = message["more_body"]
    await respond(send, data)


@case(
    "`receive()` after the response",
    request(),
    Seen(events=("http.disconnect",)),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    await receive()
    await respond(send, b"")
    events += [(await receive())["type"]]


@case(
    "pipelined requests",
    request("GET /1") + request("GET /2") + request("GET /3"),
    Seen(((200, b"/1"), (200, b"/2"), (200, b"/3"))),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    await respond(send, scope["path"].encode())


@case(
    "HTTP/1.0",
    "GET / HTTP/1.0\r\n\r\n",
    Seen(ok(b"1.0"), goes_on=False),
)
@case(
    "HTTP/1.0 with `Connection: keep-alive`",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    Seen(ok(b"1.0")),
    Seen(ok(b"1.0"), goes_on=False),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    length = (b"content-length", b"3")
    await respond(send, scope["http_version"].encode(), headers=[length])


@case(
    "two lengths",
    request("POST /", "Content-Length: 1", "Content-Length: 2"),
    Seen(ok(status=400), goes_on=False),
    Seen(ok(status=400), goes_on=False),
)
@case(
    "no `Host`",
    "GET / HTTP/1.1\r\n\r\n",
    Seen(ok(status=400), goes_on=False),
    Seen(ok(b"reached it")),
)
@case(
    "a field that is folded over two lines",
    request("GET /", "A: 1", " 2"),
    Seen(ok(status=400), goes_on=False),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    await respond(send, b"reached it")


# -------------------------------------------------------------------------- the response


@case("HEAD: the body is not sent", request("HEAD /"), Seen())
@case("a status without a reason", request(), Seen(ok(status=499)))
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    await respond(send, b"body", status=200 if scope["method"] == "HEAD" else 499)


@case("HEAD of a stream", request("HEAD /"), Seen(events=("all sent",)))
@case(
    "204 with a body, against the rules",
    request("GET /204"),
    Seen(ok(b"", 204), events=("all sent",)),
    Seen(ok(b"", 204), goes_on=False),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    await respond(send, b"one", b"two", b"", status=204 if scope["path"] == "/204" else 200)
    events += ["all sent"]


@case("no `content-length`: chunks", request(), Seen(ok(b"onetwo")))
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    await respond(send, b"one", b"two", b"")


@case("`connection: close` of the application", request(), Seen(ok(b"bye"), goes_on=False))
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    await respond(send, b"bye", headers=[(b"connection", b"close")])


@case(
    "more bytes than `content-length`",
    request(),
    Seen(ok(status=500), events=("RuntimeError",)),
    Seen(("cut",), goes_on=False, events=("RuntimeError",)),
)
@case(
    "fewer bytes than `content-length`",
    request("GET /fewer"),
    Seen(ok(status=500), events=("RuntimeError",)),
    Seen(("cut",), goes_on=False, events=("RuntimeError",)),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    size = b"100" if scope["path"] == "/fewer" else b"2"
    await send(start((b"content-length", size)))
    try:
        await send(body(b"12345"))
    except Exception as error:
        events += [type(error).__name__]
        raise


@case(
    "a line break in a header field",
    request(),
    Seen(ok(status=500)),
    Seen(("cut",), goes_on=False),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    await respond(send, b"", headers=[(b"x", b"1\r\nset-cookie: a=b")])


@case(
    "an exception before the response",
    request(),
    Seen(ok(status=500)),
    Seen(ok(status=500), goes_on=False),
)
@case(
    "an exception in the middle of the body", request("GET /later"), Seen(("cut",), goes_on=False)
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    if scope["path"] == "/later":
        await send(START)
        await send(body(b"a part", more=True))
    raise ValueError("a failure of the test")


@case(
    "the application returns without a response",
    request(),
    Seen(ok(status=500)),
    Seen(ok(status=500), goes_on=False),
)
@case(
    "the application returns in the middle of the body",
    request("GET /later"),
    Seen(("cut",), goes_on=False),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    if scope["path"] == "/later":
        await send(START)
        await send(body(b"a part", more=True))


@case(
    "an exception after the response",
    request(),
    Seen(ok(b"fine")),
    Seen(ok(b"fine"), goes_on=False),
)
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    await respond(send, b"fine")
    raise ValueError("a failure of the test")


@case("a second `http.response.start`", request(), Seen(ok(b"fine"), events=("RuntimeError",)))
async def _(scope: Scope, receive: Receive, send: Send, events: list[Any]) -> None:
    await send(START)
    try:
        await send(START)
    except Exception as error:
        events += [type(error).__name__]
    await send(body(b"fine"))
