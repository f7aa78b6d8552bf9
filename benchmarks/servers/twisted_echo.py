"""Twisted: LineReceiver, or a Protocol for bytes, on the epoll reactor. Prints its port."""

import sys

from twisted.internet import epollreactor

epollreactor.install()

from twisted.internet import protocol, reactor  # noqa: E402
from twisted.protocols.basic import LineReceiver  # noqa: E402


class Lines(LineReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 1 << 20

    def lineReceived(self, line):  # noqa: N802
        self.sendLine(line)


class Ping(Lines):
    def lineReceived(self, line):  # noqa: N802
        self.transport.write(b"+PONG\r\n")


class Raw(protocol.Protocol):
    def dataReceived(self, data):  # noqa: N802
        self.transport.write(data)


chosen = Raw if "raw" in sys.argv else Ping if "ping" in sys.argv else Lines
factory = protocol.Factory.forProtocol(chosen)
port = reactor.listenTCP(0, factory, backlog=4096, interface="127.0.0.1")
print(port.getHost().port, flush=True)
reactor.run()
