"""Two parsers on the same bytes: silly's session, and h11; and the same bytes in other pieces.

The invariant: what silly accepts, h11 accepts, and understands alike (method, target, version,
header fields, body, trailers, and whether the connection goes on), but for what `LENIENT` names;
and neither how the bytes are split makes a difference to silly, nor whether plain requests are
recognised without the parser.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

import h11

from silly.net.limits import Limits
from tests.net.http.sessions import ParsedOnly, Understood, understand

# Where silly accepts what h11 refuses, as found at the start of a request or in its head.
LENIENT: Final = {
    "empty lines before a request are ignored (RFC 9112, section 2.2)": rb"\A\r\n",
    "spaces between the parts of a request line (section 3)": rb"\A[^\r]*  ",
    "the parser does not tell protocols by name": rb"\A[^\r]* (?:RTSP|ICE)/",
}

TOO_LONG: Final = {413, 414, 431}
ROOM: Final = Limits(max_head_bytes=2**20, max_headers=2**14, max_target_bytes=2**20)


def h11_understands(data: bytes) -> list[Understood]:
    """Return the requests that h11 finds until it refuses the rest."""
    found: list[Understood] = []
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
    conn.receive_data(data)
    while True:
        try:
            event = conn.next_event()
        except h11.RemoteProtocolError:
            return found
        if isinstance(event, h11.Request):
            version, method = event.http_version.decode(), event.method.decode()
            headers = list(event.headers)
            found.append(Understood(method, event.target, version, headers, b"", [], False, True))
        elif isinstance(event, h11.Data):
            found[-1].body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            found[-1].trailers += list(event.headers)
            found[-1].is_complete = True
            conn.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
            conn.send(h11.EndOfMessage())
            found[-1].keeps_alive = conn.their_state is h11.DONE
            if not found[-1].keeps_alive:
                return found
            conn.start_next_cycle()
        else:
            return found


def normal(request: Understood) -> Understood:
    """Return *request* as both parsers can show it."""
    headers = [
        (name, value.lower() if name == b"transfer-encoding" else value)
        for name, value in request.headers
    ]
    target = request.target
    if not target.startswith(b"/") and target != b"*":  # absolute: it takes the place of Host
        rest = target.partition(b"://")[2]
        host, slash, path = re.split(rb"([/?]|\Z)", rest, maxsplit=1)
        target = b"/" + (slash if slash == b"?" else b"") + path
        headers = [(b"host", host), *(field for field in headers if field[0] != b"host")]
    return dataclasses.replace(
        request,
        target=target,
        headers=headers,
        # h11 ends every connection of HTTP/1.0.
        keeps_alive=request.keeps_alive and request.version != "1.0",
    )


def check_splits(data: bytes, cuts: list[int], limits: Limits = ROOM) -> None:
    """Check that silly understands *data* alike in one piece, by its parser, and cut at *cuts*.

    Raises:
        AssertionError: it does not.
    """
    whole, split = understand(data, limits=limits), understand(data, cuts, limits)
    parsed = understand(data, limits=limits, kind=ParsedOnly)
    assert whole == parsed, (whole, parsed)
    if {whole.status, split.status} & TOO_LONG and whole.is_refused:
        # A piece may show that something is too long before, or after, it shows another fault.
        assert split.is_refused, (whole, split)
        whole.status, whole.in_head = split.status, split.in_head
        for one, other in zip(whole.requests, split.requests, strict=True):
            if not one.is_complete:  # of what is too long, a beginning is received
                one.body = other.body = min(one.body, other.body)
    assert whole == split, (whole, split)


def check(data: bytes) -> None:
    """Check the invariant for *data*.

    Raises:
        AssertionError: it does not hold.
    """
    ours, theirs = understand(data, limits=ROOM), h11_understands(data)
    for number, request in enumerate(ours.requests):
        if number == len(theirs):
            assert is_lenient(data), (ours, theirs)
            return
        mine, other = normal(request), normal(theirs[number])
        if ours.status is not None and not mine.is_complete:  # its body is refused
            assert other.body.startswith(mine.body), (ours, theirs)
            assert mine.headers == other.headers, (ours, theirs)
            return
        assert mine == other, (ours, theirs)
        if not mine.keeps_alive or not mine.is_complete:
            return
    if ours.status is None and not ours.in_head:
        assert len(theirs) <= len(ours.requests), (ours, theirs)


def is_lenient(data: bytes) -> bool:
    """Whether silly may accept what h11 refuses."""
    lines = re.split(rb"(?<=\r\n)", data)
    return any(re.search(pattern, line) for pattern in LENIENT.values() for line in lines)
