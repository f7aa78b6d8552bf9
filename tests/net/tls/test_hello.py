"""ClientHellos, well-formed or not: both kinds find the same in them, and read nothing else."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly._engine import engine
from silly.net.tls.hello import Hello

KINDS: list[Any] = [Hello]
if engine.NAME == "native":
    from silly.net.tls.native import hello

    KINDS.append(hello.Hello)

pytestmark = pytest.mark.no_engine
NAME = "name.example"


def message() -> bytes:
    """Return a ClientHello, without the header of its record."""
    sent = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname=NAME)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()[5:]


MESSAGE = message()


def records(message: bytes, size: int) -> bytes:
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(each).to_bytes(2) + each for each in pieces)


def found(kind: Any, wire: bytes, size: int) -> tuple[Any, ...]:
    """Feed *wire* in pieces of *size* bytes; return what is known after all of it."""
    hello = kind()
    try:
        for at in range(0, len(wire), size):
            if hello.feed(wire[at : at + size]):
                return hello.name, bytes(hello.received)
    except ssl.SSLError as error:
        return error.reason, str(error)
    return ("incomplete",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_name_in_pieces(kind: Any, size: int) -> None:
    wire = records(MESSAGE, 100)
    assert found(kind, wire, size) == (NAME, wire)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_that_ends_anywhere(kind: Any) -> None:
    for end in range(4, len(MESSAGE)):
        body = MESSAGE[4:end]
        wire = records(b"\x01" + len(body).to_bytes(3) + body, 10_000)
        name, received = found(kind, wire, 10_000)
        assert name is None or NAME.startswith(name)
        assert received == wire


hellos = st.builds(
    lambda body, change: b"\x01" + len(body + change).to_bytes(3) + body + change,
    st.integers(0, len(MESSAGE)).map(lambda end: MESSAGE[4:end]),
    st.binary(max_size=40),
)


@given(hellos | st.binary(min_size=1, max_size=80), st.integers(1, 300), st.integers(1, 300))
def test_both_kinds_agree(message: bytes, record: int, piece: int) -> None:
    wire = records(message, record)
    assert len({found(kind, wire, piece) for kind in KINDS}) == 1
