"""asyncio's streams with ``ssl=`` and `start_tls`, on silly's connections."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from silly import streams
from tests.net.tls import certificates

LOCAL = "127.0.0.1"


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.pair())
    context.set_alpn_protocols(["echo"])
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.ca_file())
    context.set_alpn_protocols(["echo"])
    return context


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


def port_of(server: asyncio.AbstractServer) -> int:
    port: int = server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    return port


@pytest.mark.parametrize("client", [asyncio, streams], ids=["asyncio", "silly"])
@pytest.mark.parametrize("server", [asyncio, streams], ids=["asyncio", "silly"])
async def test_all_pairs_understand_each_other(server: object, client: object) -> None:
    listening = await server.start_server(echo, LOCAL, 0, ssl=server_context())  # type: ignore[attr-defined]
    reader, writer = await client.open_connection(  # type: ignore[attr-defined]
        "localhost", port_of(listening), ssl=client_context(), family=2 * (client is asyncio)
    )
    writer.write(b"hello\n" + b"x" * 40_000 + b"\n")
    assert await reader.readline() == b"hello\n"
    assert await reader.readline() == b"x" * 40_000 + b"\n"
    assert writer.get_extra_info("sslcontext") is not None
    assert writer.get_extra_info("cipher")[1] == "TLSv1.3"
    negotiated = writer.get_extra_info("ssl_object")
    assert negotiated.version() == "TLSv1.3"
    assert negotiated.selected_alpn_protocol() == "echo"
    der = ssl.PEM_cert_to_DER_cert(Path(certificates.pair()[0]).read_text())
    assert negotiated.getpeercert(binary_form=True) == der
    writer.close()
    await writer.wait_closed()
    listening.close()
    await listening.wait_closed()


async def test_ssl_uses_silly() -> None:
    listening = await streams.start_server(echo, LOCAL, 0, ssl=server_context())
    assert isinstance(listening, streams.Server)
    _, writer = await streams.open_connection(
        LOCAL, port_of(listening), ssl=client_context(), server_hostname=certificates.NAME
    )
    assert type(writer).__name__ == "ConnWriter"
    assert writer.get_extra_info("ssl_object").server_hostname == certificates.NAME
    writer.close()
    await writer.wait_closed()
    listening.close()
    await listening.wait_closed()


async def test_a_certificate_that_is_not_valid_is_refused() -> None:
    listening = await streams.start_server(echo, LOCAL, 0, ssl=server_context())
    port = port_of(listening)
    with pytest.raises(ssl.SSLCertVerificationError):
        await streams.open_connection(LOCAL, port, ssl=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await streams.open_connection(LOCAL, port, ssl=client_context(), server_hostname="other")
    listening.close()
    await listening.wait_closed()


async def test_what_asyncio_refuses_is_refused() -> None:
    for options in ({"server_hostname": "x"}, {"ssl_handshake_timeout": 1}):
        with pytest.raises(ValueError, match="only"):
            await streams.open_connection(LOCAL, 1, **options)
    with pytest.raises(TypeError, match="SSLContext"):
        await streams.start_server(echo, LOCAL, 0, ssl=True)


async def test_a_name_is_needed_where_it_is_checked() -> None:
    context = client_context()
    assert context.check_hostname
    with pytest.raises(ValueError, match="server_hostname"):
        await streams.open_connection("", 1, ssl=context)
    listening = await streams.start_server(echo, LOCAL, 0)
    _, writer = await streams.open_connection(LOCAL, port_of(listening))
    with pytest.raises(ValueError, match="check_hostname requires server_hostname"):
        await writer.start_tls(context)
    writer.close()
    await writer.wait_closed()
    listening.close()
    await listening.wait_closed()


async def test_certificates_are_known_as_bytes_only() -> None:
    listening = await streams.start_server(echo, LOCAL, 0, ssl=server_context())
    _, writer = await streams.open_connection(
        LOCAL, port_of(listening), ssl=client_context(), server_hostname="localhost"
    )
    known = writer.get_extra_info("ssl_object")
    assert ssl.DER_cert_to_PEM_cert(known.getpeercert(binary_form=True))
    with pytest.raises(NotImplementedError, match="binary_form=True"):
        known.getpeercert()
    writer.close()
    await writer.wait_closed()
    listening.close()
    await listening.wait_closed()


async def test_start_tls_on_both_ends() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go ahead\n")
        await writer.start_tls(server_context())
        writer.write(await reader.readline())
        writer.close()

    listening = await streams.start_server(talk, LOCAL, 0)
    reader, writer = await streams.open_connection(LOCAL, port_of(listening))
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"go ahead\n"
    assert writer.get_extra_info("sslcontext") is None
    await writer.start_tls(client_context(), server_hostname="localhost")
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
    writer.write(b"secret\n")
    assert await reader.readline() == b"secret\n"
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    listening.close()
    await listening.wait_closed()


async def test_bytes_before_start_tls_are_never_read() -> None:
    refused = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        try:
            await writer.start_tls(server_context())
        except ssl.SSLError as error:
            refused.set_result(error)

    listening = await streams.start_server(talk, LOCAL, 0)
    reader, writer = await streams.open_connection(LOCAL, port_of(listening))
    writer.write(b"STARTTLS\nRCPT TO: everybody\n")
    assert "does not speak TLS" in str(await refused)
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await reader.readexactly(1000)
    writer.close()
    listening.close()
    await listening.wait_closed()


async def test_bytes_in_the_readers_buffer_cannot_go_into_the_handshake() -> None:
    refused = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with pytest.raises(asyncio.LimitOverrunError):  # what it has seen stays in the buffer
            await reader.readuntil(b"\n")
        try:
            await writer.start_tls(server_context())
        except ssl.SSLError as error:
            refused.set_result(error)

    listening = await streams.start_server(talk, LOCAL, 0, limit=10)
    reader, writer = await streams.open_connection(LOCAL, port_of(listening))
    writer.write(b"x" * 5000)
    assert "unread bytes before the handshake" in str(await refused)
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    listening.close()
    await listening.wait_closed()
