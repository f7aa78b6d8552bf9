"""anyio on asyncio, with its buffered stream for lines. Prints its port."""

import sys
from contextlib import suppress

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream


async def lines(stream):
    async with stream:
        buffered = BufferedByteReceiveStream(stream)
        try:
            while True:
                await stream.send(await buffered.receive_until(b"\n", 65536) + b"\n")
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            pass


async def ping(stream):
    async with stream:
        buffered = BufferedByteReceiveStream(stream)
        try:
            while True:
                await buffered.receive_until(b"\n", 65536)
                await stream.send(b"+PONG\r\n")
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            pass


async def raw(stream):
    async with stream:
        with suppress(anyio.BrokenResourceError):
            async for data in stream:
                await stream.send(data)


async def main():
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0, backlog=4096)
    print(listener.listeners[0].extra(anyio.abc.SocketAttribute.local_port), flush=True)
    handler = raw if "raw" in sys.argv else ping if "ping" in sys.argv else lines
    await listener.serve(handler)


anyio.run(main)
