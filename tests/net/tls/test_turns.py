"""Turns of handshakes: one begins in each pass, clients alternate, each has a bounded number."""

from __future__ import annotations

import asyncio
import contextvars
import ssl
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly._engine import engine
from silly.net import tcp
from silly.net.conn import Conn, StreamConn
from silly.net.limits import Limits
from silly.net.tls.preface import Handshakes
from silly.net.tls.turns import Turns
from silly.testing import memory_pair, run_virtual
from tests.net.tls import certificates, peers

KINDS: list[Any] = [Turns]
if engine.NAME == "native":
    from silly.net.tls.native import turns

    KINDS.append(turns.Turns)
CLIENTS = [bytes([10, 0, 0, number]) for number in range(4)]


def test_a_turn_that_comes_too_late_begins_nothing() -> None:
    async def main() -> None:
        ended = []
        conn, peer = memory_pair()
        all_ = Handshakes(asyncio.get_running_loop(), certificates.server(), Limits())
        handshake = all_.start(
            cast(StreamConn, conn), lambda *how: ended.append(how), contextvars.copy_context()
        )
        handshake.cancel()
        handshake._begin(None)  # its turn was on its way
        handshake._go_on()
        await asyncio.sleep(1)
        assert ended == [(handshake, None, None, True)]
        assert not peer.unread_bytes
        peer.abort()
        conn.abort()

    run_virtual(main())


class Room:
    """Handshakes that begin in turns, and what has happened to them."""

    def __init__(self, kind: Any, most: int | None) -> None:
        self.turns = kind(asyncio.get_running_loop(), most)
        self.tasks: list[asyncio.Task[None]] = []
        self.waiting: dict[bytes, list[asyncio.Task[None]]] = {}
        self.running: list[bytes] = []
        self.began: list[bytes] = []  # in order
        self.turn_of: dict[bytes, list[asyncio.Future[None]]] = {}

    def ask(self, client: bytes) -> asyncio.Task[None]:
        task = asyncio.create_task(self._begin(client))
        self.tasks.append(task)
        return task

    async def _begin(self, client: bytes) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.waiting.setdefault(client, []).append(task)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.turns.wait(client, turn)
        try:
            await asyncio.shield(turn)
        except asyncio.CancelledError:
            self.waiting[client].remove(task)
            self.turns.end(client, turn)
            raise
        assert self.waiting[client].pop(0) is task  # first come, first served
        self.running.append(client)
        self.began.append(client)
        self.turn_of.setdefault(client, []).append(turn)

    def end(self, client: bytes) -> None:
        self.running.remove(client)
        self.turns.end(client, self.turn_of[client].pop(0))

    async def settle(self) -> None:
        for _ in range(2 * len(self.tasks) + 5):
            await asyncio.sleep(0)


@pytest.mark.no_engine
@pytest.mark.parametrize("kind", KINDS)
def test_a_client_with_too_many_holds_up_nobody_else(kind: Any) -> None:
    async def main() -> None:
        room = Room(kind, 2)
        for _ in range(5):
            room.ask(CLIENTS[0])
        await room.settle()
        assert room.began == CLIENTS[:1] * 2
        await asyncio.wait_for(room.ask(CLIENTS[1]), 1)
        room.end(CLIENTS[0])
        await room.settle()
        assert room.began == [CLIENTS[0], CLIENTS[0], CLIENTS[1], CLIENTS[0]]
        assert room.turns.put_off == 4
        for task in room.tasks:
            task.cancel()
        await asyncio.wait(room.tasks)

    run_virtual(main())


@pytest.mark.no_engine
@pytest.mark.parametrize("kind", KINDS)
def test_clients_take_turns(kind: Any) -> None:
    async def main() -> None:
        room = Room(kind, None)
        for client in CLIENTS[:1] * 50 + CLIENTS[1:2] * 2 + CLIENTS[2:3]:
            room.ask(client)
        await room.settle()
        assert len(room.began) == 53
        assert {*room.began[:6]} == {*CLIENTS[:3]}

    run_virtual(main())


@pytest.mark.no_engine
@pytest.mark.parametrize("kind", KINDS)
def test_one_begins_in_each_pass(kind: Any) -> None:
    async def main() -> None:
        room = Room(kind, 100)
        for _ in range(20):
            room.ask(CLIENTS[0])
        for passed in range(20):
            await asyncio.sleep(0)
            assert len(room.began) <= passed + 1
        await room.settle()
        assert len(room.began) == 20

    run_virtual(main())


@pytest.mark.no_engine
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_ipv6_is_one_client(kind: Any) -> None:
    async def main() -> None:
        room = Room(kind, 1)
        room.ask(bytes(8) + b"one addr")
        await room.settle()
        other = room.ask(bytes(8) + b"another.")
        await room.settle()
        assert len(room.began) == 1
        room.end(bytes(8) + b"one addr")
        await asyncio.wait_for(other, 1)

    run_virtual(main())


@pytest.mark.no_engine
@pytest.mark.parametrize("kind", KINDS)
def test_clients_without_an_address_are_not_limited(kind: Any) -> None:
    async def main() -> None:
        room = Room(kind, 1)
        for _ in range(5):
            room.ask(b"")
        await room.settle()
        assert len(room.began) == 5

    run_virtual(main())


steps = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(CLIENTS)),
    st.tuples(st.just("ask"), st.sampled_from(CLIENTS)),
    st.tuples(st.just("cancel"), st.integers(0, 99)),
    st.tuples(st.just("end"), st.integers(0, 99)),
    st.tuples(st.just("pass"), st.integers(1, 3)),
    st.tuples(st.just("settle")),
)


@pytest.mark.no_engine
@given(st.sampled_from(KINDS), st.sampled_from([1, 2, 3, None]), st.lists(steps, max_size=60))
def test_whoever_may_begin_does(
    kind: Any, most: int | None, script: list[tuple[object, ...]]
) -> None:
    async def main() -> None:
        room = Room(kind, most)
        for what, *values in script:
            value = values[0] if values else 0
            if what == "ask":
                room.ask(value)  # type: ignore[arg-type]
            elif what == "cancel" and room.tasks:
                room.tasks[value % len(room.tasks)].cancel()  # type: ignore[operator]
            elif what == "end" and room.running:
                room.end(room.running[value % len(room.running)])  # type: ignore[operator]
            elif what == "pass":
                for _ in range(value):  # type: ignore[call-overload]
                    await asyncio.sleep(0)
            elif what == "settle":
                await room.settle()
                for client, waiting in room.waiting.items():
                    assert not waiting or room.running.count(client) == most
            for client in CLIENTS:
                assert most is None or room.running.count(client) <= most
        for task in room.tasks:
            task.cancel()
        await room.settle()
        while room.running:
            room.end(room.running[0])
            await room.settle()
        turns = room.turns
        assert not turns._running
        assert not turns._waiting
        assert not turns._ready
        await asyncio.gather(*room.tasks, return_exceptions=True)
        for task in room.tasks:
            assert task.cancelled() or task.exception() is None

    run_virtual(main())


async def test_a_live_connection_is_answered_before_a_flood_of_handshakes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = 0
    begun_before: list[int] = []
    accepted: list[Conn] = []
    server = certificates.server()
    original = server.new_session

    def new_session(name: str | None) -> Any:
        nonlocal begun
        begun += 1
        return original(name)

    async def handler(conn: Conn) -> None:
        accepted.append(conn)
        async for line in conn:
            begun_before.append(begun)
            await conn.write(line)

    monkeypatch.setattr(server, "new_session", new_session)
    async with tcp.listen("127.0.0.1:0", handler, tls=server) as listener:
        live = await peers.client(listener.local_addr)
        others = [await peers.client(listener.local_addr) for _ in range(20)]
        await live.handshake()
        while not accepted:
            await asyncio.sleep(0)
        begun = 0
        for other in others:
            with pytest.raises(ssl.SSLWantReadError):
                other.object.do_handshake()
            other.sock.sendall(other.outgoing.read())
        live.sock.sendall(live.seal(b"x\n"))
        peers.wait_arrival(accepted[0])
        assert await live.read() == b"x\n"
        assert begun_before[0] <= 5
        await asyncio.gather(*(other.handshake() for other in others))
        assert begun == 20
        assert 0 < listener.stats.handshakes_put_off <= 20
        for each in (live, *others):
            each.sock.close()
