"""The request that an HTTP server is loaded with, and what its replies must be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from silly.bench.messages import filled, has_places, with_places

if TYPE_CHECKING:
    from silly.net.http.url import URL

__all__ = ["SUCCESS", "HttpRequest", "Requests", "statuses"]

Statuses = tuple[tuple[int, int], ...]

SUCCESS: Final[Statuses] = ((200, 299),)
IDEMPOTENT: Final = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"))
_WITH_BODY: Final = frozenset(("POST", "PUT", "PATCH"))
_SET_HERE: Final = frozenset(("content-length", "transfer-encoding", "connection"))
_STATUS: Final = re.compile(r"([1-5])xx|([1-5]\d\d)(?:-([1-5]\d\d))?", re.IGNORECASE)


def statuses(text: str) -> Statuses:
    """Return the statuses that *text* names, such as ``200,3xx,400-404``, as ranges.

    Raises:
        ValueError: it names none.
    """
    ranges = []
    for part in text.split(","):
        found = _STATUS.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"{text!r} is not a status such as 200, 2xx or 200,301-304")
        hundred, first, last = found.groups()
        if hundred is not None:
            ranges.append((int(hundred) * 100, int(hundred) * 100 + 99))
        else:
            ranges.append((int(first), int(last or first)))
    return tuple(ranges)


@dataclass(frozen=True)
class HttpRequest:
    """One request, and the replies to it that are right.

    In all of its texts, ``{seq}`` and ``{conn}`` stand for the numbers of the request and the
    connection.
    """

    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    statuses: Statuses = SUCCESS
    expected: bytes | None = None
    """The body of each reply; None: any."""
    pattern: str | None = None
    """A regular expression that is found in the body of each reply."""

    def check(self) -> None:
        """Raise ValueError, with a line that names the option, if it cannot be sent."""
        from silly.net.http.fields import TOKEN, check_field  # noqa: PLC0415 - needs an extra

        self._url  # noqa: B018 - raises
        if TOKEN.fullmatch(self.method) is None or self.method == "CONNECT":
            raise ValueError(f"--method: {self.method!r} is not a method that can be sent")
        for name, value in self.headers:
            try:
                check_field(name, value)
            except ValueError as error:
                raise ValueError(f"--header: {error}") from None
            if name.lower() in _SET_HERE:
                raise ValueError(f"--header: {name} is set by silly bench")
        if self.expected is not None and self.pattern is not None:
            raise ValueError("--expect-body and --expect-match: give one of them")
        if self.method == "HEAD" and (self.expected or self.pattern is not None):
            raise ValueError("--method HEAD: the replies have no body to expect")
        if self.pattern is not None:
            try:
                re.compile(self.pattern.encode())
            except re.error as error:
                raise ValueError(f"--expect-match: {error}") from None

    @cached_property
    def _url(self) -> URL:
        from silly.net.http.url import URL  # noqa: PLC0415 - needs an extra

        return URL.parse(self.url)

    @property
    def addr(self) -> str:
        """The address to connect to."""
        host = self._url.host
        return f"[{host}]:{self._url.port}" if ":" in host else f"{host}:{self._url.port}"

    @property
    def is_encrypted(self) -> bool:
        """Whether the URL begins with https."""
        return self._url.scheme == "https"

    @property
    def shown_url(self) -> str:
        """The URL without user and password."""
        return with_places(str(self._url))

    def head(self, *, closes: bool) -> bytes:
        """Return the head of each request, without what depends on the length of its body.

        *closes*: ask the server to close the connection after its reply.
        """
        url = self._url
        target = with_places(url.target)
        fields = {"host": url.authority, "user-agent": "silly-bench", "accept": "*/*"}
        if url.authorization is not None:
            fields["authorization"] = url.authorization
        given = {name.lower() for name, _ in self.headers}
        pairs = [pair for pair in fields.items() if pair[0] not in given] + [*self.headers]
        if closes:
            pairs.append(("connection", "close"))
        lines = [f"{self.method} {target} HTTP/1.1", *(f"{name}: {text}" for name, text in pairs)]
        return "".join(f"{line}\r\n" for line in lines).encode("latin-1")

    @property
    def has_length(self) -> bool:
        """Whether the length of the body is sent."""
        return bool(self.body) or self.method in _WITH_BODY

    def to_dict(self) -> dict[str, Any]:
        """Return the request as plain data, for the published result, without credentials."""
        return {
            "method": self.method,
            "url": self.shown_url,
            "headers": [name for name, _ in self.headers],
            "body": len(self.body),
            "statuses": [list(each) for each in self.statuses],
            "expected": None if self.expected is None else len(self.expected),
            "pattern": self.pattern,
        }


class Requests:
    """The requests of one connection, and the bodies of the replies to them, by number."""

    def __init__(self, http: HttpRequest, conn: int, *, closes: bool) -> None:
        self._head = http.head(closes=closes)
        self._body = http.body
        self._has_length = http.has_length
        self._conn = conn
        self._expected = http.expected
        varies = http.expected is not None and has_places(http.expected)
        self.same = None if varies else http.expected
        """The body of the reply to every request; None: it is not known, or differs."""
        whole = self._whole(self._head, self._body)
        self._whole_request = None if has_places(whole) else whole

    def _whole(self, head: bytes, body: bytes) -> bytes:
        length = b"content-length: %d\r\n" % len(body) if self._has_length else b""
        return b"%b%b\r\n%b" % (head, length, body)

    def batch(self, first: int, count: int) -> bytes:
        """Return the requests *first*, *first* + 1, …, joined."""
        if self._whole_request is not None:
            return self._whole_request * count
        return b"".join(
            self._whole(
                filled(self._head, number, self._conn), filled(self._body, number, self._conn)
            )
            for number in range(first, first + count)
        )

    def expected(self, number: int) -> bytes | None:
        """Return the body of the reply to request *number*; None if any will do."""
        if self.same is not None or self._expected is None:
            return self.same
        return filled(self._expected, number, self._conn)
