"""What a session understands of bytes, in whatever pieces they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from silly.net.http.request import Request
from silly.net.http.session import ServerSession
from silly.net.limits import Limits

DEFAULTS = Limits()


@dataclass
class Understood:
    """One request, as a handler would see it."""

    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]
    is_complete: bool
    keeps_alive: bool


@dataclass
class Outcome:
    requests: list[Understood]
    status: int | None  # of the refusal
    in_head: bool  # the end came within a head

    @property
    def is_refused(self) -> bool:
        """Whether no server would take it for nothing but requests."""
        return (
            self.status is not None
            or self.in_head
            or not self.requests
            or not all(request.is_complete for request in self.requests)
        )


def taken(session: ServerSession) -> list[Request]:
    """Take all requests."""
    requests = []
    while request := session.take(None, None):
        requests.append(request)
    return requests


class ParsedOnly(ServerSession):
    """A session that recognises no plain requests, as those of the portable engine."""

    __slots__ = ()

    def feed(self, data: bytes) -> None:
        if self.error is None:
            self._feed(data)


def understand(
    data: bytes,
    cuts: Iterable[int] = (),
    limits: Limits = DEFAULTS,
    kind: type[ServerSession] = ServerSession,
) -> Outcome:
    """Feed *data* to a session of this *kind*, cut in pieces at *cuts*."""
    session = kind(limits)
    requests: list[Request] = []
    start = 0
    for end in (*cuts, len(data)):
        session.feed(data[start:end])
        start = end
        requests += taken(session)
        while session.is_paused:  # as a server does that knows no other protocol
            session.continue_after(requests[-1])
            requests += taken(session)
    return Outcome(
        [
            Understood(
                each.method,
                each.raw_target,
                each.version,
                each.raw_headers,
                each._body or b"".join(each._pieces if each.content_length else ()),
                each.trailers.raw if each.is_complete else [],
                each.is_complete,
                each.keeps_alive,
            )
            for each in requests
        ],
        None if session.error is None else session.error.status,
        session.in_head and session.error is None,
    )
