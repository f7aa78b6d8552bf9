"""The channel: messages arrive in order, however they are split."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import threading

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


async def test_a_closed_channel_closes_the_descriptors_that_nobody_took() -> None:
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(ours)
    reading, writing = os.pipe()
    rights = array.array("i", [writing])
    theirs.sendmsg([b'{"is": "Sock'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    os.close(writing)
    channel.deliver()  # the rest of the message has not come
    channel.close()
    theirs.close()
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_descriptors_are_not_queued() -> None:
    """They may be closed before they could be sent."""
    one, other = pair()
    with contextlib.suppress(BlockingIOError):
        while True:
            one._sock.send(b"x" * 1000)
    one.send(Sockets(), [0])
    assert not one.is_clogged
    one.send(Ask(1, "x"))
    assert one.is_clogged
    one.send(Sockets(), [0])
    assert len(one._unsent) == 1
    one.close()
    other.close()


def test_the_last_messages_are_sent_before_the_process_ends() -> None:
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(ours)
    channel.send(Answer(1, "x", known=True, value="y" * 3_000_000))
    assert channel.is_clogged
    channel.send_all(0)  # no time is left
    assert channel.is_clogged
    received = bytearray()

    def read() -> None:
        while piece := theirs.recv(100_000):
            received.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    channel.send_all(60)
    assert not channel.is_clogged
    channel.close()
    reader.join()
    theirs.close()
    assert received.endswith(b'"}\n')
    assert len(received) > 3_000_000
