"""asyncio Protocol (callbacks), on the stock loop or (with "uvloop") on uvloop. Prints its port."""

import asyncio
import os
import ssl
import sys


class Lines(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.rest = b""

    def data_received(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.transport.write(line + b"\n")


class Ping(Lines):
    def data_received(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for _ in lines:
            self.transport.write(b"+PONG\r\n")


class Raw(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


context = None
if "tls" in sys.argv:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(os.environ["CERT"], os.environ["KEY"])


async def main():
    loop = asyncio.get_running_loop()
    if "udp" in sys.argv:
        transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
        print(transport.get_extra_info("sockname")[1], flush=True)
        await loop.create_future()
    protocol = Raw if "raw" in sys.argv else Ping if "ping" in sys.argv else Lines
    options = {"backlog": 4096, "ssl": context}
    if "fast" in sys.argv:
        import aiofastnet

        server = await aiofastnet.create_server(loop, protocol, "127.0.0.1", 0, **options)
    else:
        server = await loop.create_server(protocol, "127.0.0.1", 0, **options)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if "uvloop" in sys.argv:
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
