"""An echo server that knows a few commands: ``silly examples/commands.py [ADDR]``."""

import sys
from datetime import datetime

from silly.net import tcp

HELP = b"""\
Command list:
  help  - Show this help
  time  - Show server time
  quit  - Disconnect
"""


async def converse(conn: tcp.Conn) -> None:
    """Welcome the client, then answer each line until the client quits or disconnects."""
    conn.write(b"Welcome to Silly Echo Server!\nType 'help' for commands\n> ")
    async for line in conn:
        match line.strip():
            case b"help":
                conn.write(HELP)
            case b"time":
                conn.write(f"{datetime.now().astimezone():%c}\n".encode())
            case b"quit":
                conn.write(b"Goodbye!\n")
                return
            case _:
                conn.write([b"Echo: ", line])
        await conn.write(b"> ")


listener = tcp.listen(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9999", converse)
print("Listening on", listener.local_addr, flush=True)
