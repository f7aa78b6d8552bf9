"""Who else is here? Programs on one network find each other by multicast.

    silly examples/multicast.py NAME [INTERFACE]

Run it twice, with different names, on one machine or on several. Each sends its name to a
group now and then, and prints the names that it hears for the first time.
"""

import asyncio
import sys

from silly import task
from silly.net import udp

GROUP, PORT = "239.192.77.77", 7777
PERIOD = 0.5  # seconds

name = sys.argv[1] if len(sys.argv) > 1 else "somebody"
interface = f"%{sys.argv[2]}" if len(sys.argv) > 2 else ""


async def announce(sock: udp.Socket) -> None:
    """Send the name now and then."""
    while sock.is_open:
        sock.send(name.encode(), f"{GROUP}:{PORT}")
        await asyncio.sleep(PERIOD)


async def listen(sock: udp.Socket) -> None:
    """Print the names that are new."""
    known = {name}
    async for data, peer in sock:
        other = data.decode(errors="replace")
        if other not in known and len(known) < 1000:
            known.add(other)
            print(ascii(other), "is at", peer.host)


sock = udp.bind(f":{PORT}", multicast=GROUP + interface)
task.fork(announce, sock)
task.fork(listen, sock)
