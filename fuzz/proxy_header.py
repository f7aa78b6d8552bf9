"""Fuzzes the headers of the PROXY protocol: ``make fuzz [SECONDS=1200]``.

The invariant: whatever bytes come, and however they are split, either they are refused, and no
beginning of them is a header; or exactly one header is read and not a byte more, and what it
says is still the same after it was sent again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from typing import cast

import atheris

with atheris.instrument_imports(include=["silly"]):
    from silly.errors import EndOfStream
    from silly.net.conn import StreamConn
    from silly.net.preface import PrefaceError
    from silly.net.proxy import ProxyHeader, ProxyInfo
    from silly.net.proxy.crc32c import crc32c
    from silly.net.proxy.endpoints import HeaderError
    from silly.net.proxy.header import parse
    from silly.net.proxy.preface import take_header
    from silly.net.proxy.v2 import SIGNATURE
    from silly.testing import memory_pair

loop = asyncio.new_event_loop()


def likely(data: bytes) -> bytes:
    """Return bytes that come close to a header more often than *data* itself does."""
    kind, data = data[0] % 5 if data else 0, data[1:]
    if kind == 0:
        return data
    if kind == 1:
        return b"PROXY " + data
    if kind == 2:
        return b"PROXY TCP4 " + data.replace(b"\n", b"\r\n")
    content = data[2:]
    if kind == 4:
        at = len(content) % 40
        content = content[:at] + b"\x03\0\x04\0\0\0\0" + content[at:]
    header = SIGNATURE + data[:2].ljust(2, b"\x11") + len(content).to_bytes(2, "big") + content
    if kind == 4:
        at += 16 + 3
        header = header[:at] + crc32c(header).to_bytes(4, "big") + header[at + 4 :]
    return header


async def read(data: bytes, size: int) -> tuple[ProxyInfo, bytes] | None:
    """Return what the header at the start of *data* said, and the bytes that were not read."""
    near, far = cast(tuple[StreamConn, StreamConn], memory_pair())
    try:
        reading = asyncio.ensure_future(take_header(near))
        for start in range(0, len(data), size):
            far.write(data[start : start + size])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        far.close_write()
        try:
            await reading
        except (PrefaceError, EndOfStream):
            return None
        rest = bytearray()
        async for piece in near.batches(1, most=65536):
            rest += b"".join(piece)
        assert near.proxy is not None
        assert near.stats.bytes_in == len(rest)
        return near.proxy, bytes(rest)
    finally:
        near.abort()
        far.abort()


def parsed(header: bytes, via: str) -> ProxyInfo | None:
    try:
        return parse(header, via)[0]
    except HeaderError:
        return None


def sent_again(info: ProxyInfo) -> ProxyInfo | None:
    shared = {field.name for field in dataclasses.fields(ProxyHeader)} - {"has_checksum"}
    try:
        header = ProxyHeader(**{name: getattr(info, name) for name in shared})
    except ValueError:  # a path of 108 bytes, which cannot be written as an address
        return None
    return parsed(header.encode(2), info.via)


def test_one(data: bytes) -> None:
    size = 1 + (data[0] if data else 0) // 5 % 30
    header = likely(data)
    outcome = loop.run_until_complete(read(header, size))
    if outcome is None:
        for end in range(len(header) + 1):
            assert parsed(header[:end], "") is None, (header, end)
        return
    info, rest = outcome
    assert header.endswith(rest)
    assert parsed(header[: len(header) - len(rest)], info.via) == info, (header, rest)
    again = sent_again(info)
    assert again is None or again == dataclasses.replace(info, version=2), (info, again)


atheris.Setup(sys.argv, test_one)
atheris.Fuzz()
