"""Logging that never holds the program up.

Whoever started the program may not read what it writes to standard error. When
that pipe is full, a write to it waits, and in an event loop everything waits
with it: the first crash too many of a handler would stop a server. A
`DroppingHandler` writes what fits, keeps a little for later, drops the rest, and
counts what it dropped.

There is no queue and thread in it (`logging.handlers.QueueHandler`): a thread that
hangs in a write cannot be joined at the end of the program, and what is printed
beside the log would come out of order.

A program that is run by ``silly FILE.py`` and does not configure logging logs
through one. A program that does (with `logging.basicConfig`, which the functions
`logging.warning`, `logging.error`, … call by themselves) has what it configured;
for this one::

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
from silly._arguments import size

__all__ = ["FORMATS", "DroppingHandler", "JSONFormatter"]


class DroppingHandler(logging.Handler):
    """Writes records to a stream without ever waiting for it.

    What the stream's descriptor does not take now is kept, up to *max_kept*
    bytes, and tried again every 0.1 seconds while an event loop runs, and with
    the next record. Records beyond that are dropped; a line says how many as
    soon as there is room. A stream that has no descriptor (`io.StringIO`) is
    written to as it is.

    On a pipe, a terminal or a socket nothing waits, whoever else writes to it (where
    there is no /proc: unless another process takes the room that poll(2) found for a
    piece of up to 4096 bytes). Files take everything.

    Args:
        stream: where to write; None is what `sys.stderr` is at the time.
        level: as in `logging`.
        max_kept: bytes.

    Attributes:
        dropped: how many records were dropped so far.
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
        """Write *record*, or keep it, or drop it."""
        try:
            text = self.format(record)
            if not self.write(text + "\n"):
                self.dropped += 1
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - as every handler of logging does
            self.handleError(record)

    def write(self, text: str) -> bool:
        """Write *text*, or keep it; return False if there is no room even to keep it."""
        stream = self._now()
        if stream is None:  # pythonw has none
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
        """Write what is kept, as far as the stream takes it now."""
        with self.lock or contextlib.nullcontext():
            self._dropper.flush()

    def flush_for(self, seconds: float) -> None:
        """Write what is kept, and wait *seconds* at most for who reads it slowly."""
        self._dropper.flush_for(seconds)

    def close(self) -> None:
        """Write what is kept, as far as the stream takes it now; the rest is lost."""
        self._dropper.close()
        super().close()

    def _now(self) -> TextIO | None:
        return sys.stderr if self._stream is None else self._stream

    def _descriptor(self) -> int | None:
        return stdio.descriptor_of(self._now())


class JSONFormatter(logging.Formatter):
    """Makes one line of JSON of a record.

    Its keys are ``time`` (ISO 8601, UTC), ``level``, ``process`` (the pid), ``logger``,
    ``message``, ``exception`` (the traceback) where there is one, and the attributes that
    were given as *extra*, as those of the access log are.
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
        extra = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        return json.dumps({**extra, **fields}, ensure_ascii=False, default=str)


_PLAIN: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
"""The attributes of a record without *extra*."""


FORMATS: Final = {
    "text": lambda: logging.Formatter(
        "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"
    ),
    "json": JSONFormatter,
}
"""What makes a formatter, by the name of the format."""


@contextlib.contextmanager
def unconfigured_logging_drops(level: int = logging.INFO, form: str = "text") -> Iterator[None]:
    """Put a `DroppingHandler` in the place of `logging.lastResort`, unless one is there.

    That is what records come to when the program configured nothing.
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
