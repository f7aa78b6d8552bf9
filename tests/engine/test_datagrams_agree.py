"""The datagram sockets of both engines behave the same when they run the same script.

As in test_engines_agree.py: after each step, the test waits until nothing moves and notes
everything that can be observed.
"""

from __future__ import annotations

import asyncio
import re
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silly._engine import portable
from silly.net.datagrams import DatagramSocket
from tests.engine.test_engines_agree import Step, agree, settle

pytestmark = pytest.mark.no_engine

native = pytest.importorskip("silly._engine.native", reason="the native engine was not built")


class PortableSocket(portable.Datagrams, DatagramSocket):
    __slots__ = ()


class NativeSocket(native.Datagrams, DatagramSocket):  # type: ignore[misc, name-defined]
    __slots__ = ()


ENGINES: dict[str, tuple[Any, Any]] = {
    "portable": (portable, PortableSocket),
    "native": (native, NativeSocket),
}
LIMITS = (10, 4, 30, 50, False)  # bytes, datagrams, bytes, bytes; does not raise

steps = st.one_of(
    st.tuples(st.just("arrive"), st.integers(0, 12), st.integers(1, 3)),
    st.tuples(st.just("arrive"), st.integers(0, 12), st.integers(1, 3)),
    st.tuples(st.just("recv"), st.sampled_from([None, None, 0, 2])),
    st.tuples(st.just("recv"), st.sampled_from([None, None, 0, 2])),
    st.tuples(st.just("next")),
    st.tuples(st.just("send"), st.integers(0, 20), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("send"), st.just(70_000), st.just(1), st.booleans()),
    st.tuples(st.just("drain")),
    st.tuples(st.just("take")),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 3.0])),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("close")),
)


def describe(outcome: Any) -> str:
    if isinstance(outcome, BaseException):
        outcome = f"{type(outcome).__name__}: {outcome}"
    return re.sub(r"127\.0\.0\.1:\d+", "ADDR", repr(outcome))


async def observe(name: str, script: list[Step], *, connected: bool) -> list[str]:
    engine, kind = ENGINES[name]
    loop = asyncio.get_running_loop()
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for each in (peer, ours):
        each.bind(("127.0.0.1", 0))
        each.setblocking(False)
    there = ours.getsockname()
    if connected:
        ours.connect(peer.getsockname())
    closed: list[object] = []
    owner = SimpleNamespace(socket_closed=closed.append)
    sock: Any = kind(ours, loop, owner, limits=LIMITS)
    to = None if connected else engine.Peer(peer.getsockname())
    notes: list[str] = []
    tasks: list[asyncio.Task[Any]] = []
    drains: list[Any] = []
    for what, *values in script:
        try:
            if what == "arrive":
                for number in range(values[1]):
                    peer.sendto(b"%d" % number * values[0], there)
            elif what == "recv":
                tasks.append(asyncio.ensure_future(sock.recv(timeout=values[0])))
            elif what == "next":
                tasks.append(asyncio.ensure_future(_next(sock)))
            elif what == "send":
                data = b"x" * values[0]
                drains += [sock.send(data, to, strict=values[2]) for _ in range(values[1])]
            elif what == "drain":
                tasks += [asyncio.ensure_future(drain) for drain in drains]
                drains.clear()
            elif what == "take":
                while True:
                    notes.append(f"peer has {len(peer.recv(100))}")
            elif what == "wait":
                await asyncio.sleep(values[0])
            elif what == "cancel":
                for task in tasks:
                    task.cancel()
            else:
                sock.close()
        except BlockingIOError:
            pass
        except Exception as error:
            notes.append(describe(error))
        await settle()
        for task in [task for task in tasks if task.done()]:
            tasks.remove(task)
            notes.append(
                "cancelled" if task.cancelled() else describe(task.exception() or task.result())
            )
        observed = (sock._counts, bool(sock.is_open), sock._waits_for, len(closed), len(tasks))
        notes.append(f"{what}: {describe(observed)} {describe(sock)}")
    sock.close()
    await settle()
    for task in tasks:
        task.cancel()
        notes.append(describe((await asyncio.gather(task, return_exceptions=True))[0]))
    peer.close()
    assert closed == [sock]
    return notes


async def _next(sock: Any) -> Any:
    try:
        return await aiter(sock).__anext__()
    except StopAsyncIteration:
        return "(no more)"


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=12), st.booleans())
def test_datagram_sockets_agree_on_every_script(script: list[Step], connected: bool) -> None:
    agree(lambda name: observe(name, script, connected=connected))
