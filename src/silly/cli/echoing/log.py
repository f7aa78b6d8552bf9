"""A line for each event, and the summary, as text."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, TextIO

from silly._values.units import counted, duration_text, size_text, text_of_count
from silly.net.tcp import Conn
from silly.text import printable

__all__ = ["Lines", "Log", "summary_lines", "warnings_to"]


class Log:
    """Writes nothing: the live view shows what happens."""

    def opened(self, conn: Conn) -> None:
        """A connection was opened."""

    def closed(self, conn: Conn, end: BaseException | None) -> None:
        """A connection was closed; *end* is the exception that its handler raised."""

    def say(self, text: str) -> None:
        """Something else happened."""


class Lines(Log):
    """Writes a line for each event to *file*, which never waits for its reader."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def opened(self, conn: Conn) -> None:
        """Write that *conn* was opened."""
        encrypted = f" ({conn.tls.version})" if conn.tls is not None else ""
        self.say(f"open {_named(conn)}{encrypted}")

    def closed(self, conn: Conn, end: BaseException | None) -> None:
        """Write the totals of *conn*, and why it ended."""
        stats = conn.stats
        lasted = duration_text(max(0.0, time.time() - stats.opened_at))
        self.say(
            f"close {_named(conn)}: {size_text(stats.bytes_in)} in, "
            f"{size_text(stats.bytes_out)} out, {lasted}{_why(end)}"
        )

    def say(self, text: str) -> None:
        """Write *text* after the time; text from peers is escaped."""
        now = datetime.now().astimezone()
        print(f"{now:%H:%M:%S} {printable(text)}", file=self._file, flush=True)


@contextlib.contextmanager
def warnings_to(log: Log) -> Iterator[None]:
    """Copy silly's own warnings (refusals, limits) to *log*, in ``with``."""
    handler = _Handler(log)
    logger = logging.getLogger("silly")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log.say(record.getMessage())
            if record.exc_info:
                for line in _PLAIN.formatException(record.exc_info).splitlines():
                    self._log.say(f"  {line}")
        except Exception:  # noqa: BLE001 - as every logging handler does
            self.handleError(record)


_PLAIN: Final = logging.Formatter()


_DROPPED: Final = {
    "dropped_by_kernel": "by the operating system, whose buffer was full",
    "dropped_by_queue": "unread",
}


def _named(conn: Conn) -> str:
    return conn.remote_addr if conn.remote_addr != "unix:" else f"{conn.local_addr} (client)"


def _why(end: BaseException | None) -> str:
    if end is None:
        return ""
    if isinstance(end, ConnectionResetError | BrokenPipeError):
        return "; reset by the client"
    if isinstance(end, TimeoutError):
        return f"; {end.strerror or end}"
    if isinstance(end, ValueError):
        return f"; {end}"
    return "; stopped" if not isinstance(end, Exception) else f"; {type(end).__name__}: {end}"


def summary_lines(summary: dict[str, Any], unit: str) -> list[str]:
    """Return *summary* as text: `Meter.summary`, with the listeners' refused and ended counts."""
    conns, datagrams = summary["connections"], summary["datagrams"]
    lines = [
        f"{duration_text(summary['seconds'])}; connections: {text_of_count(conns['accepted'])}, "
        f"at most {text_of_count(conns['peak'])} at a time"
        + _reasons("; refused", summary["refused"])
        + _reasons("; ended", summary["ended"]),
        f"{size_text(summary['bytes_in'])} in, {size_text(summary['bytes_out'])} out, "
        f"{counted(summary['answers'], unit)}"
        + (f", {text_of_count(summary['dropped'])} dropped" if summary["dropped"] else ""),
    ]
    if summary["udp"]:
        lines.append(
            f"datagrams: {text_of_count(datagrams['received'])} received, "
            f"{text_of_count(datagrams['sent'])} sent, "
            f"{text_of_count(datagrams['refused'])} refused, "
            f"{text_of_count(datagrams['lost'])} lost"
            + "".join(
                f", {text_of_count(datagrams[name])} dropped {where}"
                for name, where in _DROPPED.items()
                if datagrams[name]
            )
        )
    return lines


def _reasons(what: str, counts: dict[str, int]) -> str:
    reasons = ", ".join(f"{text_of_count(count)} by {reason}" for reason, count in counts.items())
    return f"{what} {reasons}" if reasons else ""
