"""One worker's figures, counted by interval and reported when each interval ends.

Interval 0 begins when measuring does; negative ones are the warm-up. Replies that
arrive after the measured time, to requests sent within it, are in the interval
`AFTER`: they count for the latencies, but not for the rate.

An unanswered request (it or its connection timed out, it was due and never sent, or it
was in flight when the run was interrupted) also counts in the latencies, with the time
that it waited: without them, the worst requests would improve the percentiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from silly.bench.clock import NEVER
from silly.bench.histogram import Histogram
from silly.net.tls.info import TLSInfo

__all__ = ["AFTER", "LATE", "Interval", "Recorder"]

AFTER: Final = 1 << 40
LATE: Final = 1_000_000  # nanoseconds after it was due from which a request counts as late
_OF_DATAGRAMS: Final = (
    "datagrams_in", "lost", "duplicates", "reordered", "late_replies", "own_drops",
)  # fmt: skip
_DESCRIBED: Final = 10  # errors of each kind to describe; all are counted


_OF_CONNECTING: Final = ("connects", "handshakes", "resumptions", "upgrades")  # histograms
_OPTIONAL: Final = ("service", *_OF_CONNECTING)


class Interval:
    """What happened in one interval."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "connections",
        "connects",
        "cpu",
        "datagrams_in",
        "duplicates",
        "errors",
        "handshakes",
        "idle",
        "index",
        "late",
        "late_by_client",
        "late_replies",
        "latency",
        "length",
        "lost",
        "max_lag",
        "own_drops",
        "reordered",
        "resumptions",
        "sent",
        "service",
        "unanswered",
        "upgrades",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.length = 0.0
        """In seconds."""
        self.latency = Histogram()
        """From when the request was due to be sent (open loop), or was sent (closed loop)."""
        self.service: Histogram | None = None
        """Open loop: from when the request was sent."""
        self.connects: Histogram | None = None
        """How long connecting took, until a connection was made or timed out."""
        self.handshakes: Histogram | None = None
        """How long full handshakes of TLS took."""
        self.resumptions: Histogram | None = None
        """The same, of those that continued an earlier session."""
        self.upgrades: Histogram | None = None
        """How long the opening handshakes of WebSockets took."""
        self.errors: dict[str, int] = {}
        self.connections = 0
        """How many were open at the end of the interval; meaningless in a sum over time."""
        self.sent = 0
        self.bytes_in = self.bytes_out = 0
        self.unanswered = 0
        """How many of those in `latency` were not answered."""
        self.late = 0
        self.late_by_client = 0
        """Requests that were sent late although a connection was free."""
        self.max_lag = 0
        self.datagrams_in = 0
        """UDP: all that arrived."""
        self.lost = 0
        """UDP: requests without a reply within the timeout."""
        self.duplicates = self.reordered = 0
        self.late_replies = 0
        """UDP: replies to requests that were counted as lost before."""
        self.own_drops = 0
        """UDP: datagrams that the client's machine dropped."""
        self.cpu = 0.0
        self.idle = 0
        """Busy polling: nanoseconds in which there was nothing to do."""

    @property
    def requests(self) -> int:
        """How many requests were answered, correctly."""
        return self.latency.count - self.unanswered

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.length if self.length > 0 else 0.0

    def merge(self, other: Interval) -> None:
        """Add the figures of *other*."""
        self.length = max(self.length, other.length)
        self.latency.merge(other.latency)
        for name in _OPTIONAL:
            theirs = getattr(other, name)
            if theirs is not None:
                if getattr(self, name) is None:
                    setattr(self, name, Histogram())
                getattr(self, name).merge(theirs)
        for kind, count in other.errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + count
        self.connections += other.connections
        self.sent += other.sent
        self.unanswered += other.unanswered
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.late += other.late
        self.late_by_client += other.late_by_client
        for name in _OF_DATAGRAMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_lag = max(self.max_lag, other.max_lag)
        self.cpu += other.cpu
        self.idle += other.idle

    def to_dict(self) -> dict[str, Any]:
        """Return the interval as plain data, for `from_dict`."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        for name in ("latency", *_OPTIONAL):
            if plain[name] is not None:
                plain[name] = plain[name].to_list()
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Interval:
        """Return the interval that `to_dict` has written."""
        made = cls(plain["index"])
        for name, value in plain.items():
            if name in ("latency", *_OPTIONAL) and value is not None:
                setattr(made, name, Histogram.from_list(value))
            else:
                setattr(made, name, value)
        return made


class Recorder:
    """Collects a worker's figures; times are those of `time.perf_counter_ns`."""

    def __init__(
        self,
        interval: float,
        report: Callable[[Interval], None],
        cpu: Callable[[], float],
    ) -> None:
        self._length = max(1, round(interval * 1e9))
        self._report = report
        self._cpu = cpu
        self._cpu_before = cpu()
        self._begun = self._zero = self._end = 0
        self.now = Interval(-1)  # before the start: connecting
        self.ends = NEVER
        """When the current interval ends."""
        self.first_errors: dict[str, list[str]] = {}
        """Descriptions of the first errors of each kind."""
        self.error_count = 0
        self.negotiated: dict[str, str | None] | None = None
        """What the last handshake of TLS has negotiated."""
        self.statuses: dict[int, int] = {}
        """HTTP: how many replies had each status."""
        self.repeated = 0
        """HTTP: requests that were sent again, because their connection had ended unused."""
        self.connections: Callable[[], int] = lambda: 0
        """Returns how many connections are open."""
        self.on_measuring: Callable[[], None] = lambda: None
        """Called when the warm-up is over, before anything is measured."""
        self.last_event = 0
        """When the last correct reply arrived, or the last request failed."""

    def start(self, now: int, zero: int, end: int) -> None:
        """Start to record at *now*; interval 0 begins at *zero*, measuring ends at *end*."""
        self._begun, self._zero, self._end = now, zero, end
        setup, self.now = self.now, Interval(self._index(now))
        for name in _OF_CONNECTING:
            if (made := getattr(setup, name)) is not None:
                setattr(self.now, name, made)
        self.now.errors = setup.errors
        self._cpu_before = self._cpu()
        self._set_end()
        if self.now.index >= 0:  # there is no warm-up, or this process started late
            self.on_measuring()

    def end(self, now: int) -> None:
        """End measuring at *now*, earlier than planned."""
        if now < self._end:
            self._end = now
            if now >= self.ends:
                self.roll(now)
            else:
                self.ends = max(now, self._zero)

    def _index(self, now: int) -> int:
        return AFTER if now >= self._end else (now - self._zero) // self._length

    def _set_end(self) -> None:
        index = self.now.index
        if index == AFTER:
            self.ends = NEVER
        else:
            self.ends = min(self._zero + (index + 1) * self._length, self._end)

    def roll(self, now: int) -> None:
        """If the current interval has ended, report it and begin the one of *now*."""
        if now < self.ends:
            return
        self.report(now)
        before, self.now = self.now, Interval(self._index(now))
        self._set_end()
        if before.index < 0 <= self.now.index:
            self.on_measuring()

    def report(self, now: int) -> None:
        """Report the current interval."""
        begin = self._end if self.now.index == AFTER else self._zero + self.now.index * self._length
        self.now.length = (min(now, self.ends) - max(begin, self._begun)) / 1e9
        self.now.connections = self.connections()
        cpu = self._cpu()
        self.now.cpu, self._cpu_before = cpu - self._cpu_before, cpu
        self._report(self.now)

    def snapshot(self, now: int) -> Interval:
        """Return the current interval, with its length until *now*; it goes on."""
        begin = self._zero + self.now.index * self._length
        self.now.length = (now - max(begin, self._begun)) / 1e9
        self.now.connections = self.connections()
        return self.now

    # ---------------------------------------------------------------------- events

    def answered(self, now: int, nanoseconds: int, count: int) -> None:
        """Record *count* replies at *now*, each after *nanoseconds*. Call `roll` first."""
        self.last_event = now
        self.now.latency.record(nanoseconds, count)

    def served(self, now: int, due: int, sent: int) -> None:
        """Open loop: record a reply at *now* to a request that was *due*, then *sent*.

        Call `roll` first.
        """
        self.last_event = now
        interval = self.now
        interval.latency.record(now - due)
        if interval.service is None:
            interval.service = Histogram()
        interval.service.record(now - sent)

    def gave_up(self, now: int, due: int, sent: int | None, count: int = 1) -> None:
        """Record *count* requests as unanswered.

        Args:
            now: the time at which they were given up.
            due: when they were due (closed loop: when they were sent).
            sent: open loop: when they were sent; None if they never were.
            count: the number of requests.
        """
        self.roll(now)
        self.last_event = now
        interval = self.now
        interval.unanswered += count
        interval.latency.record(now - due, count)
        if sent is not None:
            if interval.service is None:
                interval.service = Histogram()
            interval.service.record(now - sent, count)

    def lagged(self, lag: int, had_room: bool) -> None:
        """Open loop: record that a request was sent *lag* nanoseconds after it was due.

        With *had_room*, a connection was free for it: this process was late, not the server.
        """
        self.now.max_lag = max(self.now.max_lag, lag)
        if lag > LATE:
            self.now.late += 1
            self.now.late_by_client += had_room

    def connected(self, nanoseconds: int) -> None:
        """Record that connecting took *nanoseconds*, until it was done or timed out."""
        if self.now.connects is None:
            self.now.connects = Histogram()
        self.now.connects.record(nanoseconds)

    def upgraded(self, nanoseconds: int) -> None:
        """Record that opening a WebSocket on a connection took *nanoseconds*."""
        if self.now.upgrades is None:
            self.now.upgrades = Histogram()
        self.now.upgrades.record(nanoseconds)

    def encrypted(self, nanoseconds: int, info: TLSInfo) -> None:
        """Record that a handshake of TLS took *nanoseconds*, and what was negotiated."""
        name = "resumptions" if info.resumed else "handshakes"
        histogram = getattr(self.now, name)
        if histogram is None:
            histogram = Histogram()
            setattr(self.now, name, histogram)
        histogram.record(nanoseconds)
        self.negotiated = {"version": info.version, "cipher": info.cipher, "alpn": info.alpn}

    def failed(self, now: int, kind: str, text: str, count: int = 1) -> None:
        """Record *count* errors of *kind*; *text* says on which connection, and what is wrong."""
        self.roll(now)
        self.last_event = now
        self.now.errors[kind] = self.now.errors.get(kind, 0) + count
        self.error_count += count
        described = self.first_errors.setdefault(kind, [])
        if len(described) < _DESCRIBED:
            described.append(text)
