"""asyncio's streams, on silly's connections: the same API, faster.

A program that uses asyncio's streams needs one changed import::

    from silly import streams

    server = await streams.start_server(handle, "127.0.0.1", 9999)
    reader, writer = await streams.open_connection("127.0.0.1", 9999)

For a library, replace the function that it calls, before it does::

    asyncio.open_connection = silly.streams.open_connection

The readers and writers are instances of `asyncio.StreamReader` and `asyncio.StreamWriter`,
and behave as those do; docs/howto/make-an-asyncio-program-faster.md lists what differs.
Connections with options that silly does not have, such as ``family``, are asyncio's own.

- `client`: `open_connection`, `open_unix_connection`.
- `server`: `start_server`, `start_unix_server`, and the `Server` that they return.
- `encryption`: ``ssl=`` and `StreamWriter.start_tls`, over `silly.net.tls`.
- `reader`, `writer`: a connection's reader and writer; the writer's transport.
- `sockets`: what ``get_extra_info("socket")`` returns.
"""

from __future__ import annotations

from asyncio import StreamReader, StreamReaderProtocol, StreamWriter

from silly.streams.client import open_connection, open_unix_connection
from silly.streams.server import Server, start_server, start_unix_server

__all__ = [
    "Server",
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
]
