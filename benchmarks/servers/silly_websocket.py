"""silly's WebSockets: an echo, or, with "broadcast", each message to all. Prints its port.

With "accept", they are opened in a handler of HTTP requests.
"""

import sys

from silly.net import http, websocket

room = set()


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def broadcast(ws):
    room.add(ws)
    try:
        async for message in ws:
            websocket.broadcast(room, message)
    finally:
        room.discard(ws)


async def accept(request):
    await handler(await websocket.accept(request))


handler = broadcast if "broadcast" in sys.argv else echo
if "accept" in sys.argv:
    listener = http.listen("127.0.0.1:0", accept, backlog=4096)
else:
    listener = websocket.listen("127.0.0.1:0", handler, backlog=4096)
print(listener.local_addr.rpartition(":")[2], flush=True)
