"""The PROXY protocol: what a load balancer says about the client whose bytes it forwards.

A load balancer that forwards bytes hides its clients: all connections come from its own
address. With the PROXY protocol it sends a header before the first byte, with the addresses
of the client's connection to it, in version 1 (a line of text) or 2 (binary)::

    tcp.listen(":9999", handler, proxy_protocol=("10.0.0.0/8", "unix"))
    await tcp.connect("10.0.0.7:9999", proxy_header=conn)

From the networks given, a header is required and believed; from all others it is neither
looked for nor believed. `Conn.remote_addr` is then the client's address, and `Conn.proxy` has
what else the header says.

============  =====================================================================
`header`      the values: `ProxyHeader`, `ProxyInfo`; from bytes and back
`tls`         what a header says about the client's TLS
`endpoints`   the two addresses in a header
`v1`, `v2`    the formats of both versions, without I/O
`tlvs`        the fields of version 2, such as the server name and TLS
`crc32c`      its checksum
`preface`     reading a header at the start of a connection
`trust`       whose headers are believed
`forwarding`  the header that a new connection begins with
============  =====================================================================

The specification is ``doc/proxy-protocol.txt`` in HAProxy's repository.
"""

from silly.net.proxy.header import ProxyHeader, ProxyInfo
from silly.net.proxy.tls import ProxyTLS

__all__ = ["ProxyHeader", "ProxyInfo", "ProxyTLS"]
