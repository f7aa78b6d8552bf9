"""What a server refuses: counted by reason, logged at a bounded rate, nobody else hurt."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from silly.net import tcp, tls
from silly.net.conn import Conn
from silly.net.tcp import Limits
from tests.net.tls import certificates
from tests.net.tls.peers import (
    OLD,
    ONLY_1_2,
    ONLY_1_3,
    Peer,
    client,
    client_context,
    connected,
    receive_all,
)

ANY = "127.0.0.1:0"
QUICK = Limits(handshake_timeout=0.05)

handled: list[Conn] = []


async def echo(conn: Conn) -> None:
    handled.append(conn)
    async for line in conn:
        await conn.write(line)


@pytest.fixture(autouse=True)
def nothing_handled() -> None:
    handled.clear()


async def check_honest(listener: tcp.Listener, **options: object) -> None:
    async with tcp.connect(listener.local_addr, tls=certificates.client(**options)) as conn:
        await conn.write(b"hello\n")
        assert await conn.read(b"\n") == b"hello\n"


async def refused(listener: tcp.Listener, reason: str, count: int = 1) -> None:
    """Wait until *listener* has refused as many for that reason, and none for another."""
    async with asyncio.timeout(30):
        while sum(listener.stats.refused.values()) < count or listener.connections:
            await asyncio.sleep(0.001)
    assert listener.stats.refused == {reason: count}
    assert handled == []


Attack = Callable[[str], Awaitable[None]]


def shaking(context: Callable[[], ssl.SSLContext], expected: str) -> Attack:
    """A handshake that fails with an error that says *expected*."""

    async def attack(addr: str) -> None:
        peer = await client(addr, context())
        with peer.sock, pytest.raises(ssl.SSLError, match=expected):
            await peer.handshake()
            await peer.read()  # in TLS 1.3, clients hear of it here

    return attack


def sending(wire: bytes, answer: bytes = b"") -> Attack:
    async def attack(addr: str) -> None:
        with await connected(addr) as sock:
            await asyncio.get_running_loop().sock_sendall(sock, wire)
            assert answer in await receive_all(sock)

    return attack


async def half_a_hello(addr: str) -> None:
    peer = await client(addr)
    with peer.sock:
        with pytest.raises(ssl.SSLWantReadError):
            peer.object.do_handshake()
        await peer.send_wire(peer.outgoing.read()[:100])


async def silence(addr: str) -> None:
    with await connected(addr) as sock:
        assert await receive_all(sock) == b""


SSL_2_HELLO = bytes.fromhex("802e010002001500000010") + bytes(37)
REASONS: dict[str, tuple[Attack, str]] = {
    "TLS 1.0": (
        shaking(lambda: client_context(OLD, ciphers="DEFAULT@SECLEVEL=0"), "PROTOCOL_VERSION"),
        "tls_version",
    ),
    "no shared cipher": (
        shaking(lambda: client_context(ONLY_1_2, ciphers="ECDHE+AES+SHA1"), "HANDSHAKE_FAILURE"),
        "tls_cipher",
    ),
    "SSL 2.0": (sending(SSL_2_HELLO), "tls_version"),
    "HTTP": (
        sending(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"400 Bad Request"),
        "not_tls",
    ),
    "a method of HTTP": (sending(b"OPTIONS * HTTP/1.1\r\n\r\n", b"https://"), "not_tls"),
    "SSH": (sending(b"SSH-2.0-OpenSSH_9.2\r\n"), "not_tls"),
    "zeros": (sending(bytes(1000)), "not_tls"),
    "an empty record": (sending(b"\x16\x03\x01\x00\x00"), "not_tls"),
    "an oversized record": (sending(b"\x16\x03\x01\x40\x01" + bytes(16385)), "not_tls"),
    "a handshake of garbage": (sending(b"\x16\x03\x01\x00\x05hello"), "tls_protocol"),
    "a hello of a megabyte": (sending(b"\x16\x03\x01\x00\x04\x01\x10\0\0"), "tls_protocol"),
    "an alert": (sending(b"\x15\x03\x01\x00\x02\x02\x28"), "not_tls"),
    "data": (sending(b"\x17\x03\x03\x00\x05hello"), "not_tls"),
    "half a hello": (half_a_hello, "handshake"),
}


@pytest.mark.parametrize("name", REASONS)
async def test_failures_are_counted_by_reason(name: str, caplog: pytest.LogCaptureFixture) -> None:
    attack, reason = REASONS[name]
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        for _ in range(3):
            await attack(listener.local_addr)
        await refused(listener, reason, 3)
        lines = [each.getMessage() for each in caplog.records if each.name == "silly.net"]
        assert len(lines) == 1  # the others are summarized later
        assert f": {reason} (" in lines[0]
        await check_honest(listener)


async def test_silence_is_refused_after_a_time() -> None:
    async with tcp.listen(ANY, echo, tls=certificates.server(), limits=QUICK) as listener:
        await silence(listener.local_addr)
        await refused(listener, "handshake_timeout")


def mutual(ca: str, client_cert: str = "required") -> tls.Server:
    return certificates.server(client_ca=ca, client_cert=client_cert)


@pytest.mark.parametrize("versions", [ONLY_1_2, ONLY_1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("name", ["none", "unknown CA", "expired", "self-signed", "revoked"])
async def test_client_certificates_are_checked(
    name: str, versions: tuple[ssl.TLSVersion, ssl.TLSVersion], tmp_path: Path
) -> None:
    bad = {
        "none": None,
        "unknown CA": certificates.pair(ca="second"),
        "expired": certificates.pair(expired=True),
        "self-signed": certificates.self_signed(),
        "revoked": certificates.pair("revoked.test"),
    }[name]
    ca = certificates.ca_with_revoked(tmp_path / "ca.pem", certificates.pair("revoked.test")[0])
    attack = shaking(lambda: client_context(versions, cert=bad), "ALERT|HANDSHAKE_FAILURE")
    async with tcp.listen(ANY, echo, tls=mutual(ca)) as listener:
        await attack(listener.local_addr)
        await refused(listener, "tls_certificate")
        cert, key = certificates.pair("client.test")
        await check_honest(listener, cert=cert, key=key)
        assert handled[0].tls is not None
        assert handled[0].tls.peer_certificate is not None
    if name == "none":
        async with tcp.listen(ANY, echo, tls=mutual(ca, "optional")) as listener:
            await check_honest(listener)
            assert handled[1].tls is not None
            assert handled[1].tls.peer_certificate is None


async def test_revocation_lists_in_a_directory_are_checked(tmp_path: Path) -> None:
    revoked = certificates.pair("revoked.test")
    directory = certificates.ca_directory(tmp_path, revoked[0])
    async with tcp.listen(ANY, echo, tls=mutual(str(directory))) as listener:
        attack = shaking(lambda: client_context(cert=revoked), "ALERT")
        await attack(listener.local_addr)
        await refused(listener, "tls_certificate")
        cert, key = certificates.pair("client.test")
        await check_honest(listener, cert=cert, key=key)


async def test_a_client_learns_that_its_certificate_was_missing() -> None:
    async with tcp.listen(ANY, echo, tls=mutual(certificates.ca_file())) as listener:
        conn = await tcp.connect(listener.local_addr, tls=certificates.client())
        with pytest.raises(ssl.SSLError, match="refused: certificate required") as caught:
            await conn.read()
        assert listener.local_addr in str(caught.value)
        conn.close()
        await refused(listener, "tls_certificate")


async def test_a_client_that_does_not_trust_the_server_says_so() -> None:
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        with pytest.raises(ssl.SSLCertVerificationError):
            await tcp.connect(listener.local_addr, tls=tls.Client(ca=certificates.ca_file("other")))
        await refused(listener, "tls_alert")


async def hello_of(addr: str) -> tuple[Peer, bytes]:
    peer = await client(addr)
    with pytest.raises(ssl.SSLWantReadError):
        peer.object.do_handshake()
    return peer, peer.outgoing.read()


async def test_a_hello_in_segments_of_one_byte() -> None:
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        peer, hello = await hello_of(listener.local_addr)
        with peer.sock:
            for index in range(len(hello)):
                await peer.send_wire(hello[index : index + 1])
                await asyncio.sleep(0)
            await peer.handshake()
            await peer.send(b"line\n")
            assert await peer.read() == b"line\n"


async def test_a_hello_in_many_records() -> None:
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        peer, hello = await hello_of(listener.local_addr)
        with peer.sock:
            records = b"".join(hello[:3] + b"\0\1" + hello[i : i + 1] for i in range(5, len(hello)))
            await peer.send_wire(records)
            await peer.handshake()
            await peer.send(b"line\n")
            assert await peer.read() == b"line\n"


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\0b", b"x" * 20])
async def test_any_name_may_be_asked_for(
    name: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        peer, hello = await hello_of(listener.local_addr)
        right = certificates.NAME.encode()
        with peer.sock:
            await peer.send_wire(hello.replace(right, name.ljust(len(right), b"x")[: len(right)]))
            with pytest.raises((ssl.SSLError, EOFError, ConnectionResetError)):
                await peer.handshake()  # at the latest, the two transcripts differ
        while listener.connections or not listener.stats.refused:
            await asyncio.sleep(0.001)
        assert handled == []
        assert sum(listener.stats.refused.values()) == 1
    assert capfd.readouterr() == ("", "")
    assert sum(record.name == "silly.net" for record in caplog.records) == 1


@pytest.mark.heavy
async def test_handshakes_abandoned_anywhere() -> None:
    """At any byte of what the client sends, by an end or by a reset."""
    dice = random.Random(1)
    async with tcp.listen(ANY, echo, tls=certificates.server()) as listener:
        count = 0
        for _ in range(150):
            peer, wire = await hello_of(listener.local_addr)
            position = dice.randrange(len(wire) + 80)
            with peer.sock:
                await peer.send_wire(wire[:position])
                if position >= len(wire):
                    while not peer.outgoing.pending:
                        peer.incoming.write(await peer.loop.sock_recv(peer.sock, 65536))
                        with contextlib.suppress(ssl.SSLWantReadError):
                            peer.object.do_handshake()
                    await peer.send_wire(peer.outgoing.read()[: position - len(wire)])
                if dice.random() < 0.5:
                    peer.sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER: reset
                count += 1
        while listener.connections or sum(listener.stats.refused.values()) + len(handled) < count:
            await asyncio.sleep(0.001)
        assert {*listener.stats.refused} <= {"handshake"}
        assert listener.stats.handler_errors == 0
        await check_honest(listener)
