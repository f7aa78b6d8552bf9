"""trio: one task per connection; the application splits lines. Prints its port."""

import sys
from contextlib import suppress

import trio


async def lines(stream):
    rest = b""
    with suppress(trio.BrokenResourceError):
        async for data in stream:
            *complete, rest = (rest + data).split(b"\n")
            for line in complete:
                await stream.send_all(line + b"\n")


async def ping(stream):
    rest = b""
    with suppress(trio.BrokenResourceError):
        async for data in stream:
            *complete, rest = (rest + data).split(b"\n")
            for _ in complete:
                await stream.send_all(b"+PONG\r\n")


async def raw(stream):
    with suppress(trio.BrokenResourceError):
        async for data in stream:
            await stream.send_all(data)


async def main():
    async with trio.open_nursery() as nursery:
        handler = raw if "raw" in sys.argv else ping if "ping" in sys.argv else lines
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
        print(listeners[0].socket.getsockname()[1], flush=True)
        nursery.start_soon(trio.serve_listeners, handler, listeners)


trio.run(main)
