"""The page of metrics at ``http://ADDR/metrics``, beside those of `silly.health`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

from silly import health
from silly._loop.live import Live
from silly.metrics.merging import Snapshot
from silly.metrics.meter import measure
from silly.metrics.prometheus import Failures, families_of, load_client, page, registered_families
from silly.metrics.snapshots import snapshot_in_turns
from silly.net import tcp
from silly.net.plain_http import read_request, response

__all__ = ["serve"]

Source = Callable[[], "Snapshot | Awaitable[Snapshot]"]


def serve(
    addr: str, source: Source | None = None, *, health_source: health.Source | None = None
) -> tcp.Listener:
    """Serve the metrics for Prometheus at ``http://ADDR/metrics``.

    ``/healthz`` and ``/readyz`` are answered as by `silly.health.serve`.

    The page also has the metrics that the program registered with
    prometheus_client. This listener does not keep the program running. It closes
    last, so that a drain can be watched.

    Args:
        addr: as for `silly.net.tcp.listen`, such as ``"127.0.0.1:9100"``. Anyone
            who can connect can read the metrics.
        source: a function or coroutine function that returns the snapshot to serve
            instead, such as the merged snapshots of several processes.
        health_source: the source of `silly.health.serve`.

    Returns:
        The listener; close it to stop.

    Raises:
        ImportError: prometheus-client is not installed.
        OSError, TypeError, ValueError, RuntimeError: as for `silly.net.tcp.listen`.
    """
    registry = load_client().REGISTRY if source is None else None
    take: Source = snapshot_in_turns if source is None else source

    async def answer(conn: tcp.Conn) -> None:
        request = await read_request(conn)
        if request is None:
            return
        if request.path in health.PATHS:
            conn.write(health.answer(request, health_source))
        elif request.path != "/metrics":
            conn.write(response("404 Not Found", b"the metrics are at /metrics\n"))
        elif request.method != "GET":
            conn.write(response("405 Method Not Allowed", b"only GET\n", extra="Allow: GET\r\n"))
        else:
            await answer_scrape(conn, request.accept)

    async def answer_scrape(conn: tcp.Conn, accept: str) -> None:
        failures: Failures = []
        try:
            taken = take()
            if inspect.isawaitable(taken):
                taken = await taken
            families = list(families_of(taken, process=source is not None))
            if registry is not None:
                families += registered_families(registry, failures)
            body, content_type = page(accept, families, failures)
        except Exception:
            conn.write(
                response("500 Internal Server Error", b"cannot read the metrics: see the log\n")
            )
            raise
        conn.write(response("200 OK", body, content_type))
        if failures:  # for the log; the client got the other metrics
            raise BaseExceptionGroup("some metrics could not be read", failures)

    listener = tcp.listen(addr, answer, proxy_protocol=(), tls=False)
    Live.of(listener._loop).add_auxiliary(listener, measure() if source is None else None)
    return listener
