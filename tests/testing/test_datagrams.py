"""UDP in memory, and the faults of datagrams."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.errors import ConnectionClosed
from silly.net import udp
from silly.testing import MemoryNetwork, faults, run_virtual
from silly.testing.faults import DatagramFaults

ANY = "127.0.0.1:0"
DEADLINE = 20.0


async def echo(sock: udp.Socket) -> None:
    async for data, peer in sock:
        sock.send(data, peer)


# ----------------------------------------------------------------------- in memory


async def test_sockets_in_memory_are_sockets() -> None:
    network = MemoryNetwork()
    server = network.bind()
    serving = asyncio.create_task(echo(server))
    assert server.local_addr == "memory:1"
    assert isinstance(server, udp.Socket)
    one, two = network.connect(server), network.connect("memory:1")
    for client in (one, two):
        client.send(client.local_addr.encode())
    for client in (one, two):
        data, peer = await client.recv(timeout=DEADLINE)
        assert data == client.local_addr.encode()
        assert str(peer) == "memory:1"
        assert peer == client.peer == await client.resolve("memory:1")
    third = network.bind()
    third.send(b"not for one", "memory:2")
    third.send(b"hello", await third.resolve("memory:1"))
    assert (await third.recv(timeout=DEADLINE))[0] == b"hello"
    assert one.stats.unread == 0
    server.close()
    await serving
    one.send(b"nobody")
    with pytest.raises(ConnectionRefusedError):
        await one.recv(timeout=DEADLINE)
    for sock in (one, two, third):
        sock.close()
    with pytest.raises(ConnectionClosed):
        await two.recv()
    with pytest.raises(ValueError, match="memory network"):
        network.connect("127.0.0.1:9")


async def test_their_buffers_are_bounded_and_counted() -> None:
    network = MemoryNetwork()
    server = network.bind(receive_buffer=1000, max_queued=3)
    client = network.connect(server)
    for _ in range(100):
        client.send(bytes(100))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stats = server.stats
    assert stats.unread == 3
    assert stats.dropped_by_kernel
    assert stats.unread + stats.dropped_by_kernel + stats.dropped_by_queue == 100
    with pytest.raises(TypeError, match="faults must be"):
        MemoryNetwork(0.5)  # type: ignore[arg-type]


def test_a_timeout_of_an_hour_takes_no_time() -> None:
    async def main() -> float:
        network = MemoryNetwork(DatagramFaults(latency=600))
        server = network.bind()
        client = network.connect(server)
        serving = asyncio.create_task(echo(server))
        client.send(b"x")
        assert (await client.recv(timeout=3600))[0] == b"x"
        with pytest.raises(TimeoutError):
            await client.recv(timeout=3600)
        server.close()
        await serving
        client.close()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 1200 + 3600


async def through(chosen: DatagramFaults, count: int) -> tuple[list[bytes], faults.DatagramFlow]:
    network = MemoryNetwork(chosen)
    server = network.bind()
    client = network.connect(server)
    for number in range(count):
        client.send(b"%d" % number)
        await asyncio.sleep(0.001)
    got = []
    with contextlib.suppress(TimeoutError):
        while True:
            got.append((await server.recv(timeout=60))[0])
    server.close()
    client.close()
    return got, network.flow


def test_the_same_seed_gives_the_same_faults() -> None:
    bad = DatagramFaults(loss=0.2, duplicate=0.2, reorder=0.2, corrupt=0.1, jitter=0.001, seed=7)
    first, flow = run_virtual(through(bad, 300))
    again, _ = run_virtual(through(bad, 300))
    other, _ = run_virtual(through(DatagramFaults(loss=0.2, seed=8), 300))
    assert first == again
    assert first != other
    assert flow.received == 300
    assert len(first) == flow.forwarded == 300 - flow.lost + flow.duplicated
    for count in (flow.lost, flow.duplicated, flow.reordered, flow.corrupted):
        assert 0 < count < 150
    assert eval(repr(bad)) == bad


def test_each_fault_does_what_it_says() -> None:
    numbers = [b"%d" % number for number in range(50)]
    assert run_virtual(through(DatagramFaults(), 50))[0] == numbers
    assert run_virtual(through(DatagramFaults(loss=1), 50))[0] == []
    assert run_virtual(through(DatagramFaults(duplicate=1), 5))[0] == sorted(numbers[:5] * 2)
    late, flow = run_virtual(through(DatagramFaults(reorder=0.3, seed=1), 50))
    assert late != numbers
    assert sorted(late) == sorted(numbers)
    assert flow.reordered
    changed, flow = run_virtual(through(DatagramFaults(corrupt=1), 50))
    assert flow.corrupted == 50
    assert all(
        len(one) == len(two)
        and sum((a ^ b).bit_count() for a, b in zip(one, two, strict=True)) == 1
        for one, two in zip(changed, numbers, strict=True)
    )


@given(
    chosen=st.builds(
        DatagramFaults,
        loss=st.floats(0, 1),
        duplicate=st.floats(0, 1),
        reorder=st.floats(0, 1),
        corrupt=st.floats(0, 1),
        latency=st.floats(0, 1),
        jitter=st.floats(0, 1),
        seed=st.integers(),
    )
)
def test_every_datagram_is_counted(chosen: DatagramFaults) -> None:
    got, flow = run_virtual(through(chosen, 30))
    assert flow.held == 0
    assert flow.received == 30 == flow.forwarded + flow.lost - flow.duplicated
    assert len(got) == flow.forwarded


def test_faults_are_checked() -> None:
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"loss": 2}, ValueError),
        ({"loss": "1"}, TypeError),
        ({"latency": -1}, ValueError),
        ({"jitter": float("inf")}, ValueError),
        ({"seed": 1.5}, TypeError),
    ]
    for arguments, error in wrong:
        with pytest.raises(error, match=next(iter(arguments))):
            DatagramFaults(**arguments)


# ------------------------------------------------------------------------ the proxy


async def test_the_proxy_forwards_both_ways_and_keeps_clients_apart() -> None:
    async with udp.bind(ANY) as server, faults.udp_proxy(ANY, server.local_addr) as proxy:
        serving = asyncio.create_task(echo(server))
        async with udp.connect(proxy.local_addr) as one, udp.connect(proxy.local_addr) as two:
            for number in range(20):
                for client in (one, two):
                    client.send(client.local_addr.encode() + b"%d" % number)
                for client in (one, two):
                    data, _ = await client.recv(timeout=DEADLINE)
                    assert data == client.local_addr.encode() + b"%d" % number
            clients = [one.local_addr, two.local_addr]
        assert [session.client for session in proxy.sessions] == clients
        for session in proxy.sessions:
            assert session.up.forwarded == session.down.forwarded == 20
        server.close()
        await serving


async def test_the_proxy_loses_duplicates_and_delays() -> None:
    up = DatagramFaults(loss=0.3, seed=3)
    down = DatagramFaults(duplicate=1, latency=0.001, reorder=0.1)
    async with (
        udp.bind(ANY) as server,
        faults.udp_proxy(ANY, server.local_addr, up=up, down=lambda _: down) as proxy,
        udp.connect(proxy.local_addr) as client,
    ):
        serving = asyncio.create_task(echo(server))
        for number in range(50):
            await client.send(b"%d" % number)
        async with asyncio.timeout(DEADLINE):
            while not proxy.sessions or proxy.sessions[0].up.received < 50:
                await asyncio.sleep(0)
        (session,) = proxy.sessions
        left = 50 - session.up.lost
        assert 0 < left < 50
        got = [(await client.recv(timeout=DEADLINE))[0] for _ in range(2 * left)]
        assert len(set(got)) == left
        assert session.down.duplicated == left
        server.close()
        await serving


async def test_the_proxy_forgets_clients_that_came_first() -> None:
    async with (
        udp.bind(ANY) as server,
        faults.udp_proxy(ANY, server.local_addr, clients=2) as proxy,
    ):
        serving = asyncio.create_task(echo(server))
        for _ in range(6):
            async with udp.connect(proxy.local_addr) as client:
                client.send(b"x")
                assert (await client.recv(timeout=DEADLINE))[0] == b"x"
        assert len(proxy.sessions) == 6
        assert len(proxy._clients) == 2
        server.close()
        await serving
    with pytest.raises(RuntimeError, match="inside"):
        _ = faults.udp_proxy(ANY, "127.0.0.1:9").local_addr
    with pytest.raises(TypeError, match="up must be"):
        faults.udp_proxy(ANY, "127.0.0.1:9", up=1)  # type: ignore[arg-type]


async def test_what_is_on_its_way_is_lost_with_the_proxy() -> None:
    async with udp.bind(ANY) as server:
        far = DatagramFaults(latency=3600)
        async with (
            faults.udp_proxy(ANY, server.local_addr, up=far) as proxy,
            udp.connect(proxy.local_addr) as client,
        ):
            client.send(b"x")
            async with asyncio.timeout(DEADLINE):
                while not proxy.sessions or not proxy.sessions[0].up.held:
                    await asyncio.sleep(0)


async def test_the_proxy_goes_on_when_nobody_receives() -> None:
    async with udp.bind(ANY) as gone:
        address = gone.local_addr
    async with faults.udp_proxy(ANY, address) as proxy, udp.connect(proxy.local_addr) as client:
        client.send(b"lost")
        async with asyncio.timeout(DEADLINE):
            while not (told := [each.upstream for each in proxy._clients.values()]):
                await asyncio.sleep(0)
            while not told[0] or not told[0].stats.receive_errors:
                await asyncio.sleep(0)
                told = [each.upstream for each in proxy._clients.values()]
        async with udp.bind(address) as server:
            client.send(b"x")
            data, peer = await server.recv(timeout=DEADLINE)
            server.send(data, peer)
            assert (await client.recv(timeout=DEADLINE))[0] == b"x"
        shown = f"<UDPProxy {proxy.local_addr} to {address}, 1 clients>"
        assert repr(proxy) == shown.replace(proxy.local_addr, ANY)
