"""Text that peers choose (Unix socket names, exception messages) is escaped everywhere.

Each output (logs, reports, the admin socket, metrics, traces, messages) is searched for
characters that control a terminal and for line ends that forge a record.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from silly import admin, metrics
from silly._logs.logger import Logger, traceback_text
from silly.errors import EndOfStream, at_address
from silly.net import tcp
from silly.net.observer import Ending
from silly.net.tcp import Conn, Limits, Listener
from silly.otel import Tracing
from silly.runtime import inspection

NAMES: Final = [
    b"\nERROR silly.net FORGED",
    b"\r\nERROR silly.net FORGED\x85\xc2\x85",
    b"\x1b[2J\x1b]0;FORGED\x07",
    "\x9b2J\x90FORGED\x9c".encode(),
    "\u202eFORGED\u2066\u200f".encode(),
    "\u2028FORGED\u2029".encode(),
    b"\xff\xfe\xed\xa0\x80FORGED",  # not UTF-8: decoded to surrogates
    b"\t\x08\x7fFORGED",
]
FORBIDDEN: Final = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u202e\u2066\u200f\u2028\u2029",
    *map(chr, range(0xD800, 0xE000)),
]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")


def assert_harmless(text: str, *, lines: int | None = None) -> None:
    """Check that *text* has no control characters and *lines* line ends (None: any number)."""
    if lines is not None:
        assert text.count("\n") == lines, text
    bad = [char for char in FORBIDDEN if char in text and char != "\n"]
    assert not bad, (bad, text)
    assert not any(line.startswith("ERROR silly.net FORGED") for line in text.split("\n")), text


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts_in(list(value.items()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts_in(each)


class Written:
    """Collects everything that is logged, as a standard formatter writes it."""

    def __init__(self) -> None:
        self.handler = logging.Handler(logging.DEBUG)
        self.handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        self.handler.emit = self.emit  # type: ignore[method-assign]
        self.records: list[logging.LogRecord] = []
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.texts.append(self.handler.format(record))


@pytest.fixture
def written() -> Iterator[Written]:
    written = Written()
    logger = logging.getLogger("silly")
    logger.addHandler(written.handler)
    logger.setLevel(logging.DEBUG)
    yield written
    logger.removeHandler(written.handler)
    logger.setLevel(logging.NOTSET)


class Fails:
    def opened(self, conn: Conn, listener: Listener) -> None:
        raise ValueError(f"{conn.remote_addr} is not welcome")

    def closed(self, conn: Conn, listener: Listener, ending: Ending) -> None:
        raise ValueError(f"{conn.remote_addr} was not welcome")


def bound_to(name: bytes, folder: Path, *, abstract: bool) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    sock.bind(b"\0" + name if abstract else os.fsencode(folder) + b"/" + name)
    return sock


@pytest.mark.parametrize("abstract", [True, False], ids=["abstract", "path"])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: str(name)[2:12])
async def test_every_output_is_escaped(
    name: bytes, abstract: bool, tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    name += b" %d" % os.getpid()  # abstract names are machine-wide, and tests run in parallel
    loop = asyncio.get_running_loop()
    monkeypatch.chdir(tmp_path)  # because paths of Unix sockets must be short
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    errors: list[Exception] = []
    latin = name.decode("latin-1")

    async def handler(conn: Conn) -> None:
        errors.append(EndOfStream("the end", address=conn.remote_addr))
        errors.append(at_address(OSError("no number"), conn.remote_addr))
        line = await conn.read(b".")
        beside = asyncio.create_task(asyncio.Event().wait(), name=f"beside {conn.remote_addr}")
        try:
            await conn.read(b".")
        finally:
            beside.cancel()
        try:
            int(line.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            error.add_note(conn.remote_addr)
            raise type(latin, (Exception,), {})(conn.remote_addr) from error

    web = metrics.serve("127.0.0.1:0")
    asked = admin.serve("unix:admin.sock")
    first = tcp.listen("unix:one.sock", handler, access_log=True, observer=Fails())
    second = tcp.listen(
        "unix:two.sock",
        handler,
        access_log=True,
        observer=Tracing(provider),
        limits=Limits(read_limit=10),
    )
    data = name.replace(b".", b"") + b"."
    for listener, more in ((first, b"."), (second, b"x" * 20)):
        with bound_to(name, Path(), abstract=abstract) as sock:
            await loop.sock_connect(sock, listener.local_addr.removeprefix("unix:"))
            await loop.sock_sendall(sock, data if listener is first else b"1.")
            while not (listener._course.handling and listener.stats.bytes_in):
                await asyncio.sleep(0)
            for _ in range(3):
                await asyncio.sleep(0)
            (conn,) = listener._course.handling.values()
            assert_harmless(repr(conn), lines=0)
            report = inspection.report(loop)
            assert_harmless(report)
            assert "FORGED" in report
            async with await tcp.connect(asked.local_addr) as client:
                for command in (b"connections", b"tasks", b"stats", b"\x1b[2J FORGED"):
                    await client.write(command + b"\n")
                    answer = (await client.read(b"\n")).decode()
                    assert_harmless(answer, lines=1)
                    for text in texts_in(json.loads(answer)):
                        if command != b"\x1b[2J FORGED":
                            assert_harmless(text, lines=0)
            await loop.sock_sendall(sock, more)
            while await loop.sock_recv(sock, 100):
                pass
        if not abstract:
            Path(os.fsdecode(name)).unlink()
    while len(exporter.get_finished_spans()) < 1 or first.connections or second.connections:
        await asyncio.sleep(0)
    async with await tcp.connect(web.local_addr) as client:
        client.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        head = await client.read(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        page = (await client.read(length)).decode()
    assert_harmless(page)
    assert "FORGED" in page  # the type of the exception
    for listener in (first, second, web, asked):
        await listener.close()

    assert {"silly.net", "silly.access"} <= {record.name for record in written.records}
    assert sum("FORGED" in text for text in written.texts) >= 5
    for record, text in zip(written.records, written.texts, strict=True):
        assert_harmless(text, lines=None if record.exc_info else 0)
        for field in ("peer", "local", "listener", "error"):
            assert_harmless(str(getattr(record, field, "")), lines=0)
    for span in exporter.get_finished_spans():
        for text in texts_in(dict(span.attributes or {})):
            assert_harmless(text, lines=0)
    for error in errors:
        assert_harmless(str(error), lines=0)
        if isinstance(error, EndOfStream):
            assert "FORGED" in error.address  # not escaped: programs compare and parse it


async def test_a_span_is_escaped() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def handler(conn: Conn) -> None:
        text = (await conn.read(b".")).decode("utf-8", "surrogateescape")
        raise type(text.encode("utf-8", "surrogateescape").decode("latin-1"), (Exception,), {})(
            text
        )

    async with tcp.listen("127.0.0.1:0", handler, observer=Tracing(provider)) as listener:
        for name in NAMES:
            async with await tcp.connect(listener.local_addr) as conn:
                conn.write(name + b".")
                with pytest.raises((EOFError, OSError)):
                    await conn.read()
    spans = exporter.get_finished_spans()
    assert len(spans) == len(NAMES)
    for span in spans:
        (event,) = span.events
        for text in texts_in([dict(event.attributes or {}), dict(span.attributes or {})]):
            assert_harmless(text.replace("\ufffd", ""))


def test_all_kinds_of_tracebacks_are_escaped() -> None:
    for name in NAMES:
        text = name.decode("utf-8", "surrogateescape")
        for error in (
            ValueError(text),
            OSError(5, text, text),
            SyntaxError(text, (text, 1, 1, text + "\nERROR silly.net FORGED\n")),
            ExceptionGroup(text, [ValueError(text), ExceptionGroup(text, [KeyError(text)])]),
            type(name.decode("latin-1"), (Exception,), {"__module__": text})(text),
        ):
            error.add_note(text)
            error.__cause__ = ValueError(text)
            shown = traceback_text(error)
            assert_harmless(shown)
            assert "FORGED" in shown


@pytest.mark.parametrize("where", ["text", "filename"])
def test_a_logged_syntax_error_is_escaped(where: str, caplog: pytest.LogCaptureFixture) -> None:
    error = SyntaxError("invalid syntax", ("file", 1, 1, "code"))
    setattr(error, where, NAMES[2].decode() + "\n")
    Logger("silly.test").error("cannot compile", exc_info=error)
    assert_harmless(caplog.text)
    assert "FORGED" in caplog.text


def test_a_label_that_is_not_utf_8_does_not_break_the_metrics_page(tmp_path: Path) -> None:
    async def main() -> str:
        path = f"unix:{tmp_path}/\udcff"
        async with tcp.listen(path, echo), metrics.serve("127.0.0.1:0") as web:
            async with await tcp.connect(web.local_addr) as client:
                client.write(b"GET /metrics HTTP/1.1\r\n\r\n")
                head = await client.read(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                return (await client.read(length)).decode()

    assert "\\\\udcff" in asyncio.run(main())


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)
