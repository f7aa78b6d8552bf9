"""An echo server that clients may encrypt: ``silly examples/starttls.py CERT KEY [ADDR]``.

A client sends the line STARTTLS, waits for the answer, and begins the handshake of TLS.
"""

import sys

from silly.net import tcp, tls

certificate = tls.Server(sys.argv[1], sys.argv[2])


async def echo(conn: tcp.Conn) -> None:
    """Send every line back; at STARTTLS, encrypt what follows."""
    async for line in conn:
        if line.strip() != b"STARTTLS":
            await conn.write(line)
        elif conn.tls is not None:
            await conn.write(b"error: encrypted already\n")
        else:
            await conn.write(b"go ahead\n")
            await conn.start_tls(certificate)


listener = tcp.listen(sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1:9999", echo)
print("Listening on", listener.local_addr, flush=True)
