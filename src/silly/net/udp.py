r"""UDP: datagrams to and from any number of peers, over one socket.

`bind` opens a socket that receives from anyone; `connect` one that talks to one peer::

    async with udp.bind("127.0.0.1:9999") as sock:
        async for data, peer in sock:
            sock.send(data, peer)

`listen` runs a handler for each peer, as `silly.net.tcp.listen` does for each connection.

UDP may lose datagrams, deliver them twice, or in another order, and this module does not
change that. It loses none without counting it: see `SocketStats`.
"""

from __future__ import annotations

from silly.net.datagrams import Peer, Socket, SocketStats
from silly.net.opening import bind, connect
from silly.net.peers import PeerListener, listen

__all__ = ["Peer", "PeerListener", "Socket", "SocketStats", "bind", "connect", "listen"]
