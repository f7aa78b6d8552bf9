"""A session without I/O: control frames, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from silly.net.limits import Limits
from silly.net.websocket.codes import BINARY, CLOSE, PING, PONG, TEXT
from silly.net.websocket.session import Session
from tests.net.websocket.frames import frame, from_client

pytestmark = pytest.mark.no_engine


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Prompt(Session):
    """A session that has settled whatever it has received."""

    def receive(self, data: bytes) -> list[str | bytes]:
        messages = super().receive(data)
        self.settle()
        return messages


def server(clock: Any = None, **limits: Any) -> Session:
    return Prompt(Limits(**limits), None, is_client=False, clock=clock or Clock())


def closed(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def test_pings_are_answered_in_one_piece() -> None:
    session = server()
    data = from_client(PING, b"1") + from_client(TEXT, b"text") + from_client(PING, b"2")
    assert session.receive(data) == ["text"]
    assert session.outgoing == frame(PONG, b"1") + frame(PONG, b"2")
    assert session.has_news


def test_pongs_are_noted() -> None:
    session = server()
    assert session.receive(from_client(PONG, b"1") + from_client(PONG)) == []
    assert session.pongs == [b"1", b""]
    assert session.outgoing == b""


@pytest.mark.parametrize(
    ("payload", "answer", "code", "reason"),
    [
        (b"", frame(CLOSE), 1005, ""),
        (b"\x03\xe8", closed(1000), 1000, ""),
        (b"\x03\xe8bye", closed(1000), 1000, "bye"),
        (b"\x0f\xa0", closed(4000), 4000, ""),
        (b"\x03\xf6", closed(1014), 1014, ""),
        (b"\x03", closed(1002, "invalid close frame"), 1002, "invalid close frame"),
        (b"\x03\xed", closed(1002, "invalid close frame"), 1002, "invalid close frame"),
        (b"\x03\xee", closed(1002, "invalid close frame"), 1002, "invalid close frame"),
        (b"\x13\x88", closed(1002, "invalid close frame"), 1002, "invalid close frame"),
        (b"\x03\xe8\xff", closed(1007, "a reason that is not UTF-8"), 1007, None),
    ],
)
def test_close_frames_are_answered(
    payload: bytes, answer: bytes, code: int, reason: str | None
) -> None:
    session = server()
    assert session.receive(from_client(CLOSE, payload) + from_client(TEXT, b"late")) == []
    assert session.outgoing == answer
    assert (session.is_over, session.code) == (True, code)
    assert reason is None or session.reason == reason


def test_messages_before_a_close_frame_are_returned() -> None:
    session = server()
    assert session.receive(from_client(TEXT, b"last") + from_client(CLOSE)) == ["last"]
    assert session.is_over


def test_an_end_is_settled_after_the_messages_before_it() -> None:
    for last in (from_client(CLOSE, b"\x03\xe8"), from_client(TEXT, b"\xff")):
        session = Session(Limits(), None, is_client=False, clock=Clock())
        assert session.receive(from_client(TEXT, b"a") + from_client(PING) + last) == ["a"]
        assert session.outgoing == frame(PONG)
        assert (session.is_ending, session.is_closing, session.is_over) == (True, False, False)
        session.settle()
        assert session.outgoing.startswith(frame(PONG) + b"\x88")
        assert (session.is_ending, session.is_closing, session.is_over) == (False, True, True)


def test_what_comes_while_closing_is_dropped() -> None:
    session = server()
    assert session.close(1000, "bye") == closed(1000, "bye")
    assert session.receive(from_client(TEXT, b"a") + from_client(PING)) == []
    assert (session.outgoing, session.is_over) == (b"", False)
    session.receive(from_client(CLOSE, b"\x03\xe8"))
    assert (session.outgoing, session.is_over, session.code) == (b"", True, 1000)


def test_faults_are_told() -> None:
    session = server(max_message_bytes=10)
    assert session.receive(from_client(BINARY, bytes(11))) == []
    assert session.outgoing == closed(1009, "more than 10 bytes")
    assert (session.is_over, session.code, session.limit) == (True, 1009, "max_message_bytes")
    assert session.has_failed


def test_the_rate_of_control_frames_is_limited() -> None:
    clock = Clock()
    session = server(clock, max_control_rate=10)
    for _ in range(3):
        session.receive(from_client(PING) * 10)
        assert not session.is_over
        clock.now += 1
    session.receive(from_client(PONG) * 10)
    session.receive(from_client(PING))
    assert (session.code, session.limit) == (1008, "max_control_rate")
    unlimited = server(max_control_rate=None)
    unlimited.receive(from_client(PING) * 5000)
    assert not unlimited.is_over


def test_a_close_frame_after_as_many_pings_as_are_allowed_is_answered() -> None:
    session = server(Clock(), max_control_rate=10)
    session.receive(from_client(PING) * 10 + from_client(CLOSE, b"\x03\xe8"))
    session.settle()
    assert (session.is_over, session.code, session.limit) == (True, 1000, None)


def test_a_lost_connection() -> None:
    session = server()
    session.lose()
    assert (session.is_over, session.code) == (True, 1006)
    session = server()
    session.receive(from_client(CLOSE))
    session.lose()
    assert session.code == 1005


def test_a_client_masks_each_frame_with_another_key() -> None:
    session = Session(Limits(), None, is_client=True, clock=Clock())
    frames = {session.message("hello") for _ in range(50)}
    assert len(frames) == 50
    assert all(each[1] == 0x85 for each in frames)
    assert session.ping(b"")[1] == session.close(1000)[1] & 0x80 == 0x80


def test_what_can_be_sent() -> None:
    class Text(str):
        __slots__ = ()

    session = server()
    assert session.message(Text("a")) == frame(TEXT, b"a")
    for binary in (b"a", bytearray(b"a"), memoryview(b"xay")[1:2]):
        assert session.message(binary) == frame(BINARY, b"a")
    for wrong in (1, None, ["a"], {"a": 1}):
        with pytest.raises(TypeError, match="a message is a str, or bytes-like"):
            session.message(wrong)
    with pytest.raises(UnicodeEncodeError):
        session.message("\ud800")
