"""Logging that never blocks the program.

The process that reads the program's standard error may stop reading. When that pipe is
full, a write to it blocks, and the whole event loop with it: a few logged crashes could
stop a server. A `DroppingHandler` writes what fits, keeps a limited amount for later,
drops the rest, and counts the dropped records.

It does not use a queue and a thread (`logging.handlers.QueueHandler`): a thread that
hangs in a write cannot be joined at the end of the program, and log records would be
out of order with printed text.

A program that is run by ``silly FILE.py`` and does not configure logging uses this
handler. A program that does (with `logging.basicConfig`, which the functions
`logging.warning`, `logging.error`, … call themselves) uses what it configured. To
configure this handler::

    logging.basicConfig(handlers=[log.DroppingHandler()])
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, TextIO

from silly import stdio
from silly._values.arguments import size

__all__ = ["FORMATS", "DroppingHandler", "JSONFormatter", "levels", "set_level"]


class DroppingHandler(logging.Handler):
    """Writes records to a stream without ever blocking.

    Bytes that the stream's descriptor does not take now are kept, up to *max_kept*
    bytes, and retried with the next record, and every 0.1 seconds while an event loop
    runs. Records beyond that are dropped; a line reports their number as soon as there
    is room. A stream without a descriptor (`io.StringIO`) is written to directly.

    Writes to pipes, terminals and sockets never block, even if other processes write to
    them too. (Without /proc they may, if another process takes the room that poll(2)
    reported for a piece of up to 4096 bytes.) Files take everything.

    Args:
        stream: where to write; None for the `sys.stderr` of the moment.
        level: as in `logging`.
        max_kept: bytes.

    Attributes:
        dropped: how many records have been dropped so far.
    """

    dropped: int

    def __init__(
        self, stream: TextIO | None = None, level: int = logging.NOTSET, *, max_kept: int = 65_536
    ) -> None:
        super().__init__(level)
        self._stream = stream
        self._dropper = stdio.Dropper(
            self._descriptor, "log records", max_kept=size(max_kept, "max_kept")
        )
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write, keep or drop *record*."""
        try:
            text = self.format(record)
            if not self.write(text + "\n"):
                self.dropped += 1
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - like the handlers of logging
            self.handleError(record)

    def write(self, text: str) -> bool:
        """Write or keep *text*; return False if there was no room and it was dropped."""
        stream = self._current_stream()
        if stream is None:  # pythonw
            return True
        if stdio.descriptor_of(stream) is None:
            stream.write(text)
            return True
        data = text.encode(getattr(stream, "encoding", None) or "utf-8", "backslashreplace")
        with self.lock or contextlib.nullcontext():
            fits = self._dropper.write(data)
            self._dropper.retry_later()
            return fits

    def flush(self) -> None:
        """Write as much of the kept bytes as the stream takes now."""
        with self.lock or contextlib.nullcontext():
            self._dropper.flush()

    def flush_for(self, seconds: float) -> None:
        """Write the kept bytes, waiting up to *seconds* for a slow reader."""
        self._dropper.flush_for(seconds)

    def close(self) -> None:
        """Write as much of the kept bytes as the stream takes now; drop the rest."""
        self._dropper.close()
        super().close()

    def _current_stream(self) -> TextIO | None:
        return sys.stderr if self._stream is None else self._stream

    def _descriptor(self) -> int | None:
        return stdio.descriptor_of(self._current_stream())


class JSONFormatter(logging.Formatter):
    """Formats a record as one line of JSON.

    The keys are ``time`` (ISO 8601, UTC), ``level``, ``process`` (the pid), ``logger``,
    ``message``, ``exception`` (the traceback, if there is one), and the attributes given as
    *extra*, such as those of the access log.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as JSON."""
        moment = datetime.fromtimestamp(record.created, UTC)
        fields = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "process": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            fields["exception"] = record.exc_text
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return json.dumps({**extra, **fields}, ensure_ascii=False, default=str)


# The attributes of a record without *extra*.
_STANDARD: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


FORMATS: Final = {
    "text": lambda: logging.Formatter(
        "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"
    ),
    "json": JSONFormatter,
}
"""Functions that make a formatter, by the name of the format."""


@contextlib.contextmanager
def dropping_last_resort(level: int = logging.INFO, form: str = "text") -> Iterator[None]:
    """Replace `logging.lastResort` by a `DroppingHandler`, unless it is one already.

    `logging` uses it for programs that configure no handlers.
    """
    before = logging.lastResort
    if isinstance(before, DroppingHandler):
        yield
        return
    handler = DroppingHandler(level=level)
    handler.setFormatter(FORMATS[form]())
    logging.lastResort = handler
    try:
        yield
    finally:
        logging.lastResort = before
        handler.flush_for(stdio.AT_END)
        handler.close()


def levels() -> dict[str, str]:
    """Return the level of each logger that has one of its own, by name (``root`` for the root)."""
    root = logging.getLogger()
    named = {
        name: each
        for name, each in sorted(root.manager.loggerDict.items())
        if isinstance(each, logging.Logger) and each.level
    }
    return {
        "root": logging.getLevelName(root.level).lower(),
        **{name: logging.getLevelName(each.level).lower() for name, each in named.items()},
    }


def set_level(logger: str, level: int) -> None:
    """Set the level of the logger named *logger*; its records are shown from this level on.

    Where the program does not configure logging (see the module), the handler that is used
    then is made to show them, too.
    """
    logging.getLogger("" if logger == "root" else logger).setLevel(level)
    last = logging.lastResort
    if isinstance(last, DroppingHandler) and last.level > level:
        last.setLevel(level)
