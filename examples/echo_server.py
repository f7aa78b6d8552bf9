"""An echo server and three clients that test it: ``silly examples/echo_server.py [ADDR]``."""

import sys

from silly import task, time
from silly.crypto.utils import randomkey
from silly.net import tcp


async def echo(conn: tcp.Conn) -> None:
    """Send every line back, until the client has finished."""
    print("Accept connection", conn.remote_addr)
    async for line in conn:
        await conn.write(line)
    print("Close connection", conn.remote_addr)


async def client(number: int) -> None:
    """Send five random lines, a second apart, and check every echo."""
    async with tcp.connect(listener.local_addr) as conn:
        print("Client", number, "connected:", conn.remote_addr)
        for _ in range(5):
            message = randomkey(5) + b"\n"
            print(f"Send [{conn.local_addr}] -> {message.decode().rstrip()}")
            await conn.write(message)
            received = await conn.read(b"\n")
            print(f"Receive [{conn.local_addr}] -> {received.decode().rstrip()}")
            assert received == message, "Echo data mismatch!"
            await time.sleep(1)
        print("Client close connection", conn.local_addr)


listener = tcp.listen(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9999", echo)
print("Listening on", listener.local_addr, flush=True)

for number in range(1, 4):
    task.fork(client, number)
