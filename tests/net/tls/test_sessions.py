"""The two kinds of session, without a socket: they agree, at every split of the bytes."""

from __future__ import annotations

import _ssl
import ctypes
import itertools
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.net.tls import kinds
from silly.net.tls.session import Records
from tests.net.tls import certificates
from tests.programs import assert_prints

KINDS = kinds.available()
Split = Callable[[bytes], Iterable[bytes]]
PAIRS = list(itertools.product(KINDS, KINDS))


def sessions(server: str, client: str) -> tuple[Any, Any]:
    """Two ends, by their kinds, before their handshake."""
    return (
        KINDS[server](certificates.server().context, is_server=True, server_name=certificates.NAME),
        KINDS[client](
            certificates.client().context, is_server=False, server_name=certificates.NAME
        ),
    )


def exchange(
    one: Any, other: Any, split: Callable[[bytes], Iterable[bytes]] = lambda w: [w]
) -> None:
    """Pass what each end has to send to the other, until there is nothing."""
    while True:
        passed = False
        for sender, receiver in ((one, other), (other, one)):
            for piece in split(sender.pending()):
                if piece:
                    passed = True
                    assert receiver.open(piece) == b""
        if not passed:
            return


def connected(server: str, client: str) -> tuple[Any, Any]:
    ends = sessions(server, client)
    exchange(*reversed(ends))
    return ends


def bytewise(wire: bytes) -> Iterable[bytes]:
    return (wire[at : at + 1] for at in range(len(wire)))


@pytest.mark.parametrize(("server", "client"), PAIRS)
@pytest.mark.parametrize("split", [lambda wire: [wire], bytewise])
def test_the_handshake(server: str, client: str, split: Any) -> None:
    one, other = sessions(server, client)
    assert (one.is_ready, other.is_ready, one.info, other.info) == (False, False, None, None)
    exchange(other, one, split)
    assert one.is_ready
    assert other.is_ready
    assert one.info.version == other.info.version == "TLSv1.3"
    assert one.info.server_name == other.info.server_name == certificates.NAME
    first = certificates.server().context.get_ciphers()[0]["name"]
    assert one.info.cipher == other.info.cipher == first
    assert (one.unopened, other.unopened) == (0, 0)


@pytest.mark.parametrize(("server", "client"), PAIRS)
@given(data=st.data())
def test_bytes_come_out_as_they_went_in(server: str, client: str, data: st.DataObject) -> None:
    one, other = connected(server, client)
    written = data.draw(st.lists(st.binary(max_size=100) | st.just(b"x" * 40_000), max_size=5))
    wire = b"".join(one.seal(each) for each in written) + one.finish()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    opened = []
    counter = Records()
    for start, end in itertools.pairwise([0, *cuts, len(wire)]):
        opened.append(other.open(wire[start:end]))
        counter.feed(wire[start:end])
        assert other.unopened == counter.partial
        assert other.is_ended == (end == len(wire))
    assert b"".join(opened) == b"".join(written)
    assert other.error is None


@pytest.mark.parametrize("kind", KINDS)
@given(at=st.integers(0, 200), piece=st.integers(1, 300))
def test_what_precedes_an_invalid_byte_is_not_lost(kind: str, at: int, piece: int) -> None:
    one, other = connected(kind, kind)
    first, second = one.seal(b"first"), one.seal(b"second" * 20)
    at %= len(second)
    wire = bytearray(first + second)
    wire[len(first) + at] ^= 1
    opened = b"".join(
        other.open(bytes(wire[start : start + piece])) for start in range(0, len(wire), piece)
    )
    assert opened == b"first"
    if other.error is None:  # its length has become longer
        assert at in (3, 4)
        return
    assert isinstance(other.error, ssl.SSLError)
    assert other.pending()  # an alert
    assert not other.is_ended


def test_what_openssl_takes_in_parts_is_sealed_whole() -> None:
    class Partial:
        """As the documentation of `ssl.SSLObject.write` allows."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def write(self, data: Any) -> int:
            return int(self._inner.write(memoryview(data)[:10]))

    one, other = connected("ssl", "ssl")
    one._object = Partial(one._object)
    for size in (0, 1, 10, 11, 35):
        assert other.open(one.seal(bytes(range(size)))) == bytes(range(size))


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_fail_alike(kind: str) -> None:
    one, other = connected(kind, kind)
    wire = bytearray(one.seal(b"hello"))
    wire[-1] ^= 1
    assert other.open(bytes(wire)) == b""
    assert other.error.reason == "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
    assert str(other.error) == "decryption failed or bad record mac"
    alert = other.pending()
    assert one.open(alert) == b""
    assert one.error.reason == "SSLV3_ALERT_BAD_RECORD_MAC"
    assert str(one.error) == "the peer refused: bad record mac"


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_name_is_found_by_the_client(kind: str) -> None:
    one = KINDS[kind](certificates.server().context, is_server=True)
    other = KINDS[kind](certificates.client().context, is_server=False, server_name="wrong.test")
    exchange(other, one)
    assert isinstance(other.error, ssl.SSLCertVerificationError)
    assert "certificate is not valid for 'wrong.test'" in str(other.error)
    assert "unknown" in str(one.error) or "bad certificate" in str(one.error)


@pytest.mark.parametrize("kind", KINDS)
def test_after_the_end_nothing_can_be_sealed(kind: str) -> None:
    one, other = connected(kind, kind)
    wire = one.finish()
    assert other.open(wire) == b""
    assert other.is_ended
    assert one.open(other.seal(b"an answer")) == b"an answer"
    with pytest.raises(ssl.SSLError):
        one.seal(b"too late")


@pytest.mark.skipif("openssl" not in KINDS, reason="the native engine, and a dynamic OpenSSL")
def test_an_error_that_somebody_left_in_openssl_is_not_a_connections() -> None:
    """OpenSSL tells errors by a queue of the thread, which other libraries use, too."""
    openssl = ctypes.CDLL(_ssl.__file__)  # leads to the library that it uses

    def leave_an_error() -> None:
        assert not openssl.BIO_new_file(b"/no/such/file", b"r")
        assert openssl.ERR_peek_error()

    leave_an_error()
    one, other = sessions("openssl", "openssl")

    def with_an_error(wire: bytes) -> Iterable[bytes]:
        leave_an_error()
        yield wire

    exchange(other, one, with_an_error)
    for sender, receiver in ((one, other), (other, one)):
        leave_an_error()
        wire = sender.seal(b"data")
        leave_an_error()
        assert receiver.open(wire) == b"data"
    leave_an_error()
    wire = one.finish()
    leave_an_error()
    assert other.open(wire) == b""
    assert (one.error, other.error, other.is_ended) == (None, None, True)
    openssl.ERR_clear_error()


@pytest.mark.skipif("openssl" not in KINDS, reason="the native engine, and a dynamic OpenSSL")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("ssl.OPENSSL_VERSION = 'LibreSSL 4.1'", "it is LibreSSL 4.1"),
        ("del _ssl.__file__", "it is built into the interpreter"),
        ("_ssl.__file__ = '/no/such/file'", "the ssl module's library was not found"),
        ("import _ctypes; _ssl.__file__ = _ctypes.__file__", "OpenSSL's SSL_read was not found"),
        ("ssl.SSLContext.wrap_bio = wrap_bio", "the ssl module's objects are of an unknown layout"),
    ],
)
def test_without_an_openssl_that_it_knows_it_is_the_other_kind(change: str, reason: str) -> None:
    script = f"""
import _ssl, ctypes, ssl
class Other:
    __slots__ = ("_sslobj", "context", "more", "than", "those")
    def __init__(self, context):
        self._sslobj = self
        self.context = context
def wrap_bio(context, *_, **__):
    return Other(context)
{change}
from silly.net.tls import kinds, openssl
print(openssl.REASON)
print(*kinds.available())
"""
    assert_prints(script, f"{reason}\nssl\n")


@pytest.mark.skipif("openssl" not in KINDS, reason="the native engine, and a dynamic OpenSSL")
def test_the_native_kind_is_the_default_one() -> None:
    from silly.net.tls import openssl

    assert openssl.REASON is None
    assert type(certificates.server().new_session(None)) is openssl.Session
