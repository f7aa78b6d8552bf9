"""Python code cannot crash the interpreter by misusing the objects that it can reach."""

from __future__ import annotations

import subprocess
import sys

import pytest

import silly

pytestmark = pytest.mark.skipif(silly.engine() != "native", reason="native engine only")

# Instantiates, copies, calls and awaits every object that the API returns, and its types, in
# every way that they offer, with arguments of every kind, in two orders.
PROGRAM = r"""
import asyncio, copy, gc, pickle, socket, sys, types, warnings
from silly.net import tcp, udp

warnings.simplefilter("ignore")
REVERSED = sys.argv[1] == "backwards"
ARGUMENTS = [
    (), (None,), (0,), (-1,), (2**31 - 1,), (2**70,), (b"x",), ("x",), (1.5,), ((),),
    ((1, 2, 3, 4, 5),),
    (ValueError,), (ValueError, "x", None), (print,), (object(),), (-1, None, None), (None,) * 5,
]
# These break Python itself, or belong to the loop.
EXCLUDED = {"__class__", "__getattribute__", "__subclasshook__", "__init_subclass__", "loop"}


async def reachable(conn, listener):
    loop = asyncio.get_running_loop()
    read = conn.read(b"\n")
    waiter = read.send(None)  # the read is waiting now
    full = conn.write(b"x" * (1 << 22))
    (task,) = listener._course.handling
    for thing in (conn, listener._servers[0]):
        for kind in type(thing).__mro__:
            if kind.__module__.startswith("silly._engine"):
                yield kind
    for thing in (
        conn.read(3), read, waiter, aiter(conn), full, conn.write(b""), task.get_coro(),
        loop._silly_reactor, listener._servers[0], conn,
    ):
        yield thing
        yield type(thing)
    read.close()
    async with udp.bind("127.0.0.1:0") as sock:
        receive = sock.recv()
        waiter = receive.send(None)
        for thing in (sock.recv(), receive, waiter, aiter(sock), sock):
            yield thing
            yield type(thing)
        receive.close()


def misuse(thing):
    for make in (copy.copy, copy.deepcopy, pickle.dumps, repr, iter, next, hash, bool, len):
        attempt(make, thing)
    names = sorted(set(dir(thing)) - EXCLUDED, reverse=REVERSED)
    for name in names:
        member = attempt(getattr, thing, name)
        for arguments in ARGUMENTS:
            result = attempt(member, *arguments) if callable(member) else None
            if isinstance(result, types.CoroutineType):
                attempt(result.send, None)
                result.close()
            elif hasattr(result, "send"):
                attempt(result.send, None)
                attempt(result.close)
        for value in (None, 0, -1, 2**70, b"x", "x", 0.5, object()):
            if not isinstance(thing, type):
                attempt(setattr, thing, name, value)
    if isinstance(thing, type):
        attempt(thing.__new__, thing)
        attempt(object.__new__, thing)
        sub = attempt(type, "Sub", (thing,), {})
        if isinstance(sub, type):
            for arguments in ARGUMENTS:
                made = attempt(sub, *arguments)
                for name in dir(made) if isinstance(made, sub) else ():
                    member = attempt(getattr, made, name)
                    if callable(member) and name not in EXCLUDED:
                        attempt(member)


def attempt(call, *arguments):
    try:
        return call(*arguments)
    except BaseException:
        return None


async def main():
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    async def handler(conn):
        async for line in conn:
            await conn.write(line)

    for turn in range(2):
        listener = tcp.listen("127.0.0.1:0", handler)
        conn = await tcp.connect(listener.local_addr)
        conn.write(b"a line\n")
        await conn.read(b"\n")
        async for thing in reachable(conn, listener):
            misuse(thing)
            await asyncio.sleep(0)
            gc.collect()
        attempt(conn.abort)
        attempt(listener.close, 0)
        await asyncio.sleep(0)
    print("misused")


attempt(asyncio.run, main())
"""

AFTERWARDS = r"""
import asyncio
from silly.net import tcp
async def main():
    async def handler(conn):
        async for line in conn:
            await conn.write(line)
    async with tcp.listen("127.0.0.1:0", handler) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            await conn.write(b"x\n")
            assert await conn.read(b"\n", timeout=10) == b"x\n"
asyncio.run(main())
print("alive")
"""


@pytest.mark.parametrize("order", ["forwards", "backwards"])
def test_misuse_does_not_crash(order: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM + AFTERWARDS, order],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("misused\nalive\n"), done.stderr[-3000:]
