"""Each limit of a listener, and hostile clients. Time is virtual."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import random
import re
import runpy
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.errors import EndOfStream, LimitExceeded
from silly.net import limits, sweep, tcp
from silly.net.gate import Gate
from silly.net.tcp import Conn, Limits
from silly.pubsub import limits as pubsub_limits
from silly.testing import run_virtual

ANY = "127.0.0.1:0"
Handler = Callable[[Conn], Awaitable[None]]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


async def echo(conn: Conn) -> None:
    async for line in conn:
        await conn.write(line)


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine test on the virtual clock."""

    def run(caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "silly.net")
        names = test.__code__.co_varnames[: test.__code__.co_argcount]
        run_virtual(test(*[caplog] if names else []))

    run.__name__ = test.__name__
    return run


class Watched:
    """A handler that records how each connection ended."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.started = 0
        self.errors: list[BaseException] = []

    async def __call__(self, conn: Conn) -> None:
        self.started += 1
        try:
            await self.handler(conn)
        except BaseException as error:
            self.errors.append(error)
            raise


async def until(condition: Callable[[], bool], pause: float = 0.001) -> None:
    while not condition():
        await asyncio.sleep(pause)


async def until_later(condition: Callable[[], bool]) -> None:
    """Like `until`, for conditions that take (virtual) seconds."""
    await until(condition, 0.5)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# -------------------------------------------------------------------- definitions


@pytest.mark.no_engine
def test_every_field_can_be_set_in_the_environment() -> None:
    assert Limits.from_env({}) == Limits()
    said = {each.env: each.default_text for each in Limits.fields()}
    assert Limits.from_env(said) == Limits()
    off = {each.env: "none" for each in Limits.fields() if each.optional}
    assert Limits.from_env(off) == Limits.none()
    limits = Limits.from_env(
        {
            "SILLY_MAX_CONNECTIONS": "7",
            "SILLY_IDLE_TIMEOUT": "0.5",
            "SILLY_EXEMPT_NETWORKS": "10.0.0.0/8, fd00::/8",
            "SILLY_ACCEPT_RATE": "none",
        }
    )
    assert limits.max_connections == 7
    assert limits.idle_timeout == 0.5
    assert limits.exempt_networks == ("10.0.0.0/8", "fd00::/8")
    assert {each.flag for each in Limits.fields()} > {"--max-connections", "--linger"}


BAD: list[tuple[str, Any]] = [
    *(("max_connections", value) for value in (0, -1, 1.5, "7", True)),
    *(("idle_timeout", value) for value in (0, -1, float("nan"), "7", True)),
    *(("accept_rate", value) for value in (0, float("inf"), "7", True)),
    *(("exempt_networks", value) for value in ("10.0.0.0/8", ("10.0.0.1/8",), ("x",), (1,))),
    *((name, None) for name in ("read_limit", "max_unsent", "linger", "exempt_networks")),
]


@pytest.mark.no_engine
@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_refused(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises((TypeError, ValueError), match=name):
        Limits(**arguments)


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SILLY_MAX_CONNECTIONS", "many"),
        ("SILLY_READ_LIMIT", "none"),
        ("SILLY_IDLE_TIMEOUT", "0"),
        ("SILLY_MIN_SEND_RATE", "-1"),
        ("SILLY_EXEMPT_NETWORKS", "loopback"),
    ],
)
def test_bad_environment_variables_are_refused(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: '{text}' is not "):
        Limits.from_env({name: text})


@pytest.mark.no_engine
@pytest.mark.parametrize("module", [limits, pubsub_limits])
def test_reference_has_the_table_of_the_limits(
    module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(str(module.__file__), run_name="__main__")
    table, _ = capsys.readouterr()
    reference = Path(__file__).parent.parent.parent / "docs" / "reference.md"
    assert table in reference.read_text(), f"python -m {module.__name__} prints the table"


async def test_listen_takes_limits_the_environment_and_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SILLY_IDLE_TIMEOUT", "77")
    async with tcp.listen(ANY, echo) as listener:
        assert listener.limits == Limits(idle_timeout=77)
    given = Limits(read_limit=1000, idle_timeout=5)
    async with tcp.listen(ANY, echo, limits=given, idle_timeout=None, linger=1) as listener:
        assert listener.limits == dataclasses.replace(given, idle_timeout=None, linger=1)
        async with await tcp.connect(listener.local_addr) as client:
            assert client.idle_timeout is None
    monkeypatch.setenv("SILLY_IDLE_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="SILLY_IDLE_TIMEOUT: 'soon' is not a duration"):
        tcp.listen(ANY, echo)
    with pytest.raises(TypeError, match="limits must be a Limits or None, not dict"):
        tcp.listen(ANY, echo, limits={})  # type: ignore[arg-type]


async def test_connections_have_the_limits_of_their_listener() -> None:
    seen: list[tuple[Any, ...]] = []

    async def handler(conn: Conn) -> None:
        seen.append((conn.read_limit, conn.max_unsent, conn.linger, conn.idle_timeout))

    limits = Limits(read_limit=11, max_unsent=12, linger=13, idle_timeout=14)
    async with tcp.listen(ANY, handler, limits=limits) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            with pytest.raises(EndOfStream):
                await client.read()
    assert seen == [(11, 12, 13, 14)]


# --------------------------------------------------------------------- deadlines


@virtual
async def test_silent_client_is_ended_at_the_first_byte_timeout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = asyncio.get_running_loop()
    watched = Watched(echo)
    limits = Limits(first_byte_timeout=10)
    async with tcp.listen(ANY, watched, limits=limits) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            with pytest.raises(EndOfStream):
                await client.read()
            assert 10 <= loop.time() <= 12.6
        await until(lambda: listener.connections == 0)
        assert listener.stats.ended == {"first_byte_timeout": 1}
        assert listener.stats.handler_errors == 0
    (error,) = watched.errors
    assert isinstance(error, TimeoutError)
    assert "No first byte within 10 seconds (first_byte_timeout)" in str(error)
    (message,) = caplog.messages
    assert re.search(r"ended 127\.0\.0\.1:\d+: first_byte_timeout", message)


@virtual
async def test_first_byte_timeout_spares_clients_that_wait_for_the_server() -> None:
    may_publish = asyncio.Event()

    async def greeting(conn: Conn) -> None:
        await conn.write(b"hello\n")
        await conn.read()

    async def publishing(conn: Conn) -> None:
        await may_publish.wait()
        await conn.write(b"news\n")

    async def talking(conn: Conn) -> None:
        await conn.read(1)
        await conn.read()

    for handler, send in ((greeting, b""), (publishing, b""), (talking, b"x")):
        may_publish.clear()
        limits = Limits(first_byte_timeout=1, read_deadline=None)
        async with tcp.listen(ANY, handler, limits=limits) as listener:
            async with await tcp.connect(listener.local_addr) as client:
                client.write(send)
                await asyncio.sleep(10)
                assert client.is_alive
                assert listener.connections == 1
                may_publish.set()
                client.close_write()
                with contextlib.suppress(EndOfStream):
                    await client.read(100)
            assert not listener.stats.ended


@virtual
async def test_client_that_sends_slowly_is_ended_at_the_read_deadline() -> None:
    loop = asyncio.get_running_loop()
    watched = Watched(echo)
    limits = Limits(read_deadline=20, idle_timeout=5)
    async with tcp.listen(ANY, watched, limits=limits) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            client.write(b"a whole line\n")
            assert await client.read(b"\n") == b"a whole line\n"
            began = loop.time()
            with pytest.raises(ConnectionError):
                while True:
                    await client.write(b"x")
                    await asyncio.sleep(1)
            assert 20 <= loop.time() - began <= 26.1
        await until(lambda: listener.connections == 0)
        assert listener.stats.ended == {"read_deadline": 1}
        assert listener.stats.handler_errors == 0
    assert "read_deadline" in str(watched.errors[0])


@virtual
async def test_read_deadline_spares_slow_typists_large_frames_and_slow_handlers() -> None:
    async def frame(conn: Conn) -> None:
        await conn.write(b"%d\n" % len(await conn.read(1_000_000)))

    async def slow(conn: Conn) -> None:
        await asyncio.sleep(100)
        await conn.write(await conn.read(b"\n"))

    limits = Limits(read_deadline=20, min_receive_rate=4096)
    async with tcp.listen(ANY, echo, limits=limits) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            for _ in range(5):
                for byte in b"0123456789":
                    await client.write(bytes((byte,)))
                    await asyncio.sleep(1)
                await client.write(b"\n")
                assert await client.read(b"\n") == b"0123456789\n"
    async with tcp.listen(ANY, frame, limits=limits) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            for _ in range(
                100
            ):  # 100 seconds at 100 kB/s: longer than the deadline, but fast enough
                await client.write(b"x" * 10_000)
                await asyncio.sleep(1)
            assert await client.read(b"\n") == b"1000000\n"
    async with tcp.listen(ANY, slow, limits=limits) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            client.write(b"in two ")
            await asyncio.sleep(105)
            client.write(b"parts\n")
            assert await client.read(b"\n") == b"in two parts\n"
    assert not listener.stats.ended


@virtual
async def test_client_that_reads_nothing_is_reset_at_the_minimum_rate() -> None:
    loop = asyncio.get_running_loop()

    async def flood(conn: Conn) -> None:
        while True:
            await conn.write(b"x" * 100_000)

    watched = Watched(flood)
    limits = Limits(min_send_rate=1000, send_window=40)
    async with tcp.listen(ANY, watched, limits=limits) as listener:
        client = await tcp.connect(listener.local_addr, read_limit=1000)
        await until_later(lambda: listener.connections == 0)
        assert 40 <= loop.time() <= 91  # up to two windows: the buffers of the kernel fill first
        assert listener.stats.ended == {"min_send_rate": 1}
        assert listener.stats.unsent_bytes == 0
        with pytest.raises(ConnectionResetError):
            while True:
                await client.read()
    assert "min_send_rate" in str(watched.errors[0])


@virtual
async def test_minimum_rate_spares_slow_readers() -> None:
    size = 8_000_000

    async def send(conn: Conn) -> None:
        await conn.write(b"x" * size)

    limits = Limits(min_send_rate=1000, send_window=40, linger=10_000)
    async with tcp.listen(ANY, send, limits=limits) as listener:
        async with await tcp.connect(listener.local_addr, read_limit=1000) as client:
            got = 0
            while got < size:  # five windows; kernels read in steps of hundreds of kilobytes
                got += len(await client.read(min(size - got, 80_000)))
                await asyncio.sleep(2)
        assert not listener.stats.ended


@virtual
async def test_idle_client_is_ended_unless_the_handler_changes_the_timeout() -> None:
    loop = asyncio.get_running_loop()
    own: list[float | None] = []

    async def handler(conn: Conn) -> None:
        await conn.write(b"hello")
        if own:
            conn.idle_timeout = own[0]
        await conn.read()

    async with tcp.listen(ANY, handler, limits=Limits(idle_timeout=10)) as listener:
        for set_to, least, most in ((), 10, 12.6), ((30,), 30, 30.1), ((None,), 0, 0):
            own[:] = set_to
            began = loop.time()
            async with await tcp.connect(listener.local_addr) as client:
                assert await client.read(5) == b"hello"
                if set_to == (None,):
                    await asyncio.sleep(100)
                    assert listener.connections == 1
                    continue
                with pytest.raises(EndOfStream):
                    await client.read()
            assert least <= loop.time() - began <= most
        await until(lambda: listener.connections == 0)
        assert listener.stats.ended == {"idle_timeout": 2}


@virtual
async def test_ends_of_lingering_are_counted() -> None:
    async def send(conn: Conn) -> None:
        conn.write(b"x" * 15_000_000)

    async with tcp.listen(ANY, send, limits=Limits(linger=3)) as listener:
        client = await tcp.connect(listener.local_addr, read_limit=1000)
        await until_later(lambda: listener.stats.ended == {"linger": 1})
        client.abort()
        await client.wait_closed()


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system cannot")
@virtual
async def test_the_kernel_buffers_little_for_a_peer_that_does_not_read() -> None:
    async def send(conn: Conn) -> None:
        while True:
            await conn.write(b"x" * 10_000)

    async with tcp.listen(ANY, send, limits=Limits.none()) as listener:
        host, port = listener.local_addr.split(":")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            await until_later(lambda: listener.stats.unsent_bytes > 0)
            await asyncio.sleep(60)
            assert 100_000 < listener.stats.bytes_out < 1_000_000
            await listener.close(0)


@virtual
async def test_sweep_runs_in_batches_and_stops_when_there_are_no_connections() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "BATCH", 2)
        limits = Limits(first_byte_timeout=10)
        async with tcp.listen(ANY, echo, limits=limits) as listener:
            assert listener._course._sweep._handle is None
            clients = [await tcp.connect(listener.local_addr) for _ in range(5)]
            await until_later(lambda: listener.stats.ended == {"first_byte_timeout": 5})
            await until_later(lambda: listener._course._sweep._handle is None)
            for client in clients:
                client.close()
                await client.wait_closed()
    async with tcp.listen(ANY, echo, limits=Limits.none()) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            client.write(b"x\n")
            await client.read(b"\n")
            assert listener._course._sweep._handle is None


@virtual
async def test_connections_due_at_the_same_time_are_ended_one_by_one() -> None:
    """The event loop runs between two ends."""
    count = 16
    loop = asyncio.get_running_loop()
    ends = [0]  # in each pass of the loop, after the first end

    def turn() -> None:
        ends.append(0)
        if sum(ends) < count:
            loop.call_soon(turn)

    async def handler(conn: Conn) -> None:
        try:
            await conn.read()
        except TimeoutError:
            ends[-1] += 1
            if sum(ends) == 1:
                loop.call_soon(turn)

    async with tcp.listen(ANY, handler, limits=Limits(first_byte_timeout=10)) as listener:
        clients = [await tcp.connect(listener.local_addr) for _ in range(count)]
        await until_later(lambda: sum(ends) == count)
        assert max(ends) == 1
        for client in clients:
            client.abort()
            await client.wait_closed()


# ---------------------------------------------------------------------- refusals


async def refused(address: str) -> None:
    """Connect, and expect a reset."""
    with pytest.raises(ConnectionResetError):
        async with await tcp.connect(address) as conn:
            conn.write(b"let me in\n")
            await conn.read(b"\n")


async def served(conn: Conn) -> Conn:
    conn.write(b"hello\n")
    assert await conn.read(b"\n") == b"hello\n"
    return conn


async def test_connections_above_the_limit_are_reset_and_start_no_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = Watched(echo)
    async with tcp.listen(ANY, watched, limits=Limits(max_connections=3)) as listener:
        conns = [await served(await tcp.connect(listener.local_addr)) for _ in range(3)]
        for _ in range(2):
            await refused(listener.local_addr)
        stats = listener.stats
        assert (stats.accepted, stats.connections, stats.peak_connections) == (3, 3, 3)
        assert stats.refused == {"max_connections": 2}
        assert watched.started == 3
        for conn in conns:
            await served(conn)
        conns[0].close()
        await until(lambda: listener.connections == 2)
        conns.append(await served(await tcp.connect(listener.local_addr)))
        for conn in conns:
            conn.close()
            await conn.wait_closed()
    first, second = [r for r in caplog.messages if "refused" in r]
    assert re.search(r"refused 127\.0\.0\.1: max_connections", first)
    assert "refused 1 more connection: max_connections" in second  # logged on close


async def test_connections_are_counted_per_client() -> None:
    limits = Limits(max_per_client=2, exempt_networks=())
    async with tcp.listen(ANY, echo, limits=limits) as listener:
        conns = [await served(await tcp.connect(listener.local_addr)) for _ in range(2)]
        await refused(listener.local_addr)
        other = await tcp.connect(listener.local_addr, bind="127.0.0.2:0")
        conns.append(await served(other))
        conns.pop(0).close()
        await until(lambda: listener.connections == 2)
        conns.append(await served(await tcp.connect(listener.local_addr)))
        assert listener.stats.refused == {"max_per_client": 1}
        for conn in conns:
            conn.close()
            await conn.wait_closed()
        await until(lambda: listener.connections == 0)
        assert not listener._course.gate._clients


async def test_proxies_and_unix_sockets_are_exempt(tmp_path: Path) -> None:
    limits = Limits(max_per_client=1)
    for address in (ANY, "[::1]:0", f"unix:{tmp_path}/x.sock"):
        async with tcp.listen(address, echo, limits=limits) as listener:
            conns = [await served(await tcp.connect(listener.local_addr)) for _ in range(5)]
            assert not listener.stats.refused
            for conn in conns:
                conn.close()
                await conn.wait_closed()


async def test_gate_counts_networks_of_ipv6_and_mapped_addresses() -> None:
    def packed(text: str) -> bytes:
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        return socket.inet_pton(family, text)

    limits = Limits(max_per_client=1, exempt_networks=("10.0.0.0/8", "fd00::/8"))
    gate = Gate(asyncio.get_running_loop(), limits, "test")
    for text, let_in in (
        ("2001:db8::1", True),
        ("2001:db8::2", False),  # the same /64
        ("2001:db8:0:1::1", True),
        ("192.0.2.1", True),
        ("::ffff:192.0.2.1", False),  # the same address, mapped
        ("0.0.0.1", True),
        ("10.1.2.3", True),
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::1", True),
        ("fd00::1", True),
    ):
        assert gate.enter(packed(text)) is let_in, text
    assert gate.enter(b"")
    assert gate.enter(b"")
    gate.leave(packed("2001:db8::1"))
    assert gate.enter(packed("2001:db8::2"))
    gate.close()


def networks_and_an_address(kind: type[Address]) -> st.SearchStrategy[tuple[list[str], Address]]:
    """Return networks and an address that is likely to be near the edge of one."""
    bits = kind(0).max_prefixlen
    number = st.integers(0, 2**bits - 1)

    def with_address(chosen: list[tuple[int, int]]) -> st.SearchStrategy[tuple[list[str], Address]]:
        nets = [ipaddress.ip_network((kind(n), length), strict=False) for n, length in chosen]
        edges = [int(net[0]) + d for net in nets for d in (-1, 0, net.num_addresses - 1)]
        near = [edge for edge in edges if 0 <= edge < 2**bits]
        return st.tuples(
            st.just([str(net) for net in nets]),
            (st.sampled_from(near) | number if near else number).map(kind),
        )

    return st.lists(st.tuples(number, st.integers(0, bits)), max_size=4).flatmap(with_address)


@given(
    st.one_of(
        networks_and_an_address(ipaddress.IPv4Address),
        networks_and_an_address(ipaddress.IPv6Address),
    )
)
def test_addresses_in_an_exempt_network_are_exempt(case: tuple[list[str], Address]) -> None:
    networks, address = case
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        limits = Limits(max_per_client=1, exempt_networks=tuple(networks))
        gate = Gate(loop, limits, "test")
        expected = any(address in ipaddress.ip_network(network) for network in networks)
        assert gate.enter(address.packed)
        assert gate.enter(address.packed) is expected
        gate.close()


async def test_a_connection_reset_before_it_is_accepted_is_forgotten() -> None:
    limits = Limits(max_per_client=2, exempt_networks=())
    async with tcp.listen(ANY, echo, limits=limits) as listener:
        host, port = listener.local_addr.split(":")
        for _ in range(5):
            for _ in range(2):
                reset(socket.create_connection((host, int(port))))
            accepted = listener.stats.accepted
            await until(lambda: listener.stats.accepted == accepted + 2)  # noqa: B023
            await until(lambda: listener.connections == 0)
        assert not listener._course.gate._clients
        assert not listener.stats.refused


@virtual
async def test_accept_rate_refuses_connections_that_arrive_too_fast(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with tcp.listen(ANY, echo, limits=Limits(accept_rate=2)) as listener:
        await asyncio.sleep(10)  # saves up no more than one second's worth
        conns = [await served(await tcp.connect(listener.local_addr)) for _ in range(2)]
        for _ in range(1000):
            await refused(listener.local_addr)
        assert listener.stats.refused == {"accept_rate": 1000}
        assert len(caplog.messages) == 1
        await asyncio.sleep(5.1)
        assert "refused 999 more connections: accept_rate" in caplog.messages[1]
        conns.append(await served(await tcp.connect(listener.local_addr)))
        await asyncio.sleep(20)
        assert len(caplog.messages) == 2
        for conn in conns:
            conn.close()
            await conn.wait_closed()


# ------------------------------------------------- limits that raise in handlers


async def test_too_long_a_line_is_not_a_handler_error(caplog: pytest.LogCaptureFixture) -> None:
    async with tcp.listen(ANY, echo, limits=Limits(read_limit=1000)) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            client.write(b"x" * 5000)
            client.close_write()
            with pytest.raises(EndOfStream):
                await client.read()
        await until(lambda: listener.connections == 0)
        assert listener.stats.ended == {"read_limit": 1}
        assert listener.stats.handler_errors == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_full_queue_is_not_a_handler_error() -> None:
    async def flood(conn: Conn) -> None:
        await conn.read(b"\n")
        while True:
            conn.write(b"x" * 10_000)

    async with tcp.listen(ANY, flood, limits=Limits(max_unsent=100_000, linger=0)) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            client.write(b"start\n")
            await until(lambda: listener.stats.ended == {"max_unsent": 1})
        assert listener.stats.handler_errors == 0


async def test_a_limit_of_another_connection_is_a_handler_error() -> None:
    async def front(conn: Conn) -> None:
        async with await tcp.connect(back.local_addr) as behind:
            await behind.read(b"\n", limit=10)

    async def long(conn: Conn) -> None:
        await conn.write(b"x" * 100)

    async with tcp.listen(ANY, long) as back, tcp.listen(ANY, front) as listener:
        async with await tcp.connect(listener.local_addr) as client:
            with pytest.raises(EndOfStream):
                await client.read()
        await until(lambda: listener.connections == 0)
        stats = listener.stats
        assert stats.handler_errors == 1
        assert stats.handler_errors_by_type == {LimitExceeded.__name__: 1}
        assert not stats.ended


# --------------------------------------------------------------- hostile clients


SEED = 4711


async def slowloris(conn: Conn) -> None:
    while True:
        await conn.write(b"x")
        await asyncio.sleep(1)


async def never_reading(conn: Conn) -> None:
    while True:
        await conn.write(b"y" * 1000 + b"\n")


async def silent(conn: Conn) -> None:
    await conn.read()


async def endless_line(conn: Conn) -> None:
    while True:
        await conn.write(b"z" * 10_000)
        await asyncio.sleep(0.1)


async def resetting(conn: Conn) -> None:
    chance = random.Random(conn.local_addr + str(SEED))
    conn.write(b"half a line" * chance.randrange(100))
    await asyncio.sleep(chance.random() * 5)
    conn.abort()


@virtual
async def test_hostile_clients_are_ended_at_their_deadline_and_an_honest_one_is_served() -> None:
    limits = Limits(
        first_byte_timeout=5,
        read_deadline=10,
        min_send_rate=1000,
        send_window=10,
        read_limit=50_000,
        max_unsent=200_000,
        linger=5,
    )

    async def attack(kind: Callable[[Conn], Awaitable[None]], address: str) -> None:
        conn = await tcp.connect(address, read_limit=1000, linger=0)
        with contextlib.suppress(OSError, EOFError):
            await kind(conn)
        conn.abort()
        await conn.wait_closed()

    async with tcp.listen(ANY, echo, limits=limits) as listener:
        attackers = [
            asyncio.create_task(attack(kind, listener.local_addr))
            for kind in (slowloris, never_reading, silent, endless_line, resetting)
            for _ in range(5)
        ]
        async with await tcp.connect(listener.local_addr) as honest:
            for number in range(40):
                honest.write(b"%d\n" % number)
                assert await honest.read(b"\n") == b"%d\n" % number
                stats = listener.stats
                assert stats.unread_bytes <= 25 * (limits.read_limit + 256 * 1024)
                assert stats.unsent_bytes <= 25 * (limits.max_unsent + 64 * 1024)
                await asyncio.sleep(1)
            assert listener.connections == 1
            done, alive = await asyncio.wait(attackers, timeout=30)
            assert not alive
            for task in done:
                task.result()
        ended = listener.stats.ended
        assert ended["read_deadline"] == ended["first_byte_timeout"] == 5
        assert ended["min_send_rate"] == ended["read_limit"] == 5
        assert listener.stats.handler_errors == 0


@pytest.mark.heavy
async def test_a_thousand_local_connections_work_with_the_defaults() -> None:
    async with tcp.listen(ANY, echo, backlog=1024) as listener:
        conns = [await tcp.connect(listener.local_addr) for _ in range(1500)]
        for conn in conns:
            conn.write(b"x\n")
        for conn in conns:
            assert await conn.read(b"\n") == b"x\n"
            conn.abort()
            await conn.wait_closed()
        assert not listener.stats.refused


def test_a_handler_that_ignores_timeouts_does_not_run_forever() -> None:
    told: list[str] = []

    async def patient(conn: Conn) -> None:
        while True:
            try:
                await conn.read(b"\n")
            except TimeoutError as error:
                told.append(str(error))

    async def main() -> None:
        limits = Limits(idle_timeout=1, first_byte_timeout=None)
        async with tcp.listen(ANY, patient, limits=limits) as listener:
            async with await tcp.connect(listener.local_addr) as conn:
                with pytest.raises(EndOfStream):
                    await conn.read()
            await listener.close()
            assert listener.stats.handler_errors == 0
            assert listener.stats.ended == {"idle_timeout": 1}

    run_virtual(main())
    assert len(told) == 1
    assert "Idle for 1 second" in told[0]
