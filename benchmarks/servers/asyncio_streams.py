"""asyncio streams, on the stock loop or (with "uvloop") on uvloop. Prints its port.

With "silly", silly.streams takes the place of asyncio's streams; with "run" as well, silly.run
that of asyncio.run.
"""

import asyncio
import os
import ssl
import sys

if "silly" in sys.argv:
    from silly import streams

    asyncio.start_server = streams.start_server


async def lines(reader, writer):
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def ping(reader, writer):
    while await reader.readline():
        writer.write(b"+PONG\r\n")
        await writer.drain()
    writer.close()


async def raw(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


context = None
if "tls" in sys.argv:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(os.environ["CERT"], os.environ["KEY"])


async def main():
    handler = raw if "raw" in sys.argv else ping if "ping" in sys.argv else lines
    server = await asyncio.start_server(handler, "127.0.0.1", 0, backlog=4096, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if "uvloop" in sys.argv:
    import uvloop

    uvloop.run(main())
elif "run" in sys.argv:
    import silly

    silly.run(main())
else:
    asyncio.run(main())
