"""The client's parser, without a socket: the same at every split, and strict."""

from __future__ import annotations

from collections.abc import Iterable

import h11
import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.net.http import ReplyError
from silly.net.http.client_session import ClientSession

pytestmark = pytest.mark.no_engine

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BOTH = b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"
BOTH_REVERSED = b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"
TWICE = b"Transfer-Encoding: chunked\r\n" * 2


class Parsed:
    """What became of a reply."""

    def __init__(self, pieces: Iterable[bytes], *, method: str = "GET", ends: bool = True) -> None:
        session = ClientSession(method, max_head_bytes=1000, max_headers=10)
        self.error = ""
        try:
            for piece in filter(None, pieces):
                session.feed(piece)
            if ends and not session.is_complete:
                session.end(is_cut=False)
        except ReplyError as error:
            self.error = str(error)
        self.status = session.status
        self.body = b"".join(session.pieces)
        self.headers = session.raw_headers
        self.trailers = session.raw_trailers
        self.is_complete = session.is_complete
        self.keeps_alive = session.keeps_alive and session.is_complete


def parsed(data: bytes, method: str = "GET") -> Parsed:
    """Parse *data* at once, at each place split in two, and byte by byte: always the same."""
    whole = Parsed([data], method=method)
    splits = [[data[:at], data[at:]] for at in range(1, len(data))]
    for pieces in [*splits, [data[at : at + 1] for at in range(len(data))]]:
        other = Parsed(pieces, method=method)
        assert bool(other.error) == bool(whole.error), pieces
        if not whole.error:
            assert vars(other) == vars(whole), pieces
    return whole


@pytest.mark.parametrize(
    ("data", "body", "keeps_alive"),
    [
        (OK + b"Content-Length: 3\r\n\r\nabc", b"abc", True),
        (OK + b"Content-Length: 0\r\n\r\n", b"", True),
        (OK + b"Content-Length: 3\r\nConnection: a, Close\r\n\r\nabc", b"abc", False),
        (OK + b"\r\nabc", b"abc", False),
        (OK + b"\r\n", b"", False),
        (CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", b"abcde", True),
        (OK + b"Transfer-Encoding: Chunked\r\n\r\n0\r\nA: b\r\n\r\n", b"", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", b"a", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na", b"a", True),
        (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", b"a", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na", b"a", True),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: close\r\n\r\n"
            b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na",
            b"a",
            True,
        ),
        # What follows a reply is no part of it, and the connection is not used again.
        (OK + b"Content-Length: 1\r\n\r\nab", b"a", False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\nabc", b"", False),
        (CHUNKED + b"1\r\na\r\n0\r\n\r\nH", b"a", False),
        (CHUNKED + b"1\r\na\r\n0\r\n\r\n\0", b"a", False),
        (CHUNKED + b"0\r\n\r\n" + OK + b"Content-Length: 1\r\nA: b\r\n\r\nb", b"", False),
        (CHUNKED + b"0\r\n\r\n" + CHUNKED + b"1\r\na\r\n0\r\n\r\n", b"", False),
        (OK + b"Content-Length: 1\r\n\r\na" + OK + b"\r\nb", b"a", False),
    ],
)  # fmt: skip
def test_valid_replies(data: bytes, body: bytes, keeps_alive: bool) -> None:
    reply = parsed(data)
    assert reply.error == ""
    assert reply.is_complete
    assert reply.body == body
    assert reply.keeps_alive == keeps_alive


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"A: b"])
def test_a_reply_to_head_has_no_body(framing: bytes) -> None:
    reply = parsed(OK + framing + b"\r\n\r\n", "HEAD")
    assert (reply.error, reply.body, reply.is_complete, reply.keeps_alive) == ("", b"", True, True)
    reply = parsed(OK + framing + b"\r\n\r\n5", "HEAD")
    assert (reply.error, reply.body, reply.keeps_alive) == ("", b"", False)


def test_trailers_are_apart() -> None:
    reply = parsed(CHUNKED + b"1\r\na\r\n0\r\nX: y\r\n\r\n")
    assert reply.headers == [(b"transfer-encoding", b"chunked")]
    assert reply.trailers == [(b"x", b"y")]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "without a reply"),
        (b"HTTP/1.1 200 OK\r\nA: b", "within the head"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "within the head"),
        (OK + b"Content-Length: 5\r\n\r\nabc", "within the body"),
        (CHUNKED + b"3\r\nabc\r\n", "within the body"),
        (CHUNKED + b"3\r\nabc\r\n0\r\n", "within the body"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not a valid HTTP reply"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "HTTP/2.0"),
        (b"HTTP/0.9 200 OK\r\n\r\n", "HTTP/0.9"),
        (b"HTTP/1.1 99 OK\r\n\r\n", "status"),
        (b"HTTP/1.1 1000 OK\r\n\r\n", "status"),
        (b"HTTP/1.1 200 O\0K\r\n\r\n", "status line"),
        (b"HTTP/1.1 101 No\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "another protocol"),
        (OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", "Content-Length"),
        (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", "Content-Length"),
        (OK + b"Content-Length: 1, 1\r\n\r\na", "Content-Length"),
        (OK + b"Content-Length: +1\r\n\r\na", "Content-Length"),
        (OK + b"Content-Length: -1\r\n\r\na", "Content-Length"),
        (OK + b"Content-Length: 0x1\r\n\r\na", "Content-Length"),
        (OK + b"Content-Length:\r\n\r\na", "Content-Length"),
        (OK + b"Content-Length: 99999999999999999999999\r\n\r\na", "Content-Length"),
        (OK + BOTH + b"\r\n0\r\n\r\n", "Transfer-Encoding"),
        (OK + BOTH_REVERSED + b"\r\n0\r\n\r\n", "Transfer-Encoding"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "chunked"),
        (OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", "chunked"),
        (OK + b"Transfer-Encoding: identity\r\n\r\nabc", "chunked"),
        (OK + TWICE + b"\r\n0\r\n\r\n", "chunked"),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.0"),
        (CHUNKED + b"x\r\n", "chunk"),
        (CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", "chunk"),
        (CHUNKED + b"ffffffffffffffffffff\r\na", "not a valid"),
        (CHUNKED + b"1\r\nab\r\n0\r\n\r\n", "not a valid"),
        (CHUNKED + b"1\na\n0\n\n", "not a valid"),
        (CHUNKED + b"0\r\nContent-Length: 1\r\n\r\n", "Content-Length"),
        (CHUNKED + b"0\r\nConnection: close\r\n\r\n", "trailer"),
        (OK + b"A: b\r\n c\r\n\r\n", "not a valid"),
        (OK + b"A : b\r\n\r\n", "not a valid"),
        (OK + b"A\r\n\r\n", "not a valid"),
        (OK + b"A: b\nC: d\r\n\r\n", "not a valid"),
        (OK + b"A: b\rC: d\r\n\r\n", "not a valid"),
        (OK + b"A: \0\r\n\r\n", "not a valid"),
        (b"HTTP/1.1 200 OK\n\n", "not a valid"),
        (OK + b"\nabc", "not a valid"),
        (OK + b"".join(b"A%d: b\r\n" % number for number in range(11)) + b"\r\n", "more than 10"),
        (OK + b"A: " + b"b" * 1000, "more than 1000 bytes"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 100, "more than 1000 bytes"),
        (CHUNKED + b"1;" + b"x" * 1100, "between two chunks"),
        (CHUNKED + b"0\r\nA: " + b"x" * 1100, "between two chunks"),
    ],
)  # fmt: skip
def test_invalid_replies(data: bytes, why: str) -> None:
    reply = parsed(data)
    assert why.lower() in reply.error.lower()
    assert not reply.keeps_alive


def test_a_body_up_to_the_end_that_was_cut_off_is_incomplete() -> None:
    session = ClientSession("GET")
    session.feed(OK + b"\r\nabc")
    with pytest.raises(ReplyError, match="within the body"):
        session.end(is_cut=True)


def test_a_defect_is_no_fault_of_the_server() -> None:
    class Defective(ClientSession):
        def on_status(self, reason: bytes) -> None:
            raise ZeroDivisionError

    with pytest.raises(httptools.HttpParserCallbackError) as caught:
        Defective("GET").feed(OK)
    assert isinstance(caught.value.__context__, ZeroDivisionError)


def h11_result(data: bytes, method: str) -> tuple[int, bytes] | None:
    """Return status and body as h11's client understands *data*; None if it does not."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    body, status = b"", 0
    try:
        client.receive_data(data)
        client.receive_data(b"")
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, body
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None


LINES = st.sampled_from(
    [
        b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Content-Length: 5\r\n",
        b"Content-Length: x\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
        b"A: b\r\n", b"A : b\r\n", b" folded\r\n", b"Set-Cookie: a=b; c\r\n", b"\xe9: \xe9\r\n",
        b"X: \xe9\r\n",
    ]
)  # fmt: skip
STARTS = st.sampled_from(
    [
        OK, b"HTTP/1.1 404 Not Found\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 204 None\r\n",
        b"HTTP/1.1 304 Same\r\n", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 20 OK\r\n", b"HTP/1.1 200 OK\r\n", b"HTTP/1.1 200\r\n",
    ]
)  # fmt: skip
BODIES = st.sampled_from(
    [
        b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n",
        b"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n", b"-1\r\n",
    ]
)  # fmt: skip


@given(STARTS, st.lists(LINES, max_size=4), BODIES, st.sampled_from(["GET", "HEAD"]))
def test_h11_understands_what_is_accepted_in_the_same_way(
    start: bytes, lines: list[bytes], body: bytes, method: str
) -> None:
    """What is accepted here is accepted by h11, with the same status and the same body."""
    data = start + b"".join(lines) + b"\r\n" + body
    ours, theirs = Parsed([data], method=method), h11_result(data, method)
    if not ours.error:
        codings = data.count(b"Transfer-Encoding")
        if codings > 1 or (codings and b"Content-Length" in data):
            return  # to a reply without a body it does not matter here
        assert theirs == (ours.status, ours.body)
    elif theirs is not None:  # where h11 is lenient
        assert any(
            (
                data.count(b"Content-Length") > 1,
                b"Content-Length" in data and b"Transfer-Encoding" in data,
                data.count(b"Transfer-Encoding") > 1,
                b"HTTP/1.0" in data and b"Transfer-Encoding" in data,
                b" folded" in data,
                b"Continue" in data,
            )
        ), data


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=10))
def test_any_bytes_are_parsed_or_refused(data: bytes, sizes: list[int]) -> None:
    """Whatever a server sends, only `ReplyError` is raised."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    Parsed([*pieces, data[at:]])
    Parsed([CHUNKED, *pieces])
