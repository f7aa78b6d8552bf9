"""The measurements of an event loop: its listeners, its handlers' durations, its lag."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from silly._loop.live import Live
from silly._loop.registry import PerLoop
from silly.metrics.definitions import HANDLER_BUCKETS, LAG_BUCKETS
from silly.metrics.merging import CLOSED_KEPT, DIGITS, add, without_gauges
from silly.metrics.requests import RequestCounts
from silly.net import observer, tcp
from silly.text import printable

if TYPE_CHECKING:
    from silly.net.http.request import Request
    from silly.net.http.watching import Answered

__all__ = ["Meter", "measure"]

_RESUMED: Final = "resumed"  # see `tcp.ListenerStats.handshakes`
_INTERVAL: Final = 0.5  # seconds between two samples of the lag


class _Histogram:
    """A count for each bucket, one more for values above the last bound, and the sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def values(self) -> dict[str, Any]:
        return {"buckets": list(self.counts), "sum": round(self.sum, DIGITS)}


class Meter:
    """The measurements of one event loop: observes connections and samples the lag."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._users = 0
        self._sampler: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.lag = _Histogram(LAG_BUCKETS)
        self.handlers: dict[str, _Histogram] = {}
        self.endings: dict[str, dict[str, int]] = {}
        self.requests: dict[str, RequestCounts] = {}
        self.tracked: set[tcp.Listener] = set()  # their counts are not in `closed_counts`
        self.closed_counts: dict[str, dict[str, Any]] = {}  # by address, the latest last
        self.most_open = 0  # the largest number of listeners open at once

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it measures."""
        return self._loop

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> Meter:
        """Return the meter of *loop*."""
        return _meters.of(loop)

    def start(self) -> None:
        """Measure until `stop` has been called as often as this."""
        self._users += 1
        if self._users == 1:
            observer.register(self)
            self._due = self._loop.time() + _INTERVAL
            self._sampler = self._loop.call_at(self._due, self._sample)

    def stop(self) -> None:
        """Stop measuring, unless there is another user."""
        self._users -= 1
        if self._users == 0:
            observer.unregister(self)
            if self._sampler is not None:
                self._sampler.cancel()

    def _sample(self) -> None:
        now = self._loop.time()
        self.lag.add(max(0.0, now - self._due))
        self._due = now + _INTERVAL
        self._sampler = self._loop.call_at(self._due, self._sample)
        self._retire_closed()

    def opened(self, conn: tcp.Conn, listener: tcp.Listener) -> None:  # noqa: ARG002
        """See `silly.net.observer.Observer`."""
        if listener._loop is self._loop:
            self.tracked.add(listener)

    def closed(self, conn: tcp.Conn, listener: tcp.Listener, ending: observer.Ending) -> None:  # noqa: ARG002
        """See `silly.net.observer.Observer`."""
        address = listener.local_addr
        if listener not in self.tracked and address not in self.closed_counts:  # of another loop
            return
        if address not in self.handlers:
            self.handlers[address] = _Histogram(HANDLER_BUCKETS)
            self.endings[address] = {}
        self.handlers[address].add(ending.handler_seconds)
        endings = self.endings[address]
        endings[ending.how] = endings.get(ending.how, 0) + 1

    def request_started(self, request: object, listener: str) -> None:  # noqa: ARG002
        """See `silly.net.http.watching.RequestObserver`."""
        if asyncio.get_running_loop() is self._loop:
            self._requests_of(listener).in_flight += 1

    def request_ended(self, request: Request | None, answered: Answered) -> None:
        """See `silly.net.http.watching.RequestObserver`."""
        if asyncio.get_running_loop() is self._loop:
            self._requests_of(answered.listener).ended(request, answered)

    def _requests_of(self, listener: str) -> RequestCounts:
        counts = self.requests.get(listener)
        if counts is None:
            counts = self.requests[listener] = RequestCounts()
        return counts

    def _retire_closed(self) -> set[tcp.Listener]:
        """Save the counts of listeners that were closed; return the open ones."""
        live = cast("set[tcp.Listener]", Live.of(self._loop).listeners)
        self.tracked |= live
        self.most_open = max(self.most_open, len(live))
        for listener in self.tracked - live:
            address = listener.local_addr
            kept = without_gauges(_counts(listener.stats), "listener")
            self.closed_counts[address] = add(self.closed_counts.pop(address, {}), kept)
        self.tracked &= live
        if len(self.closed_counts) > max(CLOSED_KEPT, self.most_open):
            open_now = {listener.local_addr for listener in live}
            for address in [each for each in self.closed_counts if each not in open_now]:
                if len(self.closed_counts) > max(CLOSED_KEPT, self.most_open):
                    del self.closed_counts[address]
                    self.handlers.pop(address, None)
                    self.endings.pop(address, None)
                    self.requests.pop(address, None)
        return live

    def listeners(self, stats: Mapping[tcp.Listener, tcp.ListenerStats]) -> dict[str, Any]:
        """Return the numbers by address; *stats* has those already read from listeners."""
        live = self._retire_closed()
        known = dict(self.closed_counts)
        for listener in live:
            address = listener.local_addr
            counts = _counts(stats.get(listener) or listener.stats)
            known[address] = add(known.get(address, {}), counts)
            known[address]["limits_set"] = _limits_with_origins(listener.limits)
        return {
            printable(address): {
                **counts,
                "endings": dict(self.endings.get(address, {})),
                "handler_seconds": self._handler_seconds(address),
                **(self.requests[address].values() if address in self.requests else {}),
            }
            for address, counts in sorted(known.items())
        }

    def _handler_seconds(self, address: str) -> dict[str, Any]:
        return self.handlers.get(address, _Histogram(HANDLER_BUCKETS)).values()


_meters: Final = PerLoop("meter", Meter)


def _limits_with_origins(limits: tcp.Limits) -> dict[str, str]:
    """Return each limit and its origin, such as ``"60 (flag)"``: text, which is not summed."""
    origins = limits.origins
    return {
        each.name: f"{each.text(getattr(limits, each.name))} ({origins[each.name]})"
        for each in limits.fields()
    }


def _counts(stats: tcp.ListenerStats) -> dict[str, Any]:
    return {
        "connections": stats.connections,
        "accepted": stats.accepted,
        "refused": dict(stats.refused),
        "limits": dict(stats.ended),
        "handshakes": _by_version(stats.handshakes, ("", _RESUMED)),
        "resumptions": _by_version(stats.handshakes, (_RESUMED,)),
        "failed_handshakes": dict(stats.failed_handshakes),
        "handshakes_put_off": stats.handshakes_put_off,
        "certificate_expires_at": stats.certificate_expires_at,
        "handler_errors": dict(stats.handler_errors_by_type),
        "bytes_in": stats.bytes_in,
        "bytes_out": stats.bytes_out,
        "unread_bytes": stats.unread_bytes,
        "unsent_bytes": stats.unsent_bytes,
        "backlog_used": stats.backlog_used,
        "backlog_size": stats.backlog_size,
        "accept_stalls": stats.accept_stalls,
    }


def _by_version(handshakes: Mapping[str, int], which: tuple[str, ...]) -> dict[str, int]:
    """Return the counts by version, of the handshakes whose name ends in one of *which*."""
    counts: dict[str, int] = {}
    for name, count in handshakes.items():
        version, _, kind = name.partition(" ")
        if kind in which:
            counts[version] = counts.get(version, 0) + count
    return counts


def measure() -> Callable[[], None]:
    """Start measuring handler durations and lag on the running event loop.

    Returns:
        A function to call when the measurements are no longer needed. They stop
        when every caller of `measure` has done so.

    Raises:
        RuntimeError: no event loop is running.
    """
    meter = Meter.of(asyncio.get_running_loop())
    meter.start()
    return meter.stop
