"""Counts of HTTP requests by method, status and route, for each listener.

The number of different ones is bounded, whatever clients send: unknown methods are one, and so
are all paths that match no route.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from silly.metrics.definitions import REQUEST_BUCKETS
from silly.metrics.merging import DIGITS
from silly.text import printable

if TYPE_CHECKING:
    from silly.net.http.request import Request
    from silly.net.http.watching import Answered

__all__ = ["RequestCounts"]

_METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "QUERY")
)
_NONE: Final = "-"
_OTHER: Final = "other"
MOST_ROUTES: Final = 200  # a handler may set `Request.route` to anything


class _Route:
    """The requests of one method to one route."""

    __slots__ = ("buckets", "bytes_in", "bytes_out", "seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(REQUEST_BUCKETS) + 1)
        self.seconds = 0.0
        self.bytes_in = self.bytes_out = 0


class RequestCounts:
    """The requests of one listener."""

    __slots__ = ("_routes", "in_flight")

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], _Route] = {}
        self.in_flight = 0

    def ended(self, request: Request | None, answered: Answered) -> None:
        """Count a request that was answered; None: something that was no request."""
        method = route = _NONE
        if request is not None:
            self.in_flight = max(0, self.in_flight - 1)  # it began before measuring did
            method = request.method if request.method in _METHODS else _OTHER
            route = request.route or _NONE
        one = self._routes.get((method, route))
        if one is None:
            one = self._new(method, route)
        one.statuses[answered.status] = one.statuses.get(answered.status, 0) + 1
        one.buckets[bisect_left(REQUEST_BUCKETS, answered.seconds)] += 1
        one.seconds += answered.seconds
        one.bytes_in += answered.received
        one.bytes_out += max(0, answered.size)

    def _new(self, method: str, route: str) -> _Route:
        known = {each for _, each in self._routes}
        if route not in known and len(known) >= MOST_ROUTES:
            route = _OTHER
        return self._routes.setdefault((method, route), _Route())

    def values(self) -> dict[str, Any]:
        """Return the numbers, as they are in a snapshot."""
        routes = {
            f"{method} {printable(route)}": each for (method, route), each in self._routes.items()
        }
        statuses = {
            f"{method} {status} {printable(route)}": count
            for (method, route), each in self._routes.items()
            for status, count in each.statuses.items()
        }
        return {
            "http_requests": statuses,
            "http_in_flight": self.in_flight,
            "http_seconds": {
                name: {"buckets": list(each.buckets), "sum": round(each.seconds, DIGITS)}
                for name, each in routes.items()
            },
            "http_bytes_in": {name: each.bytes_in for name, each in routes.items()},
            "http_bytes_out": {name: each.bytes_out for name, each in routes.items()},
        }
