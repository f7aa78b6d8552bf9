"""The channel: messages arrive in order, however they are split."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from silly.workers.channel import Answer, Ask, Channel, Drain, Message, Open, Refused, Sockets

pytestmark = pytest.mark.no_engine


def pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(one), Channel(other)


async def test_messages_and_descriptors_arrive_in_order() -> None:
    one, other = pair()
    arrived: asyncio.Queue[tuple[Message, list[int]]] = asyncio.Queue()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    other.attach(loop, lambda *arguments: arrived.put_nowait(arguments), ended.set)
    with socket.create_server(("127.0.0.1", 0)) as first:
        name = first.getsockname()
        one.send(Ask(1, "x"))
        one.send(Sockets(), [first.fileno(), first.fileno()])
        one.send(Drain(float("inf")))
        assert await arrived.get() == (Ask(1, "x"), [])
        message, descriptors = await arrived.get()
        assert message == Sockets()
        for number in descriptors:
            assert not os.get_inheritable(number)
            with socket.socket(fileno=number) as sock:
                assert sock.getsockname() == name
        assert await arrived.get() == (Drain(float("inf")), [])
    one.send(Ask(2, "last"))
    one.close()
    await ended.wait()
    assert await arrived.get() == (Ask(2, "last"), [])
    other.close()


async def test_long_message_is_sent_as_the_other_side_reads() -> None:
    one, other = pair()
    arrived: asyncio.Queue[Message] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    one.attach(loop, lambda *_: None, lambda: None)
    long = Answer(1, "x", known=True, value=["y" * 1000] * 3000)
    one.send(long)
    assert one.is_clogged
    one.send(Ask(1, "after"))
    other.attach(loop, lambda message, _: arrived.put_nowait(message), lambda: None)
    assert await arrived.get() == long
    assert await arrived.get() == Ask(1, "after")
    assert not one.is_clogged
    one.close()
    other.close()


async def test_converse_waits_and_puts_off_the_rest() -> None:
    one, other = pair()
    arrived: asyncio.Queue[Message] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    other.send(Ask(1, "before"))
    other.send(Refused(98, "no", "x", unresolved=False))
    other.send(Ask(2, "after"))
    one.attach(loop, lambda message, _: arrived.put_nowait(message), lambda: None)
    question = Open("x", 0, 128, reuse_port=False, mode=None)
    assert one.request(question, 20) == (Refused(98, "no", "x", unresolved=False), [])
    assert [await arrived.get(), await arrived.get()] == [Ask(1, "before"), Ask(2, "after")]
    with pytest.raises(TimeoutError):
        one.request(question, 0)
    other.close()
    with pytest.raises(ConnectionAbortedError):
        one.request(question, 20)
    one.close()
