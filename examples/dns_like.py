"""A name service in the manner of DNS: short questions and answers, over UDP.

    silly examples/dns_like.py 127.0.0.1:5300                the server
    silly examples/dns_like.py 127.0.0.1:5300 www.example    ask it

A question is a number of two bytes and a name. The answer repeats both, then a NUL and the
address, which is empty if there is no such name. UDP may lose either: the client asks again
after a while, and tells late answers to earlier questions by their numbers.
"""

import random
import sys

from silly import task
from silly.net import udp

NAMES = {b"www.example": b"192.0.2.80", b"mail.example": b"192.0.2.25"}
TRIES, WAIT = 4, 0.5  # how often to ask, and seconds to wait for an answer


async def serve(addr: str) -> None:
    """Answer questions."""
    sock = udp.bind(addr, max_datagram=512)
    print("Serving names on", sock.local_addr)
    async for question, peer in sock:
        number, name = question[:2], question[2:]
        if len(number) == 2 and b"\0" not in name:
            sock.send(number + name + b"\0" + NAMES.get(name.lower(), b""), peer)


async def look_up(addr: str, name: str) -> str:
    """Return the address of *name*, as the server at *addr* knows it; empty if it does not."""
    async with udp.connect(addr, timeout=5) as sock:
        for _ in range(TRIES):
            question = random.randbytes(2) + name.encode()
            sock.send(question)
            try:
                while True:
                    answer, _ = await sock.recv(timeout=WAIT)
                    if answer.startswith(question + b"\0"):
                        return answer[len(question) + 1 :].decode()
            except (TimeoutError, ConnectionRefusedError):
                pass  # lost, or the server is not there yet: ask again
    raise TimeoutError(f"no answer from {addr}")


async def main() -> None:
    """Serve, or ask."""
    if len(sys.argv) > 2:
        print(await look_up(sys.argv[1], sys.argv[2]) or "no such name")
    else:
        await serve(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:5300")


task.fork(main)
