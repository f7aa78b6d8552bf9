"""The conversions of ``silly connect``: the output never depends on the pieces."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.cli.connecting.shaping import (
    CRLF,
    HexDump,
    Plain,
    SafeText,
    Shape,
    Stamped,
    bytes_per_row,
    safe,
)

pytestmark = pytest.mark.no_engine

PIECES = st.lists(st.binary(max_size=40), max_size=8)
SHAPES: list[Callable[[], Shape]] = [
    Plain,
    SafeText,
    HexDump,
    lambda: HexDump(4),
    lambda: Stamped(Plain(), lambda: "now"),
    lambda: Stamped(HexDump(), lambda: "now"),
    lambda: Stamped(SafeText(), lambda: "now"),
]


def shaped(shape: Shape, *pieces: bytes) -> bytes:
    return b"".join([shape.feed(piece) for piece in pieces]) + shape.finish()


@pytest.mark.parametrize("make", SHAPES)
@given(pieces=PIECES)
def test_the_output_does_not_depend_on_the_pieces(
    make: Callable[[], Shape], pieces: list[bytes]
) -> None:
    assert shaped(make(), *pieces) == shaped(make(), b"".join(pieces))


@given(st.lists(st.text("a\r\n", max_size=6), max_size=8))
def test_crlf_in_any_pieces(texts: list[str]) -> None:
    pieces = [text.encode() for text in texts]
    crlf = CRLF()
    sent = b"".join(crlf.feed(piece) for piece in pieces)
    assert sent == re.sub(rb"(?<!\r)\n", b"\r\n", b"".join(pieces))
    assert sent.replace(b"\r\n", b"\n") == b"".join(pieces).replace(b"\r\n", b"\n")


@given(st.binary(max_size=200))
def test_terminal_controls_are_escaped(data: bytes) -> None:
    text = shaped(SafeText(), data).decode()
    assert all(
        char.isprintable() or char in "\n\t\u00a0\u2002\u2003\u2009\u202f\u3000" for char in text
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\tand \xc3\xa9 \xe2\x82\xac\r\n", "plain\tand é €\n"),
        (b"\x1b]0;title\x07\x1b[2J", "^[]0;title^G^[[2J"),
        (b"a\rb\x00\x7f\x08", "a^Mb^@^?^H"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"\xc2\x9b31m", "\\x9b31m"),
        ("\u202eevil\u2066".encode(), "\\u202eevil\\u2066"),
        ("\U000e0001".encode(), "\\U000e0001"),
        (b"cut \xe2\x82", "cut \\xe2\\x82"),
        (b"end\r", "end^M"),
    ],
)
def test_safe_text(data: bytes, text: str) -> None:
    assert shaped(SafeText(), data).decode() == text
    assert safe(text) == text


def test_hexdump_rows() -> None:
    assert shaped(HexDump(), bytes(range(0x41, 0x53))).decode() == (
        "00000000  41 42 43 44 45 46 47 48  49 4a 4b 4c 4d 4e 4f 50  |ABCDEFGHIJKLMNOP|\n"
        "00000010  51 52                                             |QR|\n"
    )
    assert shaped(HexDump(4), b"\x00a\nb\xffc").decode() == (
        "00000000  00 61 0a 62  |.a.b|\n00000004  ff 63        |.c|\n"
    )
    at_once = HexDump(8, at_once=True)
    assert at_once.feed(b"abc").decode() == "00000000  61 62 63                  |abc|\n"
    assert at_once.feed(b"d").decode() == "00000003  64                        |d|\n"


@pytest.mark.parametrize(
    ("columns", "width"), [(200, 16), (80, 16), (77, 8), (60, 8), (40, 4), (5, 4)]
)
def test_rows_fit_the_screen(columns: int, width: int) -> None:
    assert bytes_per_row(columns) == width
    rows = shaped(HexDump(width), bytes(100)).decode().splitlines()
    assert columns == 5 or max(map(len, rows)) <= columns


def test_timestamps_begin_lines_only() -> None:
    times = iter("1234")
    stamped = Stamped(Plain(), lambda: next(times))
    assert [stamped.feed(piece) for piece in (b"a", b"b\nc\n", b"\nd")] == [
        b"1 a", b"b\n2 c\n", b"3 \n3 d",
    ]  # fmt: skip
