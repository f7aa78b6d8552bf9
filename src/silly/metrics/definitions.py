"""The metrics: where each is in a snapshot, and what it is called in Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "COUNTER",
    "GAUGE",
    "HANDLER_BUCKETS",
    "HISTOGRAM",
    "LAG_BUCKETS",
    "METRICS",
    "REQUEST_BUCKETS",
    "MetricDef",
]

REQUEST_BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
)  # seconds  # fmt: skip
HANDLER_BUCKETS: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0)  # seconds
LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)  # seconds

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"


@dataclass(frozen=True, slots=True)
class MetricDef:
    """One metric: its place in a snapshot and its name in Prometheus."""

    where: str
    """The part of the snapshot.

    ``listener``, ``datagrams``, ``pubsub``, ``loop``, ``workers`` or ``process``.
    """
    key: str
    """Its key in that part."""
    name: str
    """Its name in Prometheus, without the ``_total`` of counters."""
    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    help: str
    """Its description."""
    label: str | None = None
    """The label that distinguishes its values, besides the listener's address."""
    bounds: tuple[float, ...] = ()
    """Of the buckets of a histogram."""
    labels: tuple[str, ...] = ()
    """Several such labels; their values are joined by spaces, and only the last may have some."""
    is_earliest: bool = False
    """Whether the value for several processes is the least of theirs, not the sum."""


METRICS: Final = (
    MetricDef(
        "listener",
        "connections",
        "silly_connections",
        GAUGE,
        "Open connections, including those that are closing",
    ),
    MetricDef(
        "listener",
        "accepted",
        "silly_connections_accepted",
        COUNTER,
        "Connections accepted and passed to a handler",
    ),
    MetricDef(
        "listener",
        "refused",
        "silly_connections_refused",
        COUNTER,
        "Connections reset before their handler started, because of a limit, a lack of "
        "descriptors, or a handshake that failed",
        "reason",
    ),
    MetricDef(
        "listener",
        "endings",
        "silly_connections_ended",
        COUNTER,
        "Connections that are over, by how they ended",
        "ending",
    ),
    MetricDef(
        "listener",
        "limits",
        "silly_limits_reached",
        COUNTER,
        "Connections that a limit ended",
        "limit",
    ),
    MetricDef(
        "listener",
        "handler_errors",
        "silly_handler_errors",
        COUNTER,
        "Handlers that crashed, by the type of the exception",
        "type",
    ),
    MetricDef(
        "listener",
        "handler_seconds",
        "silly_handler_duration_seconds",
        HISTOGRAM,
        "Run time of handlers that have ended",
        bounds=HANDLER_BUCKETS,
    ),
    MetricDef(
        "listener",
        "handshakes",
        "silly_tls_handshakes",
        COUNTER,
        "Handshakes of TLS that were completed",
        "version",
    ),
    MetricDef(
        "listener",
        "resumptions",
        "silly_tls_resumptions",
        COUNTER,
        "Those of them that continued an earlier session",
        "version",
    ),
    MetricDef(
        "listener",
        "failed_handshakes",
        "silly_tls_handshakes_failed",
        COUNTER,
        "Handshakes of TLS that failed in a handler (start_tls); others are refused connections",
        "reason",
    ),
    MetricDef(
        "listener",
        "handshakes_put_off",
        "silly_tls_handshakes_put_off",
        COUNTER,
        "Handshakes of TLS that had to wait for others",
    ),
    MetricDef(
        "listener",
        "certificate_expires_at",
        "silly_tls_certificate_expiry_timestamp_seconds",
        GAUGE,
        "When the first of the certificates expires, in seconds since the epoch",
        is_earliest=True,
    ),
    MetricDef("listener", "bytes_in", "silly_received_bytes", COUNTER, "Bytes received"),
    MetricDef("listener", "bytes_out", "silly_sent_bytes", COUNTER, "Bytes sent"),
    MetricDef(
        "listener",
        "unread_bytes",
        "silly_unread_bytes",
        GAUGE,
        "Bytes received that handlers have not read",
    ),
    MetricDef("listener", "unsent_bytes", "silly_unsent_bytes", GAUGE, "Bytes queued for sending"),
    MetricDef(
        "listener",
        "backlog_used",
        "silly_backlog_used",
        GAUGE,
        "Connections waiting to be accepted",
    ),
    MetricDef(
        "listener",
        "backlog_size",
        "silly_backlog_size",
        GAUGE,
        "Maximum number of connections waiting to be accepted",
    ),
    MetricDef(
        "listener",
        "accept_stalls",
        "silly_accept_stalls",
        COUNTER,
        "Number of times accepting paused for lack of descriptors or memory",
    ),
    MetricDef(
        "listener",
        "http_requests",
        "silly_http_requests",
        COUNTER,
        "HTTP requests answered; status 499: the client was gone before; method -: what came was "
        "no request",
        labels=("method", "status", "route"),
    ),
    MetricDef(
        "listener",
        "http_in_flight",
        "silly_http_requests_in_flight",
        GAUGE,
        "HTTP requests being answered",
    ),
    MetricDef(
        "listener",
        "http_seconds",
        "silly_http_request_duration_seconds",
        HISTOGRAM,
        "Time from the head of an HTTP request to the end of the response",
        labels=("method", "route"),
        bounds=REQUEST_BUCKETS,
    ),
    MetricDef(
        "listener",
        "http_bytes_in",
        "silly_http_request_body_bytes",
        COUNTER,
        "Bytes of the bodies of HTTP requests",
        labels=("method", "route"),
    ),
    MetricDef(
        "listener",
        "http_bytes_out",
        "silly_http_response_body_bytes",
        COUNTER,
        "Bytes of the bodies of HTTP responses",
        labels=("method", "route"),
    ),
    MetricDef("datagrams", "sockets", "silly_udp_sockets", GAUGE, "Open UDP sockets"),
    MetricDef(
        "datagrams",
        "received",
        "silly_datagrams_received",
        COUNTER,
        "Datagrams that the program has received",
    ),
    MetricDef("datagrams", "sent", "silly_datagrams_sent", COUNTER, "Datagrams sent"),
    MetricDef(
        "datagrams",
        "bytes_in",
        "silly_datagram_received_bytes",
        COUNTER,
        "Bytes of the received datagrams",
    ),
    MetricDef(
        "datagrams",
        "bytes_out",
        "silly_datagram_sent_bytes",
        COUNTER,
        "Bytes of the sent datagrams",
    ),
    MetricDef(
        "datagrams",
        "dropped",
        "silly_datagrams_dropped",
        COUNTER,
        "Datagrams dropped by the operating system, because a queue was full, or as too long",
        "reason",
    ),
    MetricDef(
        "datagrams",
        "send_errors",
        "silly_datagram_send_errors",
        COUNTER,
        "Datagrams that the operating system refused to send",
        "error",
    ),
    MetricDef(
        "datagrams",
        "unread",
        "silly_datagrams_unread",
        GAUGE,
        "Datagrams received that the program has not read",
    ),
    MetricDef(
        "datagrams", "unsent", "silly_datagrams_unsent", GAUGE, "Datagrams queued for sending"
    ),
    MetricDef("pubsub", "buses", "silly_pubsub_buses", GAUGE, "Open buses"),
    MetricDef(
        "pubsub",
        "connected",
        "silly_pubsub_buses_connected",
        GAUGE,
        "Buses that are connected to their broker",
    ),
    MetricDef(
        "pubsub",
        "outages",
        "silly_pubsub_outages",
        COUNTER,
        "Number of times a bus lost the connection to its broker",
    ),
    MetricDef("pubsub", "subscriptions", "silly_pubsub_subscriptions", GAUGE, "Open subscriptions"),
    MetricDef(
        "pubsub",
        "published",
        "silly_pubsub_published",
        COUNTER,
        "Messages published and confirmed by the broker",
    ),
    MetricDef(
        "pubsub",
        "publish_errors",
        "silly_pubsub_publish_errors",
        COUNTER,
        "Messages that the broker has not confirmed",
        "reason",
    ),
    MetricDef(
        "pubsub",
        "unconfirmed",
        "silly_pubsub_unconfirmed",
        GAUGE,
        "Messages that the broker has not confirmed yet",
    ),
    MetricDef(
        "pubsub",
        "received",
        "silly_pubsub_received",
        COUNTER,
        "Messages queued for subscriptions",
    ),
    MetricDef(
        "pubsub",
        "dropped",
        "silly_pubsub_dropped",
        COUNTER,
        "Those of them that were dropped because the queue was full",
    ),
    MetricDef(
        "pubsub",
        "queued",
        "silly_pubsub_queued",
        GAUGE,
        "Messages that subscriptions have not read",
    ),
    MetricDef(
        "pubsub", "queued_bytes", "silly_pubsub_queued_bytes", GAUGE, "Bytes of data in them"
    ),
    MetricDef(
        "loop",
        "lag_seconds",
        "silly_loop_lag_seconds",
        HISTOGRAM,
        "Delay of an event loop timer, sampled twice a second",
        bounds=LAG_BUCKETS,
    ),
    MetricDef("workers", "wanted", "silly_workers_wanted", GAUGE, "Workers that are to serve"),
    MetricDef("workers", "ready", "silly_workers_ready", GAUGE, "Workers that serve"),
    MetricDef("workers", "starts", "silly_worker_starts", COUNTER, "Worker processes started"),
    MetricDef(
        "workers",
        "deaths",
        "silly_worker_deaths",
        COUNTER,
        "Workers that ended without being asked to, by exit code or signal",
        "reason",
    ),
    MetricDef(
        "workers",
        "restarts",
        "silly_rolling_restarts",
        COUNTER,
        "Rolling restarts, by whether all workers were replaced",
        "result",
    ),
    MetricDef(
        "process", "processes", "silly_processes", GAUGE, "Processes included in the metrics"
    ),
    MetricDef(
        "process",
        "cpu_seconds",
        "process_cpu_seconds",
        COUNTER,
        "Processor time, user and system",
    ),
    MetricDef(
        "process",
        "resident_bytes",
        "process_resident_memory_bytes",
        GAUGE,
        "Memory in use (resident set)",
    ),
    MetricDef("process", "descriptors", "process_open_fds", GAUGE, "Open descriptors"),
)
"""All metrics, in display order."""
