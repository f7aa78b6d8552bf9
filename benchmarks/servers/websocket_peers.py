"""WebSockets of other libraries, as their users write them: an echo, or each message to all.

    python websocket_peers.py picows|aiohttp|websockets|uvicorn|silly-asgi [broadcast]

Prints its port. They send no pings, which the load does not expect, and run on uvloop if it is
installed.
"""

import asyncio
import socket
import sys

room = set()
IS_BROADCAST = "broadcast" in sys.argv


def bound():
    sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
    sock.setblocking(False)
    print(sock.getsockname()[1], flush=True)
    return sock


async def picows():
    from picows import WSListener, WSMsgType, ws_create_server

    class Listener(WSListener):
        def on_ws_connected(self, transport):
            room.add(transport)

        def on_ws_disconnected(self, transport):
            room.discard(transport)

        def on_ws_frame(self, transport, frame):
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()
            elif IS_BROADCAST:
                message = frame.get_payload_as_bytes()
                for each in room:
                    each.send(frame.msg_type, message)
            else:
                transport.send(frame.msg_type, frame.get_payload_as_memoryview())

    server = await ws_create_server(lambda request: Listener(), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def aiohttp():
    from aiohttp import WSMsgType, web

    async def handler(request):
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        room.add(ws)
        try:
            async for message in ws:
                if message.type == WSMsgType.BINARY and IS_BROADCAST:
                    for each in room:
                        await each.send_bytes(message.data)
                elif message.type == WSMsgType.BINARY:
                    await ws.send_bytes(message.data)
        finally:
            room.discard(ws)
        return ws

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, bound()).start()
    await asyncio.Event().wait()


async def websockets():
    from websockets.asyncio.server import broadcast, serve

    async def handler(ws):
        room.add(ws)
        try:
            async for message in ws:
                if IS_BROADCAST:
                    broadcast(room, message)
                else:
                    await ws.send(message)
        finally:
            room.discard(ws)

    async with serve(handler, sock=bound(), ping_interval=None, compression=None) as server:
        await server.serve_forever()


async def app(scope, receive, send):
    """An ASGI application."""
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    room.add(send)
    try:
        while (event := await receive())["type"] == "websocket.receive":
            reply = {"type": "websocket.send", "bytes": event["bytes"]}
            for each in room if IS_BROADCAST else (send,):
                await each(reply)
    finally:
        room.discard(send)


async def uvicorn():
    from uvicorn import Config, Server

    config = Config(app, log_level="critical", lifespan="off", ws_ping_interval=None)
    await Server(config).serve([bound()])


async def silly_asgi():
    from silly.net import asgi

    listener = await asgi.listen("127.0.0.1:0", app, lifespan="off", backlog=4096)
    print(listener.local_addr.rpartition(":")[2], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    name = sys.argv[1].replace("-", "_")
    if name == "silly_asgi":
        import silly

        silly.run(silly_asgi())
    else:
        try:
            from uvloop import new_event_loop
        except ImportError:
            new_event_loop = asyncio.new_event_loop
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(globals()[name]())
