"""Each fault works as documented and repeatably; without faults, a relay is a connection."""

from __future__ import annotations

import asyncio
import math
import shutil
import subprocess
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silly._loop.live import Live
from silly.errors import ConnectionClosed, EndOfStream, WriteQueueFull
from silly.net import tcp
from silly.net.tcp import Conn
from silly.testing import CONN_CHECKS, faults, run_check, run_virtual
from silly.testing.conformance import Check
from silly.testing.faults import Applied, Faults, Session

ANY = "127.0.0.1:0"


def now() -> float:
    return asyncio.get_running_loop().time()


async def all_of(conn: Conn) -> tuple[bytes, type[Exception]]:
    """Read until the stream ends; return the bytes and the type of the ending."""
    received = bytearray()
    while True:
        try:
            received += await conn.read()
        except (EndOfStream, OSError) as error:
            return bytes(received), type(error)


def in_memory(
    test: Callable[[Conn, Conn, Session], Coroutine[Any, Any, None]], **options: Any
) -> Session:
    """Run *test* on a pair on the virtual clock; check that no task is left."""

    async def main() -> Session:
        client, server, session = await faults.memory_pair(**options)
        await test(client, server, session)
        for conn in (client, server):
            conn.abort()
            await conn.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=1)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return session

    return run_virtual(main())


# ------------------------------------------------------------------- without faults


@pytest.mark.no_engine
@pytest.mark.parametrize("check", CONN_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "some",
    [Faults(), Faults(latency=0.001, jitter=0.001), Faults(slice=(1, 50_000), seed=3)],
    ids=["none", "latency", "slices"],
)
def test_a_pair_in_memory_is_a_connection(check: Check, some: Faults) -> None:
    if check.__name__ == "idle_connection_ends" and some.latency:
        some = Faults(latency=0.001)

    async def make_pair() -> tuple[Conn, Conn]:
        client, server, _ = await faults.memory_pair(up=some, down=some)
        return client, server

    run_virtual(run_check(check, make_pair))


@pytest.mark.parametrize("check", CONN_CHECKS, ids=lambda check: check.__name__)
async def test_a_connection_through_a_proxy_is_a_connection(check: Check) -> None:
    accepted: asyncio.Queue[Conn] = asyncio.Queue()

    async def handler(conn: Conn) -> None:
        await accepted.put(conn)
        await conn.wait_closed()

    async with (
        tcp.listen(ANY, handler) as listener,
        faults.proxy(ANY, listener.local_addr) as proxy,
    ):

        async def make_pair() -> tuple[Conn, Conn]:
            return await tcp.connect(proxy.local_addr), await accepted.get()

        await run_check(check, make_pair)


# ------------------------------------------------------------------ single faults


def test_latency_holds_each_piece() -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        start = now()
        client.write(b"one")
        await asyncio.sleep(0.2)
        client.write(b"two")
        assert await server.read() == b"one"
        assert now() - start == pytest.approx(0.5)
        assert await server.read() == b"two"
        assert now() - start == pytest.approx(0.7)
        server.write(b"back")  # the other direction is not delayed
        assert await client.read() == b"back"
        assert now() - start == pytest.approx(0.7)
        client.close_write()
        assert await all_of(server) == (b"", EndOfStream)
        assert now() - start == pytest.approx(1.2)

    in_memory(test, up=Faults(latency=0.5))


def test_jitter_keeps_the_order() -> None:
    arrivals: list[float] = []

    async def test(client: Conn, server: Conn, session: Session) -> None:
        arrivals.clear()
        for number in range(50):
            client.write(b"%02d" % number)
            await asyncio.sleep(0.01)
        for number in range(50):
            assert await server.read(2) == b"%02d" % number
            arrivals.append(now())

    in_memory(test, up=Faults(jitter=0.5, seed=1))
    first = list(arrivals)
    assert len(set(first)) > 5
    in_memory(test, up=Faults(jitter=0.5, seed=1))
    assert arrivals == first
    in_memory(test, up=Faults(jitter=0.5, seed=2))
    assert arrivals != first


@pytest.mark.parametrize("cut", [None, 7])
def test_bandwidth_is_limited(cut: int | None) -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        start = now()
        client.write(b"x" * 10_000)
        await server.read(5_000)
        assert now() - start == pytest.approx(5, abs=0.02)
        await server.read(5_000)
        assert now() - start == pytest.approx(10, abs=0.02)
        await asyncio.sleep(5)  # an idle line saves up no bandwidth
        start = now()
        client.write(b"x" * 1_000)
        await server.read(1_000)
        assert now() - start == pytest.approx(1, abs=0.02)

    in_memory(test, up=Faults(bandwidth=1_000, slice=cut))


def test_slices_are_read_one_by_one() -> None:
    sizes: list[int] = []

    async def test(client: Conn, server: Conn, session: Session) -> None:
        sizes.clear()
        client.write(b"x" * 100)
        while sum(sizes) < 100:
            sizes.append(len(await server.read()))

    in_memory(test, up=Faults(slice=30))
    assert sizes == [30, 30, 30, 10]
    in_memory(test, up=Faults(slice=(1, 9), seed=7))
    first = list(sizes)
    assert len(set(first)) > 3
    assert max(first) <= 9
    in_memory(test, up=Faults(slice=(1, 9), seed=7))
    assert sizes == first
    in_memory(test, up=Faults(slice=(1, 9), seed=8))
    assert sizes != first


def test_there_is_a_gap_between_slices() -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        start = now()
        client.write(b"abc")
        for number in range(3):
            assert len(await server.read()) == 1
            assert now() - start == pytest.approx(number * 0.25)

    in_memory(test, up=Faults(slice=1, gap=0.25))


def test_a_stall_holds_everything_until_it_ends() -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        client.write(b"0123456789")
        assert await server.read(4) == b"0123"
        with pytest.raises(TimeoutError):
            await server.read(1, timeout=59)
        assert await server.read(6, timeout=2) == b"456789"
        client.write(b"x")
        assert await server.read(1, timeout=0.01) == b"x"  # a stall happens once

    session = in_memory(test, up=Faults(stall_after=4, stall_for=60))
    assert session.up.applied == [Applied("stall", 0, 4)]


def test_a_stall_at_a_time_ends_at_a_time() -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        client.write(b"before")
        assert await server.read(6, timeout=0.1) == b"before"
        await asyncio.sleep(12)
        client.write(b"within")
        start = now()
        assert await server.read(6) == b"within"
        assert now() - start == pytest.approx(8, abs=0.01)

    in_memory(test, up=Faults(stall_at=10, stall_for=10))

    async def too_late(client: Conn, server: Conn, session: Session) -> None:
        await asyncio.sleep(30)
        client.write(b"after")
        assert await server.read(5, timeout=0.1) == b"after"

    assert in_memory(too_late, up=Faults(stall_at=10, stall_for=10)).up.applied == []


def test_an_endless_stall_ends_with_the_connections() -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        client.write(b"123")
        client.close()
        assert await server.read(1) == b"1"
        with pytest.raises(TimeoutError):
            await server.read(1, timeout=86_400)

    in_memory(test, up=Faults(stall_after=1))


@pytest.mark.parametrize("when", [{"reset_after": 4}, {"reset_at": 5.0}])
def test_a_reset_resets_both_sides(when: dict[str, Any]) -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        client.write(b"0123" if "reset_at" in when else b"01234567")
        server.write(b"answer")
        assert await client.read(6) == b"answer"
        assert await all_of(server) == (b"0123", ConnectionResetError)
        assert await all_of(client) == (b"", ConnectionResetError)

    session = in_memory(test, up=Faults(**when))
    assert session.end == "reset"
    assert session.up.applied == [Applied("reset", when.get("reset_at", 0), 4)]
    assert session.up.forwarded == 4


@pytest.mark.parametrize("when", [{"drop_after": 4}, {"drop_at": 5.0}])
def test_a_drop_closes_without_delivering_held_bytes(when: dict[str, Any]) -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        client.write(b"0123")
        await asyncio.sleep(1)
        client.write(b"held")
        server.write(b"held, too")
        assert await all_of(server) == (b"0123", EndOfStream)
        assert await all_of(client) == (b"", EndOfStream)

    session = in_memory(test, up=Faults(**{"latency": 4.5, **when}), down=Faults(latency=60))
    assert session.end == "dropped"
    assert session.up.forwarded == 4
    assert (session.down.received, session.down.forwarded) == (9, 0)


@pytest.mark.parametrize("when", [{"half_close_after": 4}, {"half_close_at": 5.0}])
def test_a_half_close_discards_the_rest_and_the_other_direction_continues(
    when: dict[str, Any],
) -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        client.write(b"0123")
        assert await all_of(server) == (b"0123", EndOfStream)
        await client.write(b"x" * 1_000_000)  # this does not block: the bytes are discarded
        server.write(b"answer")
        assert await client.read(6) == b"answer"
        client.close_write()
        server.close_write()
        assert await all_of(client) == (b"", EndOfStream)

    session = in_memory(test, up=Faults(**when))
    assert session.up.applied == [Applied("half_close", when.get("half_close_at", 0), 4)]
    assert (session.up.received, session.up.forwarded) == (1_000_004, 4)
    assert session.end == "closed"


@pytest.mark.parametrize("name", ["reset", "drop", "half_close", "stall"])
def test_faults_after_zero_bytes(name: str) -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        client.write(b"x")
        with pytest.raises((TimeoutError, EndOfStream, ConnectionResetError)):
            await server.read(timeout=60)

    session = in_memory(test, up=Faults(**{f"{name}_after": 0}))
    assert session.up.forwarded == 0
    assert [fault for fault, _, _ in session.up.applied] == [name]


def test_a_reset_by_one_side_arrives_after_its_bytes() -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        client.write(b"last words")
        await asyncio.sleep(0.1)
        client.abort()
        start = now()
        assert await server.read(10) == b"last words"
        assert await all_of(server) == (b"", ConnectionResetError)
        assert now() - start == pytest.approx(2)

    assert in_memory(test, up=Faults(latency=2)).end == "reset"


def test_a_reset_after_fin_is_passed_on() -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        client.close_write()
        assert await all_of(server) == (b"", EndOfStream)
        client.abort()
        await server.wait_closed()
        with pytest.raises(ConnectionResetError):
            server.write(b"x")

    in_memory(test)


@pytest.mark.parametrize("some", [Faults(), Faults(stall_after=0), Faults(latency=1e6)])
def test_a_receiver_that_does_not_read_stops_the_sender(some: Faults) -> None:
    async def test(client: Conn, server: Conn, session: Session) -> None:
        written = 0
        with pytest.raises(WriteQueueFull):
            while written < 10_000_000:
                client.write(b"x" * 10_000)
                written += 10_000
                await asyncio.sleep(0.001)
        assert written < 1_000_000
        assert session.up.received < 500_000

    in_memory(test, up=some, window=10_000, max_unsent=200_000, read_limit=10_000)


# ----------------------------------------------------------------- determinism, repr


@given(st.integers(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_random_faults_follow_from_the_seed_and_their_repr_recreates_them(
    seed: int, lossless: bool
) -> None:
    some = Faults.random(seed, lossless=lossless)
    assert some == Faults.random(seed, lossless=lossless)
    assert some == eval(repr(some))
    if lossless:
        assert some.is_lossless


def test_random_faults_are_of_every_kind() -> None:
    drawn = [Faults.random(seed) for seed in range(500)]
    for name in Faults.__dataclass_fields__:
        assert len({getattr(some, name) for some in drawn}) > 1, name


@given(st.integers(0, 10_000), st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_session_is_repeatable(up: int, down: int) -> None:
    seen: list[Any] = []

    async def test(client: Conn, server: Conn, session: Session) -> None:
        async def echo() -> None:
            try:
                while True:
                    piece = await server.read()
                    seen.append((now(), piece))
                    await server.write(piece)
            except EndOfStream:
                server.close_write()
            except (OSError, ConnectionClosed):
                pass

        echoing = asyncio.ensure_future(echo())
        try:
            for number in range(5):
                client.write(b"%d" % number * 500)
                await asyncio.sleep(0.1)
            client.close_write()
        except OSError as error:
            seen.append(repr(error))
        seen.append(await asyncio.wait_for(collect(client), 600))
        seen.append(now())
        client.abort()
        await asyncio.wait([echoing], timeout=600)
        echoing.cancel()

    async def collect(client: Conn) -> Any:
        try:
            async with asyncio.timeout(300):
                return await all_of(client)
        except TimeoutError:
            return "stalled"

    both = {"up": Faults.random(up), "down": Faults.random(down)}
    first = in_memory(test, **both), list(seen)
    seen.clear()
    again = in_memory(test, up=first[0].up.faults, down=first[0].down.faults), seen
    assert first == again
    names: dict[str, Any] = vars(faults)
    assert eval(repr(first[0]), dict(names)) == first[0]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"latency": -1}, ValueError, "latency must be zero or more seconds"),
        ({"jitter": "1"}, TypeError, "jitter must be a number of seconds"),
        ({"latency": math.inf}, ValueError, "latency must be finite"),
        ({"bandwidth": 0}, ValueError, "bandwidth must be more than 0 bytes per second"),
        ({"bandwidth": None}, TypeError, "bandwidth must be a number of bytes per second"),
        ({"bandwidth": math.nan}, ValueError, "bandwidth must be more than 0"),
        ({"slice": 0}, ValueError, "slice must be 1 or more"),
        ({"slice": (5, 2)}, ValueError, r"slice\[1\] must be 5 or more"),
        ({"slice": (1, 2, 3)}, ValueError, "slice must be a size or a pair of sizes"),
        ({"reset_after": 1.5}, TypeError, "reset_after must be an int"),
        ({"drop_at": -1}, ValueError, "drop_at must be zero or more"),
        ({"seed": "x"}, TypeError, "seed must be an int"),
    ],
)
def test_wrong_faults_are_reported(
    wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Faults(**wrong)


def test_a_wrong_proxy_is_reported() -> None:
    with pytest.raises(ValueError, match="addr 'x' is not an address"):
        faults.proxy("x", ANY)
    with pytest.raises(ValueError, match="upstream 'x' is not an address"):
        faults.proxy(ANY, "x")
    with pytest.raises(TypeError, match="up must be a Faults or a function"):
        faults.proxy(ANY, ANY, up=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window must be 1 or more"):
        faults.proxy(ANY, ANY, window=0)
    with pytest.raises(RuntimeError, match="listens only inside `async with`"):
        _ = faults.proxy(ANY, ANY).local_addr


# ------------------------------------------------------------------------ on loopback


async def echo(conn: Conn) -> None:
    while True:
        await conn.write(await conn.read())


async def test_a_proxy_has_faults_for_each_connection_and_keeps_a_record() -> None:
    def up(index: int) -> Faults:
        return Faults(reset_after=10) if index == 1 else Faults(slice=3)

    async with (
        tcp.listen(ANY, echo) as listener,
        faults.proxy(ANY, listener.local_addr, up=up, down=Faults(latency=0.001)) as proxy,
    ):
        ends = []
        for _ in range(3):
            async with await tcp.connect(proxy.local_addr) as conn:
                conn.write(b"x" * 20)
                conn.close_write()
                ends.append((await all_of(conn))[1])
        assert ends == [EndOfStream, ConnectionResetError, EndOfStream]
        assert "3 sessions" in repr(proxy)
        await until(lambda: all(session.end for session in proxy.sessions))
        assert [session.end for session in proxy.sessions] == ["closed", "reset", "closed"]
        assert [session.up.forwarded for session in proxy.sessions] == [20, 10, 20]
        assert proxy.sessions[1].up.applied[0].fault == "reset"
        assert proxy.sessions[2].down.forwarded == 20


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_proxy_that_is_closed_ends_its_sessions() -> None:
    async with tcp.listen(ANY, echo) as listener:
        async with faults.proxy(
            ANY, listener.local_addr, up=Faults(stall_after=5), down=Faults(latency=3600)
        ) as proxy:
            conn = await tcp.connect(proxy.local_addr)
            conn.write(b"x" * 10)
            await until(lambda: bool(proxy.sessions) and proxy.sessions[0].down.received == 5)
        assert await all_of(conn) == (b"", ConnectionResetError)
        assert proxy.sessions[0].end == "stopped"
        conn.close()


@pytest.mark.parametrize("passes", range(12))
async def test_a_proxy_may_be_closed_while_a_session_ends(passes: int) -> None:
    async with tcp.listen(ANY, echo) as listener:
        async with faults.proxy(ANY, listener.local_addr, up=Faults(half_close_after=0)) as proxy:
            conn = await tcp.connect(proxy.local_addr)
            assert await all_of(conn) == (
                b"",
                EndOfStream,
            )  # the echo handler returned, so the server closed
            conn.close_write()
            for _ in range(passes):
                await asyncio.sleep(0)
        conn.abort()
        await conn.wait_closed()
        assert not Live.of(asyncio.get_running_loop()).conns


async def test_a_server_that_cannot_be_reached_resets_the_client() -> None:
    async with tcp.listen(ANY, echo) as listener:
        nowhere = listener.local_addr
    async with faults.proxy(ANY, nowhere) as proxy:
        async with await tcp.connect(proxy.local_addr) as conn:
            assert await all_of(conn) == (b"", ConnectionResetError)
        assert proxy.sessions[0].end == "unreachable"


async def test_megabytes_pass_through_a_small_window() -> None:
    data = bytes(range(251)) * 5_000
    async with (
        tcp.listen(ANY, echo) as listener,
        faults.proxy(ANY, listener.local_addr, window=5_000) as proxy,
    ):
        async with await tcp.connect(proxy.local_addr) as conn:
            conn.write(data)
            conn.close_write()
            assert await all_of(conn) == (data, EndOfStream)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["nc", "-N", "127.0.0.1"], id="nc"),
        pytest.param(["socat", "-t10", "-"], id="socat"),
    ],
)
@pytest.mark.heavy
async def test_other_clients(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    data = b"".join(b"line %d\n" % number for number in range(500))
    some = Faults(latency=0.002, jitter=0.002, slice=(1, 900), seed=4)
    async with (
        tcp.listen(ANY, echo) as listener,
        faults.proxy(ANY, listener.local_addr, up=some, down=some) as proxy,
    ):
        port = proxy.local_addr.rpartition(":")[2]
        full = [*command, port] if command[0] == "nc" else [*command, f"tcp:127.0.0.1:{port}"]
        done = await asyncio.to_thread(
            subprocess.run, full, input=data, capture_output=True, timeout=30, check=False
        )
    assert done.stdout == data
    assert proxy.sessions[0].up.forwarded == proxy.sessions[0].down.forwarded == len(data)
