"""gevent: one greenlet per connection, reading lines from a file object. Prints its port."""

import sys

from gevent.server import StreamServer


def lines(sock, _address):
    with sock.makefile("rb") as file:
        for line in file:
            sock.sendall(line)


def ping(sock, _address):
    with sock.makefile("rb") as file:
        for _ in file:
            sock.sendall(b"+PONG\r\n")


def raw(sock, _address):
    while data := sock.recv(65536):
        sock.sendall(data)


handler = raw if "raw" in sys.argv else ping if "ping" in sys.argv else lines
server = StreamServer(("127.0.0.1", 0), handler, backlog=4096)
server.start()
print(server.server_port, flush=True)
server.serve_forever()
