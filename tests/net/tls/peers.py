"""Ends of TLS connections over bare sockets, whose bytes can be tampered with."""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import select
import socket
import ssl
import warnings
from collections.abc import Callable
from typing import Any

from silly.net.conn import Conn
from tests.net.tls import certificates

_openssl = ctypes.CDLL(_ssl.__file__)  # leads to the library that it uses

Versions = tuple[ssl.TLSVersion, ssl.TLSVersion]

OLD: Versions = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)
ONLY_1_2: Versions = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
ONLY_1_3: Versions = (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)


def client_context(
    versions: Versions | None = None,
    *,
    ciphers: str | None = None,
    cert: tuple[str, str] | None = None,
) -> ssl.SSLContext:
    """A client of these versions and cipher suites, which checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _restricted(context, versions, ciphers, cert)


def server_context(
    versions: Versions | None = None,
    *,
    ciphers: str | None = None,
    cert: tuple[str, str] | None = None,
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return _restricted(context, versions, ciphers, cert or certificates.pair())


def _restricted(
    context: ssl.SSLContext,
    versions: Versions | None,
    ciphers: str | None,
    cert: tuple[str, str] | None,
) -> ssl.SSLContext:
    if versions is not None:
        with warnings.catch_warnings(
            action="ignore", category=DeprecationWarning
        ):  # some are deprecated
            context.minimum_version, context.maximum_version = versions
    if ciphers is not None:
        context.set_ciphers(ciphers)
    if cert is not None:
        context.load_cert_chain(*cert)
    return context


class Peer:
    """One end of TLS, over a socket of its own."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, is_server: bool) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=is_server,
            server_hostname=None if is_server else certificates.NAME,
        )

    def seal(self, *plaintexts: bytes) -> bytes:
        """The wire bytes of records of *plaintexts*, and what was pending before them."""
        for plaintext in plaintexts:
            self.object.write(plaintext)
        return self.outgoing.read()

    async def send_wire(self, wire: bytes) -> None:
        if wire:
            await self.loop.sock_sendall(self.sock, wire)

    async def send(self, *plaintexts: bytes) -> None:
        await self.send_wire(self.seal(*plaintexts))

    async def handshake(self) -> None:
        await self.do(self.object.do_handshake)

    async def read(self) -> bytes:
        """Plaintext that has arrived; ``b""`` at its announced end.

        Raises:
            EOFError: the end was not announced.
        """
        data: bytes = await self.do(self.object.read, 65536)
        return data

    async def do(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a method of the `ssl` module's object, moving bytes until it is complete."""
        while True:
            try:
                return function(*args)
            except ssl.SSLWantReadError:
                await self.send_wire(self.outgoing.read())
                wire = await self.loop.sock_recv(self.sock, 65536)
                if not wire:
                    raise EOFError from None
                self.incoming.write(wire)
            finally:
                await self.send_wire(self.outgoing.read())

    def update_key(self, *, requested: bool) -> None:
        """Have the next record follow a KeyUpdate (RFC 8446, section 4.6.3)."""
        inner: Any = self.object._sslobj  # type: ignore[attr-defined]
        pointer = ctypes.c_void_p.from_address(id(inner) + 3 * ctypes.sizeof(ctypes.c_void_p))
        assert _openssl.SSL_key_update(pointer, int(requested)) == 1


async def connected(addr: str) -> socket.socket:
    """Connect a bare socket to *addr*."""
    host, _, port = addr.rpartition(":")
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    return sock


async def client(addr: str, context: ssl.SSLContext | None = None) -> Peer:
    """Connect a client to the server at *addr*, without a handshake yet."""
    return Peer(await connected(addr), context or client_context(), is_server=False)


def wait_arrival(conn: Conn) -> None:
    """Block, without letting the loop run, until bytes for *conn* have arrived."""
    arrival = select.poll()
    arrival.register(conn._fileno, select.POLLIN)  # type: ignore[attr-defined]
    assert arrival.poll(30_000)


async def receive_all(sock: socket.socket) -> bytes:
    """Receive until the end, which may be a reset."""
    received = b""
    try:
        while piece := await asyncio.get_running_loop().sock_recv(sock, 65536):
            received += piece
    except ConnectionResetError:
        pass
    return received
