"""Plain requests are recognised without the parser, and understood as it understands them."""

from __future__ import annotations

import time
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly._engine import engine
from silly.net import http
from silly.net.http import connection, server
from silly.net.http.response import Response
from silly.net.http.session import ServerSession
from silly.net.limits import Limits
from tests.net.http.differential import check_splits
from tests.net.http.sessions import DEFAULTS, taken

pytestmark = pytest.mark.no_engine

Counts: Any = vars(server)["Counts"]  # those in use
encoded: Any = vars(connection)["encoded"]

GET: Final = b"GET /a?b=1 HTTP/1.1\r\nHost: a:80\r\n\r\n"
native = pytest.mark.skipif(engine.NAME != "native", reason="only the native engine does that")


def is_recognised(data: bytes, limits: Limits = DEFAULTS) -> bool:
    """Return whether a session understands *data* without its parser."""
    session = ServerSession(limits)
    session.feed(data)
    assert session.error is not None or session.in_head or taken(session)
    return session._parser is None


PLAIN: Final = [
    GET,
    GET * 3,
    *(GET.replace(b"GET", method) for method in (b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")),
    GET.replace(b"Host", b"hOST").replace(b"a:80", b"\t a:80 \t"),
    GET[:-2] + b"Connection: Keep-Alive\r\nX:\r\nX: y z\r\nContent-Type: a/b\r\n\r\n",
    GET[:-2].replace(b"GET", b"POST") + b"content-length: 3\r\n\r\nabc" + GET,
    GET[:-2].replace(b"GET", b"POST") + b"content-length: 0\r\n\r\n" + GET,
]
OTHERS: Final = [
    GET[:-1],
    b"\r\n" + GET,
    *(GET.replace(b"/a?b=1", target) for target in (b"*", b"http://a/", b"/#", b"/\x80", b"/ ")),
    GET.replace(b"GET", b"get"),
    GET.replace(b"GET", b"PURGE"),
    GET.replace(b"1.1", b"1.0"),
    GET.replace(b"Host: a:80\r\n", b""),
    *(GET.replace(b"a:80", host) for host in (b"", b"[::1]", b"a:b", b"a b", b"a:80:80")),
    *(
        GET[:-2] + field + b"\r\n\r\n"
        for field in (
            *(b"Host: a:80", b"Connection: close", b"Upgrade: x", b"Expect: 100-continue"),
            *(b"Transfer-Encoding: chunked", b"Content-Length: +1", b"Content-Length: ", b": x"),
            *(b"Content-Length: 1\r\nContent-Length: 1", b"Content-Length: 9999999999999999"),
            *(b"X : y", b"X: \x00", b"X: y\n", b"X: y\r\n z", b"X", b"X: \x80", b" X: y"),
            *(b"Content-Type: a\r\nContent-Type: a", b"Connection: keep-alive, close"),
        )
    ),
]


@native
@pytest.mark.parametrize("data", PLAIN)
def test_plain_requests_need_no_parser(data: bytes) -> None:
    assert is_recognised(data)


@pytest.mark.parametrize("data", OTHERS)
def test_all_others_go_through_the_parser(data: bytes) -> None:
    assert not is_recognised(data)


@pytest.mark.parametrize("data", PLAIN + OTHERS)
def test_both_understand_the_same(data: bytes) -> None:
    for cut in range(len(data)):
        check_splits(data, [cut])


@native
def test_limits_are_left_to_the_session() -> None:
    post = PLAIN[-2]
    for limits in (
        Limits(max_head_bytes=20),
        Limits(max_target_bytes=5),
        Limits(max_headers=1),
        Limits(max_body_bytes=2),
    ):
        assert is_recognised(post)
        assert not is_recognised(post, limits)
        check_splits(post, [], limits)


@given(
    st.lists(st.sampled_from([b"\r\n", b": ", b" ", b"\t", b"a", b"Host: a", b"\x80"]), max_size=9),
    st.integers(0, len(GET)),
)
def test_whatever_is_inserted(pieces: list[bytes], at: int) -> None:
    check_splits(GET[:at] + b"".join(pieces) + GET[at:], [at])


def test_a_head_is_kept_as_it_was() -> None:
    session = ServerSession(DEFAULTS)
    session.feed(PLAIN[8])
    (request,) = taken(session)
    fields = [(b"host", b"a:80"), (b"connection", b"Keep-Alive"), (b"x", b""), (b"x", b"y z")]
    assert request.raw_headers == [*fields, (b"content-type", b"a/b")]
    assert (request.raw_target, request.path, request.query["b"]) == (b"/a?b=1", "/a", "1")
    request.method = "PUT"  # as middleware may
    request.raw_target = b"/b"
    request.raw_headers = []
    assert (request.method, request.target, dict(request.headers)) == ("PUT", "/b", {})


@pytest.mark.parametrize("is_asked", [False, True])
def test_requests_with_the_same_fields_share_nothing(is_asked: bool) -> None:
    """Fields are recognised again, natively; those of the same size are in the same place."""
    requests = []
    for number in (1, 1, 2, 2, 1, 3):
        session = ServerSession(DEFAULTS)
        session.feed(GET[:-2] + b"X: %d\r\n\r\n" % number)
        requests += taken(session)
        if is_asked:
            requests[-1].raw_headers.append((b"number", b"%d" % number))
    for request, x in zip(requests, (b"1", b"1", b"2", b"2", b"1", b"3"), strict=True):
        added = [(b"number", x)] if is_asked else []
        assert request.raw_headers == [(b"host", b"a:80"), (b"x", x), *added]


@native
def test_fields_that_are_remembered_are_within_the_limits_of_each_session() -> None:
    fields = b"X: y\r\n" * 5 + b"Content-Length: 3\r\n\r\nabc"
    post = GET[:-2].replace(b"GET", b"POST") + fields
    for _ in range(2):
        assert is_recognised(post)
        for limits in (
            Limits(max_head_bytes=len(post) - 4),
            Limits(max_target_bytes=5),
            Limits(max_headers=6),
            Limits(max_body_bytes=2),
        ):
            assert not is_recognised(post, limits)
            check_splits(post, [], limits)
        assert is_recognised(post, Limits(max_head_bytes=len(post) - 3, max_headers=7))


# ------------------------------------------------------------------------------ responses

RESPONSES: Final = [
    Response(),
    Response("text"),
    Response("ü" * 50),
    Response(b"x" * 100, 404),
    Response(b"", 599),
    Response(b"x", 201, {"a": "b", "Set-Cookie": "c"}, "x/y"),
    http.json({"a": 1}),
    http.redirect("/x"),
]


@native
@pytest.mark.parametrize("response", RESPONSES)
def test_plain_responses_are_encoded_alike(response: Response) -> None:
    request = http.Request("GET", b"/", "1.1", [], 0)
    counts = Counts()
    body = response.body.encode() if isinstance(response.body, str) else response.body
    assert isinstance(body, bytes)
    while True:
        head = response._head(len(body), "")
        reply = encoded(request, response, counts)
        # In the same second, whose beginning time(3) notices some milliseconds late.
        if head == response._head(len(body), "") and time.time() % 1 > 0.05:
            break
    assert reply == head + body
    assert set(counts.items()) == {("GET", response.status)}


@pytest.mark.parametrize(
    "response",
    [
        *(Response(b"", status) for status in (204, 205, 304)),
        Response(b"x" * 70_000),
        Response([b"x"]),
        Response("\ud800"),
        Response("", 200, {"a": "ü"}),
        Response("", 200, (), "ü"),
    ],
)
def test_all_others_are_encoded_otherwise(response: Response) -> None:
    counts = Counts()
    assert encoded(http.Request("GET", b"/", "1.1", [], 0), response, counts) is None
    assert encoded(http.Request("HEAD", b"/", "1.1", [], 0), Response(), counts) is None
    assert encoded(http.Request("GET", b"/", "1.0", [], 5), Response(), counts) is None
    assert not counts.items()
