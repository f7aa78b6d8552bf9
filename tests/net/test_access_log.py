"""The access log: one line for each connection, as text and as fields."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from silly.log import JSONFormatter
from silly.net import access_log, observer, tcp
from silly.net.tcp import Conn

ANY = "127.0.0.1:0"

logger = logging.getLogger("silly.access")


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Records of the access log."""
    found: list[logging.LogRecord] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    keeper = Keeper()
    logger.addHandler(keeper)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(keeper)
    logger.setLevel(logging.NOTSET)


async def handler(conn: Conn) -> None:
    async for line in conn:
        if line == b"crash\n":
            raise ZeroDivisionError
        await conn.write(line)


async def until_written(records: list[logging.LogRecord], count: int = 1) -> None:
    while len(records) < count:
        await asyncio.sleep(0)


async def test_a_line_and_its_fields(records: list[logging.LogRecord]) -> None:
    async with tcp.listen(ANY, handler, access_log=True) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            client = conn.local_addr
            conn.write(b"hello\n")
            await conn.read(b"\n")
            assert not records
        await until_written(records)
    (record,) = records
    assert record.levelno == logging.INFO
    fields = {name: getattr(record, name) for name in access_log.FIELDS}
    assert fields.pop("duration") >= 0
    assert fields == {
        "peer": client,
        "local": listener.local_addr,
        "listener": listener.local_addr,
        "tls": None,
        "server_name": None,
        "bytes_in": 6,
        "bytes_out": 6,
        "ending": "peer_finished",
        "error": None,
    }
    text = record.getMessage()
    assert text.startswith(f"{client} to {listener.local_addr}: peer_finished, 0.")
    assert text.endswith(" s, 6 bytes in, 6 bytes out")


async def test_a_crash_is_logged_with_its_type(records: list[logging.LogRecord]) -> None:
    async with tcp.listen(ANY, handler, access_log=True) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"crash\n")
            await until_written(records)
    (record,) = records
    assert vars(record)["error"] == "ZeroDivisionError"
    assert ": handler_error ZeroDivisionError, " in record.getMessage()


async def test_off_by_default(records: list[logging.LogRecord]) -> None:
    log = access_log.AccessLog()
    for wanted in (False, True):
        if wanted:
            observer.register(log)
        try:
            async with tcp.listen(ANY, handler) as listener:
                async with await tcp.connect(listener.local_addr) as conn:
                    conn.write(b"x\n")
                    await conn.read(b"\n")
        finally:
            observer.unregister(log)
        assert len(records) == wanted


async def test_nothing_is_logged_below_the_level(records: list[logging.LogRecord]) -> None:
    logger.setLevel(logging.WARNING)
    async with tcp.listen(ANY, handler, access_log=True) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"x\n")
            await conn.read(b"\n")
    assert not records


async def test_json_formatter_writes_its_fields(records: list[logging.LogRecord]) -> None:
    async with tcp.listen(ANY, handler, access_log=True) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"hello\n")
            await conn.read(b"\n")
        await until_written(records)
    line = json.loads(JSONFormatter().format(records[0]))
    plain = {"time", "level", "process", "logger", "message"}
    assert line.keys() == plain | access_log.FIELDS.keys()
    assert (line["logger"], line["ending"], line["bytes_in"]) == (
        "silly.access",
        "peer_finished",
        6,
    )
    odd = logging.makeLogRecord({"msg": "text", "odd": {1}, "level": "of the program"})
    line = json.loads(JSONFormatter().format(odd))
    assert (line["message"], line["odd"], line["level"]) == ("text", "{1}", odd.levelname)


async def test_structlog_writes_it_as_json() -> None:
    stream = io.StringIO()
    output = logging.StreamHandler(stream)
    output.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logger.addHandler(output)
    logger.setLevel(logging.INFO)
    try:
        async with tcp.listen(ANY, handler, access_log=True) as listener:
            async with await tcp.connect(listener.local_addr) as conn:
                conn.write(b"hello\n")
                await conn.read(b"\n")
            while not stream.getvalue():
                await asyncio.sleep(0)
    finally:
        logger.removeHandler(output)
        logger.setLevel(logging.NOTSET)
    line = json.loads(stream.getvalue())
    assert line["logger"] == "silly.access"
    assert line["ending"] == "peer_finished"
    assert set(access_log.FIELDS) <= set(line)
