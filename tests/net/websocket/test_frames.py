"""Frames: what is sent, and the messages in what is received; in Python and native."""

from __future__ import annotations

import zlib
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from silly.net.websocket.codes import BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT
from silly.net.websocket.deflate import Deflate
from silly.net.websocket.kinds import available
from tests.net.websocket.frames import KEY, Understood, frame, from_client, understand

pytestmark = pytest.mark.no_engine  # the native one runs both kinds

KINDS = list(available().values())
each_kind = pytest.mark.parametrize("kind", KINDS, ids=list(available()))


@each_kind
def test_the_examples_of_the_rfc(kind: Any) -> None:
    """RFC 6455, section 5.7."""
    assert kind.frame(0x81, "Hello") == bytes.fromhex("810548656c6c6f")
    assert kind.frame(0x81, b"Hello", KEY) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert kind.frame(0x82, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert kind.frame(0x82, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")
    assert understand(kind, bytes.fromhex("010348656c80026c6f")).messages == ["Hello"]
    masked = bytes.fromhex("818537fa213d7f9f4d5158")
    assert understand(kind, masked, is_masked=True).messages == ["Hello"]
    assert understand(kind, bytes.fromhex("890548656c6c6f")).controls == [(PING, b"Hello")]


@each_kind
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_lengths_are_written_in_the_shortest_form(kind: Any, size: int) -> None:
    for key in (None, KEY):
        data = kind.frame(0x82, bytes(size), key)
        head = 2 if size < 126 else 4 if size < 65536 else 10
        assert len(data) == head + (4 if key else 0) + size
        got = understand(kind, data, is_masked=key is not None, max_message=size)
        assert got == Understood([bytes(size)], [], None, False)


@each_kind
def test_masking(kind: Any) -> None:
    data = bytes(range(256)) * 3
    for size in (*range(70), 255, 700):
        for start in range(5):
            expected = bytes(b ^ KEY[(start + i) & 3] for i, b in enumerate(data[:size]))
            assert kind.masked(data[:size], KEY, start) == expected
    assert len({kind.new_key() for _ in range(3000)}) > 2900
    assert len(kind.new_key()) == 4


@each_kind
@pytest.mark.parametrize("text", ["x" * 10_000, "é€😀" * 2000])
def test_long_text_that_is_masked(kind: Any, text: str) -> None:
    data = kind.frame(0x81, text, KEY)
    assert understand(kind, data, is_masked=True, max_message=100_000).messages == [text]
    wrong = kind.frame(0x81, text.encode() + b"\xff", KEY)
    failure = understand(kind, wrong, is_masked=True, max_message=100_000).failure
    assert failure is not None
    assert failure[0] == 1007


@pytest.mark.skipif("native" not in available(), reason="the other one trusts its only caller")
@pytest.mark.parametrize("key", [b"", b"abc", b"abcde"])
def test_keys_of_another_length_are_refused(key: bytes) -> None:
    kind = available()["native"]
    with pytest.raises(ValueError, match="four bytes"):
        kind.masked(b"data", key)
    with pytest.raises(ValueError, match="four bytes"):
        kind.frame(0x82, b"data", key)


@each_kind
def test_what_is_sent_as_one_message(kind: Any) -> None:
    assert kind.framed("text") == kind.frame(0x81, b"text")
    for binary in (b"data", bytearray(b"data"), memoryview(b"data")):
        assert kind.framed(binary) == kind.frame(0x82, b"data")
    with pytest.raises(TypeError):
        kind.framed(7)


@each_kind
def test_text_is_encoded_and_surrogates_are_refused(kind: Any) -> None:
    assert kind.frame(0x81, "é€😀") == b"\x81\x09" + "é€😀".encode()
    with pytest.raises(UnicodeEncodeError):
        kind.frame(0x81, "\ud800")


@each_kind
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(3), 1002),
        (frame(7), 1002),
        (frame(11), 1002),
        (frame(15), 1002),
        (frame(TEXT, rsv=0x40), 1002),
        (frame(TEXT, rsv=0x20), 1002),
        (frame(PING, rsv=0x10), 1002),
        (frame(PING, fin=False), 1002),
        (frame(PING, bytes(126)), 1002),
        (frame(CONTINUATION, b"x"), 1002),
        (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
        (b"\x82\x7f\x80\0\0\0\0\0\0\0", 1002),
        (b"\x82\x7e\0\x7d" + bytes(125), 1002),  # not the shortest form of its length
        (b"\x82\x7f\0\0\0\0\0\0\xff\xff", 1002),
        (from_client(TEXT, b"a"), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xc3"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION), 1007),
        (frame(BINARY, bytes(1001))[:4], 1009),
        (frame(BINARY, bytes(600), fin=False) + frame(CONTINUATION, bytes(401))[:4], 1009),
    ],
)
def test_faults_of_the_peer(kind: Any, data: bytes, code: int) -> None:
    got = understand(kind, frame(BINARY, b"before") + data + frame(BINARY, b"after"))
    assert got.messages == [b"before"]
    assert got.failure is not None
    assert got.failure[0] == code
    assert not got.is_partial


@each_kind
def test_a_server_refuses_what_is_not_masked(kind: Any) -> None:
    got = understand(kind, frame(TEXT, b"a"), is_masked=True)
    assert got.failure == (1002, "frame without a mask", None)


@each_kind
def test_limits_are_exact(kind: Any) -> None:
    assert understand(kind, frame(BINARY, bytes(1000))).failure is None
    too_long = (1009, "more than 1000 bytes", "max_message_bytes")
    assert understand(kind, frame(BINARY, bytes(1001))[:4]).failure == too_long
    many = frame(BINARY, fin=False) + frame(CONTINUATION, fin=False) * 98
    assert understand(kind, many + frame(CONTINUATION)).messages == [b""]
    too_many = (1009, "more than 100 fragments", "max_fragments")
    assert understand(kind, many + frame(CONTINUATION, fin=False) * 2).failure == too_many


@each_kind
@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (b"\xf4\x90", 1),
        (b"\xed\xa0\x80", 1),
        (b"\xc0\x80", 0),
        (b"\xf5", 0),
        (b"\xe0\x9f\x80", 1),
        (b"\xf0\x8f", 1),
        (b"\xe2\x82\x28", 2),
        (b"abcdefgh\x80", 8),
    ],
)
def test_text_is_refused_at_its_first_wrong_byte(kind: Any, text: bytes, valid: int) -> None:
    data = frame(TEXT, text + b"more")
    head = len(data) - len(text) - 4
    assert understand(kind, data[: head + valid]).failure is None
    got = understand(kind, data[: head + valid + 1])
    assert got.failure == (1007, "text that is not UTF-8", None)


@each_kind
def test_nothing_is_taken_after_a_close_frame(kind: Any) -> None:
    data = frame(TEXT, b"a", fin=False) + frame(CLOSE, b"\x03\xe8") + frame(PING)
    assert understand(kind, data) == Understood([], [(CLOSE, b"\x03\xe8")], None, False)


@each_kind
def test_control_frames_may_come_within_a_message(kind: Any) -> None:
    data = frame(TEXT, b"a", fin=False) + frame(PING, b"1") + frame(PONG) + frame(0, b"b")
    assert understand(kind, data) == Understood(["ab"], [(PING, b"1"), (PONG, b"")], None, False)
    assert understand(kind, data[:-1]).is_partial


def compressed(text: bytes) -> bytes:
    return frame(TEXT, Deflate().compress(text), rsv=RSV1)


@each_kind
def test_compressed_messages(kind: Any) -> None:
    data = compressed(b"Hello" * 9) + frame(TEXT, b"plain") + compressed(b"") + compressed(b"x")
    got = understand(kind, data, is_deflated=True)
    assert got == Understood(["Hello" * 9, "plain", "", "x"], [], None, False)
    example = bytes.fromhex("c107f248cdc9c90700")  # RFC 7692, section 7.2.3.1
    assert understand(kind, example, is_deflated=True).messages == ["Hello"]
    last_block = bytes.fromhex("c108f348cdc9c9070000")  # section 7.2.3.4
    assert understand(kind, last_block * 2, is_deflated=True).messages == ["Hello"] * 2
    shared = bytes.fromhex("c107f248cdc9c90700c105f200110000")  # section 7.2.3.2
    got = understand(kind, shared, is_deflated=True, keeps_window=True)
    assert got.messages == ["Hello"] * 2


@each_kind
def test_compression_bombs_are_stopped_exactly_at_the_limit(kind: Any) -> None:
    exact = frame(BINARY, Deflate().compress(bytes(1000)), rsv=RSV1)
    assert understand(kind, exact, is_deflated=True).messages == [bytes(1000)]
    too_long = (1009, "more than 1000 bytes", "max_message_bytes")
    for size in (1001, 10_000_000):
        bomb = frame(BINARY, Deflate().compress(bytes(size)), rsv=RSV1)
        assert understand(kind, bomb, is_deflated=True).failure == too_long
    payload = Deflate().compress(bytes(10_000_000))
    for cut in (1, 15, len(payload) // 2):
        parts = frame(BINARY, payload[:cut], fin=False, rsv=RSV1) + frame(0, payload[cut:])
        assert understand(kind, parts, is_deflated=True).failure == too_long
    endless = frame(BINARY, b"\0\0\0\xff\xff" * 1000, rsv=RSV1)  # blocks of nothing
    assert understand(kind, endless, is_deflated=True).failure == too_long


@each_kind
def test_invalid_compressed_messages(kind: Any) -> None:
    garbage = frame(BINARY, b"\x07\xff", rsv=RSV1)
    got = understand(kind, garbage, is_deflated=True)
    assert got.failure == (1007, "invalid compressed data", None)
    for wrong in (frame(PING, rsv=RSV1), frame(BINARY, b"", fin=False) + frame(0, rsv=RSV1)):
        failure = understand(kind, wrong, is_deflated=True).failure
        assert failure == (1002, "reserved bits are set", None)
    text = frame(TEXT, zlib.compress(b"\xff", wbits=-15)[:-1], rsv=RSV1)
    assert understand(kind, text, is_deflated=True).failure is not None


def _frames() -> st.SearchStrategy[bytes]:
    control = st.builds(from_client, st.sampled_from((PING, PONG)), st.binary(max_size=20))
    payload = st.one_of(st.text(max_size=40).map(str.encode), st.binary(max_size=30))

    def message(opcode: int, parts: list[bytes], between: list[bytes]) -> bytes:
        data = b""
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            data += from_client(opcode if number == 0 else CONTINUATION, part, fin=is_last)
            data += between[number] if number < len(between) and not is_last else b""
        return data

    valid = st.builds(
        message,
        st.sampled_from((TEXT, BINARY)),
        st.lists(payload, min_size=1, max_size=5),
        st.lists(control, max_size=2),
    )
    return st.lists(st.one_of(valid, valid, control, st.binary(max_size=6)), max_size=6).map(
        b"".join
    )


@settings(max_examples=150)
@given(data=_frames(), cuts=st.lists(st.integers(0, 300), max_size=12), limit=st.integers(0, 60))
def test_splits_make_no_difference_and_the_twins_agree(
    data: bytes, cuts: list[int], limit: int
) -> None:
    """However a network splits bytes, every kind understands the same."""
    cuts = sorted(cut for cut in cuts if cut <= len(data))
    options: Any = {"is_masked": True, "max_message": limit, "max_fragments": 4}
    results = [
        understand(kind, data, places, **options)
        for kind in KINDS
        for places in ((), cuts, range(1, len(data)))
    ]
    assert all(each == results[0] for each in results), results


@given(text=st.text(max_size=300), key=st.binary(min_size=4, max_size=4))
def test_what_is_framed_is_understood(text: str, key: bytes) -> None:
    data = text.encode()
    for kind in KINDS:
        assert kind.frame(FIN | TEXT, text, key) == KINDS[0].frame(FIN | TEXT, data, key)
        got = understand(kind, kind.frame(FIN | TEXT, text, key), is_masked=True, max_message=9999)
        assert got.messages == [text]
