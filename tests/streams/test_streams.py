"""Readers, writers and servers, where CPython's own tests say nothing."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import sys
from pathlib import Path
from typing import Any, Self

import pytest

import silly
from silly import streams
from silly.streams.sockets import BorrowedSocket

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async for line in reader:
        writer.write(line)
        await writer.drain()
    writer.close()


async def ended(server: Any) -> None:
    """Wait until *server* has no connections, on every version of Python."""
    server.close()
    await server._listener.wait_closed()


class Pair:
    """A server with one client, and the server's end of its connection."""

    server: Any
    client: Streams
    accepted: Streams

    async def __aenter__(self) -> Self:
        accepted: asyncio.Queue[Streams] = asyncio.Queue()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.put_nowait((reader, writer))

        self.server = await streams.start_server(connected, "127.0.0.1", 0)
        address: tuple[str, int] = self.server.sockets[0].getsockname()
        self.client = await streams.open_connection(*address)
        self.accepted = await accepted.get()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client[1].close()
        self.accepted[1].close()
        await ended(self.server)


async def test_an_echo_server() -> None:
    server = await streams.start_server(echo, "localhost", 0)
    assert server.is_serving()
    async with server:
        reader, writer = await streams.open_connection("localhost", _port(server))
        assert isinstance(reader, asyncio.StreamReader)
        assert isinstance(writer, asyncio.StreamWriter)
        writer.writelines([b"one\n", b"two\n"])
        assert await reader.readline() == b"one\n"
        writer.write_eof()
        assert await reader.read() == b"two\n"
        assert reader.at_eof()
        writer.close()
        await writer.wait_closed()
    assert not server.is_serving()


def _port(server: Any) -> int:
    return int(server.sockets[0].getsockname()[1])


async def test_an_ended_connection_can_still_be_written_to() -> None:
    async with Pair() as pair:
        reader, writer = pair.client
        server_reader, server_writer = pair.accepted
        writer.write_eof()
        assert await server_reader.read() == b""
        server_writer.write(b"late")
        await server_writer.drain()
        assert await reader.readexactly(4) == b"late"
        with pytest.raises(RuntimeError, match="after write_eof"):
            writer.write(b"x")


async def test_a_connection_outlives_its_callback() -> None:
    async with Pair() as pair:  # whose callback has returned
        await asyncio.sleep(0)
        pair.accepted[1].write(b"hello\n")
        assert await pair.client[0].readline() == b"hello\n"


async def test_writing_to_a_closed_connection_is_ignored_and_draining_raises() -> None:
    async with Pair() as pair:
        reader, writer = pair.client
        pair.accepted[1].write(b"unread")
        assert await reader.read(2) == b"un"
        writer.close()
        assert writer.is_closing()
        writer.write(b"x")
        with pytest.raises(ConnectionResetError, match="Connection lost"):
            await writer.drain()
        assert await reader.read() == b"read"  # what had arrived
        await writer.wait_closed()


async def test_a_read_that_waits_ends_when_the_writer_is_closed() -> None:
    async with Pair() as pair:
        reader, writer = pair.client
        reading = asyncio.create_task(reader.readexactly(5))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task is reading"):
            await reader.readline()
        writer.close()
        with pytest.raises(asyncio.IncompleteReadError):
            await reading


async def test_a_reset_is_raised_by_reads_by_drain_and_by_wait_closed() -> None:
    async with Pair() as pair:
        reader, writer = pair.client
        pair.accepted[1].transport.abort()
        with pytest.raises(ConnectionResetError):
            await reader.readline()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert isinstance(reader.exception(), ConnectionResetError)
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await writer.drain()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()
        assert not reader.at_eof()


async def test_the_transport_writes_as_the_writer_does() -> None:
    async with Pair() as pair:
        transport: Any = pair.client[1].transport
        reader = pair.accepted[0]
        transport.write(b"one ")
        transport.writelines([b"two ", bytearray(b"three\n")])
        assert await reader.readline() == b"one two three\n"
        transport.write_eof()
        with pytest.raises(RuntimeError, match="after write_eof"):
            transport.write(b"x")
        transport.close()
        transport.write(b"ignored")
        assert await reader.read() == b""


async def test_a_borrowed_socket_is_shut_down() -> None:
    async with Pair() as pair:
        pair.client[1].get_extra_info("socket").shutdown(socket.SHUT_WR)
        assert await pair.accepted[0].read() == b""


async def test_a_loss_is_known_without_a_read() -> None:
    async with Pair() as pair:
        reader, writer = pair.client
        assert reader.exception() is None
        pair.accepted[1].transport.abort()
        async with asyncio.timeout(10):
            while not writer.is_closing():
                await asyncio.sleep(0)
        assert isinstance(reader.exception(), ConnectionResetError)


async def test_a_read_that_has_begun_is_told_of_a_reset() -> None:
    """Though bytes had come before, which were fed or read in another way."""
    async with Pair() as pair:
        reader = pair.client[0]
        reader.feed_data(b"begun")
        reading = asyncio.create_task(reader.readline())
        await asyncio.sleep(0)
        pair.accepted[1].transport.abort()
        with pytest.raises(ConnectionResetError):
            await reading


async def test_an_end_that_is_fed_while_a_task_reads() -> None:
    async with Pair() as pair:
        reader = pair.client[0]
        reading = asyncio.create_task(reader.readexactly(10))
        pair.accepted[1].write(b"five.")
        async with asyncio.timeout(10):
            while not pair.client[1]._conn.unread_bytes:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
        reader.feed_eof()
        assert reader.at_eof()
        assert await reader.read() == b""
        pair.accepted[1].write(b"five.")  # they belong to the read that waits
        assert await reading == b"five.five."


async def test_drain_waits_for_a_slow_reader() -> None:
    async with Pair() as pair:
        writer = pair.client[1]
        size = 0
        while True:
            writer.write(bytes(1 << 20))
            size += 1 << 20
            draining = asyncio.create_task(writer.drain())
            for _ in range(20):
                await asyncio.sleep(0)
            if not draining.done():
                break
            await draining
        assert writer.transport.get_write_buffer_size() > 64 * 1024
        for _ in range(64):  # a writer's queue has no limit
            writer.write(bytes(1 << 20))
            size += 1 << 20
        assert len(await pair.accepted[0].readexactly(size)) == size
        await draining
        await writer.drain()


async def test_closing_sends_a_long_queue_however_long_it_takes() -> None:
    async with Pair() as pair:
        reader, writer = pair.accepted
        pair.client[1].write(bytes(8 << 20))
        pair.client[1].close()
        assert pair.client[1]._conn.linger == 3600.0  # type: ignore[attr-defined]
        assert len(await reader.read()) == 8 << 20
        writer.close()


async def test_what_is_known_about_a_connection() -> None:
    async with Pair() as pair:
        writer = pair.client[1]
        sock = writer.get_extra_info("socket")
        assert writer.get_extra_info("peername") == pair.server.sockets[0].getsockname()
        assert writer.get_extra_info("sockname") == sock.getsockname()
        assert sock.getpeername() == writer.transport.get_extra_info("peername")
        assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert sock.proto in {0, socket.IPPROTO_TCP}
        assert not sock.get_inheritable()
        assert repr(sock) == f"<BorrowedSocket fd={sock.fileno()}>"
        assert sock.gettimeout() == 0
        sock.settimeout(0)
        sock.setblocking(False)
        with pytest.raises(ValueError, match="only 0 timeout"):
            sock.settimeout(1)
        with pytest.raises(ValueError, match="cannot be blocking"):
            sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert writer.get_extra_info("sslcontext") is None
        assert writer.get_extra_info("cipher", "none") == "none"
        assert writer.can_write_eof()
        assert not writer.transport.is_closing()
        assert writer.transport.is_reading()  # type: ignore[attr-defined]
        low, high = writer.transport.get_write_buffer_limits()
        assert 0 < low < high
        with sock.dup() as copy:
            assert copy.getsockname() == sock.getsockname()
        writer.close()
        await writer.wait_closed()
        assert sock.fileno() == -1
        with pytest.raises(OSError, match="descriptor") as raised:
            sock.getsockname()
        assert raised.value.errno == errno.EBADF


async def test_a_writer_that_is_dropped_closes_its_connection() -> None:
    async with Pair() as pair:
        reader = pair.accepted[0]
        with pytest.warns(ResourceWarning, match="unclosed <StreamWriter"):
            pair.client = (pair.client[0], pair.accepted[1])
        assert await reader.read() == b""


async def test_fed_by_hand() -> None:
    async with Pair() as pair:
        reader = pair.client[0]
        reader.feed_data(b"fed ")
        pair.accepted[1].write(b"sent\n")
        assert await reader.readline() == b"fed sent\n"
        reader.set_exception(ValueError("mine"))
        with pytest.raises(ValueError, match="mine"):
            await reader.read(1)


async def test_a_server_that_starts_later() -> None:
    server = await streams.start_server(echo, "127.0.0.1", 0, start_serving=False)
    assert not server.is_serving()
    reader, writer = await streams.open_connection("127.0.0.1", _port(server))
    writer.write(b"early\n")
    await server.start_serving()
    assert server.is_serving()
    assert await reader.readline() == b"early\n"
    writer.close()
    await ended(server)
    with pytest.raises(RuntimeError, match="is closed"):
        await server.serve_forever()


async def test_a_server_that_never_starts_releases_its_port() -> None:
    server: Any = await streams.start_server(echo, "127.0.0.1", 0, start_serving=False)
    address = server.sockets[0].getsockname()
    server.close()
    assert server.sockets == ()
    with pytest.raises(ConnectionRefusedError):
        await streams.open_connection(*address)
    await ended(server)


async def test_serving_forever() -> None:
    server: Any = await streams.start_server(echo, ["127.0.0.1", "127.0.0.2"], 0)
    assert [sock.getsockname()[0] for sock in server.sockets] == ["127.0.0.1", "127.0.0.2"]
    assert server.get_loop() is asyncio.get_running_loop()
    serving = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="already being awaited"):
        await server.serve_forever()
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await ended(server)


async def test_closing_the_server_leaves_connections_open() -> None:
    async with Pair() as pair:
        pair.server.close()
        pair.accepted[1].write(b"still\n")
        assert await pair.client[0].readline() == b"still\n"
        pair.server.close_clients()
        assert await pair.client[0].read() == b""


async def test_aborting_the_clients() -> None:
    async with Pair() as pair:
        pair.server.abort_clients()
        with pytest.raises(ConnectionResetError):
            await pair.client[0].read()


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = await streams.start_unix_server(echo, path)
    reader, writer = await streams.open_unix_connection(path)
    assert writer.get_extra_info("peername") == str(path)
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    writer.close()
    await ended(server)
    assert not path.exists()


async def test_connected_and_bound_sockets_are_taken() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    server = await streams.start_server(echo, sock=listening)
    sock = socket.create_connection(listening.getsockname())
    reader, writer = await streams.open_connection(sock=sock)
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    writer.close()
    await ended(server)
    assert listening.fileno() == -1


async def test_an_address_and_a_socket_or_neither_are_refused() -> None:
    with socket.socket() as sock:
        both: dict[str, Any] = {"host": "127.0.0.1", "port": 1, "sock": sock}
        neither: dict[str, Any] = {}
        for wrong in (both, neither):
            with pytest.raises(ValueError, match="specified"):
                await streams.open_connection(**wrong)
            with pytest.raises(ValueError, match="specified"):
                await streams.start_server(echo, **wrong)


async def test_what_asyncio_refuses_of_unix_sockets_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        path = tmp_path / "x.sock"
        both: dict[str, Any] = {"path": path, "sock": sock}
        neither: dict[str, Any] = {}
        no_limit: dict[str, Any] = {"path": path, "limit": 0}
        for wrong in (both, neither, no_limit):
            with pytest.raises((ValueError, OSError)):
                await streams.open_unix_connection(**wrong)
        for wrong in (both, neither):
            with pytest.raises(ValueError, match="specified"):
                await streams.start_unix_server(echo, **wrong)


async def test_ports_have_names() -> None:
    server = await streams.start_server(echo, "127.0.0.1", "0")
    reader, writer = await streams.open_connection("127.0.0.1", str(_port(server)))
    writer.write(b"x\n")
    assert await reader.readline() == b"x\n"
    writer.close()
    await ended(server)
    with pytest.raises(OSError, match="not found"):
        await streams.open_connection("127.0.0.1", "no-such-service")


async def test_sockets_of_datagrams_are_refused() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="A Stream Socket was expected"):
            await streams.open_connection(sock=sock)
        with pytest.raises(ValueError, match="A Stream Socket was expected"):
            await streams.start_server(echo, sock=sock)


async def test_asyncio_serves_connections_with_options_that_silly_lacks() -> None:
    server: Any = await streams.start_server(echo, "127.0.0.1", 0, family=socket.AF_INET)
    assert not isinstance(server, streams.Server)
    address = server.sockets[0].getsockname()
    reader, writer = await streams.open_connection(*address, family=socket.AF_INET, ssl=None)
    assert not hasattr(writer, "_conn")
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_tls_is_asyncios() -> None:
    async def talk_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"this is not TLS\n")
        writer.close()

    server: Any = await streams.start_server(talk_plainly, "127.0.0.1", 0)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await streams.open_connection("127.0.0.1", _port(server), ssl=ssl.create_default_context())
    await ended(server)


async def test_only_limits_that_were_asked_for_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SILLY_MAX_PER_CLIENT", "5")
    server: Any = await streams.start_server(echo, "127.0.0.1", 0, limit=1000)
    limits = server._listener.limits
    assert (limits.max_per_client, limits.read_limit) == (5, 1001)
    assert limits.memory_budget is not None
    unset = {"max_connections", "idle_timeout", "first_byte_timeout", "read_deadline"}
    assert {getattr(limits, name) for name in (*unset, "min_send_rate")} == {None}
    await ended(server)


async def test_the_same_names_as_asyncio_has() -> None:
    assert set(asyncio.streams.__all__) <= set(streams.__all__)
    members = {name for name in dir(asyncio.trsock.TransportSocket) if not name.startswith("_")}  # type: ignore[attr-defined]
    assert members - {"getsockbyname"} <= set(dir(BorrowedSocket))
    assert silly.streams is sys.modules["silly.streams"]
