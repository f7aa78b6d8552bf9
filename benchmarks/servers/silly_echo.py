"""silly: one coroutine per connection. Prints its port.

Options: raw, ping, udp, tls (see yardstick.c), busy (busy polling), batches (all lines that are
there).
"""

import os
import sys

from silly import task
from silly.net import tcp, udp


async def lines(conn):
    async for line in conn:
        await conn.write(line)


async def batches(conn):
    async for lines in conn.batches():
        await conn.write(lines)


async def ping(conn):
    async for _ in conn:
        await conn.write(b"+PONG\r\n")


async def raw(conn):
    while True:
        await conn.write(await conn.read())


async def datagrams(sock):
    async for data, peer in sock:
        sock.send(data, peer)


busy_poll = 0.0001 if "busy" in sys.argv else 0.0
handler = raw if "raw" in sys.argv else ping if "ping" in sys.argv else lines
if handler is lines and "batches" in sys.argv:
    handler = batches
if "udp" in sys.argv:
    listener = udp.bind("127.0.0.1:0")
    task.fork(datagrams, listener)
else:
    config = None
    if "tls" in sys.argv:
        from silly.net import tls

        config = tls.Server(os.environ["CERT"], os.environ["KEY"])
    listener = tcp.listen("127.0.0.1:0", handler, backlog=4096, busy_poll=busy_poll, tls=config)
print(listener.local_addr.rpartition(":")[2], flush=True)
