"""A server for some of Redis' commands: ``silly examples/redis_like.py [ADDR]``.

Try: redis-cli -p 6380
     redis-benchmark -p 6380 -t set,get -P 16
"""

import sys
from collections.abc import Generator

from silly.net import tcp

MAX_ARGUMENTS = 1000
MAX_REQUEST = 65536  # bytes of arguments
MAX_BATCH = 128  # lines: their replies are held until they are written together

OK = b"+OK\r\n"
NIL = b"$-1\r\n"

store: dict[bytes, bytes] = {}


class LastReply(Exception):
    """The connection ends with this reply."""


def protocol_error(reason: bytes) -> LastReply:
    """Return the exception for a client that sends something else than requests."""
    return LastReply(b"-ERR Protocol error: %b\r\n" % reason)


def number(line: bytes, kind: bytes, most: int) -> int:
    """Return the number in a line such as ``$5``."""
    digits = line[1:].rstrip()
    if line[:1] != kind or not digits.isdigit() or len(digits) > 9 or int(digits) > most:
        raise protocol_error(b"expected %b and at most %d" % (kind, most))
    return int(digits)


def requests() -> Generator[list[bytes] | None, bytes, None]:
    """Take line after line; return a request after the last of its lines, otherwise None.

    A request is an array of strings, each after its length, or simply one line of words.
    A string with newlines in it is several lines.
    """
    request: list[bytes] | None = None
    while True:
        line = yield request
        if not line.startswith(b"*"):
            request = line.split() if line.endswith(b"\n") else None  # not if it was cut off
            continue
        request = []
        room = MAX_REQUEST
        for _ in range(number(line, b"*", MAX_ARGUMENTS)):
            length = number((yield None), b"$", room)
            room -= length
            pieces: list[bytes] = []
            missing = length + 2
            while missing > 0:
                line = yield None
                pieces.append(line)
                missing -= len(line)
            text = b"".join(pieces)
            if missing < 0 or not text.endswith(b"\r\n"):
                raise protocol_error(b"a string has another length")
            request.append(text[:-2])


def answer(request: list[bytes]) -> bytes:
    """Do what a request says, and return the reply."""
    match request[0].upper(), *request[1:]:
        case b"GET", key:
            value = store.get(key)
            return NIL if value is None else b"$%d\r\n%b\r\n" % (len(value), value)
        case b"SET", key, value:
            store[key] = value
            return OK
        case b"DEL", _, *_:
            found = [key for key in request[1:] if store.pop(key, None) is not None]
            return b":%d\r\n" % len(found)
        case (b"PING",):
            return b"+PONG\r\n"
        case b"PING", text:
            return b"$%d\r\n%b\r\n" % (len(text), text)
        case b"QUIT", *_:
            raise LastReply(OK)
    return b"-ERR unknown command or wrong number of arguments\r\n"


async def serve(conn: tcp.Conn) -> None:
    """Answer all requests that have arrived with one write."""
    take_line = requests()
    next(take_line)
    async for lines in conn.batches(most=MAX_BATCH):
        replies = []
        try:
            for line in lines:
                request = take_line.send(line)
                if request:
                    replies.append(answer(request))
        except LastReply as last:
            conn.write([*replies, *last.args])
            return
        await conn.write(replies)


listener = tcp.listen(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:6380", serve)
print("Listening on", listener.local_addr, flush=True)
