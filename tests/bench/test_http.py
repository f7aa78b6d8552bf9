"""Load on HTTP servers: what is sent, what is right, and what each failure is called."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from silly.bench import http_replies
from silly.bench.chunks import Chunks
from silly.bench.clock import clock
from silly.bench.fleet import summed
from silly.bench.generator import Generator
from silly.bench.http_replies import HttpReplies, factory
from silly.bench.http_request import HttpRequest, statuses
from silly.bench.plan import Plan
from silly.bench.recorder import Interval, Recorder
from silly.bench.result import schema
from silly.net import http, tcp
from silly.net.conn import Conn
from tests.cli.terminal import DEADLINE, SILLY, environment, misused
from tests.net.http.wire import ANY
from tests.net.tls import certificates

URL = "http://127.0.0.1:1/"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


# --------------------------------------------------------------------- one connection's replies


def replies_of(sent: int = 1, **settings: Any) -> HttpReplies:
    plan = Plan.of_http(HttpRequest(URL, **settings))
    made = factory(plan, Recorder(1.0, lambda _: None, lambda: 0.0))(0)
    made.request(sent)
    return made


def received(replies: HttpReplies, data: bytes, step: int) -> tuple[int, list[str]]:
    """Return how many replies in *data* are right, and the kinds of the others."""
    right, kinds = 0, []
    for at in range(0, len(data), step):
        right += replies.receive(data[at : at + step])
        while replies.is_wrong:
            kinds.append(replies.diagnose().kind)
            if not replies.forgive():
                return right, kinds
            right += replies.receive(b"")
    return right, kinds


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
REPLIES: list[tuple[bytes, dict[str, Any], int, list[str]]] = [
    (OK * 3, {}, 3, []),
    (OK * 3, {"expected": b"ok"}, 3, []),
    (OK * 3, {"expected": b"no"}, 0, ["wrong body"] * 3),
    (OK * 3, {"pattern": "^o"}, 3, []),
    (OK * 2, {"pattern": "x"}, 0, ["wrong body"] * 2),
    (OK.replace(b"200", b"503") + OK, {}, 1, ["wrong status"]),
    (OK.replace(b"200", b"503") + OK, {"statuses": ((503, 503),)}, 1, ["wrong status"]),
    (b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + OK * 2, {}, 2, []),
    (b"HTTP/1.1 204 No Content\r\n\r\n" * 2 + OK, {}, 3, []),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n" * 3, {"method": "HEAD"}, 3, []),
    (CHUNKED + b"1\r\no\r\n1;x=y\r\nk\r\n0\r\n\r\n" + OK, {"expected": b"ok"}, 2, []),
    (CHUNKED + b"2\r\nok\r\n0\r\na: b\r\n\r\n" + OK, {"expected": b"ok"}, 2, []),
    (CHUNKED + b"2\r\nokay\r\n0\r\n\r\n", {}, 0, ["invalid"]),
    (CHUNKED + b"2 \nok\r\n0\r\n\r\n", {}, 0, ["invalid"]),
    (CHUNKED + b"-2\r\nok\r\n0\r\n\r\n", {}, 0, ["invalid"]),
    (CHUNKED + b"2\r\nok\r\n0\r\na b\r\n\r\n", {}, 0, ["invalid"]),
    (OK * 4, {}, 3, ["unasked"]),
    (OK + b"GET / HTTP/1.1\r\n\r\n", {}, 1, ["invalid"]),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", {}, 0, ["invalid"]),
]  # fmt: skip


@pytest.mark.no_engine
@pytest.mark.parametrize("step", [1, 2, 7, 1000])
@pytest.mark.parametrize(("data", "settings", "right", "kinds"), REPLIES)
def test_replies_are_the_same_at_every_split(
    data: bytes, settings: dict[str, Any], right: int, kinds: list[str], step: int
) -> None:
    assert received(replies_of(3, **settings), data, step) == (right, kinds)


@pytest.mark.no_engine
def test_replies_in_the_wrong_order_are_told_from_wrong_ones() -> None:
    replies = replies_of(3, expected=b"n{seq}")
    assert received(replies, b"".join(OK.replace(b"ok", b"n%d" % n) for n in (0, 2, 1)), 9) == (
        1,
        ["reordered", "reordered"],
    )


@pytest.mark.no_engine
def test_what_follows_the_last_reply_of_a_connection_belongs_to_nothing() -> None:
    replies = replies_of(2)
    last = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    assert received(replies, last + OK, 1000) == (1, [])
    assert (replies.ends, replies.can_repeat(), replies.answered) == (True, True, 1)


@pytest.mark.no_engine
def test_only_requests_without_effect_are_sent_again() -> None:
    for method, expected in (("GET", True), ("POST", False)):
        replies = replies_of(2, method=method)
        assert not replies.can_repeat()  # nothing has come: this may be no keep-alive at all
        assert replies.receive(OK) == 1
        assert replies.can_repeat() == expected
        replies.receive(b"H")
        assert not replies.can_repeat()  # the server has begun to answer


@pytest.mark.no_engine
def test_an_endless_head_is_no_reply() -> None:
    replies = replies_of()
    assert received(replies, b"HTTP/1.1 200 OK\r\na: b" + b"c" * 70_000, 10_000)[1] == ["invalid"]


@pytest.mark.no_engine
def test_a_body_is_compared_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_replies, "_MAX_BODY", 100)  # bytes, with the head
    for size, result in ((50, (1, [])), (100, (0, ["wrong body"]))):
        body = b"x" * size
        replies = replies_of(expected=body)
        data = OK.replace(b": 2", b": %d" % size).replace(b"ok", body)
        assert received(replies, data, 10) == result
    assert "it has more than 100 bytes" in replies.diagnose().text


@pytest.mark.no_engine
def test_replies_with_ever_new_heads_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_replies, "_KNOWN", 3)  # heads that are remembered
    data = [OK.replace(b"\r\n\r\n", b"\r\nx: %d\r\n\r\n" % n) for n in range(10)]
    replies = replies_of(10)
    assert received(replies, b"".join(data), 1000) == (10, [])
    assert len(replies._shared.heads) <= 3


@pytest.mark.no_engine
def test_a_chunked_body_ends_where_it_ends() -> None:
    chunks = Chunks()
    assert chunks.feed(b"__3\r\nabc\r\n0\r\n\r\nrest", 2) == 2 + len(b"3\r\nabc\r\n0\r\n\r\n")
    assert (chunks.is_complete, chunks.take()) == (True, [b"abc"])
    with pytest.raises(ValueError, match="too long"):
        Chunks().feed(b"1;" + b"x" * 5000)


# ------------------------------------------------------------------------------- the requests


def request_of(**settings: Any) -> bytes:
    url = settings.pop("url", "http://user:pw@host:81/a?b={seq}&c=%7Bé")
    plan = Plan.of_http(HttpRequest(url, **settings))
    return factory(plan, Recorder(1.0, lambda _: None, lambda: 0.0))(7).request(1)


@pytest.mark.no_engine
def test_requests_are_what_a_client_sends() -> None:
    assert request_of() == (
        b"GET /a?b=0&c=%7B%C3%A9 HTTP/1.1\r\nhost: host:81\r\nuser-agent: silly-bench\r\n"
        b"accept: */*\r\nauthorization: Basic dXNlcjpwdw==\r\n\r\n"
    )
    given = (("Host", "other"), ("User-Agent", "{conn}"), ("Accept", "x"))
    assert request_of(url="http://h/", method="POST", headers=given, body=b"[{seq}]") == (
        b"POST / HTTP/1.1\r\nHost: other\r\nUser-Agent: 7\r\nAccept: x\r\n"
        b"content-length: 3\r\n\r\n[0]"
    )
    assert b"content-length: 0\r\n" in request_of(url="http://h/", method="PUT")
    plan = Plan.of_http(HttpRequest("http://u:secret@h/{seq}"), mode="reconnect")
    made = factory(plan, Recorder(1.0, lambda _: None, lambda: 0.0))(0)
    assert b"\r\nconnection: close\r\n" in made.request(1)
    assert "secret" not in json.dumps(plan.to_dict())
    assert plan.place == "http://h/{seq}"


@pytest.mark.no_engine
def test_statuses_are_ranges() -> None:
    assert statuses("200") == ((200, 200),)
    assert statuses("2XX, 404,500-503") == ((200, 299), (404, 404), (500, 503))
    for text in ("", "20", "600", "2x", "200-", "abc"):
        with pytest.raises(ValueError, match="is not a status"):
            statuses(text)


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["127.0.0.1:1", "--method", "GET"], "--method needs a URL such as http://127.0.0.1:1/"),
        (["127.0.0.1:1", "-H", "a: b"], "--header needs a URL"),
        ([URL, "--size", "5"], "--size and a URL: give a --body"),
        ([URL, "--send", "a", "--expect", "b"], "--send and a URL: give a --body"),
        ([URL, "--udp"], "--udp and a URL: HTTP needs connections"),
        ([URL, "--tls"], "--tls and http://"),
        ([URL, "--ca", "f"], "--ca needs --tls"),
        ([URL, "-X", "a b"], "--method: 'a b' is not a method"),
        ([URL, "-H", "nonsense"], "'nonsense' is not a header field"),
        ([URL, "-H", "Content-Length: 1"], "--header: Content-Length is set by silly bench"),
        ([URL, "-H", "a: b\r\nc: d"], "--header: a: not the value"),
        ([URL, "--expect-match", "("], "--expect-match: missing )"),
        ([URL, "--expect-match", "a", "--expect-body", "a"], "give one of them"),
        ([URL, "-X", "HEAD", "--expect-body", "a"], "--method HEAD"),
        ([URL, "--expect-status", "9"], "'9' is not a status"),
        ([URL, "--body", "@/nonexistent"], "cannot read '/nonexistent'"),
        (["http://127.0.0.1:0/"], "has port 0"),
        (["http://"], "must begin with http"),
    ],
)
def test_misuse_is_one_line(args: list[str], text: str) -> None:
    assert text in misused("bench", *args)


# ------------------------------------------------------------------------------ whole runs


async def load(url: str, handler: Any = None, **settings: Any) -> tuple[Interval, Recorder]:
    """Load *url* as one worker does; return the figures."""
    intervals: list[Interval] = []
    recorder = Recorder(60.0, intervals.append, lambda: 0.0)
    own = {
        name: settings.pop(name) for name in list(settings) if name in HttpRequest.__annotations__
    }
    plan = Plan.of_http(HttpRequest(url, **own), max_errors=10, **settings)
    plan.check()
    generator = Generator(plan, 0, recorder)
    await generator.open()
    await generator.run(clock())
    recorder.report(clock())
    return summed(intervals), recorder


Serve = Callable[[Conn], Awaitable[None]]


async def answered_by(serve: Serve, **settings: Any) -> tuple[Interval, Recorder]:
    """Load a server that treats each connection as *serve* does."""

    async def handler(conn: Conn) -> None:
        await serve(conn)

    async with tcp.listen(ANY, handler) as listener:
        return await load(f"http://{listener.local_addr}/", **settings)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"depth": 7},
        {"mode": "reconnect"},
        {"rate": 5000.0, "depth": 3},
        {"mode": "reconnect", "rate": 5000.0},
        {"method": "POST", "body": b"{seq} {conn}", "expected": b"{seq} {conn}", "depth": 5},
    ],
)
async def test_every_reply_is_counted_once(settings: dict[str, Any]) -> None:
    async def echo(request: http.Request) -> http.Response:
        return http.Response(await request.body())

    async with http.listen(ANY, echo) as listener:
        figures, recorder = await load(
            f"http://{listener.local_addr}/", requests=60, connections=3, **settings
        )
    assert (figures.requests, figures.errors, recorder.repeated) == (60, {}, 0)
    assert (recorder.statuses, figures.sent) == ({200: 60}, 60)


async def one_each(conn: Conn) -> None:
    """Answer one request with the end of the connection announced, whatever else has come."""
    await conn.read(b"\r\n\r\n")
    await conn.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n"))


async def two_each(conn: Conn) -> None:
    """Answer two requests, and close without a word."""
    for _ in range(2):
        await conn.read(b"\r\n\r\n")
        await conn.write(OK)


async def old(conn: Conn) -> None:
    """Answer as HTTP/1.0 does: the end of the connection is the end of the body."""
    await conn.read(b"\r\n\r\n")
    await conn.write(b"HTTP/1.0 200 OK\r\n\r\nok")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("serve", "settings"),
    [
        (old, {}),  # what is pipelined to it may reset the connection before the body ends
        *itertools.product((one_each, two_each), ({}, {"depth": 4}, {"rate": 5000.0, "depth": 2})),
    ],
)
async def test_a_server_that_closes_kept_connections_loses_no_request(
    serve: Serve, settings: dict[str, Any]
) -> None:
    figures, recorder = await answered_by(
        serve, requests=12, connections=2, expected=b"ok", **settings
    )
    assert (figures.requests, figures.errors, figures.sent) == (12, {}, 12)
    if "rate" not in settings and settings:
        assert recorder.repeated > 0


async def test_a_wrong_body_that_ends_with_the_connection_is_wrong() -> None:
    figures, recorder = await answered_by(old, requests=1, connections=1, expected=b"no")
    assert figures.errors == {"wrong body": 1}
    assert recorder.repeated == 0


async def cut(conn: Conn) -> None:
    await conn.read(b"\r\n\r\n")
    await conn.write(OK[:-1])


async def silent(conn: Conn) -> None:
    await conn.read(b"\r\n\r\n")


async def reset(conn: Conn) -> None:
    await conn.read(b"\r\n\r\n")
    conn.abort()


async def waiting(conn: Conn) -> None:
    await conn.read(b"\r\n\r\n")
    await conn.write(OK[:-1])
    await conn.wait_closed()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("serve", "kind", "settings"),
    [
        (cut, "truncated", {}),
        (silent, "closed", {}),
        (reset, "lost connection", {}),
        (waiting, "timeout", {"timeout": 0.1}),
    ],
)
async def test_failures_have_kinds(serve: Serve, kind: str, settings: dict[str, Any]) -> None:
    figures, recorder = await answered_by(serve, requests=2, connections=1, **settings)
    assert set(figures.errors) == {kind}
    assert recorder.first_errors[kind][0].startswith("connection 0: ")
    if kind in ("truncated", "timeout"):
        size = len(OK)
        assert (
            f"; {size - 1} of {size} bytes of its reply had arrived"
            in (recorder.first_errors[kind][0])
        )


async def first_only(conn: Conn) -> None:
    """Answer each connection's first request, and no other."""
    await conn.read(b"\r\n\r\n")
    await conn.write(OK)


@pytest.mark.heavy
async def test_a_request_that_may_have_had_an_effect_is_not_sent_again() -> None:
    figures, recorder = await answered_by(first_only, method="POST", requests=2, connections=1)
    assert figures.requests == 1
    assert len(figures.errors) == 1
    assert figures.errors.keys() <= {"closed", "lost connection"}  # with what was not read: a reset
    assert recorder.repeated == 0


@pytest.mark.heavy
async def test_wrong_statuses_leave_the_connection_in_use() -> None:
    count = 0

    async def answer(_: http.Request) -> http.Response:
        nonlocal count
        count += 1
        return http.redirect("/other") if count % 3 == 0 else http.Response("ok")

    async with http.listen(ANY, answer) as listener:
        figures, recorder = await load(
            f"http://{listener.local_addr}/", requests=12, connections=1, depth=2
        )
        assert listener.stats.accepted == 1
    assert (figures.requests, figures.errors) == (8, {"wrong status": 4})
    assert "'/other'" in recorder.first_errors["wrong status"][0]
    assert figures.sent == 12


@pytest.mark.no_engine
async def test_a_run_ends_although_the_server_is_gone_for_what_is_to_be_sent_again() -> None:
    connections = 0

    async def serve(conn: Conn) -> None:
        nonlocal connections
        connections += 1
        await one_each(conn)
        listener.close()

    listener = tcp.listen(ANY, serve)
    figures, _ = await load(f"http://{listener.local_addr}/", requests=5, connections=1, depth=5)
    assert figures.requests == 1
    assert figures.unanswered + sum(figures.errors.values()) >= 4
    await listener.wait_closed()


@pytest.mark.no_engine
def test_the_command_measures_https(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x" * 200_000)
    code = (
        "import silly\nfrom silly.net import http, tls\n"
        "async def echo(request): return http.Response(await request.body())\n"
        "async def main():\n"
        f"    one = http.listen('127.0.0.1:0', echo, tls=tls.Server(*{certificates.pair()!r}))\n"
        "    print(one.local_addr, flush=True)\n"
        "silly.run(main())\n"
    )
    with subprocess.Popen(
        [SILLY[0], "-c", code], stdout=subprocess.PIPE, text=True, env=environment()
    ) as server:
        try:
            assert server.stdout is not None
            addr = server.stdout.readline().strip()
            done = subprocess.run(
                [*SILLY, "bench", f"https://{addr}/a", "--ca", certificates.ca_file(), "-n", "20",
                 "--body", f"@{body}", "--expect-body", f"@{body}", "-c", "2", "--json", "-",
                 "--html", str(tmp_path / "r.html"), "--assert", "errors==0"],
                capture_output=True, text=True, check=False, timeout=DEADLINE, env=environment(),
            )  # fmt: skip
        finally:
            server.terminate()
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    jsonschema.Draft202012Validator(schema()).validate(result)
    assert result["http"] == {"statuses": {"200": 20}, "repeated": 0}
    assert result["plan"]["http"]["method"] == "POST"
    assert result["tls"]["full"]["count"] == 2
    assert result["bytes_in"] > 20 * 200_000
    assert "statuses    200: 20" in done.stderr
    assert f"https://{addr}/a" in (tmp_path / "r.html").read_text()
